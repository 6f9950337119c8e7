//! Each recorded node comes up on its recording, and what its resources promise works.

use std::collections::BTreeSet;

use ithildin_tests::{DataPlane, eventually, replay::recording};

use crate::{
    Variant, has,
    scene::{
        HTTPBIN_POD, Node, PRODUCTPAGE, PRODUCTPAGE_NODE, PRODUCTPAGE_POD, Plan, ROUTER, SLEEP,
        SLEEP_ID, Scene, echoed,
    },
};

/// What may be refused: the type, and words of the reason. Each must occur.
type Refusals = &'static [(&'static str, &'static str)];

const NONE: Refusals = &[];

/// A test `$name` of one node on one recording.
macro_rules! served {
    ($($name:ident: $plane:ident, $folder:literal, $variant:ident, $node:ident, $refusals:expr;)*) => {$(
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            if has(test, DataPlane::$plane) {
                served(DataPlane::$plane, $folder, Variant::$variant, $node, $refusals);
            }
        }
    )*};
}

served! {
    builtin_default_sleep: Builtin, "default", Delta, SLEEP, NONE;
    builtin_default_productpage: Builtin, "default", Sotw, PRODUCTPAGE_NODE, NONE;
    builtin_default_router: Builtin, "default", Delta, ROUTER, NONE;
    builtin_default_router_sotw: Builtin, "default", Sotw, ROUTER, NONE;
    builtin_stock_productpage: Builtin, "stock", Delta, PRODUCTPAGE_NODE, NONE;
    builtin_more_sleep: Builtin, "more", Delta, SLEEP, NONE;
    builtin_more_productpage: Builtin, "more", Delta, PRODUCTPAGE_NODE, NONE;
    builtin_more_router: Builtin, "more", Delta, ROUTER, NONE;
    envoy_stock_productpage: Envoy, "stock", Delta, PRODUCTPAGE_NODE, NONE;
    envoy_stock_router: Envoy, "stock", Delta, ROUTER, NONE;
}

fn served(plane: DataPlane, folder: &str, variant: Variant, node: Node, refusals: Refusals) {
    let answers = recording::node(&format!("{folder}/{}-{}", variant.as_str(), node.name));
    let mut scene = Scene::start(plan(plane, variant, node), &answers);
    scene.wait_ready();
    assert_refusals(&scene, refusals);
    let heard = scene.istiod.heard();
    let introduced = heard.iter().find_map(|heard| heard.node.clone());
    assert_eq!(introduced, Some(node.xds_id()));
    calls_out(&mut scene, plane, folder, node);
    // With more in the mesh its policy lets in who has a token, and nobody here has one.
    if node.app.is_some() && refusals.is_empty() && folder != "more" {
        lets_in(&scene, node);
    }
}

fn plan(plane: DataPlane, variant: Variant, node: Node) -> Plan<'static> {
    Plan {
        delta: variant == Variant::Delta,
        ..Plan::new(node, plane)
    }
}

/// istiod has been told of these refusals and no others.
#[track_caller]
fn assert_refusals(scene: &Scene, expected: Refusals) {
    let told = scene.istiod.refusals();
    let named = |(kind, reason): &(String, String)| {
        expected
            .iter()
            .any(|(of, words)| kind == of && reason.contains(words))
    };
    let others: Vec<_> = told.iter().filter(|told| !named(told)).collect();
    assert!(others.is_empty(), "refused, too: {others:#?}");
    for (of, words) in expected {
        let found = told
            .iter()
            .any(|(kind, reason)| kind == of && reason.contains(words));
        assert!(found, "{of} is refused no longer: {words}");
    }
}

/// The upstream sees the workload's identity, and only the right upstream is spoken to.
fn calls_out(scene: &mut Scene, plane: DataPlane, folder: &str, node: Node) {
    let answer = eventually("the other workload answers", || {
        scene.out().expect_status(200)
    });
    assert_eq!(echoed(&answer)["peer"], node.id(), "{answer:?}");
    if node.name == SLEEP.name {
        let answer = scene.call(PRODUCTPAGE, "productpage:9080", "/productpage");
        assert_eq!(echoed(&answer)["peer"], node.id(), "{answer:?}");
    }
    // What is sent to a stock Envoy lacks Istio's filter that counts.
    if plane == DataPlane::Builtin && folder != "stock" {
        counts_as_itself(scene, node);
    }
    let (name, address) = match node.app {
        Some(_) => ("httpbin", HTTPBIN_POD),
        None => ("productpage", PRODUCTPAGE_POD),
    };
    scene.serve(name, address, SLEEP_ID);
    eventually("another workload is not taken for it", || {
        let answer = scene.out();
        let refused = answer.status == 503 && scene.service_log(name).contains("fatal alert");
        refused.then_some(()).ok_or(answer)
    });
}

