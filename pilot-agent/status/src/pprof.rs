//! `/debug/pprof/`: what a runtime of Go tells of itself, as far as it has a meaning here.

use http::{Response, StatusCode};

use crate::response::{Body, TEXT, answer};

pub(crate) const PREFIX: &str = "/debug/pprof/";

const INDEX: &str = "\
This agent has no runtime of Go, so there are no profiles of one.
/debug/pprof/cmdline has its command line. For processor time and memory use perf or heaptrack on its
process, and the metrics istio_agent_process_* at /stats/prometheus.
";

/// `None` for an unknown path.
pub(crate) fn respond(path: &str) -> Option<Response<Body>> {
    match path.strip_prefix(PREFIX)? {
        "" => Some(answer(StatusCode::OK, TEXT, INDEX)),
        "cmdline" => {
            let arguments: Vec<_> = std::env::args_os()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect();
            Some(answer(StatusCode::OK, TEXT, arguments.join("\0")))
        }
        "profile" | "symbol" | "trace" | "heap" | "goroutine" | "allocs" | "block" | "mutex"
        | "threadcreate" => Some(answer(StatusCode::NOT_IMPLEMENTED, TEXT, INDEX)),
        _ => None,
    }
}
