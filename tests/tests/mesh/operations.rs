//! What operators do to a mesh, under load: no request fails.

use std::time::{Duration, Instant};

use ithildin_tests::{
    Identities, Load, Mesh, eventually, eventually_within,
    mesh::{PodSpec, Program, SLEEP, TRUST_DOMAIN},
};

use crate::support::on_each;
use jiff::Timestamp;
use serde_json::Value;

const URL: &str = "http://httpbin:8000/status/200";

const HTTPBIN: PodSpec<'static> =
    PodSpec::server("httpbin-0", "httpbin", [10, 0, 4, 2], &[("app", "httpbin")]);

const SECOND: PodSpec<'static> =
    PodSpec::server("httpbin-1", "httpbin", [10, 0, 4, 3], &[("app", "httpbin")]);

/// They stand in for Pods that go.
const THIRD: PodSpec<'static> =
    PodSpec::server("httpbin-2", "httpbin", [10, 0, 4, 4], &[("app", "httpbin")]);

const FOURTH: PodSpec<'static> =
    PodSpec::server("httpbin-3", "httpbin", [10, 0, 4, 5], &[("app", "httpbin")]);

/// Changes of the configuration.
const PUSHES: usize = 200;
const PUSH: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin, namespace: default}
spec:
  hosts: [httpbin]
  http:
  - route: [{destination: {host: httpbin}}]
    headers: {response: {set: {x-turn: \"TURN\"}}}
";
/// What SPIRE of the tests gives an SVID; it is renewed after half of it.
const SVID_TTL: Duration = Duration::from_secs(90);
/// Longer than a rotation, shorter than an SVID.
const DEAD: Duration = Duration::from_secs(50);
/// For SPIRE's agent to attest and catch up once it is back: it asks its server every 5 s, and a busy
/// machine starts it slowly.
const CATCH_UP: Duration = Duration::from_secs(20);

on_each!(operations);

fn operations(test: &str, program: Program) {
    let pods = [SLEEP, HTTPBIN, SECOND];
    let mesh = Mesh::start(test, program, &["httpbin.yaml"], &pods);
    let Some(mut mesh) = mesh else {
        return;
    };
    eventually("httpbin answers", || {
        mesh.curl("sleep-0", URL, &[]).expect_status(200)
    });
    let net = &mesh.pod("sleep-0").net;
    let load = Load::start(net, "10.96.2.1:8000", "httpbin:8000", "/status/200");
    load.wait_beyond(0);
    let started = Instant::now();

    pushes(&mesh);
    told(test, "pushes", &load, started);
    istiod_dies(&mut mesh, &load);
    told(test, "istiod died and came back", &load, started);
    issuer_dies(&mut mesh, &load);
    told(test, "the issuer died and came back", &load, started);
    rolling_restart(&mut mesh);
    told(test, "rolling restart", &load, started);

    let tally = load.finish();
    let rate = tally.requests as f64 / started.elapsed().as_secs_f64();
    println!(
        "{test}: {} requests ({rate:.0}/s), {} failed, slowest {:?}",
        tally.requests, tally.failed, tally.slowest
    );
    assert_eq!(tally.failed, 0, "{tally:?}");
}

fn told(test: &str, what: &str, load: &Load, started: Instant) {
    println!(
        "{test}: {:?}: {} requests, {} failed: {what}",
        started.elapsed(),
        load.sent(),
        load.failed()
    );
}

/// Each push changes what responses look like, so that it shows when it has arrived.
fn pushes(mesh: &Mesh) {
    for turn in 1..=PUSHES {
        push(mesh, turn);
    }
}

fn push(mesh: &Mesh, turn: usize) {
    let turn = turn.to_string();
    mesh.istiod.apply("push.yaml", &PUSH.replace("TURN", &turn));
    eventually("the push arrives", || {
        let answer = mesh.curl("sleep-0", URL, &[]).expect_status(200)?;
        let arrived = answer.header("x-turn") == Some(turn.as_str());
        arrived.then_some(()).ok_or(answer)
    });
}

/// Traffic goes on without istiod, and the next push arrives after it came back.
fn istiod_dies(mesh: &mut Mesh, load: &Load) {
    mesh.istiod.kill();
    go_on(load, DEAD);
    mesh.istiod.restart();
    push(mesh, PUSHES + 1);
}

/// The SPIRE agent is away for longer than a rotation; then identities catch up.
fn issuer_dies(mesh: &mut Mesh, load: &Load) {
    if !matches!(mesh.identities, Identities::Spire { .. }) {
        return;
    }
    // An SVID that was about to be renewed would end while nobody can renew it.
    eventually_within(2 * SVID_TTL, "all SVIDs are fresh", || {
        let needed = Timestamp::now() + DEAD + CATCH_UP;
        let ends = svid_ends(mesh);
        let fresh = ends.iter().all(|end| *end > needed);
        fresh.then_some(()).ok_or(ends)
    });
    let before = svid_ends(mesh);
    let Identities::Spire { spire, .. } = &mut mesh.identities else {
        return;
    };
    spire.kill_agent(TRUST_DOMAIN);
    go_on(load, DEAD);
    spire.restart_agent(TRUST_DOMAIN);
    eventually_within(SVID_TTL, "identities catch up", || {
        let now = svid_ends(mesh);
        let renewed = now.iter().zip(&before).all(|(now, before)| now > before);
        renewed.then_some(()).ok_or(now)
    });
}

/// When the SVIDs end that the proxies of the Pods serve with.
fn svid_ends(mesh: &Mesh) -> [Timestamp; 3] {
    [SLEEP, HTTPBIN, SECOND].map(|spec| {
        let page = mesh.pod(spec.name).admin("/certs").body;
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        let entries = page["certificates"].as_array().into_iter().flatten();
        let leaves = entries
            .filter_map(|entry| entry["cert_chain"].as_array())
            .flatten();
        let ends = leaves.filter_map(|leaf| leaf["expiration_time"].as_str()?.parse().ok());
        ends.min().unwrap_or(Timestamp::MIN)
    })
}

/// New Pods come before old ones go, which drain.
fn rolling_restart(mesh: &mut Mesh) {
    for (old, new) in [(HTTPBIN, THIRD), (SECOND, FOURTH)] {
        mesh.add(&new);
        mesh.wait_ready();
        mesh.evict(old.name);
    }
    let answer = mesh.curl("sleep-0", URL, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Lets the load run for this long.
fn go_on(load: &Load, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        load.wait_beyond(load.sent());
    }
}
