//! istiod sends masses: of names, of regular expressions, of the same names, for a long time. No request
//! fails, what is too much is refused in few words, and memory does not grow with what has gone.

use std::{fs, time::Instant};

use ithildin_proto::{
    nds::{NameTable, name_table::NameInfo},
    pack,
    pb::envoy::{
        config::{cluster::v3::Cluster, route::v3::RouteConfiguration},
        service::discovery::v3::{DeltaDiscoveryResponse, Resource},
    },
    pb::google::protobuf::Any,
};
use ithildin_tests::{DataPlane, eventually, eventually_within, replay::recording};
use prost::Message;

use crate::{
    faults::PATIENCE,
    scene::{PRODUCTPAGE_NODE, Plan, Scene},
};

const ROUTES: &str = "8000";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const NAMES: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

/// Far more names than a mesh has.
const HOSTS: usize = 100_000;
/// Expressions of [`EXPRESSION`] bytes, together more than 64 MiB.
const EXPRESSIONS: usize = 64;
const EXPRESSION: usize = 1 << 20;
/// Pushes of everything that change something each.
const PUSHES: usize = 400;

/// The longest reason that istiod's side takes in a request (`ISTIO_GPRC_MAXRECVMSGSIZE`) is 4 MiB.
const LONGEST_REASON: usize = 64 << 10;

/// What may stay beside what was before, in KiB: for the heap's own sake.
const SLACK: u64 = 48 << 10;

/// Of the process, in KiB.
fn resident(scene: &Scene) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", scene.agent.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
    number.expect("a number of KiB")
}

/// Waits until no more than `most` KiB are resident.
fn falls_to(scene: &Scene, what: &str, most: u64) {
    eventually_within(PATIENCE, what, || {
        let now = resident(scene);
        if now <= most {
            Ok(())
        } else {
            Err(format!("{now} KiB, and not {most}"))
        }
    });
}

fn respond(scene: &Scene, nonce: &str, resources: Vec<(&str, Any)>) -> Option<String> {
    let type_url = resources[0].1.type_url.clone();
    let resources = resources.into_iter().map(|(name, body)| Resource {
        name: name.to_owned(),
        version: nonce.to_owned(),
        resource: Some(body),
        ..Default::default()
    });
    scene.istiod.send(DeltaDiscoveryResponse {
        type_url,
        nonce: nonce.to_owned(),
        resources: resources.collect(),
        ..Default::default()
    });
    eventually_within(PATIENCE * 4, &format!("{nonce} is answered"), || {
        let heard = scene.istiod.heard();
        let answer = heard.into_iter().find(|heard| heard.nonce == nonce);
        answer.map(|heard| heard.refusal).ok_or("not yet")
    })
}

/// Waits until istiod has had its answers. To no names at all there is none, as of Istio's agent.
fn settle(scene: &Scene) {
    eventually("all is answered", || match scene.istiod.settled(&[]) {
        Err(missing) if missing.ends_with("not answered: [\"NameTable\"]") => Ok(()),
        settled => settled,
    });
}

