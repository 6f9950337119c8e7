//! Lays the functions that run in a steady state beside each other, in a release build.
//!
//! The kernel maps 16 pages of code around each one that runs, so that functions that are spread over the
//! program make all of it resident. `hot-functions.txt` lists those that run once the agent is ready
//! (tests/benches/hot_functions.py). A name that another compiler gives otherwise is passed over: the build
//! is right without any of them, and larger in memory.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const HOT_FUNCTIONS: &str = "hot-functions.txt";

fn main() {
    println!("cargo::rerun-if-changed={HOT_FUNCTIONS}");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if let Some(lld) = lld().filter(|_| release) {
        let list = variable("CARGO_MANIFEST_DIR").join(HOT_FUNCTIONS);
        for argument in [
            format!("-B{}", lld.display()),
            "-fuse-ld=lld".into(),
            format!("-Wl,--symbol-ordering-file={}", list.display()),
            "-Wl,--no-warn-symbol-ordering".into(),
        ] {
            println!("cargo::rustc-link-arg-bin=pilot-agent={argument}");
        }
    }
}

/// The folder of the linker that comes with the compiler; the others know no such list.
fn lld() -> Option<PathBuf> {
    let target = env::var("TARGET").unwrap_or_default();
    if !target.ends_with("-linux-gnu") {
        return None;
    }
    let sysroot = Command::new(variable("RUSTC"))
        .args(["--print", "sysroot"])
        .output();
    let sysroot = String::from_utf8(sysroot.ok()?.stdout).ok()?;
    let host = env::var("HOST").unwrap_or_default();
    let folder = Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(host)
        .join("bin/gcc-ld");
    folder.join("ld.lld").exists().then_some(folder)
}

fn variable(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_default().into()
}
