use std::collections::BTreeMap;

use ithildin_proto::{
    nds::{NameTable, name_table::NameInfo},
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
};
use ithildin_xds::{
    ResourceKind, TypeUrl,
    ads::{Follower, Want},
    subscription::{Incoming, Interest, Update, Verdict},
};
use prost::Message;
use tokio::sync::watch;

use super::*;

const NAMES: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";
const PROXY_CONFIG: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";

/// A data plane that wants these types, and accepts everything.
struct Plane(Vec<ResourceKind>);

impl Follower for Plane {
    fn node(&self) -> Option<Node> {
        Some(Node::default())
    }

    fn wanted(&mut self) -> Vec<Want> {
        let all = self.0.iter();
        all.map(|kind| Want::Resources((*kind).into(), Interest::everything()))
            .collect()
    }

    fn take(&mut self, _: Update) -> Option<Verdict> {
        Some(Verdict::default())
    }

    async fn changed(&mut self) {
        std::future::pending().await
    }
}

fn follower(
    kinds: &[ResourceKind],
    options: AgentTypesOptions,
) -> (WithAgentTypes<Plane>, AgentFeeds) {
    let (types, feeds) = AgentTypes::new(options);
    (WithAgentTypes::new(Plane(kinds.to_vec()), types), feeds)
}

/// The last part of each type, and the reason of a notice.
fn shown(wanted: Vec<Want>) -> String {
    let last = |url: &TypeUrl| url.as_str().rsplit('.').next().unwrap().to_owned();
    let one = |want: &Want| match want {
        Want::Resources(url, _) => last(url),
        Want::Notice(url, None) => format!("{}(ok)", last(url)),
        Want::Notice(url, Some(error)) => format!("{}({})", last(url), error.message),
    };
    wanted.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_agents_types_come_behind_the_listeners() {
    let (health, receiver) = watch::channel(None);
    let options = AgentTypesOptions {
        names: true,
        roots: true,
        health: Some(receiver),
        admit_federated: false,
    };
    let (mut early, _) = follower(&[ResourceKind::Cluster], options.clone());
    assert_eq!(shown(early.wanted()), "Cluster", "not before the listeners");
    let kinds = [
        ResourceKind::Cluster,
        ResourceKind::Listener,
        ResourceKind::Route,
    ];
    let (mut all, _) = follower(&kinds, options);
    assert_eq!(
        shown(all.wanted()),
        "Cluster Listener NameTable ProxyConfig RouteConfiguration"
    );
    for (report, expected) in [
        (HealthReport::Healthy, "HealthInformation(ok)"),
        (
            HealthReport::Unhealthy("refused".into()),
            "HealthInformation(refused)",
        ),
    ] {
        health.send_replace(Some(report));
        all.changed().await;
        let expected =
            format!("Cluster Listener NameTable ProxyConfig {expected} RouteConfiguration");
        assert_eq!(shown(all.wanted()), expected);
    }
    let (mut none, _) = follower(&kinds, AgentTypesOptions::default());
    assert_eq!(shown(none.wanted()), "Cluster Listener RouteConfiguration");
}

fn update(url: &str, bodies: &[Option<Vec<u8>>]) -> Update {
    let incoming = |value: &Option<Vec<u8>>| Incoming {
        name: String::new(),
        version: "1".into(),
        body: value.clone().map(|value| Any {
            type_url: url.to_owned(),
            value,
        }),
    };
    Update {
        url: TypeUrl::new(url),
        resources: bodies.iter().map(incoming).collect(),
        removed: Vec::new(),
        full: false,
        receipt: ithildin_xds::subscription::Receipt::default(),
    }
}

fn table(name: &str) -> Vec<u8> {
    let info = NameInfo {
        ips: vec!["10.0.0.1".into()],
        ..Default::default()
    };
    NameTable {
        table: BTreeMap::from([(name.to_owned(), info)]),
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn only_the_first_resource_counts_and_nothing_gets_no_answer() {
    let options = AgentTypesOptions {
        names: true,
        roots: true,
        ..Default::default()
    };
    let (mut all, feeds) = follower(&[ResourceKind::Listener], options);
    assert_eq!(all.take(update(NAMES, &[])), None);
    assert_eq!(*feeds.names.borrow(), None);
    let both = [Some(table("a.test")), Some(table("b.test"))];
    assert_eq!(all.take(update(NAMES, &both)), Some(Verdict::default()));
    let names = feeds.names.borrow().clone().unwrap();
    assert_eq!(names.table.keys().collect::<Vec<_>>(), ["a.test"]);
    // Garbage is refused, and what was there stays.
    for bad in [Some(vec![0xff]), None] {
        let verdict = all.take(update(NAMES, &[bad])).unwrap();
        assert!(verdict.reason().is_some());
    }
    assert_eq!(*feeds.names.borrow().clone().unwrap(), *names);

    // Field 34, twice.
    let roots = [0x92, 0x02, 1, b'A', 0x92, 0x02, 1, b'B'].to_vec();
    assert_eq!(
        all.take(update(PROXY_CONFIG, &[Some(roots)])),
        Some(Verdict::default())
    );
    assert_eq!(feeds.roots.borrow().join(" "), "A B");
}

#[test]
fn metadata_keeps_its_shape() {
    let metadata = serde_json::json!({
        "NAME": "a", "LABELS": {"app": "web"}, "PILOT_SAN": ["x"], "PORT": 15090, "FLAG": true, "NO": null
    });
    let node = node("id", "cluster", metadata.as_object().unwrap());
    let text = format!("{:?}", node.metadata.unwrap().fields["LABELS"]);
    assert!(text.contains("app") && text.contains("web"), "{text}");
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("id", "cluster"));
}
