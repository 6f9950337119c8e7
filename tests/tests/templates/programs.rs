//! Our programs take what the manifests give them.

use std::{collections::BTreeMap, fs, process::Command};

use ithildin_tests::{Process, process::binary};
use serde_json::Value;

use crate::{
    documents,
    injection::{gateway, sidecar},
    kind, the,
};

/// What the kubelet puts in for fields of a Pod.
const FIELDS: [(&str, &str); 6] = [
    ("metadata.name", "web-0"),
    ("metadata.namespace", "shop"),
    ("status.podIP", "127.0.0.1"),
    ("status.hostIP", "10.0.0.1"),
    ("spec.serviceAccountName", "web"),
    ("spec.nodeName", "node-1"),
];
const RESOURCES: [(&str, &str); 2] = [("limits.cpu", "2"), ("limits.memory", "1073741824")];

#[test]
fn the_agent_takes_arguments_and_environment_of_every_pod() {
    for native in [true, false] {
        let (pod, list) = sidecar(native);
        accepts(&format!("sidecar, native {native}"), &pod["spec"][list]);
    }
    for file in [
        "ingress-gateway.yaml",
        "egress-gateway.yaml",
        "east-west-gateway.yaml",
    ] {
        let pod = gateway(kind(&documents(file), "Deployment"));
        accepts(file, &pod["spec"]["containers"]);
    }
}

/// Starts the agent as the container would, but for its ports and folders.
fn accepts(what: &str, containers: &Value) {
    let proxy = the(containers, "istio-proxy");
    let mut environment = environment(proxy);
    let port = || ithildin_sys::port::unused().expect("a free port");
    let config = format!("{{proxyAdminPort: {}, statusPort: {}}}", port(), port());
    environment.insert("PROXY_CONFIG".into(), config);
    environment.insert("ENVOY_STATUS_PORT".into(), port().to_string());
    environment.insert("ENVOY_PROMETHEUS_PORT".into(), port().to_string());
    let root = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(binary("pilot-agent"));
    for argument in proxy["args"].as_array().expect("arguments") {
        let argument = argument.as_str().expect("a text");
        command.arg(argument.replace("$(POD_NAMESPACE)", "shop"));
    }
    command
        .current_dir(root.path())
        .env_clear()
        .envs(&environment);
    let mut agent = Process::spawn("agent", root.path(), command);
    // It has understood all of it; identity and configuration are not here.
    let line = agent.wait_for_log(&[
        "pilot-agent starts",
        "~127.0.0.1~web-0.shop~shop.svc.cluster.local",
    ]);
    assert!(!line.contains("error"), "{what}: {line}");
    for unheard in ["SPIFFE_ENDPOINT_SOCKET", "TRUST_DOMAIN", "ISTIO_META_"] {
        let log = agent.log();
        let mut warnings = log.lines().filter(|line| line.contains("no effect"));
        assert!(
            !warnings.any(|line| line.contains(unheard)),
            "{what}: {log}"
        );
    }
    agent.kill();
}

fn environment(container: &Value) -> BTreeMap<String, String> {
    let known = |list: &[(&str, &str)], name: &Value| {
        let found = list.iter().find(|(field, _)| name == field);
        found
            .unwrap_or_else(|| panic!("unknown field {name}"))
            .1
            .to_owned()
    };
    let value = |entry: &Value| {
        let from = &entry["valueFrom"];
        match (from.get("fieldRef"), from.get("resourceFieldRef")) {
            (Some(field), _) => known(&FIELDS, &field["fieldPath"]),
            (None, Some(resource)) => known(&RESOURCES, &resource["resource"]),
            (None, None) => entry["value"].as_str().unwrap_or_default().to_owned(),
        }
    };
    let entries = container["env"].as_array().expect("variables").iter();
    let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
    entries.map(|entry| (name(entry), value(entry))).collect()
}

#[test]
fn the_proxy_takes_the_file_of_the_stateful_set() {
    let documents = documents("x509pop/statefulset.yaml");
    let file = &kind(&documents, "ConfigMap")["data"]["envoy.yaml"];
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("envoy.yaml");
    fs::write(&path, file.as_str().expect("a file")).expect("written");
    let mut command = Command::new(binary("ithildin-proxy"));
    let output = command
        .arg("-c")
        .arg(path)
        .args(["--mode", "validate"])
        .output();
    let output = output.expect("the proxy runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
