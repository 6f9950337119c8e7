use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::{access_log::ResponseFlags, istio::Workload};

fn check(text: &str) -> Result<String, String> {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-who", "me".parse().expect("a value"));
    let mut entry = Entry::new(SystemTime::UNIX_EPOCH);
    entry.method = Some(b"GET");
    entry.path = Some(b"/a/b?c=d");
    entry.authority = Some(b"a.test");
    entry.request_headers = Some(&headers);
    entry.response_code = Some(404);
    entry.flags = ResponseFlags::NO_ROUTE_FOUND;
    let peer = Workload {
        app: "web".into(),
        labels: vec![("role".into(), "front".into())],
        ..Workload::default()
    };
    entry.downstream_peer = Some(&peer);
    let expression = Expression::parse(text).map_err(|error| error.to_string())?;
    Ok(expression.text(&entry).unwrap_or_else(|| "none".into()))
}

#[test]
fn expressions_come_to_values() {
    for (text, expected) in [
        ("response.code >= 400", "true"),
        ("response.code >= 500", "false"),
        ("response.code == 404 && request.method == 'GET'", "true"),
        ("request.method != \"GET\" || response.code < 500", "true"),
        ("!(response.code == 404)", "false"),
        ("request.headers['x-who']", "me"),
        ("request.headers['X-Who'] == 'me'", "true"),
        ("has(request.headers['x-who'])", "true"),
        ("has(request.headers['x-none'])", "false"),
        ("'x-who' in request.headers", "true"),
        ("'X-Who' in request.headers && true", "true"),
        ("!('x-none' in request.headers)", "true"),
        ("request.headers['x-none'] == 'me'", "none"),
        // What the other side decides needs no value.
        ("request.headers['x-none'] == 'me' || true", "true"),
        ("request.headers['x-none'] == 'me' && false", "false"),
        ("request.headers['x-none'] == 'me' && true", "none"),
        ("request.host", "a.test"),
        ("request.url_path", "/a/b"),
        ("request.query", "c=d"),
        ("request.path.startsWith('/a')", "true"),
        ("request.path.contains('x')", "false"),
        ("request.path.endsWith('d')", "true"),
        ("request.path.matches('^/[a-z]/')", "true"),
        ("request.host.size()", "6"),
        ("size([1, 2])", "2"),
        ("response.code in [403, 404]", "true"),
        ("'a' + 'b'", "ab"),
        ("string(response.code) == '404'", "true"),
        ("int('12') - 2 == 10", "true"),
        ("-1 < 0", "true"),
        ("response.code == 404 ? 'missing' : 'there'", "missing"),
        ("true", "true"),
        ("'it\\'s'", "it's"),
        ("upstream_peer.app", "none"),
        ("downstream_peer.app", "web"),
        ("filter_state.downstream_peer.labels['role']", "front"),
        ("filter_state.downstream_peer.labels['none']", "none"),
        ("filter_state.upstream_peer.labels['role']", "none"),
    ] {
        assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    for (text, error) in [
        ("", "ends too early"),
        (
            "request.time",
            "the attribute request.time is not supported",
        ),
        ("response.code >=", "ends too early"),
        ("response.code 400", "unexpected 400"),
        ("(true", "\")\" is expected"),
        ("'open", "a text has no end"),
        ("1.5 < 2", "1: only whole numbers are supported"),
        (
            "99999999999999999999",
            "99999999999999999999 is out of range",
        ),
        ("duration('1s')", "duration() is not supported"),
        ("request.host.split('.')", "split() is not supported"),
        ("a # b", "unexpected '#'"),
        (
            "request.host.matches('(')",
            "\"(\" is not a regular expression",
        ),
        ("has('x')", "has() needs an attribute"),
    ] {
        assert_eq!(check(text), Err(error.to_owned()), "{text}");
    }
    let deep = "(".repeat(100_000);
    assert!(check(&deep).is_err());
    let deep = format!("{}true", "!".repeat(1000));
    assert_eq!(check(&deep), Err("is nested too deeply".into()));
}

/// Each lies inside of the next, and the stack of a worker is not endless.
#[test]
fn operators_in_a_row_are_bounded() {
    let sum = |count: usize| format!("1{} == {count}", "+1".repeat(count - 1));
    assert_eq!(check(&sum(MAX_OPERATORS)).as_deref(), Ok("true"));
    let chain = format!("'a'{}", ".size()".repeat(MAX_OPERATORS + 1));
    let signs = format!("{}true{}", "!!!!(".repeat(60), ")".repeat(60));
    assert_eq!(check(&signs).as_deref(), Ok("true"));
    let more = "!".repeat(60) + "(";
    let signs = format!("{}true{}", more.repeat(60), ")".repeat(60));
    for text in [sum(MAX_OPERATORS + 1), sum(8000), chain, signs] {
        let error = "has more than 512 operators and methods";
        assert_eq!(check(&text), Err(error.into()));
    }
}

proptest! {
    #[test]
    fn nothing_breaks_the_reader(text in "[a-z'\"\\[\\]().&|!<>=?:+ 0-9-]{0,60}") {
        let _ = check(&text);
    }
}
