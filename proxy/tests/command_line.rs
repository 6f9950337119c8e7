//! What somebody sees who starts `ithildin-proxy` with a file that is wrong.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

fn run(file: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ithildin-proxy"))
        .arg("-c")
        .arg(file)
        .args(arguments)
        .output()
        .expect("the proxy runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(admin: u16) -> String {
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  clusters:
  - {{name: a, type: STATIC, load_assignment: {{cluster_name: a}}}}
"
    )
}

#[test]
fn a_refused_file_is_named_with_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    let port = "port_value: 99999";
    let endpoint = format!("endpoint: {{address: {{socket_address: {{address: ::1, {port}}}}}}}");
    let wrong = format!(
        "static_resources:
  clusters:
  - {{name: a, type: STATIC, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{{endpoint}}}]}}]}}}}
  - {{name: b, type: EDS}}
"
    );
    fs::write(&file, wrong).unwrap();
    for arguments in [&["--mode", "validate"][..], &[]] {
        let output = run(&file, arguments);
        assert_eq!(output.status.code(), Some(1));
        let told = told(&output);
        let mut lines = told.lines();
        let first = format!("configuration '{}' is refused:", file.display());
        assert_eq!(
            lines.find(|line| line.starts_with("configuration")),
            Some(&*first)
        );
        for field in ["clusters[0].load_assignment", "clusters[1]"] {
            let field = format!("static_resources.{field}");
            assert!(told.contains(&field), "{field}: {told}");
        }
    }
}

#[test]
fn a_cause_is_told_once_and_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    let missing = told(&run(&folder.path().join("none.yaml"), &[]));
    assert_eq!(missing.matches("No such file").count(), 1, "{missing}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = folder.path().join("envoy.yaml");
    fs::write(&file, config(taken.local_addr().unwrap().port())).unwrap();
    let output = run(&file, &[]);
    assert_eq!(output.status.code(), Some(1));
    let in_use = told(&output);
    assert_eq!(
        in_use.matches("Address already in use").count(),
        1,
        "{in_use}"
    );

    drop(taken);
    fs::write(&file, config(0)).unwrap();
    let output = run(&file, &["--mode", "init_only"]);
    assert!(output.status.success());
    let log = told(&output);
    assert!(log.contains("all is warm"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log:?}");
}
