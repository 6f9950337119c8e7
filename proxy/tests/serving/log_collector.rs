//! A service that is told of requests, by gRPC or by a POST over HTTP/2, and keeps it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Polite,
    /// It takes what it is told and says nothing.
    Silent,
    /// It resets what it is told by.
    Reset,
    /// It ends each connection.
    GoAway,
    /// gRPC's status 13, HTTP's 500.
    Error,
    /// What makes no sense as an answer.
    Nonsense,
    /// As it should, but with an answer that does not end.
    Endless,
}

/// One message, and what it came with.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Counts requests: one may bring many messages.
    pub(crate) request: usize,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
}

#[derive(Clone, Debug)]
pub(crate) struct LogCollector {
    pub(crate) address: SocketAddr,
    told: Arc<Mutex<Vec<Told>>>,
}

impl LogCollector {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("it is the test's own");
        let collector = Self {
            address: listener.local_addr().expect("it is the test's own"),
            told: Arc::default(),
        };
        let told = Arc::clone(&collector.told);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.ok()?;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        if manner == Manner::GoAway {
                            connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                            continue;
                        }
                        let told = Arc::clone(&told);
                        // Who gives up hears no end.
                        tokio::spawn(async move { hear(manner, request, respond, &told).await });
                    }
                    Some(())
                });
            }
        });
        collector
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// What `read` makes of all messages, once there are `count`.
    pub(crate) async fn entries<T>(&self, count: usize, read: impl Fn(&Told) -> Vec<T>) -> Vec<T> {
        for _ in 0..3000 {
            let entries: Vec<_> = self.told.lock().iter().flat_map(&read).collect();
            if entries.len() >= count {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {count} entries in {:?}", self.told());
    }
}

async fn hear(
    manner: Manner,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    told: &Mutex<Vec<Told>>,
) -> Result<(), h2::Error> {
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    let number = REQUESTS.fetch_add(1, Relaxed);
    if manner == Manner::Reset {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let (head, mut body) = request.into_parts();
    let kind = head.headers.get("content-type").cloned();
    let is_grpc = kind.as_ref().is_some_and(|it| it == "application/grpc");
    let mut heard = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        // The other side sends no more before.
        body.flow_control().release_capacity(data.len())?;
        heard.extend_from_slice(&data);
        while is_grpc && let Some(message) = take_message(&mut heard) {
            keep(told, number, &head, message);
        }
    }
    if !is_grpc {
        keep(told, number, &head, heard.freeze());
    }
    let kind = kind.unwrap_or(HeaderValue::from_static("text/plain"));
    let status = match manner {
        Manner::Error if !is_grpc => 500,
        Manner::Nonsense if !is_grpc => 302,
        _ => 200,
    };
    let answer = Response::builder()
        .status(status)
        .header("content-type", kind);
    let answer = answer.body(()).expect("it is the test's own");
    let status = match manner {
        Manner::Silent => return std::future::pending().await,
        Manner::Nonsense => {
            let (mut head, ()) = answer.into_parts();
            head.headers
                .insert("content-type", HeaderValue::from_static("text/html"));
            let head = Response::from_parts(head, ());
            let mut stream = respond.send_response(head, false)?;
            return stream.send_data(Bytes::from_static(b"<html>"), true);
        }
        Manner::Endless => {
            let mut stream = respond.send_response(answer, false)?;
            loop {
                stream.send_data(Bytes::from_static(&[0; 1 << 12]), false)?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Manner::Error => HeaderValue::from_static("13"),
        _ => HeaderValue::from_static("0"),
    };
    let mut stream = respond.send_response(answer, false)?;
    if !is_grpc {
        return stream.send_data(Bytes::new(), true);
    }
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    stream.send_trailers(HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        status,
    )]))
}

fn keep(told: &Mutex<Vec<Told>>, request: usize, head: &http::request::Parts, message: Bytes) {
    told.lock().push(Told {
        request,
        path: head.uri.path().to_owned(),
        headers: head.headers.clone(),
        message,
    });
}

/// The first whole message of gRPC.
fn take_message(heard: &mut BytesMut) -> Option<Bytes> {
    let prefix = heard.first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if heard.len() < 5 + length {
        return None;
    }
    heard.advance(5);
    Some(heard.split_to(length).freeze())
}
