//! What several scenes ask.

use std::fs;

use ithildin_tests::{clusters::data, curl::Answer};
use serde_json::Value;

/// curl's exit codes for what is no refusal: no name, no connection, no end.
const CURL_NO_REFUSAL: [i32; 4] = [0, 6, 7, 28];

/// The request has to end in a TLS alert, or without a word, and not with a status.
#[track_caller]
pub(crate) fn assert_refused(what: &str, answer: &Answer) {
    assert!(
        !CURL_NO_REFUSAL.contains(&answer.exit) && answer.status == 0,
        "{what} was not refused: {answer:?}"
    );
}

/// The SPIFFE ID that the sidecar of a service has seen, and told it.
#[track_caller]
pub(crate) fn caller(request: &Value) -> String {
    let mut callers = callers(request);
    let last = callers.pop();
    last.unwrap_or_else(|| panic!("no caller in {request}"))
}

/// The SPIFFE IDs of all hops with mTLS, the first one first.
#[track_caller]
pub(crate) fn callers(request: &Value) -> Vec<String> {
    let header = request["headers"]["x-forwarded-client-cert"].as_str();
    let hops = header.unwrap_or_default().split(',');
    let uri = |hop: &str| {
        let uri = hop.split(';').find_map(|part| part.strip_prefix("URI="));
        uri.map(str::to_owned)
    };
    hops.filter_map(uri).collect()
}

/// A file of `tests/data/mesh`.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(data(&format!("mesh/{name}"))).expect("the project's own file")
}