/// Its metrics say which workload called.
fn counts_as_itself(scene: &Scene, node: Node) {
    let source = format!("source_app=\"{}\"", node.app_label());
    eventually("its calls are counted as its own", || {
        let metrics = scene.admin("/stats/prometheus");
        let found = metrics.body.lines().any(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains("reporter=\"source\"")
                && line.contains(&source)
        });
        found.then_some(()).ok_or(metrics)
    });
}

/// mTLS is STRICT, and sleep has an AuthorizationPolicy on top.
fn lets_in(scene: &Scene, node: Node) {
    let client = scene.mint(SLEEP_ID);
    let answer = scene.inbound(&client, "/status/200");
    let body = echoed(&answer);
    let forwarded = body["headers"]["x-forwarded-client-cert"].as_str();
    assert!(
        forwarded.is_some_and(|text| text.contains(&format!("URI={SLEEP_ID}"))),
        "{answer:?}"
    );
    let plain = scene.call(
        &format!("{}:{}", node.ip, node.app.unwrap_or(0)),
        "app",
        "/status/200",
    );
    assert!(plain.exit != 0 && plain.status == 0, "plaintext: {plain:?}");
    let denied = scene.inbound(&client, "/headers");
    let stranger = scene.mint("spiffe://cluster.local/ns/other/sa/stranger");
    let stranger = scene.inbound(&stranger, "/status/200");
    let expected = match node.name {
        "sidecar-sleep" => 403,
        _ => 200,
    };
    assert_eq!(denied.status, expected, "{denied:?}");
    assert_eq!(stranger.status, expected, "{stranger:?}");
}

/// The extensions of Istio's own build of Envoy in what istiod sends by default; of each resource, Envoy
/// names the first.
const ONLY_IN_ISTIOS_ENVOY: [(&str, &str); 4] = [
    (
        "Cluster",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
    ),
    (
        "Listener",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
    ),
    ("Listener", "io.istio.http.peer_metadata.Config"),
    ("Listener", "stats.PluginConfig"),
];

/// It is refused for nothing else, istiod and the readiness probe hear why, and nothing ends.
#[test]
fn envoy_refuses_only_what_istios_build_has() {
    let test = "served::envoy_refuses_only_what_istios_build_has";
    if !has(test, DataPlane::Envoy) {
        return;
    }
    let answers = recording::node("default/delta-sidecar-sleep");
    let mut scene = Scene::start(plan(DataPlane::Envoy, Variant::Delta, SLEEP), &answers);
    let expected: BTreeSet<_> = ONLY_IN_ISTIOS_ENVOY
        .map(|(kind, url)| (kind.to_owned(), url.to_owned()))
        .into();
    eventually("istiod is told of these", || {
        let lacking = lacking(&scene.istiod.refusals());
        if lacking == expected {
            Ok(())
        } else {
            Err(lacking)
        }
    });
    eventually("the probe says why", || {
        let probe = scene.probe();
        let tells = probe.status == 503 && probe.body.contains("Envoy refuses CDS");
        tells.then_some(()).ok_or(probe)
    });
    assert!(scene.agent.is_running());
}

/// The types that a refusal of Envoy's names, by kind of resource; a reason of another sort as a whole.
fn lacking(refusals: &[(String, String)]) -> BTreeSet<(String, String)> {
    const LACKS: &str = "Didn't find a registered implementation for '";
    let mut all = BTreeSet::new();
    for (kind, reason) in refusals {
        // "...: NAME: REASON" for each resource.
        for part in reason.split(LACKS).skip(1) {
            let url = part
                .split_once("type URL: '")
                .and_then(|(_, rest)| rest.split_once('\''));
            let url = url.map_or(part, |(url, _)| url);
            all.insert((kind.clone(), url.to_owned()));
        }
        let named = reason.matches(LACKS).count();
        let reasons = reason.matches(": ").count();
        // Each resource has its name, the reason and the type's label before a colon.
        if named == 0 || reasons != 2 * named {
            all.insert((kind.clone(), reason.clone()));
        }
    }
    all
}
