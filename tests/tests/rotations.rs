//! Everything rotates under load: SVIDs, intermediates, roots, federated bundles and configuration.
//! No request may fail.
//!
//! `ITHILDIN_ROTATIONS` sets how many changes there are.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use ithildin_tests::{
    Authority, DataPlane, Identities, Lan, Load,
    clusters::{self, Client, HTTPBIN, Server, Workload},
    eventually, peers,
};
use serde_json::{Value, json};

const DEFAULT_ROTATIONS: u64 = 1000;
/// One root in so many changes: it takes three steps, with others between them.
const ROOT_EVERY: u64 = 25;

#[test]
fn under_load_on_builtin() {
    rotate(DataPlane::Builtin);
}

#[test]
fn under_load_on_envoy() {
    if peers::envoy("under_load_on_envoy").is_some() {
        rotate(DataPlane::Envoy);
    }
}

fn rotate(data_plane: DataPlane) {
    let rotations = env::var("ITHILDIN_ROTATIONS").ok();
    let rotations = rotations.and_then(|text| text.parse().ok());
    let rotations = rotations.unwrap_or(DEFAULT_ROTATIONS);
    let identities = Identities::federated("").expect("the authority is our own");
    let lan = Lan::new();
    let server = Server::start(&lan, &identities, "example.org", &HTTPBIN, data_plane);
    let client = Client::start(&lan, &identities, "domain.test", data_plane);
    let Identities::Authority(authority) = &identities else {
        panic!("the authority is what we asked for");
    };
    let scene = Scene {
        authority,
        server: &server,
        client: &client,
    };
    let net = &client.sleep.net;
    let load = Load::start(net, "127.0.0.1:8000", "app.example.org:8000", "/status/200");
    load.wait_beyond(0);

    let started = Instant::now();
    let mut counts = Counts::default();
    for turn in 0..rotations {
        let sent = load.sent();
        scene.turn(turn, &mut counts);
        load.wait_beyond(sent);
    }
    scene.all_have_arrived();
    let took = started.elapsed();
    let tally = load.finish();
    println!(
        "{}: {rotations} rotations ({counts:?}) in {took:?}: {} requests, {} failed, slowest {:?}",
        data_plane.as_str(),
        tally.requests,
        tally.failed,
        tally.slowest
    );
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.requests >= rotations, "{tally:?}");
    assert!(tally.slowest < Duration::from_secs(10), "{tally:?}");
}

/// How many changes of each kind there were.
#[derive(Debug, Default)]
struct Counts {
    svids: u64,
    intermediates: u64,
    roots: u64,
    federations: u64,
    configurations: u64,
}

struct Scene<'a> {
    authority: &'a Authority,
    server: &'a Server,
    client: &'a Client,
}

impl Scene<'_> {
    /// One change. The kinds take turns, so that each meets the others.
    fn turn(&self, turn: u64, counts: &mut Counts) {
        let domain = ["example.org", "domain.test"][(turn / ROOT_EVERY % 2) as usize];
        match turn % ROOT_EVERY {
            2 => self.root("prepare-root", domain, counts),
            // Whoever has an SVID of after the preparation has the new root, too.
            9 => {
                self.rotate_leaf(None);
                self.all_have_arrived();
                counts.svids += 1;
            }
            12 => self.root("activate-root", domain, counts),
            20 => {
                self.all_have_arrived();
                self.root("drop-old-roots", domain, counts);
            }
            5 => {
                self.authority
                    .call(json!({"op": "rotate-intermediate", "authority": "example.org"}));
                counts.intermediates += 1;
            }
            7 => self.federation("federate", counts),
            17 => self.federation("unfederate", counts),
            n if n % 4 == 3 => {
                self.configuration(counts.configurations);
                counts.configurations += 1;
            }
            n => {
                let workloads = [&self.server.gateway, &self.server.app, &self.client.sleep];
                self.rotate_leaf(Some(&workloads[(n % 3) as usize].id));
                counts.svids += 1;
            }
        }
    }

    fn root(&self, step: &str, domain: &str, counts: &mut Counts) {
        self.authority
            .call(json!({"op": step, "authority": domain}));
        counts.roots += 1;
    }

    fn federation(&self, change: &str, counts: &mut Counts) {
        for domain in ["example.org", "domain.test"] {
            self.authority
                .call(json!({"op": change, "a": domain, "b": "third.test"}));
        }
        counts.federations += 1;
    }

    fn rotate_leaf(&self, id: Option<&str>) {
        self.authority.call(json!({"op": "rotate-leaf", "id": id}));
    }

    /// A route of the gateway, a cluster of the egress, or a host that is new or gone.
    fn configuration(&self, n: u64) {
        let seconds = n % 50 + 10;
        let with = |file: &str, before: &str, line: &str| {
            let text = fs::read_to_string(clusters::data(&format!("walkthroughs/{file}")));
            let text = text.expect("the project's own file can be read");
            assert!(text.contains(before), "{before} in {text}");
            text.replace(before, &format!("{line}{before}"))
        };
        let client = &self.client.config;
        match n % 4 {
            0 => {
                let line = format!("      timeout: {seconds}s\n");
                let text = with(HTTPBIN.gateway, "      route:\n", &line);
                replace(&self.server.config, HTTPBIN.gateway, &text);
            }
            2 => {
                let line =
                    format!("      connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}\n");
                let text = with("app-egress.yaml", "      tls:\n", &line);
                replace(client, "app-egress.yaml", &text);
            }
            1 => replace(client, "other.yaml", OTHER),
            _ => fs::remove_file(client.join("other.yaml")).expect("it is there"),
        }
    }

    /// Waits until each proxy presents the SVID that the authority has issued last.
    fn all_have_arrived(&self) {
        let status = self.authority.call(json!({"op": "status"}));
        for workload in [&self.server.gateway, &self.server.app, &self.client.sleep] {
            let serial = serial(&status, &workload.id);
            eventually(&format!("the last SVID of {}", workload.id), || {
                let page = certs(workload);
                if page.contains(&serial) {
                    Ok(())
                } else {
                    Err((serial.clone(), page))
                }
            });
        }
    }
}

/// A host that only some configurations have.
const OTHER: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec:
  hosts: [other.example.org]
  ports: [{number: 8100, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.1.50}]
";

/// In one step, as a ConfigMap changes.
fn replace(folder: &Path, name: &str, text: &str) {
    let next = folder.join(format!(".{name}"));
    fs::write(&next, text).expect("the folder is writable");
    fs::rename(&next, folder.join(name)).expect("the folder is writable");
}

fn certs(workload: &Workload) -> String {
    workload.agent.admin(&workload.net, "/certs").body
}

/// Of the workload's current SVID, as the authority tells it.
fn serial(status: &Value, id: &str) -> String {
    let domains = status["trust_domains"].as_array().into_iter().flatten();
    let mut workloads =
        domains.flat_map(|domain| domain["workloads"].as_array().into_iter().flatten());
    let found = workloads.find(|workload| workload["id"] == id);
    let serial = found.and_then(|workload| workload["serial"].as_str());
    serial
        .unwrap_or_else(|| panic!("{id} in {status}"))
        .to_owned()
}
