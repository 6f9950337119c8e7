//! The admin pages beside a real Envoy's, on the same file: the names of statistics that follow the
//! configuration, and the shape of the dumps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use ithildin_tests::{Net, curl, eventually, peers, pki::Ca, process::binary};
use serde_json::Value;

/// Statistics whose names are compared: those of the control side.
const COMPARED: [&str; 9] = [
    "listener_manager.",
    "cluster_manager.",
    "sds.",
    "server.",
    "cluster.alias.membership_",
    "cluster.alias.circuit_breakers.",
    "cluster.alias.update_",
    "cluster.alias.client_ssl_socket_factory.",
    "listener.tls_in.server_ssl_socket_factory.",
];

/// Envoy's, and why we do not have them.
const ENVOYS_ALONE: [(&str, &str); 17] = [
    (
        "cluster.alias.client_ssl_socket_factory.downstream_context_secrets_not_ready",
        "of servers",
    ),
    (
        "listener.tls_in.server_ssl_socket_factory.upstream_context_secrets_not_ready",
        "of clients",
    ),
    (
        "listener_manager.workers_pinned",
        "workers are not pinned to processors",
    ),
    (
        ".key_rotation_failed",
        "files are read whole: there is no step that could fail alone",
    ),
    (".update_duration", "a histogram of parsing"),
    (".version_text", "text is no statistic here"),
    ("server.compilation_settings.fips_mode", "of Envoy's build"),
    ("server.debug_assertion_failures", "of Envoy's build"),
    ("server.envoy_bug_failures", "of Envoy's build"),
    ("server.envoy_notifications", "of Envoy's build"),
    ("server.dropped_stat_flushes", "there are no sinks"),
    ("_unknown_fields", "unknown fields are errors"),
    ("server.hot_restart_generation", "there is no hot restart"),
    ("server.parent_connections", "there is no hot restart"),
    (
        "server.stats_recent_lookups",
        "nothing is looked up by name",
    ),
    (".watchdog_m", "there is no watchdog"),
    ("server.wip_protos", "of Envoy's build"),
];

/// The rest of those that Envoy's start-up has.
const ENVOYS_START: [&str; 2] = [
    "server.initialization_time_ms",
    "server.seconds_until_first_ocsp_response_expiring",
];

struct Pages {
    stats: BTreeMap<String, String>,
    certs: Value,
    dump: Value,
}

#[test]
fn pages_are_as_envoys() {
    let Some(envoy) = peers::envoy("pages_are_as_envoys") else {
        return;
    };
    let lab = Lab::new();
    let ours = lab.pages("ithildin-proxy", &[]);
    let theirs = lab.pages(
        &envoy.to_string_lossy(),
        &["--use-dynamic-base-id", "-l", "warn"],
    );
    names_agree(&ours.stats, &theirs.stats);
    for name in [
        "listener_manager.listener_added",
        "listener_manager.listener_create_success",
        "listener_manager.total_listeners_active",
        "listener_manager.workers_started",
        "cluster_manager.cluster_added",
        "cluster_manager.active_clusters",
        "cluster.alias.membership_total",
        "cluster.alias.membership_healthy",
        "cluster.plain.membership_total",
        "sds.default.update_success",
        "sds.default.update_rejected",
        "sds.ROOTCA.update_success",
        "server.state",
        "server.live",
        "server.days_until_first_cert_expiring",
    ] {
        assert_eq!(ours.stats.get(name), theirs.stats.get(name), "{name}");
    }
    assert_eq!(ours.certs, theirs.certs);
    assert_eq!(keys(&ours.dump), keys(&theirs.dump));
    assert!(!ours.dump.to_string().contains("PRIVATE KEY"));
}

#[test]
fn a_drain_of_inbound_listeners_leaves_others_alone() {
    let lab = Lab::new();
    let mut command = lab.net.command(binary("ithildin-proxy"));
    command.arg("-c").arg(lab.net.dir().join("proxy.yaml"));
    let mut proxy = lab.net.spawn("ithildin-proxy", command);
    eventually("ready", || lab.get("ready", &[]).expect_status(200));
    assert_eq!(lab.get("stats?format=x", &[]).status, 400);
    let drain = lab.get("drain_listeners?inboundonly&graceful", &["-X", "POST"]);
    assert_eq!((drain.status, drain.body.as_str()), (200, "OK\n"));
    assert_eq!(lab.get("ready", &[]).status, 200, "nothing is inbound");
    assert!(proxy.is_running());
}

