use std::net::IpAddr;

use bytes::Bytes;
use ithildin_proto::pb::envoy::{
    config::core::v3::HeaderValue,
    service::ratelimit::v3::{
        RateLimitResponse,
        rate_limit_response::{
            Code, DescriptorStatus, RateLimit,
            rate_limit::Unit::{self, Hour, Minute, Second, Unknown},
        },
    },
};
use serde_json::json;

use super::{
    super::descriptors::{Facts, descriptor},
    answer::{self, Answer},
};
use crate::{
    config::{
        limit_rules::{Hits, LimitAction, LimitOverride, LimitRule, MetadataPlace},
        matchers::{HeaderMatch, HeaderSource, QueryMatch, ValueMatch},
    },
    http::request::Request,
};

fn rule(actions: Vec<LimitAction>) -> LimitRule {
    LimitRule {
        stage: 0,
        actions,
        limit: None,
        hits: None,
    }
}

fn request(path: &'static str, headers: &[(&str, &'static str)]) -> Request {
    let mut request = Request::unreadable();
    request.method = Bytes::from_static(b"GET");
    request.authority = Bytes::from_static(b"a.test");
    request.path = Bytes::from_static(path.as_bytes());
    for (name, value) in headers {
        let name = name.parse().expect("a name");
        request
            .headers
            .append(name, Bytes::from_static(value.as_bytes()));
    }
    let metadata = request.metadata.get_or_insert_default();
    metadata.set("ns", "text", json!("t"));
    metadata.set("ns", "empty", json!(""));
    metadata.set("ns", "number", json!(5));
    let limit = json!({"requests_per_unit": 7, "unit": "MINUTE"});
    metadata.set("ns", "limit", limit);
    metadata.set("ns", "odd", json!({"requests_per_unit": 7, "unit": "AEON"}));
    request
}

/// The entries of the descriptor, as `key=value`.
fn entries(rule: &LimitRule, request: &Request, remote: &str) -> Option<Vec<String>> {
    let facts = Facts {
        request,
        remote: remote.parse::<IpAddr>().expect("an address"),
        cluster: "to",
        own_cluster: "from",
    };
    let entries = descriptor(rule, &facts)?.entries.into_iter();
    let text = entries.map(|entry| format!("{}={}", entry.key, entry.value));
    Some(text.collect())
}

fn header(name: &str, optional: bool) -> LimitAction {
    LimitAction::Header {
        source: HeaderSource::named(name),
        key: "h".into(),
        optional,
    }
}

fn parameter(name: &str, optional: bool) -> LimitAction {
    LimitAction::Parameter {
        name: name.into(),
        key: "q".into(),
        optional,
    }
}

fn place(key: &str) -> MetadataPlace {
    MetadataPlace {
        namespace: "ns".into(),
        path: vec![key.into()],
    }
}

fn metadata(key: &str, default: &str, optional: bool) -> LimitAction {
    LimitAction::Metadata {
        key: "m".into(),
        place: place(key),
        default: default.into(),
        optional,
    }
}

fn headers_match(name: &str, expected: bool) -> LimitAction {
    LimitAction::HeadersMatch {
        key: "k".into(),
        value: "v".into(),
        headers: vec![HeaderMatch {
            source: HeaderSource::named(name),
            value: ValueMatch::Present(true),
            invert: false,
            missing_is_empty: false,
        }],
        expected,
    }
}

fn parameters_match(name: &str, expected: bool) -> LimitAction {
    LimitAction::ParametersMatch {
        key: "k".into(),
        value: "v".into(),
        parameters: vec![QueryMatch {
            name: name.into(),
            value: ValueMatch::Present(true),
        }],
        expected,
    }
}

/// Measured with Envoy 1.40.
#[test]
fn an_action_makes_an_entry_or_leaves_its_descriptor_out() {
    let request = request(
        "/p?x=a%20b&y&x=2",
        &[("x-a", "1"), ("x-a", "2"), ("x-b", "")],
    );
    for (action, expected) in [
        (LimitAction::SourceCluster, Some("source_cluster=from")),
        (
            LimitAction::DestinationCluster,
            Some("destination_cluster=to"),
        ),
        (LimitAction::RemoteAddress, Some("remote_address=10.1.2.3")),
        (header("x-a", false), Some("h=1")),
        (header("X-B", false), Some("h=")),
        (header(":path", false), Some("h=/p?x=a%20b&y&x=2")),
        (header(":method", false), Some("h=GET")),
        (header("host", false), Some("h=a.test")),
        (header("x-c", false), None),
        (header("x-c", true), Some("")),
        (parameter("x", false), Some("q=a b")),
        (parameter("y", false), Some("q=")),
        (parameter("z", false), None),
        (parameter("z", true), Some("")),
        (headers_match("x-a", true), Some("k=v")),
        (headers_match("x-a", false), None),
        (headers_match("x-c", true), None),
        (headers_match("x-c", false), Some("k=v")),
        (parameters_match("y", true), Some("k=v")),
        (parameters_match("y", false), None),
        (parameters_match("z", false), Some("k=v")),
        (metadata("text", "", false), Some("m=t")),
        (metadata("text", "d", false), Some("m=t")),
        (metadata("empty", "", false), None),
        (metadata("number", "d", false), Some("m=d")),
        (metadata("none", "", false), None),
        (metadata("none", "", true), Some("")),
    ] {
        let text = format!("{action:?}");
        let found = entries(&rule(vec![action]), &request, "10.1.2.3");
        assert_eq!(found.map(|it| it.concat()).as_deref(), expected, "{text}");
    }
}

