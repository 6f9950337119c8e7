//! Answers of servers of all kinds, in process and over HTTP/2.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::StreamBody;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use ithildin_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use proptest::prelude::*;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use super::*;

const LIMIT: usize = 1000;

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

proptest! {
    #[test]
    fn messages_come_whole_however_they_are_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
        pieces in prop::collection::vec(1..40_usize, 1..100),
    ) {
        let mut left = Bytes::from(messages.iter().flat_map(|it| framed(it)).collect::<Vec<_>>());
        let mut pieces = pieces.into_iter().cycle();
        let mut frames = Frames::new(LIMIT);
        let mut found = Vec::new();
        while !left.is_empty() {
            let piece = pieces.next().unwrap().min(left.len());
            frames.push(left.split_to(piece));
            while let Some(message) = frames.next().unwrap() {
                found.push(message.to_vec());
            }
            let whole = messages.iter().take(found.len()).map(|it| it.len() + 5).sum::<usize>();
            let all = messages.iter().map(|it| it.len() + 5).sum::<usize>();
            prop_assert_eq!(frames.is_amid(), all - left.len() > whole);
        }
        prop_assert_eq!(found, messages);
    }
}

#[test]
fn what_is_no_message_is_refused_by_its_head() {
    for (head, expected) in [
        (
            [0, 0, 0, 3, 233],
            "a message of 1001 bytes is over the limit of 1000",
        ),
        (
            [0, 255, 255, 255, 255],
            "a message of 4294967295 bytes is over the limit of 1000",
        ),
        (
            [1, 0, 0, 0, 1],
            "the message is compressed, without our asking",
        ),
        (*b"HTTP/", "no message of gRPC: flag 72"),
    ] {
        let mut frames = Frames::new(LIMIT);
        frames.push(Bytes::copy_from_slice(&head));
        assert_eq!(frames.next().unwrap_err().message(), expected);
    }
}

/// A server's answer: status, headers, data, trailers.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    data: Vec<u8>,
    trailers: Option<&'static [(&'static str, &'static str)]>,
}

const OK: Answer = Answer {
    status: 200,
    headers: &[],
    data: Vec::new(),
    trailers: None,
};

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .collect()
}

/// A channel to a server that answers everything so.
fn server(answer: Answer) -> Channel {
    let connect = move |_: Uri| {
        let answer = Arc::new(answer.clone());
        let serve = move |_| {
            let mut frames = vec![hyper::body::Frame::data(Bytes::from(answer.data.clone()))];
            frames.extend(
                answer
                    .trailers
                    .map(|it| hyper::body::Frame::trailers(map(it))),
            );
            let frames = frames.into_iter().map(Ok::<_, Infallible>);
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let mut response = Response::new(BodyExt::boxed(body));
            *response.status_mut() = answer.status.try_into().unwrap();
            *response.headers_mut() = map(answer.headers);
            async { Ok::<_, Infallible>(response) }
        };
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(serve);
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(theirs), service)
                .await;
        });
        async { Ok::<_, Infallible>(TokioIo::new(ours)) }
    };
    Endpoint::from_static("http://istiod").connect_with_connector_lazy(service_fn(connect))
}

/// The versions of the messages, and how the stream ended.
async fn outcome(answer: Answer) -> (Vec<String>, Result<(), String>) {
    let mut versions = Vec::new();
    let (_requests, receiver) = mpsc::channel(1);
    let prepare: Prepare = Arc::new(|_| Ok(()));
    let said = |status: Status| format!("{:?}: {}", status.code(), status.message());
    let mut messages = match open::<SotwClient>(&prepare, server(answer), receiver).await {
        Ok(messages) => messages,
        Err(status) => return (versions, Err(said(status))),
    };
    loop {
        match messages.next().await {
            Ok(Some(message)) => versions.push(message.version_info),
            Ok(None) => return (versions, Ok(())),
            Err(status) => return (versions, Err(said(status))),
        }
    }
}

#[tokio::test]
async fn how_a_stream_ends_is_said() {
    let message = |version: &str| {
        let response = DiscoveryResponse {
            version_info: version.into(),
            ..Default::default()
        };
        framed(&response.encode_to_vec())
    };
    let two = [message("1"), message("2")].concat();
    let cut = two[..two.len() - 1].to_vec();
    let refused = "PermissionDenied: no token";
    for (answer, versions, end) in [
        (
            Answer {
                data: two.clone(),
                trailers: Some(&[("grpc-status", "0")]),
                ..OK
            },
            2,
            Ok(()),
        ),
        (
            Answer {
                data: two.clone(),
                ..OK
            },
            2,
            Ok(()),
        ),
        (
            Answer {
                headers: &[("grpc-status", "0")],
                ..OK
            },
            0,
            Ok(()),
        ),
        (
            Answer {
                data: two.clone(),
                trailers: Some(&[("grpc-status", "7"), ("grpc-message", "no%20token")]),
                ..OK
            },
            2,
            Err(refused),
        ),
        (
            Answer {
                headers: &[("grpc-status", "7"), ("grpc-message", "no%20token")],
                ..OK
            },
            0,
            Err(refused),
        ),
        // Neither a message for us nor base64.
        (
            Answer {
                headers: &[
                    ("grpc-status", "7"),
                    ("grpc-message", "no token"),
                    ("grpc-status-details-bin", "%%%"),
                ],
                ..OK
            },
            0,
            Err(refused),
        ),
        (
            Answer {
                data: two,
                trailers: Some(&[
                    ("grpc-status", "7"),
                    ("grpc-message", "no token"),
                    ("grpc-status-details-bin", "%%%"),
                ]),
                ..OK
            },
            2,
            Err(refused),
        ),
        (
            Answer { data: cut, ..OK },
            1,
            Err("Internal: the stream ended amid a message"),
        ),
        (
            Answer {
                data: framed(b"\xff"),
                ..OK
            },
            0,
            Err(
                "Internal: the message is broken: failed to decode Protobuf message: invalid varint",
            ),
        ),
        (
            Answer { status: 503, ..OK },
            0,
            Err("Unavailable: the answer is no gRPC: HTTP status 503 Service Unavailable"),
        ),
        (
            Answer { status: 302, ..OK },
            0,
            Err("Unknown: the answer is no gRPC: HTTP status 302 Found"),
        ),
    ] {
        let (found, ended) = outcome(answer).await;
        assert_eq!(found, ["1", "2"][..versions]);
        assert_eq!(ended, end.map_err(str::to_owned));
    }
}