/// A table of so many hosts.
fn names(count: usize) -> Any {
    let host = |n: usize| {
        let info = NameInfo {
            ips: vec![format!("240.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255)],
            registry: "External".into(),
            ..Default::default()
        };
        (format!("host-{n}.example.org"), info)
    };
    let table = NameTable {
        table: (0..count).map(host).collect(),
        ..Default::default()
    };
    Any {
        type_url: NAMES.into(),
        value: table.encode_to_vec(),
    }
}

#[test]
fn on_builtin() {
    let answers = recording::node("stock/delta-sidecar-productpage");
    let plan = Plan {
        env: &[("ISTIO_META_DNS_CAPTURE", "true")],
        ..Plan::new(PRODUCTPAGE_NODE, DataPlane::Builtin)
    };
    let scene = Scene::start(plan, &answers);
    eventually("names are asked for", || {
        let heard = scene.istiod.heard();
        let asked = heard.iter().any(|heard| heard.url == NAMES);
        asked.then_some(()).ok_or(heard.len())
    });
    assert_eq!(respond(&scene, "first-names", vec![("", names(0))]), None);
    eventually("the agent is ready", || scene.probe().expect_status(200));
    settle(&scene);
    let load = scene.load();
    let at_first = resident(&scene);
    println!("{at_first} KiB at first");

    let begun = Instant::now();
    assert_eq!(
        respond(&scene, "many-names", vec![("", names(HOSTS))]),
        None
    );
    println!(
        "{HOSTS} names: {:?}, {} KiB",
        begun.elapsed(),
        resident(&scene)
    );
    load.wait_beyond(load.sent());
    assert_eq!(respond(&scene, "no-names", vec![("", names(0))]), None);
    falls_to(&scene, "names are forgotten", at_first + SLACK);
    println!("{} KiB without them", resident(&scene));

    // Expressions that are too large, in the routes that serve.
    let routes = recording::find(&answers, "RouteConfiguration", ROUTES);
    let expression = "(a|b)?".repeat(EXPRESSION / 6);
    let broken = routes.edited::<RouteConfiguration>("regex", |routes| {
        use ithildin_proto::pb::envoy::{
            config::route::v3::{RouteMatch, route_match::PathSpecifier},
            r#type::matcher::v3::RegexMatcher,
        };
        let host = &mut routes.virtual_hosts[0];
        let route = host.routes[0].clone();
        host.routes = (0..EXPRESSIONS)
            .map(|n| {
                let mut route = route.clone();
                route.r#match = Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::SafeRegex(RegexMatcher {
                        regex: format!("{expression}{n}"),
                        ..Default::default()
                    })),
                    ..Default::default()
                });
                route
            })
            .collect();
    });
    let begun = Instant::now();
    let reason = respond(&scene, "large-regex", vec![(ROUTES, broken.body)]);
    println!(
        "{EXPRESSIONS} expressions: {:?}, {} KiB",
        begun.elapsed(),
        resident(&scene)
    );
    let reason = reason.expect("it is refused");
    assert!(reason.len() <= LONGEST_REASON, "{} bytes", reason.len());
    assert!(
        reason.contains("not a supported regular expression"),
        "{reason}"
    );
    load.wait_beyond(load.sent());
    eventually("the last good routes serve", || {
        scene.out().expect_status(200)
    });
    assert_eq!(
        respond(&scene, "good-routes", vec![(ROUTES, routes.body.clone())]),
        None
    );
    falls_to(&scene, "expressions are forgotten", at_first + SLACK);
    let streams = scene.istiod.streams();
    let log = scene.agent.log();
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(longest <= LONGEST_REASON, "a line of {longest} bytes");
    let told: usize = log
        .lines()
        .filter(|it| it.contains("regular expression"))
        .map(str::len)
        .sum();
    assert!(told < 1 << 20, "{told} bytes of the log are of expressions");

    // One name twice in a response.
    let cluster = |alt_stat_name: &str| {
        pack(&Cluster {
            name: "twice.test".into(),
            alt_stat_name: alt_stat_name.into(),
            ..Default::default()
        })
    };
    assert_eq!(cluster("a").type_url, CLUSTER);
    let twice = vec![
        ("twice.test", cluster("first")),
        ("twice.test", cluster("second")),
    ];
    let reason = respond(&scene, "twice", twice);
    println!("twice: {reason:?}");
    load.wait_beyond(load.sent());

    // On and on.
    let mut early = 0;
    for turn in 0..PUSHES {
        if turn == PUSHES / 4 {
            early = resident(&scene);
        }
        let version = format!("turn/{turn}");
        let all = answers
            .iter()
            .flatten()
            .map(|recorded| recording::Recorded {
                version: version.clone(),
                ..recorded.clone()
            });
        let changed = routes.edited::<RouteConfiguration>(&version, |routes| {
            routes.virtual_hosts[0].name = format!("turn-{turn}");
        });
        scene.istiod.push(&all.chain([changed]).collect());
        settle(&scene);
    }
    println!(
        "{early} KiB after {} pushes, {} after {PUSHES}",
        PUSHES / 4,
        resident(&scene)
    );
    falls_to(
        &scene,
        "little more than early is resident",
        early + SLACK / 8,
    );
    let tally = load.finish();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert_eq!(scene.istiod.streams(), streams, "the stream goes on");
}
