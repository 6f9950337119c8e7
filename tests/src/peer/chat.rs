//! Streams of gRPC on which both sides talk at the same time.
//!
//! The service answers at once, says a greeting, and then says back each message, beside messages of its own;
//! when it has heard all, it tells in its trailers how many that were. At `/.../Early` it ends the call after
//! the first message, whatever the client has yet to say.

use std::{convert::Infallible, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::mpsc::{self, Receiver, Sender},
};

/// What a call of this kind has in its path.
pub(super) const SERVICE: &str = "/chat.Chat/";

const GREETING: &[u8] = b"hello";
/// Of the service, while it listens.
const OWN_MESSAGES: usize = 50;
/// What begins a message of the service's own.
const OWN: u8 = b'!';
/// More than a window of HTTP/2 in all.
const OWN_SIZE: usize = 8_000;
/// Messages that wait for the other side.
const QUEUE: usize = 4;
/// Flag and length before each message.
const PREFIX: usize = 5;
/// Questions that wait for their answers before the client says all the rest.
const ROUNDS: usize = 5;
/// For a whole conversation on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

type Body = BoxBody<Bytes, Infallible>;

/// Answers a call. `cancelled` is told if the client gives up.
pub(super) fn answer(
    path: &str,
    heard: Incoming,
    cancelled: impl FnOnce() + Send + 'static,
) -> Response<Body> {
    let (say, said) = mpsc::channel(QUEUE);
    let ends_early = path.ends_with("/Early");
    tokio::spawn(async move {
        let listened = Box::pin(listen(heard, ends_early, say.clone())).await;
        let Ok(count) = listened else {
            return cancelled();
        };
        let status = if ends_early { "9" } else { "0" };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("x-heard", HeaderValue::from(count));
        // The client may have gone.
        let _ = say.send(Frame::trailers(trailers)).await;
    });
    let mut response = Response::new(StreamBody::new(frames(said)).boxed());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn listen(
    heard: Incoming,
    ends_early: bool,
    say: Sender<Frame<Bytes>>,
) -> anyhow::Result<usize> {
    say.send(message(GREETING)).await?;
    let own = say.clone();
    let talk = async move {
        let text = [OWN; OWN_SIZE];
        for _ in 0..OWN_MESSAGES {
            own.send(message(&text)).await?;
        }
        anyhow::Ok(())
    };
    let reply = async move {
        let mut messages = Messages::new(heard);
        let mut count = 0;
        while let Some(text) = messages.next().await? {
            count += 1;
            say.send(message(&text)).await?;
            if ends_early {
                break;
            }
        }
        anyhow::Ok(count)
    };
    if ends_early {
        return reply.await;
    }
    let (talked, count) = tokio::join!(talk, reply);
    talked.and(count)
}

/// Calls `path` at `to` on so many streams of one connection, and prints for each what came of it, in JSON: its
/// HTTP status, messages said back, messages of the service's own, and trailers. With `count` 0 the client gives
/// up after the greeting.
pub async fn run(
    to: &str,
    path: &str,
    streams: usize,
    count: usize,
    size: usize,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let calls = (0..streams).map(|_| call(client.clone(), to, path, count, size));
    let calls = futures_util::future::try_join_all(calls);
    let ended = tokio::time::timeout(LIMIT, calls).await;
    for told in ended.context("no end in time")?? {
        println!("{told}");
    }
    Ok(())
}

async fn call(
    mut client: SendRequest<Body>,
    to: &str,
    path: &str,
    count: usize,
    size: usize,
) -> anyhow::Result<serde_json::Value> {
    let (say, said) = mpsc::channel(QUEUE);
    let request = Request::post(format!("http://{to}{path}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(StreamBody::new(frames(said)).boxed())?;
    // It answers before it has heard anything.
    let response = client.send_request(request).await?;
    let status = response.status().as_u16();
    let mut messages = Messages::new(response.into_body());
    let greeting = messages.next().await?;
    ensure!(greeting.as_deref() == Some(GREETING), "no greeting");
    if count == 0 {
        return Ok(json!({"status": status}));
    }
    let mut own = 0;
    let mut rounds = 0;
    while rounds < ROUNDS {
        // The service may have ended the call.
        let _ = say.send(message(b"ping")).await;
        loop {
            match messages.next().await? {
                Some(text) if text.first() == Some(&OWN) => own += 1,
                Some(text) if *text == *b"ping" => break,
                Some(text) => bail!("not what was said: {} bytes", text.len()),
                None => return Ok(told(status, rounds, own, &messages)),
            }
        }
        rounds += 1;
    }
    let talk = async move {
        let text = vec![b'.'; size];
        for _ in 0..count {
            if say.send(message(&text)).await.is_err() {
                break;
            }
        }
        // The end of what we say, and not of the call.
        drop(say);
        anyhow::Ok(())
    };
    let listen = async {
        let mut said_back = rounds;
        while let Some(text) = messages.next().await? {
            match text.first() {
                Some(&OWN) => own += 1,
                _ if text.len() == size => said_back += 1,
                _ => bail!("not what was said: {} bytes", text.len()),
            }
        }
        Ok(said_back)
    };
    let (_, said_back) = tokio::try_join!(talk, listen)?;
    Ok(told(status, said_back, own, &messages))
}

fn told(status: u16, said_back: usize, own: usize, messages: &Messages) -> serde_json::Value {
    let trailer = |name: &str| {
        let value = messages.trailers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    };
    json!({
        "status": status,
        "said_back": said_back,
        "own": own,
        "grpc-status": trailer("grpc-status"),
        "heard": trailer("x-heard"),
    })
}

fn frames(said: Receiver<Frame<Bytes>>) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(said, async |mut said| {
        let frame = said.recv().await?;
        Some((Ok(frame), said))
    })
}

fn message(text: &[u8]) -> Frame<Bytes> {
    let mut bytes = BytesMut::with_capacity(PREFIX + text.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.put_slice(text);
    Frame::data(bytes.freeze())
}

/// The messages of a body, however they are cut into frames, and its trailers.
struct Messages {
    body: Incoming,
    rest: BytesMut,
    trailers: HeaderMap,
}

impl Messages {
    fn new(body: Incoming) -> Self {
        Self {
            body,
            rest: BytesMut::new(),
            trailers: HeaderMap::new(),
        }
    }

    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(text) = self.take() {
                return Ok(Some(text));
            }
            let Some(frame) = self.body.frame().await else {
                ensure!(self.rest.is_empty(), "it ends within a message");
                return Ok(None);
            };
            match frame?.into_data() {
                Ok(data) => self.rest.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let length = self.rest.get(1..PREFIX)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.rest.len() < PREFIX + length {
            return None;
        }
        self.rest.advance(PREFIX);
        Some(self.rest.split_to(length).freeze())
    }
}
