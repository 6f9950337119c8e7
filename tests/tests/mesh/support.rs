//! What several scenes ask.

use std::fs;

use ithildin_tests::{
    Mesh, Net,
    clusters::data,
    curl::{self, Answer},
    eventually,
};
use serde_json::Value;

/// A scene as a test of each data plane; where it is said, of Istio's own agent too, which shows that the
/// scene is right.
macro_rules! on_each {
    ($scene:path) => {
        #[test]
        fn on_builtin() {
            let plane = ithildin_tests::DataPlane::Builtin;
            $scene(
                concat!(module_path!(), "::on_builtin"),
                ithildin_tests::mesh::Program::Ithildin(plane),
            );
        }

        #[test]
        fn on_envoy() {
            let plane = ithildin_tests::DataPlane::Envoy;
            $scene(
                concat!(module_path!(), "::on_envoy"),
                ithildin_tests::mesh::Program::Ithildin(plane),
            );
        }
    };
    ($scene:path, and_istios_agent) => {
        on_each!($scene);

        #[test]
        fn on_istios_agent() {
            $scene(
                concat!(module_path!(), "::on_istios_agent"),
                ithildin_tests::mesh::Program::Stock,
            );
        }
    };
}
pub(crate) use on_each;

/// What makes a call of gRPC of curl's request, whose trailers it tells on standard error.
pub(crate) const GRPC: [&str; 11] = [
    "--http2-prior-knowledge",
    "-X",
    "POST",
    "-H",
    "content-type: application/grpc",
    "-H",
    "te: trailers",
    "--data-binary",
    "@/dev/null",
    "-D",
    "/dev/stderr",
];

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

/// What is asked for (a URL, and more arguments of curl), and the status of the answer; 0 is none.
pub(crate) type Row<'a> = (&'a str, &'a [&'a str], u16);

/// Waits until each request of a Pod is answered as its row says.
#[track_caller]
pub(crate) fn eventually_answered(mesh: &Mesh, pod: &str, what: &str, rows: &[Row<'_>]) {
    eventually(what, || answered(&mesh.pod(pod).net, rows));
}

/// The first request that is not answered as its row says.
pub(crate) fn answered(net: &Net, rows: &[Row<'_>]) -> Result<(), String> {
    for (url, arguments, status) in rows {
        let answer = curl::get(net, url, arguments);
        if answer.status != *status {
            return Err(format!("{url} {arguments:?}, not {status}: {answer:?}"));
        }
    }
    Ok(())
}
