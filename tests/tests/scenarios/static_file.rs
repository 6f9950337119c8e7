//! A workload outside the mesh: a hand-written Envoy file, its secrets straight from the SPIRE agent's
//! socket, run by `ithildin-proxy` and by Envoy with the same arguments.

use std::{fs, path::Path};

use ithildin_tests::{
    Authority, DataPlane, Identities, Load, Net,
    clusters::data,
    eventually,
    external::{DOMAIN, External, HOSTS, NGINX, WORKLOAD, program},
    spire::Plan,
};
use serde_json::json;

use crate::support::{has, wait_for_line};

/// SVIDs that are renewed under load.
const ROTATIONS: u32 = 25;

#[test]
fn on_ithildin_proxy() {
    static_file(
        "static_file::on_ithildin_proxy",
        DataPlane::Builtin,
        authority,
    );
}

#[test]
fn on_envoy() {
    static_file("static_file::on_envoy", DataPlane::Envoy, authority);
}

#[test]
fn spire_on_ithildin_proxy() {
    let test = "static_file::spire_on_ithildin_proxy";
    static_file(test, DataPlane::Builtin, spire);
}

#[test]
fn spire_on_envoy() {
    static_file("static_file::spire_on_envoy", DataPlane::Envoy, spire);
}

/// The development authority, with the socket where the file wants it.
fn authority(_test: &str, socket: &Path) -> Option<Identities> {
    Some(Identities::Authority(Authority::start(&format!(
        "trust_domains: [{{name: {DOMAIN}, socket: {}}}, {{name: elsewhere.test}}]\n",
        socket.display()
    ))))
}

/// A real SPIRE agent there.
fn spire(test: &str, socket: &Path) -> Option<Identities> {
    let mut plan = Plan::new(DOMAIN, DOMAIN);
    plan.socket = Some(socket.to_owned());
    Identities::by_spire(test, &[plan, Plan::new("elsewhere.test", "elsewhere.test")])
}

type Start = fn(test: &str, socket: &Path) -> Option<Identities>;

fn static_file(test: &str, data_plane: DataPlane, start: Start) {
    if !has(test, &[data_plane]) {
        return;
    }
    let mut scene = External::start(data_plane);
    // Neither a socket nor, then, an identity: whatever it says, it is no answer of the service.
    assert_ne!(scene.get("/").status, 200);
    let Some(identities) = start(test, &scene.socket()) else {
        return;
    };
    let bundle = identities.bundle(DOMAIN);
    let nginx = identities.mint(DOMAIN, NGINX);
    let upstream = scene.upstream(&nginx, &bundle);
    assert_ne!(scene.get("/").status, 200, "without an identity");
    assert!(scene.proxy.is_running(), "{}", scene.proxy.log());
    match &identities {
        Identities::Authority(authority) => {
            authority.call(json!({"op": "grant", "id": WORKLOAD}));
        }
        Identities::Spire { spire, .. } => spire.register(DOMAIN, WORKLOAD, &[]),
    }
    let answer = eventually("the page arrives", || scene.get("/").expect_status(200));
    assert!(answer.body.contains("Welcome to nginx!"), "{answer:?}");
    assert!(answer.header("x-envoy-upstream-service-time").is_some());
    assert_eq!(scene.get("/who").echoed()["peer"], WORKLOAD);
    wait_for_line(|| scene.access_log(), &["\"GET / HTTP/1.1\" 200 - "]);

    if let Identities::Authority(authority) = &identities {
        rotations(&scene, authority);
    }
    drop(upstream);
    wrong_upstreams(data_plane, &scene, &identities, &bundle);
    let upstream = scene.upstream(&nginx, &bundle);
    eventually("the right one again", || scene.get("/").expect_status(200));
    drop(upstream);
    if data_plane == DataPlane::Builtin {
        let log = scene.proxy.log();
        assert!(!log.contains("PRIVATE KEY"), "a key in the log");
    }
    assert!(scene.proxy.terminate().success(), "{}", scene.proxy.log());
}

fn rotations(scene: &External, authority: &Authority) {
    let load = Load::start(&scene.net, "127.0.0.1:3001", "127.0.0.1:3001", "/who");
    for _ in 0..ROTATIONS {
        let sent = load.sent();
        authority.call(json!({"op": "rotate-leaf", "id": WORKLOAD}));
        load.wait_beyond(sent);
    }
    let tally = load.finish();
    assert_eq!(tally.failed, 0, "{tally:?}");
}

fn wrong_upstreams(data_plane: DataPlane, scene: &External, identities: &Identities, bundle: &str) {
    let other = format!("spiffe://{DOMAIN}/ns/spire-tutorial/sa/apache");
    let foreign = "spiffe://elsewhere.test/ns/spire-tutorial/sa/nginx";
    for (svid, words) in [
        (
            identities.mint(DOMAIN, &other),
            [other.as_str(), "is refused"],
        ),
        (
            identities.mint("elsewhere.test", foreign),
            [foreign, "is refused"],
        ),
    ] {
        let mut upstream = scene.upstream(&svid, bundle);
        // The log goes on where that of the upstream before it ended.
        let alerts = |log: &str| log.matches("received fatal alert").count();
        let before = alerts(&upstream.log());
        eventually("a wrong upstream is refused", || {
            let answer = scene.get("/").expect_status(503)?;
            let text = answer.body.contains("upstream connect error");
            let alert = alerts(&upstream.log()) > before;
            if text && alert { Ok(()) } else { Err(answer) }
        });
        assert!(upstream.is_running());
        wait_for_line(|| scene.access_log(), &["\"GET / HTTP/1.1\" 503 UF "]);
        if data_plane == DataPlane::Builtin {
            wait_for_line(|| scene.proxy.log(), &words);
        }
        drop(upstream);
    }
}

#[test]
fn a_mistake_in_the_file_ends_the_start() {
    mistakes(DataPlane::Builtin);
    if has(
        "static_file::a_mistake_in_the_file_ends_the_start",
        &[DataPlane::Envoy],
    ) {
        mistakes(DataPlane::Envoy);
    }
}

fn mistakes(data_plane: DataPlane) {
    let net = Net::new(HOSTS);
    let file = net.subdir("run/envoy").join("envoy-conf.yaml");
    let text = fs::read_to_string(data("walkthroughs/envoy-conf.yaml"));
    let text = text.expect("the project's own file can be read");
    for (right, wrong, path) in [
        (
            "stat_prefix: ingress_http",
            "stats_prefix: ingress_http",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stats_prefix: unknown field",
        ),
        (
            "http_connection_manager.v3.HttpConnectionManager",
            "http_connection_manager.v4.HttpConnectionManager",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config",
        ),
        ("codec_type: auto", "codec_type: http4", "codec_type"),
        ("port_value: 3001", "port_value: 70000", "port_value"),
        ("cluster: backend", "cluster: frontend", "frontend"),
    ] {
        assert!(text.contains(right), "{right}");
        fs::write(&file, text.replace(right, wrong)).expect("the scratch folder is writable");
        let printed = start_and_fail(data_plane, &net, &file);
        if data_plane == DataPlane::Builtin {
            assert!(printed.contains(path), "{wrong}: {printed}");
        }
    }
}

fn start_and_fail(data_plane: DataPlane, net: &Net, file: &Path) -> String {
    let mut command = net.command(program(data_plane));
    command.args(["--base-id", "1", "-c"]).arg(file);
    let out = command.output().expect("the proxy starts");
    assert!(!out.status.success(), "it has started");
    String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
}
