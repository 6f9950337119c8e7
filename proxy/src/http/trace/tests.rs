use ithildin_http1::Known;

use super::{
    b3,
    context::{self, Extracted},
    decision::{Reason, decide},
};
use crate::{
    access_log::SpanIds,
    config::{
        filters::Percent,
        trace::{Sampling, Tracing},
    },
    http::{headers::Headers, request::Request},
};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;

fn headers(fields: &[(&'static str, &str)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in fields {
        let value = value.as_bytes().to_vec();
        headers.push(Known::of(name.as_bytes()), name, value);
    }
    headers
}

fn parent(told: Extracted) -> (SpanIds, Option<u64>) {
    match told {
        Extracted::Parent(parent) => (parent.ids, parent.parent),
        other => panic!("{other:?}"),
    }
}

fn ids(sampled: bool) -> SpanIds {
    SpanIds {
        trace: TRACE,
        span: SPAN,
        sampled,
        wide: true,
    }
}

#[test]
fn traceparent_is_read_as_it_is_written() {
    for sampled in [true, false] {
        let mut sent = Headers::default();
        context::write(&ids(sampled), &mut sent);
        context::write_state(Some(&"a=b".into()), &mut sent);
        let flags = if sampled { "01" } else { "00" };
        let expected = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        assert_eq!(sent.get("traceparent").unwrap(), expected.as_bytes());
        assert_eq!(sent.get("tracestate").unwrap(), "a=b");
        assert_eq!(parent(context::read(&sent)), (ids(sampled), None));
    }
    assert_eq!(
        context::read(&headers(&[("tracestate", "a=b")])),
        Extracted::Nothing
    );
}

#[test]
fn a_traceparent_that_is_none_is_nonsense() {
    let huge = "0".repeat(60_000);
    for value in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c--7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319\u{e9}-b7ad6b716920333-01",
        &huge,
    ] {
        let told = context::read(&headers(&[("traceparent", value)]));
        assert_eq!(told, Extracted::Nonsense, "{value:.80}");
    }
}

