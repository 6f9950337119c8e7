//! Two federated clusters through the real binary: `pilot-agent demo --once` exits with 0 only if
//! the federated request, the rotations under load, the third domain and the forgeries all went as
//! they must.

use std::{path::Path, process::Command, time::Duration};

use ithildin_tests::{
    DataPlane, Process, peers,
    process::{binary, output},
};

/// The demo takes about 6 s here; a busy machine takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn two_federated_clusters_on_the_builtin_data_plane() {
    demo(DataPlane::Builtin, None);
}

#[test]
fn two_federated_clusters_on_envoy() {
    if let Some(envoy) = peers::envoy("two_federated_clusters_on_envoy") {
        demo(DataPlane::Envoy, Some(&envoy));
    }
}

fn demo(data_plane: DataPlane, envoy: Option<&Path>) {
    let dir = tempfile::tempdir().expect("a scratch folder can be made");
    let mut command = Command::new(binary("pilot-agent"));
    command
        .args(["demo", "--once", "--data-plane", data_plane.as_str()])
        .env("TMPDIR", dir.path());
    if let Some(envoy) = envoy {
        command.env("ENVOY_BIN", envoy);
    }
    let mut demo = Process::spawn("demo", dir.path(), command);
    let status = demo.wait(PATIENCE);
    let log = demo.log();
    assert!(status.success(), "{status}:\n{log}");
    let requests = log
        .lines()
        .find(|line| line.contains(" requests in "))
        .expect("the demo says how many requests it sent");
    assert!(requests.ends_with(", 0 failed"), "{requests}");
    println!("{}: {}", data_plane.as_str(), requests.trim());
}

#[test]
fn a_broken_file_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("envoy.yaml");
    std::fs::write(&file, "static_resources: {clusters: [{nope: 1}]}\n").unwrap();
    let out = Command::new(binary("ithildin-proxy"))
        .arg("--mode")
        .arg("validate")
        .arg("-c")
        .arg(&file)
        .output()
        .unwrap();
    assert!(!out.status.success());
    let text =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(
        text.contains("static_resources.clusters[0].nope: unknown field"),
        "{text}"
    );
}

#[test]
fn both_binaries_teach_their_use() {
    for name in ["pilot-agent", "ithildin-proxy"] {
        let mut command = Command::new(binary(name));
        command.arg("--help");
        let help = output(command);
        assert!(help.contains("Usage"), "{name}: {help}");
    }
}
