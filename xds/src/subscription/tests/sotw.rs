//! The state-of-the-world server, case by case: requests and updates in, responses out.

use ithildin_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::{bodies, catalog, error, names, respond};
use crate::{
    ResourceKind,
    subscription::{Heard, Interest, Server, SotwClient, SotwServer},
};

/// One event and what must come of it.
enum Step {
    /// Names, nonce, refusal; what was heard; the bodies sent (`None`: no response).
    Request(
        &'static str,
        &'static str,
        Option<&'static str>,
        Heard,
        Option<&'static str>,
    ),
    Update(&'static str, Option<&'static str>),
}
use Step::{Request, Update};

fn run(case: &str, kind: ResourceKind, steps: Vec<Step>) {
    let mut server = SotwServer::new(kind);
    let mut world = catalog("");
    for (i, step) in steps.into_iter().enumerate() {
        let expected = match step {
            Request(wanted, nonce, refusal, heard, expected) => {
                let request = DiscoveryRequest {
                    resource_names: names(wanted),
                    response_nonce: nonce.into(),
                    error_detail: refusal.and_then(error),
                    ..Default::default()
                };
                assert_eq!(server.request(&request), heard, "{case}, step {i}");
                expected
            }
            Update(text, expected) => {
                world = catalog(text);
                expected
            }
        };
        let sent = respond(&mut server, &world).map(|r| bodies(&r.resources));
        assert_eq!(sent.as_deref(), expected, "{case}, step {i}");
        assert_eq!(
            respond(&mut server, &world),
            None,
            "{case}, step {i}: sent twice"
        );
    }
}

fn nack(text: &str) -> Heard {
    Heard::Nack(text.into())
}

#[test]
fn secrets_by_name() {
    use Heard::{Ack, First, Spontaneous, Stale};
    let sds = |case, steps| run(case, ResourceKind::Secret, steps);
    sds(
        "held until it appears",
        vec![
            Request("a", "", None, First, None),
            Update("b=1", None),
            Update("a=1 b=1", Some("a=1")),
            Request("a", "1", None, Ack, None),
        ],
    );
    sds(
        "only what changed is sent",
        vec![
            Update("a=1 b=1", None),
            Request("a b", "", None, First, Some("a=1 b=1")),
            Update("a=1 b=2", Some("b=2")),
            Update("a=1 b=2", None),
        ],
    );
    sds(
        "an unknown name does not fail the others",
        vec![
            Update("a=1", None),
            Request("a nobody", "", None, First, Some("a=1")),
            Update("a=1 nobody=1", Some("nobody=1")),
        ],
    );
    sds(
        "a NACK does not spin",
        vec![
            Update("a=1", None),
            Request("a", "", None, First, Some("a=1")),
            Request("a", "1", Some("bad key"), nack("bad key"), None),
            Request("a", "1", Some("bad key"), nack("bad key"), None),
            Update("a=2", Some("a=2")),
            Request("a", "2", None, Ack, None),
        ],
    );
    sds(
        "a NACK may change the names",
        vec![
            Update("a=1 b=1", None),
            Request("a", "", None, First, Some("a=1")),
            Request("b", "1", Some("no"), nack("no"), Some("b=1")),
        ],
    );
    sds(
        "a stale nonce is ignored, a good one works",
        vec![
            Update("a=1 b=1", None),
            Request("a", "", None, First, Some("a=1")),
            Update("a=2 b=1", Some("a=2")),
            Request("b", "1", None, Stale, None),
            Request("b", "nonsense", None, Stale, None),
            Request("b", "2", None, Ack, Some("b=1")),
        ],
    );
    sds(
        "a second request before the first response replaces it",
        vec![
            Request("a", "", None, First, None),
            Request("b", "", None, Spontaneous, None),
            Update("a=1 b=1", Some("b=1")),
        ],
    );
    sds(
        "a name that is asked for again is sent again",
        vec![
            Update("a=1 b=1", None),
            Request("a b", "", None, First, Some("a=1 b=1")),
            Request("b", "1", None, Ack, None),
            Request("a b", "1", None, Spontaneous, Some("a=1")),
        ],
    );
    sds(
        "without a nonce, what was accepted is sent once more",
        vec![
            Update("a=1 b=1", None),
            Request("a", "", None, First, Some("a=1")),
            // Crossed the response: it is not about it.
            Request("a", "", None, Spontaneous, None),
            Request("a", "1", None, Ack, None),
            Request("a", "1", None, Spontaneous, None),
            Request("a", "", None, Spontaneous, Some("a=1")),
            Request("a", "", None, Spontaneous, None),
            Request("a", "2", None, Ack, None),
        ],
    );
    sds(
        "duplicate and empty names",
        vec![
            Update("a=1", None),
            Request("a a", "", None, First, Some("a=1")),
        ],
    );
    sds(
        "no names: everything; after names: nothing",
        vec![
            Update("a=1 b=1", None),
            Request("", "", None, First, Some("a=1 b=1")),
            Request("b", "1", None, Ack, None),
            Request("", "1", None, Spontaneous, None),
            Update("a=2 b=2", None),
        ],
    );
    sds(
        "what vanishes is not mentioned, what comes back unchanged is not repeated",
        vec![
            Update("a=1", None),
            Request("a", "", None, First, Some("a=1")),
            Update("", None),
            Update("a=1", None),
            Update("a=2", Some("a=2")),
        ],
    );
}

