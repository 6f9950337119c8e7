//! What differs between the pages of the two data planes for a reason. It is taken out of both before they are
//! compared.

use std::collections::BTreeSet;

use serde_json::Value;

/// Fields, by section and path.
const FIELDS: [(&str, &str, &str); 15] = [
    (
        "Bootstrap",
        "bootstrap/node/user_agent_name",
        "ours has its own name",
    ),
    (
        "Bootstrap",
        "bootstrap/node/user_agent_build_version",
        "and version",
    ),
    (
        "Bootstrap",
        "bootstrap/node/extensions",
        "what Envoy was built with",
    ),
    ("Bootstrap", "bootstrap/static_resources", IN_PROCESS),
    ("Bootstrap", "bootstrap/dynamic_resources", IN_PROCESS),
    (
        "Bootstrap",
        "bootstrap/admin/profile_path",
        "Envoy's profiler",
    ),
    (
        "Bootstrap",
        "bootstrap/admin/access_log",
        "to /dev/null in Envoy's",
    ),
    (
        "Bootstrap",
        "bootstrap/overload_manager",
        "the limit of connections is a setting",
    ),
    (
        "Bootstrap",
        "bootstrap/layered_runtime",
        "switches of Envoy's code",
    ),
    (
        "Bootstrap",
        "bootstrap/bootstrap_extensions",
        "for HBONE, which is not spoken",
    ),
    (
        "Bootstrap",
        "bootstrap/application_log_config",
        "logs have a form of their own",
    ),
    (
        "Bootstrap",
        "bootstrap/deferred_stat_options",
        "Envoy's memory",
    ),
    ("Clusters", "static_clusters", IN_PROCESS),
    ("Endpoints", "static_endpoint_configs", IN_PROCESS),
    ("Listeners", "static_listeners", IN_PROCESS),
];

/// Clusters and listeners of Envoy's bootstrap.
const OF_BOOTSTRAP: [(&str, &str); 6] = [
    ("agent", IN_PROCESS),
    ("prometheus_stats", IN_PROCESS),
    ("sds-grpc", IN_PROCESS),
    ("xds-grpc", IN_PROCESS),
    ("0.0.0.0_15021", IN_PROCESS),
    ("0.0.0.0_15090", IN_PROCESS),
];

const IN_PROCESS: &str = "discovery, secrets, probes and metrics are served in the process";

/// Keys of any section.
const KEYS: [(&str, &str); 2] = [
    ("last_updated", "when this proxy got it"),
    ("version_info", "each stream counts its own"),
];

/// Which of those above were there.
#[derive(Default)]
pub(super) struct Differences(BTreeSet<String>);

impl Differences {
    /// A difference that is no more has to leave the table.
    pub(super) fn all_seen(&self) {
        let fields = FIELDS
            .iter()
            .map(|(section, path, why)| (format!("{section}/{path}"), why));
        let names = OF_BOOTSTRAP.iter().chain(&KEYS);
        let names = names.map(|(name, why)| ((*name).to_owned(), why));
        for (name, why) in fields.chain(names) {
            assert!(
                self.0.contains(&name),
                "{name} ({why}) is in neither: drop it"
            );
        }
    }
}

/// `/config_dump` or parts of it. Lists get an order: Envoy's is that of hash maps.
pub(super) fn dump_without(dump: &Value, seen: &mut Differences) -> Value {
    let mut dump = dump.clone();
    let configs = dump.get_mut("configs").and_then(Value::as_array_mut);
    let Some(configs) = configs else {
        return dump;
    };
    for section in &mut *configs {
        without_fields(section, seen);
        without_keys(section, seen);
        let fields = section.as_object_mut().into_iter().flatten();
        for list in fields.filter_map(|(_, value)| value.as_array_mut()) {
            list.sort_by_key(Value::to_string);
        }
    }
    configs.sort_by_key(Value::to_string);
    dump
}

/// `/clusters?format=json` or `/listeners?format=json`.
pub(super) fn statuses_without(page: &Value, list: &str, seen: &mut Differences) -> Value {
    let mut page = page.clone();
    let list = page[list].as_array_mut().expect("a list of statuses");
    list.retain(|entry| {
        let name = entry["name"].as_str().unwrap_or_default();
        let of_bootstrap = OF_BOOTSTRAP.iter().any(|(known, _)| *known == name);
        if of_bootstrap {
            seen.0.insert(name.to_owned());
        }
        !of_bootstrap
    });
    list.sort_by_key(|entry| entry["name"].to_string());
    page
}

/// Our dump with the SVID of theirs: it is renewed while we look.
pub(super) fn with_svid(mut ours: Value, theirs: &Value) -> Value {
    let theirs = theirs["configs"].as_array().into_iter().flatten();
    let mut theirs = theirs.filter_map(|section| section["dynamic_active_secrets"].as_array());
    let theirs = theirs.next().expect("there are secrets");
    let is_own = |entry: &&Value| entry["name"] == "default";
    let svid = theirs.iter().find(is_own).expect("the node's own");
    let svid = svid.pointer(CHAIN).expect("it has a certificate");
    let sections = ours["configs"].as_array_mut().into_iter().flatten();
    let lists = sections.filter_map(|section| section.get_mut("dynamic_active_secrets"));
    let entries = lists.flat_map(|list| list.as_array_mut().into_iter().flatten());
    for entry in entries.filter(|entry| entry["name"] == "default") {
        let own = entry.pointer_mut(CHAIN).expect("it has a certificate, too");
        assert!(own.is_string() && svid.is_string(), "{own} {svid}");
        *own = svid.clone();
    }
    ours
}

const CHAIN: &str = "/secret/tls_certificate/certificate_chain/inline_bytes";

fn without_fields(section: &mut Value, seen: &mut Differences) {
    let kind = section["@type"].as_str().unwrap_or_default().to_owned();
    for (of, path, _) in FIELDS {
        let (parent, field) = path.rsplit_once('/').unwrap_or(("", path));
        let pointer = match parent {
            "" => String::new(),
            parent => format!("/{parent}"),
        };
        let parent = section.pointer_mut(&pointer).and_then(Value::as_object_mut);
        let is_section = kind.ends_with(&format!(".{of}ConfigDump"));
        if is_section && parent.is_some_and(|parent| parent.remove(field).is_some()) {
            seen.0.insert(format!("{of}/{path}"));
        }
    }
    // Of Envoy's listeners for probes and metrics: these tables alone have no names.
    let tables = section.get_mut("static_route_configs");
    if let Some(tables) = tables.and_then(Value::as_array_mut) {
        tables.retain(|entry| entry["route_config"]["name"].is_string());
    }
    if section["static_route_configs"] == serde_json::json!([]) {
        let fields = section.as_object_mut().expect("a section has fields");
        fields.remove("static_route_configs");
    }
}

fn without_keys(value: &mut Value, seen: &mut Differences) {
    match value {
        Value::Object(fields) => {
            for (key, _) in KEYS {
                if fields.remove(key).is_some() {
                    seen.0.insert(key.to_owned());
                }
            }
            fields.values_mut().for_each(|it| without_keys(it, seen));
        }
        Value::Array(list) => list.iter_mut().for_each(|it| without_keys(it, seen)),
        _ => {}
    }
}
