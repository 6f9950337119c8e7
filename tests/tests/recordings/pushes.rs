//! Pushes while requests flow: none fails.

use std::time::Instant;

use ithildin_proto::pb::envoy::config::{
    core::v3::{SocketAddress, address::Address as Kind, socket_address::PortSpecifier},
    endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
};
use ithildin_tests::{
    DataPlane, Load, eventually,
    replay::{Answer, Recorded, recording},
};

use crate::{
    has,
    scene::{HTTPBIN_ID, PRODUCTPAGE, PRODUCTPAGE_ID, PRODUCTPAGE_NODE, Plan, SLEEP, Scene},
};

/// The first answers of the recorded stream; the others are pushes.
const START: u32 = 5;
/// How often the recorded pushes are replayed: each round adds a Pod, changes a route and takes the Pod away.
const ROUNDS: usize = 10;
/// Pushes of everything, unchanged but for its version, as istiod sends it.
const PUSHES: usize = 20;

/// A Pod that comes and goes, in the recording and in our own pushes.
const SECOND: &str = "127.0.1.13";
const HTTPBIN_ENDPOINTS: &str = "outbound|8000||httpbin.default.svc.cluster.local";

#[test]
fn builtin_recorded() {
    let (start, pushes): (Vec<_>, Vec<_>) = recording::pushes()
        .into_iter()
        .partition(|(number, _)| *number <= START);
    let answers = |numbered: Vec<(u32, Answer)>| -> Vec<Answer> {
        numbered.into_iter().map(|(_, answer)| answer).collect()
    };
    let plan = Plan::new(SLEEP, DataPlane::Builtin);
    let mut scene = Scene::start(plan, &answers(start));
    scene.serve("second", &format!("{SECOND}:9080"), PRODUCTPAGE_ID);
    let pushes = answers(pushes);
    let pushes = (0..ROUNDS).flat_map(|_| pushes.clone());
    push_all("pushes::builtin_recorded", &mut scene, pushes, |scene| {
        Load::start(&scene.net, PRODUCTPAGE, "productpage:9080", "/status/200")
    });
    assert!(
        scene.service_log("second").is_empty(),
        "no client was refused"
    );
}

#[test]
fn builtin_full() {
    full("pushes::builtin_full", DataPlane::Builtin);
}

#[test]
fn envoy_full() {
    let test = "pushes::envoy_full";
    if has(test, DataPlane::Envoy) {
        full(test, DataPlane::Envoy);
    }
}

/// All of what istiod sends comes again under new versions, and endpoints come and go.
fn full(test: &str, plane: DataPlane) {
    let answers = recording::node("stock/delta-sidecar-productpage");
    let mut scene = Scene::start(Plan::new(PRODUCTPAGE_NODE, plane), &answers);
    scene.serve("second", &format!("{SECOND}:8080"), HTTPBIN_ID);
    let endpoints = recording::find(&answers, "ClusterLoadAssignment", HTTPBIN_ENDPOINTS);
    let pushes = (1..=PUSHES).map(|turn| {
        let version = format!("turn/{turn}");
        let all = answers.iter().flatten().map(|recorded| Recorded {
            version: version.clone(),
            ..recorded.clone()
        });
        let own = match turn % 2 {
            1 => with_second(endpoints, &version),
            _ => endpoints.edited::<ClusterLoadAssignment>(&version, |_| {}),
        };
        all.chain([own]).collect()
    });
    let pushes: Vec<Answer> = pushes.collect();
    push_all(test, &mut scene, pushes.into_iter(), Scene::load);
}

/// With an endpoint more, a copy of the first at another address.
fn with_second(endpoints: &Recorded, version: &str) -> Recorded {
    endpoints.edited::<ClusterLoadAssignment>(version, |assignment| {
        let locality = &mut assignment.endpoints[0];
        let mut second = locality.lb_endpoints[0].clone();
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut second.host_identifier else {
            panic!("an endpoint has an address: {second:?}");
        };
        let address = endpoint.address.as_mut().expect("it has one");
        address.address = Some(Kind::SocketAddress(SocketAddress {
            address: SECOND.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(8080)),
            ..Default::default()
        }));
        locality.lb_endpoints.push(second);
    })
}

/// Each push is answered before the next.
fn push_all(
    test: &str,
    scene: &mut Scene,
    pushes: impl Iterator<Item = Answer>,
    load: impl FnOnce(&Scene) -> Load,
) {
    scene.wait_ready();
    let load = load(scene);
    load.wait_beyond(0);
    let (started, mut count) = (Instant::now(), 0);
    for push in pushes {
        scene.istiod.push(&push);
        eventually("the push is answered", || scene.istiod.settled(&[]));
        load.wait_beyond(load.sent());
        count += 1;
    }
    let took = started.elapsed();
    let tally = load.finish();
    let rate = tally.requests as f64 / took.as_secs_f64();
    println!(
        "{test}: {count} pushes in {took:?}, {} requests ({rate:.0}/s), {} failed, slowest {:?}",
        tally.requests, tally.failed, tally.slowest
    );
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert_eq!(scene.istiod.refusals(), []);
    assert_eq!(scene.istiod.streams(), 1, "the stream goes on");
}