struct Lab {
    net: Net,
}

impl Lab {
    fn new() -> Self {
        let net = Net::new(&[]);
        let ca = Ca::new("example.org");
        let server = ca.svid("spiffe://example.org/server");
        let secret =
            "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let identity = format!(
            "resources: [{{{secret}, name: default, tls_certificate: {{certificate_chain: \
             {{inline_string: {:?}}}, private_key: {{inline_string: {:?}}}}}}}]\n",
            server.certificate.pem(),
            server.key.serialize_pem(),
        );
        let roots = format!(
            "resources: [{{{secret}, name: ROOTCA, validation_context: {{trusted_ca: \
             {{inline_string: {:?}}}}}}}]\n",
            ca.pem
        );
        let file = include_str!("admin.yaml").replace("DIR", &net.dir().to_string_lossy());
        for (name, text) in [
            ("identity.yaml", identity),
            ("roots.yaml", roots),
            ("proxy.yaml", file),
        ] {
            fs::write(net.dir().join(name), text).expect("the scratch folder is writable");
        }
        Self { net }
    }

    fn get(&self, path: &str, arguments: &[&str]) -> curl::Answer {
        curl::get(
            &self.net,
            &format!("http://127.0.0.1:15000/{path}"),
            arguments,
        )
    }

    fn pages(&self, program: &str, arguments: &[&str]) -> Pages {
        let program = match program {
            "ithildin-proxy" => binary(program),
            path => path.into(),
        };
        let mut command = self.net.command(program);
        command.args(["--concurrency", "1"]).args(arguments);
        command.arg("-c").arg(self.net.dir().join("proxy.yaml"));
        let _proxy = self.net.spawn("proxy", command);
        eventually("all is warm", || {
            let stats = self.get("stats?filter=workers_started|listener_create_success", &[]);
            let warm = stats.body.contains("workers_started: 1")
                && stats.body.contains("listener_create_success: 2");
            if warm { Ok(()) } else { Err(stats.body) }
        });
        let json = |path| {
            let body = self.get(path, &[]).body;
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
        };
        let stats = self.get("stats", &[]).body;
        let stats = stats.lines().filter_map(|line| line.split_once(": "));
        Pages {
            stats: stats.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            certs: json("certs"),
            dump: json("config_dump?include_eds"),
        }
    }
}

fn names_agree(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    let compared = |all: &BTreeMap<String, String>| -> BTreeSet<String> {
        let names = all.keys();
        names
            .filter(|name| COMPARED.iter().any(|prefix| name.starts_with(prefix)))
            .cloned()
            .collect()
    };
    let (ours, theirs) = (compared(ours), compared(theirs));
    let made_up: Vec<_> = ours.difference(&theirs).collect();
    assert!(made_up.is_empty(), "not Envoy's: {made_up:#?}");
    let excused = |name: &&String| {
        ENVOYS_ALONE.iter().any(|(known, _)| name.contains(known))
            || ENVOYS_START.contains(&name.as_str())
    };
    let missing: Vec<_> = theirs.difference(&ours).filter(|it| !excused(it)).collect();
    assert!(missing.is_empty(), "missing: {missing:#?}");
    for (known, why) in ENVOYS_ALONE {
        assert!(
            theirs.iter().any(|name| name.contains(known)),
            "Envoy has no {known} ({why}): drop it from the table"
        );
    }
}

/// Sections with the fields of their first entries: what readers of a dump look for.
fn keys(dump: &Value) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let sections = dump["configs"].as_array().expect("a list of sections");
    let fields = |value: &Value| -> Vec<String> {
        let entry = value.as_array().and_then(|list| list.first());
        let entry = entry.and_then(Value::as_object);
        let keys = entry.into_iter().flat_map(|entry| entry.keys());
        // What a file brings has no version in Envoy; here updates are counted.
        keys.filter(|key| *key != "version_info").cloned().collect()
    };
    sections
        .iter()
        // Nothing is scoped, and what is in the endpoints' section follows from the clusters.
        .filter(|section| !section["@type"].to_string().contains("ScopedRoutes"))
        .filter(|section| !section["@type"].to_string().contains("Endpoints"))
        .map(|section| {
            let all = section.as_object().expect("a section is an object");
            let lists = all.iter().map(|(key, value)| (key.clone(), fields(value)));
            (section["@type"].to_string(), lists.collect())
        })
        .collect()
}
