//! The ten commands of `istio-templates/README.md`, executed as they stand there, with a `kubectl` and a `helm`
//! that keep what they are given.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use ithildin_proto::yaml;
use serde_json::{Value, json};

use crate::{kind, read, template};

const HEADING: &str = "## A federated request in ten commands";
/// Answers as the clusters would. What is applied from standard input goes into a file of its context.
const KUBECTL: &str = r#"#!/bin/sh
folder=$(dirname "$0")
case "$*" in
*"bundle show"*) printf '{\n  "keys": [\n    {"x5c": ["of/%s="]}\n  ]\n}\n' "$2" ;;
*"wait svc"*) printf 192.0.2.1 ;;
*"apply -f -") (echo ---; cat) >> "$folder/$2.yaml" ;;
esac
echo "kubectl $*" >> "$folder/log"
"#;
const HELM: &str = "#!/bin/sh\necho \"helm $*\" >> \"$(dirname \"$0\")/log\"\n";

#[test]
fn the_ten_commands_are_executable_as_written() {
    let commands = commands();
    assert_eq!(commands.lines().count(), 10, "{commands}");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, script) in [("kubectl", KUBECTL), ("helm", HELM)] {
        let path = folder.path().join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
    }
    let path = std::env::var("PATH").expect("a PATH");
    let status = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands])
        .current_dir(manifests())
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .status()
        .expect("bash");
    assert!(status.success(), "{status}");

    let log = read(&folder.path().join("log"));
    let files = log
        .split_whitespace()
        .filter(|word| word.ends_with(".yaml"));
    for file in files {
        assert!(manifests().join(file).is_file(), "{file}");
    }
    assert!(log.contains("curl -sS http://app.example.org:8000/headers"));
    for (side, other, peer) in [
        ("server", "client", "domain.test"),
        ("client", "server", "example.org"),
    ] {
        let applied = read(&folder.path().join(format!("{side}.yaml")));
        let applied = yaml::documents(&applied).expect("YAML");
        let mesh = &kind(&applied, "ClusterSPIFFEID")["spec"];
        assert_eq!(mesh["federatesWith"], json!([peer]), "{side}");
        let federation = &kind(&applied, "ClusterFederatedTrustDomain")["spec"];
        assert_eq!(federation["trustDomain"], peer, "{side}");
        let bundle = federation["trustDomainBundle"].as_str().expect("a bundle");
        let bundle: Value = serde_json::from_str(bundle).expect("JSON");
        assert_eq!(bundle["keys"][0]["x5c"], json!([format!("of/{other}=")]));
    }
    let client = read(&folder.path().join("client.yaml"));
    let client = yaml::documents(&client).expect("YAML");
    let endpoint = &kind(&client, "ServiceEntry")["spec"]["endpoints"][0];
    assert_eq!(endpoint["address"], "192.0.2.1");
}

/// The block of commands under the heading.
fn commands() -> String {
    let readme = template("README.md");
    let (_, section) = readme.split_once(HEADING).expect("the heading");
    let block = section.split("```\n").nth(1);
    block.expect("commands").to_owned()
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../istio-templates")
}
