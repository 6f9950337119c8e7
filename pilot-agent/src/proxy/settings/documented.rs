//! Every variable that is read is in `COMPATIBILITY.md`.

use std::{collections::BTreeSet, fs, path::Path};

/// Capitals that are no variables: values, and keys of node metadata.
const OTHERS: [&str; 28] = [
    "CERT_CHAIN",
    "CLUSTER_ID",
    "DISABLE_HBONE_SEND",
    "DNS_AUTO_ALLOCATE",
    "DNS_CAPTURE",
    "ENABLE_HBONE",
    "ENABLE_SELF_DISCOVERY",
    "HTTP_PROXY_PORT",
    "INBOUND_LISTENER_EXACT_BALANCE",
    "INSTANCE_IPS",
    "INTERCEPTION_MODE",
    "ISTIO_VERSION",
    "LABELS",
    "LOCALITY",
    "METADATA_DISCOVERY",
    "NAME",
    "OUTBOUND_LISTENER_EXACT_BALANCE",
    "OUTLIER_LOG_PATH",
    "PILOT_SAN",
    "PLATFORM_METADATA",
    "POD_PORTS",
    "ROOT_CERT",
    "STATIC_LABELS",
    "STS_PORT",
    "SYSTEM",
    "UNPRIVILEGED_POD",
    "WORKLOAD_NAME",
    "ISTIO_META_HTTP_PROXY_PORT",
];

#[test]
fn every_variable_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("COMPATIBILITY.md")).unwrap();
    let read = variables(&root.join("src/proxy"));
    assert!(
        read.len() > 80,
        "the search finds too little: {}",
        read.len()
    );
    let missing: Vec<_> = read
        .iter()
        .filter(|name| !OTHERS.contains(&name.as_str()) && !is_listed(&table, name))
        .collect();
    assert!(missing.is_empty(), "not in COMPATIBILITY.md: {missing:?}");
}

/// By its own name, or by a prefix with a star.
fn is_listed(table: &str, name: &str) -> bool {
    let prefix = [
        "ISTIO_METAJSON_",
        "XDS_HEADER_",
        "CA_HEADER_",
        "ISTIO_META_TLS_CLIENT_",
        "ISTIO_META_TLS_SERVER_",
    ];
    let starred = prefix.into_iter().find(|prefix| name.starts_with(prefix));
    table.contains(&format!("`{name}`"))
        || starred.is_some_and(|prefix| table.contains(&format!("`{prefix}*`")))
        || (name == "ISTIO_META_" && table.contains("`ISTIO_META_*`"))
}

/// Quoted words of capitals with an underscore in the code of the folder, tests aside.
fn variables(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(variables(&path));
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Envoy's and Istio's enumerations have capitals too.
        let enumerations = ["schema.rs", "typed.rs", "tests.rs", "documented.rs"];
        let relevant =
            folder.ends_with("settings") || ["args.rs", "metadata.rs"].contains(&name.as_str());
        if !relevant || enumerations.contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let quoted = code.split('"').skip(1).step_by(2);
        found.extend(quoted.filter(|word| is_name(word)).map(str::to_owned));
    }
    found
}

fn is_name(word: &str) -> bool {
    let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    word.len() > 3 && word.contains('_') && word.chars().all(capital)
}