#[test]
fn entries_stand_in_the_order_of_their_actions() {
    let request = request("/", &[("x-a", "1")]);
    let generic = |value: &str| LimitAction::Generic {
        key: "g".into(),
        value: value.into(),
    };
    let actions = vec![
        generic("2"),
        header("x-b", true),
        header("x-a", false),
        generic("1"),
    ];
    let found = entries(&rule(actions), &request, "::1");
    assert_eq!(found.expect("all agree"), ["g=2", "h=1", "g=1"]);
    let found = entries(
        &rule(vec![generic("2"), header("x-b", false)]),
        &request,
        "::1",
    );
    assert_eq!(found, None);
}

#[test]
fn addresses_are_masked() {
    for (address, v4, v6, expected) in [
        ("10.1.255.3", 32, 0, "10.1.255.3/32"),
        ("10.1.255.3", 20, 0, "10.1.240.0/20"),
        ("10.1.255.3", 0, 0, "0.0.0.0/0"),
        ("2001:db8:ffff::1", 0, 128, "2001:db8:ffff::1/128"),
        ("2001:db8:ffff::1", 0, 33, "2001:db8:8000::/33"),
        ("2001:db8:ffff::1", 0, 0, "::/0"),
    ] {
        let rule = rule(vec![LimitAction::MaskedRemoteAddress { v4, v6 }]);
        let found = entries(&rule, &request("/", &[]), address);
        let expected = format!("masked_remote_address={expected}");
        assert_eq!(found.expect("an entry"), [expected]);
    }
}

#[test]
fn limits_and_hits_go_with_the_descriptor() {
    let request = request("/", &[]);
    let facts = Facts {
        request: &request,
        remote: IpAddr::from([127, 0, 0, 1]),
        cluster: "to",
        own_cluster: "from",
    };
    let found = |limit| {
        let rule = LimitRule {
            limit: Some(limit),
            hits: Some(Hits {
                number: 3,
                is_negative: true,
            }),
            ..rule(vec![LimitAction::RemoteAddress])
        };
        let found = descriptor(&rule, &facts).expect("it agrees");
        assert_eq!(found.hits_addend.map(|it| it.value), Some(3));
        assert!(found.is_negative_hits);
        found.limit.map(|it| (it.requests_per_unit, it.unit))
    };
    assert_eq!(
        found(LimitOverride::Fixed {
            requests: 5,
            unit: 3
        }),
        Some((5, 3))
    );
    assert_eq!(found(LimitOverride::Metadata(place("limit"))), Some((7, 2)));
    for key in ["odd", "text", "none"] {
        assert_eq!(found(LimitOverride::Metadata(place(key))), None, "{key}");
    }
}

fn status(requests: u32, unit: Unit, name: &str, remaining: u32, reset: i64) -> DescriptorStatus {
    let reset = ithildin_proto::pb::google::protobuf::Duration {
        seconds: reset,
        nanos: 999_999_999,
    };
    DescriptorStatus {
        code: Code::OverLimit.into(),
        current_limit: Some(RateLimit {
            name: name.into(),
            requests_per_unit: requests,
            unit: unit.into(),
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(reset),
        ..DescriptorStatus::default()
    }
}

/// Measured with Envoy 1.40.
#[test]
fn the_limit_that_is_next_is_told() {
    let over = DescriptorStatus {
        code: Code::OverLimit.into(),
        ..DescriptorStatus::default()
    };
    for (statuses, expected, retry_after) in [
        (vec![], None, None),
        (vec![over.clone()], None, Some(1)),
        (
            vec![
                status(9, Minute, "", 4, 30),
                over,
                status(5, Second, "n", 2, 0),
                status(6, Unknown, "x", 2, 7),
                status(7, Hour, "", 3, 0),
            ],
            Some(["5, 9;w=60, 5;w=1;name=\"n\", 7;w=3600", "2", "0"]),
            Some(30),
        ),
        (
            vec![
                status(1, Second, "a\r\nx-b: c", 1, 0),
                status(2, Second, "a\"", 1, 0),
            ],
            Some(["1, 1;w=1, 2;w=1", "1", "0"]),
            Some(1),
        ),
        (
            vec![status(1, Second, "", 0, 0)],
            Some(["1, 1;w=1", "0", "0"]),
            Some(1),
        ),
    ] {
        let found = answer::limits(&statuses);
        assert_eq!(found, expected.map(|it| it.map(str::to_owned)));
        assert_eq!(answer::retry_after(&statuses), retry_after);
    }
}

#[test]
fn an_answer_with_a_header_that_cannot_be_sent_is_none() {
    for (key, value, expected) in [
        ("x-a", "1", Some(1)),
        ("X-A", "", Some(1)),
        // They are of the connection, and nobody else's.
        ("content-length", "9", Some(0)),
        ("connection", "x", Some(0)),
        ("x a", "1", None),
        ("", "1", None),
        (":status", "200", None),
        ("x-a", "1\r\nx-b: 2", None),
        ("x-a", "\0", None),
    ] {
        let header = HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        };
        let of_response = RateLimitResponse {
            response_headers_to_add: vec![header.clone()],
            ..RateLimitResponse::default()
        };
        let found = Answer::try_from(of_response).ok();
        let found = found.map(|it| it.response_headers.len());
        assert_eq!(found, expected, "{key:?} {value:?}");
        let of_request = RateLimitResponse {
            request_headers_to_add: vec![header],
            ..RateLimitResponse::default()
        };
        let found = Answer::try_from(of_request).ok();
        let found = found.map(|it| it.request_headers.len());
        assert_eq!(found, expected, "{key:?} {value:?}");
    }
}
