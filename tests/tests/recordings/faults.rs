//! istiod misbehaves, and requests flow all the same: none fails, and the next good push arrives.

use std::{fs, path::PathBuf, time::Duration};

use ithildin_proto::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{HeaderValue, HeaderValueOption},
            route::v3::RouteConfiguration,
        },
        service::discovery::v3::{DeltaDiscoveryResponse, Resource},
    },
    google::protobuf::Any,
};
use ithildin_tests::{
    DataPlane, Load, eventually, eventually_within, peers,
    replay::{Answer, Conduct, recording},
};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    has,
    scene::{PRODUCTPAGE_NODE, Plan, Scene},
};

/// Long enough for a silent peer to be noticed, with [`KEEPALIVE`], and for an attempt to connect to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const KEEPALIVE: [(&str, &str); 2] = [
    ("GRPC_KEEPALIVE_INTERVAL", "1s"),
    ("GRPC_KEEPALIVE_TIMEOUT", "5s"),
];
/// The routes of httpbin.
const ROUTES: &str = "8000";
/// What the agent asks for.
const KINDS: [&str; 4] = [
    "Cluster",
    "Listener",
    "ClusterLoadAssignment",
    "RouteConfiguration",
];
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[test]
fn of_connections_on_builtin() {
    of_connections("faults::of_connections_on_builtin", DataPlane::Builtin);
}

#[test]
fn of_connections_on_envoy() {
    of_connections("faults::of_connections_on_envoy", DataPlane::Envoy);
}

#[test]
fn of_responses_on_builtin() {
    of_responses("faults::of_responses_on_builtin", DataPlane::Builtin);
}

#[test]
fn of_responses_on_envoy() {
    of_responses("faults::of_responses_on_envoy", DataPlane::Envoy);
}

/// An Envoy that ends and begins while istiod is away is served from what istiod said last. Istio's agent
/// ends with its Envoy, and so does ours: here Envoy is another's, as with `DISABLE_ENVOY`.
#[test]
fn envoy_restarts_while_istiod_is_away() {
    let test = "faults::envoy_restarts_while_istiod_is_away";
    let Some(binary) = peers::envoy(test) else {
        return;
    };
    let answers = recording::node("stock/delta-sidecar-productpage");
    let plan = Plan::new(PRODUCTPAGE_NODE, DataPlane::Envoy);
    let mut scene = Scene::start(plan, &answers);
    scene.wait_ready();
    let bootstrap = bootstrap(&scene);
    scene.restart_agent(Plan {
        env: &[("DISABLE_ENVOY", "true")],
        ..plan
    });
    let envoy = |scene: &Scene| {
        let mut command = scene.net.command(&binary);
        command.args(["--disable-hot-restart", "--concurrency", "1", "-c"]);
        command.arg(&bootstrap);
        scene.net.spawn("envoy", command)
    };
    let answers = |scene: &Scene| eventually("httpbin answers", || scene.out().expect_status(200));
    let mut first = envoy(&scene);
    answers(&scene);
    scene.wait_settled();

    scene.istiod.conduct(Conduct::Dead);
    let streams = scene.istiod.streams();
    first.kill();
    let down = scene.out();
    assert_ne!(down.status, 200, "nobody serves: {down:?}");
    let _second = envoy(&scene);
    answers(&scene);
    assert_eq!(scene.istiod.streams(), streams, "istiod is away");

    scene.istiod.conduct(Conduct::Good);
    next_stream(&scene, streams);
    scene.wait_settled();
    answers(&scene);
}

/// A copy of what the agent has made for its Envoy, without the listeners that an agent without one has.
fn bootstrap(scene: &Scene) -> PathBuf {
    let generated = scene.folder.join("etc/istio/proxy/envoy-rev.json");
    let text = fs::read(generated).expect("Envoy has read it there");
    let mut bootstrap: Value = serde_json::from_slice(&text).expect("it is JSON");
    bootstrap["static_resources"]["listeners"] = json!([]);
    let copy = scene.net.dir().join("bootstrap.json");
    fs::write(&copy, bootstrap.to_string()).expect("the scratch folder is writable");
    copy
}

