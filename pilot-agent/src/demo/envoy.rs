//! Where Envoy is, found out before anything starts.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

const BINARY: &str = "ENVOY_BIN";
const EXECUTABLE: u32 = 0o111;

/// The absolute path of `ENVOY_BIN`, else of `envoy` in the PATH: the proxies have working folders of
/// their own.
///
/// # Errors
/// There is no such program.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(env::var_os(BINARY), &path)
}

fn find_in(given: Option<OsString>, folders: &OsStr) -> anyhow::Result<PathBuf> {
    let found = match given.filter(|given| !given.is_empty()) {
        Some(given) => {
            let given = PathBuf::from(given);
            ensure!(
                is_program(&given),
                "{BINARY}: {given:?} is no program; set it to Envoy's binary"
            );
            given
        }
        None => env::split_paths(folders)
            .map(|folder| folder.join("envoy"))
            .find(|program| is_program(program))
            .with_context(|| {
                format!("there is no envoy in the PATH; set {BINARY} to Envoy's binary")
            })?,
    };
    Ok(std::path::absolute(found)?)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & EXECUTABLE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_goes_before_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let folders = folder.path().as_os_str();
        let missing = find_in(None, folders).unwrap_err().to_string();
        assert!(missing.contains("set ENVOY_BIN"), "{missing}");

        for (name, mode) in [("envoy", 0o644), ("other", 0o755)] {
            std::fs::write(path(name), "").unwrap();
            let mode = PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path(name), mode).unwrap();
        }
        assert!(find_in(None, folders).is_err(), "nobody may run it");
        let wrong = find_in(Some(path("envoy").into()), folders);
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.starts_with("ENVOY_BIN: "), "{wrong}");
        let other = find_in(Some(path("other").into()), folders).unwrap();
        assert_eq!(other, path("other"));

        std::fs::rename(path("other"), path("envoy")).unwrap();
        assert_eq!(find_in(Some("".into()), folders).unwrap(), path("envoy"));
    }
}
