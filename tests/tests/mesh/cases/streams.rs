//! Streams of gRPC on which both sides talk at the same time.

use ithildin_tests::{Mesh, eventually, mesh::Pod, process::binary};
use serde_json::{Value, json};

use super::{FIRST, SECOND, SLEEP};

pub(super) fn all(mesh: &Mesh) {
    let sleep = mesh.pod(SLEEP.name);
    // Declared as gRPC, and found out to be.
    for to in ["web:7070", "web:7071"] {
        for (streams, messages, size) in [(1, 20, 10), (4, 50, 8_000), (1, 4, 300_000)] {
            let calls = chat(sleep, to, "/chat.Chat/Both", streams, messages, size);
            let heard = messages + 5;
            let expected = json!({
                "status": 200, "said_back": heard, "own": 50, "grpc-status": "0",
                "heard": heard.to_string(),
            });
            assert_eq!(calls.len(), streams, "{to}");
            for call in calls {
                assert_eq!(call, expected, "{to} {size}");
            }
        }
        // The service has ended the call while the client was about to say more.
        for call in chat(sleep, to, "/chat.Chat/Early", 2, 20, 10) {
            assert_eq!(call["grpc-status"], "9", "{to}: {call}");
        }
        given_up(mesh, to);
    }
}

/// A client that goes away is told of to the service.
fn given_up(mesh: &Mesh, to: &str) {
    let told = || -> u32 {
        let ports = if to.ends_with("70") { 8082 } else { 8083 };
        let url = format!("http://127.0.0.1:{ports}/count/cancelled");
        let pods = [FIRST, SECOND].map(|pod| mesh.curl(pod.name, &url, &[]).body);
        pods.iter().map(|count| count.parse().unwrap_or(0)).sum()
    };
    let before = told();
    chat(mesh.pod(SLEEP.name), to, "/chat.Chat/Both", 3, 0, 0);
    eventually("the service knows", || {
        let now = told();
        (now == before + 3).then_some(()).ok_or(now)
    });
}

fn chat(
    from: &Pod,
    to: &str,
    path: &str,
    streams: usize,
    messages: usize,
    size: usize,
) -> Vec<Value> {
    let mut command = from.net.command(binary("ithildin-test-peer"));
    command.args(["chat", to, path]);
    command.args([streams, messages, size].map(|it| it.to_string()));
    let out = command.output().expect("the peer starts");
    let (told, error) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success(), "{to}{path}: {told}{error}");
    let parse = |line| serde_json::from_str(line).expect("it tells JSON");
    told.lines().map(parse).collect()
}