#[test]
fn both_forms_of_b3_are_read() {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let read = |fields: &[(&'static str, &str)]| {
        let headers = headers(fields);
        (b3::sampled(&headers), b3::read(&headers, true))
    };
    let single = |value: String| read(&[("b3", &value)]);
    for (flag, sampled) in [("1", true), ("d", true), ("0", false)] {
        let (told, parent_of) = single(format!("{trace}-{span}-{flag}"));
        assert_eq!(
            (told, parent(parent_of)),
            (Some(sampled), (ids(true), None))
        );
    }
    let (told, by_parent) = single(format!("{trace}-{span}-0-00000000000000ff"));
    assert_eq!(
        (told, parent(by_parent)),
        (Some(false), (ids(true), Some(255)))
    );
    let (told, undecided) = single(format!("{trace}-{span}"));
    assert_eq!((told, parent(undecided)), (None, (ids(true), None)));
    assert_eq!(read(&[("b3", "0")]), (Some(false), Extracted::Nothing));
    let several = [
        ("x-b3-traceid", trace),
        ("x-b3-spanid", span),
        ("x-b3-parentspanid", "ff"),
        ("x-b3-sampled", "true"),
    ];
    let (told, by_several) = read(&several);
    assert_eq!(
        (told, parent(by_several)),
        (Some(true), (ids(true), Some(255)))
    );
    let (_, narrow) = single(format!("{}-{span}", &trace[16..]));
    let narrow = parent(narrow).0;
    assert_eq!(
        (narrow.trace, narrow.wide),
        (TRACE & u128::from(u64::MAX), false)
    );
    assert_eq!(narrow.trace_hex(), trace[16..]);
    assert_eq!(read(&several[..1]).1, Extracted::Nothing);
}

#[test]
fn b3_is_written_as_several() {
    let mut sent = Headers::default();
    b3::write(&ids(false), Some(255), &mut sent);
    for (name, value) in [
        ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
        ("x-b3-spanid", "b7ad6b7169203331"),
        ("x-b3-parentspanid", "00000000000000ff"),
        ("x-b3-sampled", "0"),
    ] {
        assert_eq!(sent.get(name).unwrap(), value);
    }
}

#[test]
fn b3_is_written_as_one_where_it_came_so() {
    let mut sent = headers(&[("b3", "1")]);
    b3::write(&ids(true), Some(255), &mut sent);
    let told = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00000000000000ff";
    assert_eq!(sent.get("b3").unwrap(), told);
    assert!(sent.get("x-b3-traceid").is_none());
}

#[test]
fn hostile_b3_is_nonsense() {
    let huge = "a".repeat(60_000);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for value in [
        "",
        "x",
        "-",
        "--",
        "1-",
        "0-1-2-3-4",
        trace,
        &huge,
        "0af7651916cd43dd8448eb211c80319c-",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b716920333",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-x",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-ff",
        "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00000000000000ff-1",
        "0af7651916cd43dd8448eb211c8031\u{e9}-b7ad6b7169203331",
    ] {
        let told = b3::read(&headers(&[("b3", value)]), true);
        assert_eq!(told, Extracted::Nonsense, "{value:.80}");
    }
    for fields in [
        [("x-b3-traceid", &*huge), ("x-b3-spanid", "1")],
        [("x-b3-traceid", "1"), ("x-b3-spanid", &*huge)],
        [("x-b3-traceid", "1"), ("x-b3-spanid", "g")],
        [("x-b3-traceid", ""), ("x-b3-spanid", "1")],
    ] {
        let told = b3::read(&headers(&fields), true);
        assert_eq!(told, Extracted::Nonsense, "{:.80}", fields[0].1);
    }
}

/// What becomes of `x-request-id`, and of the request.
#[test]
fn the_next_hop_finds_what_was_decided() {
    let uuid = |reason: char| format!("0000001e-0000-{reason}000-8000-000000000000");
    let huge = "0".repeat(60_000);
    type Case<'c> = (&'c str, &'c [(&'static str, &'c str)], u32, Reason, &'c str);
    let cases: &[Case<'_>] = &[
        (&uuid('4'), &[], 0, Reason::NotTraced, &uuid('4')),
        // 0x1e is the 31st of 10,000 parts.
        (&uuid('4'), &[], 30, Reason::NotTraced, &uuid('4')),
        (&uuid('4'), &[], 31, Reason::Sampled, &uuid('9')),
        (&uuid('9'), &[], 0, Reason::Sampled, &uuid('9')),
        (&uuid('a'), &[], 0, Reason::Forced, &uuid('a')),
        (&uuid('b'), &[], 0, Reason::Client, &uuid('b')),
        (
            &uuid('4'),
            &[("x-client-trace-id", "1")],
            0,
            Reason::Client,
            &uuid('b'),
        ),
        (
            &uuid('4'),
            &[("x-envoy-force-trace", "1")],
            0,
            Reason::Forced,
            &uuid('a'),
        ),
        (
            &uuid('9'),
            &[("x-envoy-force-trace", "1")],
            0,
            Reason::Sampled,
            &uuid('9'),
        ),
        ("short", &[], 10_000, Reason::NotTraced, "short"),
        ("0000001e", &[], 31, Reason::Sampled, "0000001e"),
        ("+000001e", &[], 10_000, Reason::NotTraced, "+000001e"),
        (
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
            &[],
            10_000,
            Reason::NotTraced,
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ),
        (&huge, &[], 10_000, Reason::Sampled, &huge),
        ("", &[], 10_000, Reason::NotTraced, ""),
    ];
    for (id, fields, random, reason, packed) in cases {
        let mut request = Request::unreadable();
        request.headers = headers(fields);
        let name = "x-request-id";
        request
            .headers
            .push(Known::XRequestId, name, id.as_bytes().to_vec());
        let tracing = tracing(*random);
        let decided = decide(&tracing, &tracing.sampling, &mut request);
        assert_eq!(decided, *reason, "{id:.80} {fields:?}");
        assert_eq!(request.headers.get(name).unwrap(), packed.as_bytes());
    }
}

#[test]
fn nobody_is_traced_beyond_the_share_of_all() {
    let id = "0000001e-0000-b000-8000-000000000000";
    let mut tracing = tracing(10_000);
    tracing.sampling.overall.numerator = 30;
    let mut request = Request::unreadable();
    request.headers = headers(&[("x-request-id", id)]);
    let decided = decide(&tracing, &tracing.sampling, &mut request);
    assert_eq!(decided, Reason::NotTraced);
    let packed = request.headers.get("x-request-id").unwrap();
    assert_eq!(packed, "0000001e-0000-4000-8000-000000000000");
}

fn tracing(random: u32) -> Tracing {
    Tracing {
        tracer: None,
        egress: false,
        own_hop: false,
        upstream_spans: false,
        sampling: Sampling {
            client: Percent::ALL,
            random: Percent {
                numerator: random,
                denominator: 10_000,
            },
            overall: Percent {
                numerator: 10_000,
                denominator: 10_000,
            },
        },
        max_path_length: 256,
        tags: Box::default(),
        operation: None,
        upstream_operation: None,
        propagates: true,
        packs_reason: true,
        samples_by_request_id: true,
        node: std::sync::Arc::default(),
    }
}