/// A scene under load, and what the next good push changes.
struct Under {
    scene: Scene,
    load: Load,
    answers: Vec<Answer>,
    turn: u32,
}

impl Under {
    fn start(test: &str, plane: DataPlane) -> Option<Self> {
        if !has(test, plane) {
            return None;
        }
        let answers = recording::node("stock/delta-sidecar-productpage");
        let plan = Plan {
            env: &KEEPALIVE,
            ..Plan::new(PRODUCTPAGE_NODE, plane)
        };
        let mut scene = Scene::start(plan, &answers);
        scene.wait_ready();
        Some(Self {
            load: scene.load(),
            scene,
            answers,
            turn: 0,
        })
    }

    /// A good push arrives: from now on responses look different.
    fn turn(&mut self, after: &str) {
        self.turn += 1;
        let turn = self.turn.to_string();
        let routes = recording::find(&self.answers, "RouteConfiguration", ROUTES);
        let version = format!("turn/{turn}");
        let changed = routes.edited::<RouteConfiguration>(&version, |routes| {
            routes.response_headers_to_add = vec![HeaderValueOption {
                header: Some(HeaderValue {
                    key: "x-turn".to_owned(),
                    value: turn.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            }];
        });
        self.scene.istiod.push(&vec![changed]);
        eventually(&format!("{after}: the next push arrives"), || {
            let answer = self.scene.out().expect_status(200)?;
            let arrived = answer.header("x-turn") == Some(turn.as_str());
            arrived.then_some(()).ok_or(answer)
        });
        self.go_on(after);
    }

    /// Requests are answered, and were.
    fn go_on(&self, after: &str) {
        self.load.wait_beyond(self.load.sent());
        assert_eq!(self.load.failed(), 0, "{after}");
    }

    fn finish(self, test: &str) {
        let tally = self.load.finish();
        println!(
            "{test}: {} good pushes between faults, {} requests, {} failed",
            self.turn, tally.requests, tally.failed
        );
        assert_eq!(tally.failed, 0, "{tally:?}");
    }
}

fn of_connections(test: &str, plane: DataPlane) {
    let Some(mut under) = Under::start(test, plane) else {
        return;
    };
    for conduct in [
        Conduct::Dead,
        Conduct::Garbage,
        Conduct::GarbageInTls,
        Conduct::Silent,
    ] {
        let what = format!("{conduct:?}");
        let before = under.scene.istiod.connections();
        under.scene.istiod.conduct(conduct);
        eventually_within(PATIENCE, &format!("{what}: it is tried again"), || {
            let tried = under.scene.istiod.connections() - before;
            if tried >= 2 { Ok(()) } else { Err(tried) }
        });
        under.go_on(&what);
        under.scene.istiod.conduct(Conduct::Good);
        under.turn(&what);
    }
    // Every half an hour, when it is told to end, and when it is overloaded.
    for (what, status) in [
        ("an end in order", None),
        ("an end with an error", Some(Status::unavailable("drains"))),
        ("an internal error", Some(Status::internal("reset"))),
    ] {
        let before = under.scene.istiod.streams();
        under.scene.istiod.end_streams(status);
        next_stream(&under.scene, before);
        under.turn(what);
    }
    unanswered_stream(&mut under);
    under.finish(test);
}

/// A stream that begins and has no answers, then one that is empty, as of an istiod that has just begun.
fn unanswered_stream(under: &mut Under) {
    let istiod = &under.scene.istiod;
    KINDS.iter().for_each(|kind| istiod.mute(kind, true));
    let before = istiod.streams();
    istiod.end_streams(None);
    next_stream(&under.scene, before);
    under.go_on("no answers");
    istiod.send(DeltaDiscoveryResponse {
        type_url: CLUSTER.to_owned(),
        nonce: "empty".to_owned(),
        ..Default::default()
    });
    answered(&under.scene, "empty");
    under.go_on("an empty answer");
    let istiod = &under.scene.istiod;
    KINDS.iter().for_each(|kind| istiod.mute(kind, false));
    under.turn("an empty answer");
}

fn next_stream(scene: &Scene, before: u64) {
    eventually("the next stream", || {
        let streams = scene.istiod.streams();
        if streams > before {
            Ok(())
        } else {
            Err(streams)
        }
    });
}

/// Waits until the response of `nonce` has its answer; returns the reason if it is refused.
fn answered(scene: &Scene, nonce: &str) -> Option<String> {
    eventually(&format!("{nonce} is answered"), || {
        let heard = scene.istiod.heard();
        let answer = heard.into_iter().find(|heard| heard.nonce == nonce);
        answer.map(|heard| heard.refusal).ok_or("not yet")
    })
}

fn of_responses(test: &str, plane: DataPlane) {
    let Some(mut under) = Under::start(test, plane) else {
        return;
    };
    let cluster = recording::find(&under.answers, "Cluster", "BlackHoleCluster")
        .body
        .clone();

    // A cluster in the place of routes.
    let reason = respond(
        &under.scene,
        "type",
        ROUTE,
        vec![resource(ROUTES, cluster.clone())],
    );
    assert!(reason.is_some(), "routes that are a cluster are refused");
    under.turn("a wrong type");

    // What cannot be read, among good ones.
    let good = recording::find(&under.answers, "Cluster", "BlackHoleCluster");
    let good = good.edited::<Cluster>("v", |cluster| cluster.name = "good.test".to_owned());
    let bad = Any {
        type_url: CLUSTER.to_owned(),
        value: vec![0xff; 16],
    };
    let both = vec![resource("good.test", good.body), resource("bad.test", bad)];
    let reason = respond(&under.scene, "unreadable", CLUSTER, both).unwrap_or_default();
    println!("{test}: {reason}");
    if plane == DataPlane::Builtin {
        assert!(reason.contains("bad.test"), "{reason}");
        assert!(!reason.contains("good.test"), "{reason}");
        eventually("the good one applies", || {
            let page = under.scene.admin("/config_dump");
            page.body.contains("good.test").then_some(()).ok_or(page)
        });
    }
    under.turn("an unreadable resource");

    // What nobody asked for.
    under.scene.istiod.send(DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        nonce: "unasked".to_owned(),
        ..Default::default()
    });
    under.turn("a type that nobody asked for");

    // Without a nonce, without a type, with names that were not asked for.
    under.scene.istiod.send(DeltaDiscoveryResponse {
        type_url: CLUSTER.to_owned(),
        ..Default::default()
    });
    under.turn("no nonce");
    under.scene.istiod.send(DeltaDiscoveryResponse::default());
    under.turn("nothing at all");
    let foreign = recording::find(&under.answers, "RouteConfiguration", ROUTES);
    let foreign =
        foreign.edited::<RouteConfiguration>("v", |routes| routes.name = "foreign".into());
    let reason = respond(
        &under.scene,
        "foreign",
        ROUTE,
        vec![resource("foreign", foreign.body)],
    );
    assert_eq!(reason, None, "it is of no use, and does no harm");
    under.turn("a name that nobody asked for");

    assert_eq!(under.scene.istiod.streams(), 1, "the stream goes on");
    under.finish(test);
}

fn resource(name: &str, body: Any) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "v".to_owned(),
        resource: Some(body),
        ..Default::default()
    }
}

/// Sends a response by hand; returns the reason if it is refused.
fn respond(scene: &Scene, nonce: &str, url: &str, resources: Vec<Resource>) -> Option<String> {
    scene.istiod.send(DeltaDiscoveryResponse {
        type_url: url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        ..Default::default()
    });
    answered(scene, nonce)
}