#[test]
fn clusters_as_a_whole() {
    use Heard::{Ack, First};
    let cds = |case, steps| run(case, ResourceKind::Cluster, steps);
    cds(
        "the whole state, each time it changes",
        vec![
            Update("a=1 b=1", None),
            Request("", "", None, First, Some("a=1 b=1")),
            Request("", "1", None, Ack, None),
            Update("a=1 b=2", Some("a=1 b=2")),
            Update("b=2", Some("b=2")),
            Update("", Some("")),
        ],
    );
    cds(
        "an empty state is a response too, once",
        vec![
            Request("", "", None, First, Some("")),
            Request("", "1", None, Ack, None),
            Update("", None),
        ],
    );
    cds(
        "a NACK does not spin",
        vec![
            Update("a=1", None),
            Request("*", "", None, First, Some("a=1")),
            Request("*", "1", Some("no"), nack("no"), None),
            Update("a=1", None),
            Update("a=2", Some("a=2")),
        ],
    );
}

#[test]
fn a_warming_cluster_gets_its_endpoints_again() {
    let mut server = SotwServer::new(ResourceKind::Endpoints);
    let world = catalog("a=1 b=1");
    let request = |nonce: &str| DiscoveryRequest {
        resource_names: names("a b"),
        response_nonce: nonce.into(),
        ..Default::default()
    };
    server.request(&request(""));
    respond(&mut server, &world).unwrap();
    server.request(&request("1"));
    server.forget(["a"]);
    let pushed = respond(&mut server, &world).unwrap();
    assert_eq!(bodies(&pushed.resources), "a=1");
    server.request(&request("2"));

    server.request(&request("2"));
    assert_eq!(
        respond(&mut server, &world),
        None,
        "a repeat that nothing explains"
    );
    server.allow_repeat();
    server.request(&request("2"));
    let repeated = respond(&mut server, &world).unwrap();
    assert_eq!(bodies(&repeated.resources), "a=1 b=1");
    server.request(&request("3"));
    server.request(&request("3"));
    assert_eq!(
        respond(&mut server, &world),
        None,
        "one repeat, not an endless one"
    );
}

#[test]
fn versions_follow_the_content() {
    let version = |text: &str| {
        let mut server = SotwServer::new(ResourceKind::Cluster);
        server.request(&DiscoveryRequest::default());
        respond(&mut server, &catalog(text)).unwrap().version_info
    };
    assert_eq!(version("a=7"), "7");
    assert_eq!(version("a=1 b=1"), version("a=1 b=1"));
    assert_ne!(version("a=1 b=1"), version("a=1 b=2"));
    assert_ne!(version("a=1 b=1"), version("a=1 c=1"));
}

#[test]
fn a_client_remembers_its_version_but_not_its_nonce() {
    let mut client = SotwClient::new(ResourceKind::Secret, Interest::of(["a"]));
    let mut server = SotwServer::new(ResourceKind::Secret);
    let first = client.connect().unwrap();
    assert_eq!(
        (first.version_info.as_str(), first.response_nonce.as_str()),
        ("", "")
    );
    server.request(&first);
    let response = respond(&mut server, &catalog("a=1")).unwrap();
    let ack = client.answer(&response, Ok(()));
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str()),
        ("1", "1")
    );
    server.request(&ack);
    let response = respond(&mut server, &catalog("a=2")).unwrap();
    let nack = client.answer(&response, Err("bad".into()));
    assert_eq!(
        (nack.version_info.as_str(), nack.response_nonce.as_str()),
        ("1", "2")
    );
    assert_eq!(nack.error_detail.unwrap().message, "bad");
    let again = client.connect().unwrap();
    assert_eq!(
        (again.version_info.as_str(), again.response_nonce.as_str()),
        ("1", "")
    );
    assert_eq!(client.subscribe(Interest::of(["a"])), None);
    let none = client.subscribe(Interest::default()).unwrap();
    assert!(none.resource_names.is_empty());
    assert_eq!(
        client.connect(),
        None,
        "an empty list would ask for everything"
    );
}
