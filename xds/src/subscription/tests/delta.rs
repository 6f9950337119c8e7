//! The incremental server, case by case: requests and updates in, responses out.

use ithildin_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::{bodies, catalog, error, names, respond};
use crate::{
    ResourceKind,
    subscription::{DeltaClient, DeltaServer, Heard, Interest, Server, Verdict},
};

#[derive(Default)]
struct Ask {
    add: &'static str,
    drop: &'static str,
    has: &'static str,
    nonce: &'static str,
    refusal: Option<&'static str>,
}

/// One event and what must come of it: bodies, then `-name` for each removal.
enum Step {
    Request(Ask, Heard, Option<&'static str>),
    Update(&'static str, Option<&'static str>),
}
use Step::{Request, Update};

fn run(case: &str, steps: Vec<Step>) {
    let mut server = DeltaServer::new(ResourceKind::Secret);
    let mut world = catalog("");
    for (i, step) in steps.into_iter().enumerate() {
        let expected = match step {
            Request(ask, heard, expected) => {
                assert_eq!(server.request(&wire(&ask)), heard, "{case}, step {i}");
                expected
            }
            Update(text, expected) => {
                world = catalog(text);
                expected
            }
        };
        let sent = respond(&mut server, &world).map(|response| {
            let mut text = bodies(response.resources.iter().flat_map(|r| &r.resource));
            for name in &response.removed_resources {
                text.push_str(&format!(" -{name}"));
            }
            text.trim().to_owned()
        });
        assert_eq!(sent.as_deref(), expected, "{case}, step {i}");
        assert_eq!(
            respond(&mut server, &world),
            None,
            "{case}, step {i}: sent twice"
        );
    }
}

fn wire(ask: &Ask) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names(ask.add),
        resource_names_unsubscribe: names(ask.drop),
        initial_resource_versions: ask
            .has
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, version)| (name.into(), version.into()))
            .collect(),
        response_nonce: ask.nonce.into(),
        error_detail: ask.refusal.and_then(error),
        ..Default::default()
    }
}

fn add(add: &'static str) -> Ask {
    Ask {
        add,
        ..Ask::default()
    }
}

fn drop(drop: &'static str) -> Ask {
    Ask {
        drop,
        ..Ask::default()
    }
}

fn reply(nonce: &'static str, refusal: Option<&'static str>) -> Ask {
    Ask {
        nonce,
        refusal,
        ..Ask::default()
    }
}

#[test]
fn by_name() {
    use Heard::{Ack, First, Spontaneous, Stale};
    run(
        "an unknown name is said to be absent once, and answered when it appears",
        vec![
            Request(add("a"), First, Some("-a")),
            Update("b=1", None),
            Update("a=1 b=1", Some("a=1")),
            Update("b=1", Some("-a")),
            Update("b=2", None),
            Update("a=1", Some("a=1")),
        ],
    );
    run(
        "only what changed is sent",
        vec![
            Update("a=1 b=1", None),
            Request(add("a b"), First, Some("a=1 b=1")),
            Request(reply("1", None), Ack, None),
            Update("a=1 b=2", Some("b=2")),
        ],
    );
    run(
        "a NACK does not spin",
        vec![
            Update("a=1", None),
            Request(add("a"), First, Some("a=1")),
            Request(reply("1", Some("bad")), Heard::Nack("bad".into()), None),
            Update("a=1", None),
            Update("a=2", Some("a=2")),
            Request(reply("1", Some("bad")), Stale, None),
        ],
    );
    run(
        "a reconnecting client is told what it missed",
        vec![
            Update("a=1 b=2", None),
            Request(
                Ask {
                    add: "a b c",
                    has: "a=1 b=1 c=1",
                    ..Ask::default()
                },
                First,
                Some("b=2 -c"),
            ),
        ],
    );
    run(
        "a reconnecting client that missed nothing is told nothing",
        vec![
            Update("a=1", None),
            Request(
                Ask {
                    add: "a",
                    has: "a=1",
                    ..Ask::default()
                },
                First,
                None,
            ),
            Update("a=2", Some("a=2")),
        ],
    );
    run(
        "a stale nonce does not hide a subscription",
        vec![
            Update("a=1 b=1", None),
            Request(add("a"), First, Some("a=1")),
            Request(
                Ask {
                    add: "b",
                    nonce: "0",
                    ..Ask::default()
                },
                Stale,
                Some("b=1"),
            ),
        ],
    );
    run(
        "a name that is dropped stops; asked for again it is sent again",
        vec![
            Update("a=1 b=1", None),
            Request(add("a b"), First, Some("a=1 b=1")),
            Request(drop("a"), Spontaneous, None),
            Update("a=2 b=1", None),
            Request(add("a"), Spontaneous, Some("a=2")),
            Request(add("a"), Spontaneous, Some("a=2")),
        ],
    );
}

#[test]
fn nothing_is_said_of_what_is_undecided() {
    let mut server = DeltaServer::new(ResourceKind::Secret);
    server.request(&wire(&add("a b")));
    let undecided = ["a".to_owned()].into();
    let response = server.respond(&catalog(""), &undecided).unwrap();
    assert_eq!(response.removed_resources, ["b"]);
    assert_eq!(server.respond(&catalog(""), &undecided), None);
    assert_eq!(
        respond(&mut server, &catalog(""))
            .unwrap()
            .removed_resources,
        ["a"]
    );
}

#[test]
fn everything() {
    use Heard::{First, Spontaneous};
    run(
        "an empty first list is the wildcard, answered even when empty",
        vec![
            Request(add(""), First, Some("")),
            Update("a=1", Some("a=1")),
            Update("", Some("-a")),
        ],
    );
    run(
        "a name beside the wildcard",
        vec![
            Update("a=1", None),
            Request(add("* x"), First, Some("a=1 -x")),
            Request(drop("*"), Spontaneous, None),
            Update("a=2 x=1", Some("x=1")),
        ],
    );
    run(
        "a name dropped from beside the wildcard is confirmed either way",
        vec![
            Update("a=1", None),
            Request(add("* a x"), First, Some("a=1 -x")),
            Request(drop("a x"), Spontaneous, Some("a=1 -x")),
        ],
    );
}

#[test]
fn a_client_tells_what_is_in_force() {
    let mut client = DeltaClient::new(ResourceKind::Secret, Interest::of(["a", "b"]));
    let mut server = DeltaServer::new(ResourceKind::Secret);
    server.request(&client.connect().unwrap());
    let response = respond(&mut server, &catalog("a=1 b=1")).unwrap();
    client.answer(&response, &Verdict::default());
    let response = respond(&mut server, &catalog("a=2 b=2")).unwrap();
    let refused = Verdict {
        whole: None,
        refused: [("b".to_owned(), "bad".to_owned())].into(),
    };
    let nack = client.answer(&response, &refused);
    assert_eq!(nack.error_detail.unwrap().message, "b: bad");

    let again = client.connect().unwrap();
    let versions: std::collections::BTreeMap<_, _> = again
        .initial_resource_versions
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(versions, [("a", "2"), ("b", "1")].into());

    let change = client.subscribe(Interest::of(["b", "c"])).unwrap();
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    assert_eq!(client.subscribe(Interest::of(["b", "c"])), None);
    assert!(
        !client
            .connect()
            .unwrap()
            .initial_resource_versions
            .contains_key("a")
    );
}
