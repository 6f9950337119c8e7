//! The HTTP/2 server side: each stream a task of its own.

use std::{
    io,
    num::NonZeroU32,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use ithildin_http1::{Known, check_target, is_authority};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinSet,
};

use super::{
    body::Source,
    client::Client,
    counts,
    exchange::{Context, Exchange},
    headers::Headers,
    meter::Meter,
    request::{BodyLength, Protocol, Request},
};
use crate::{
    access_log::ResponseFlags,
    config::{HttpManager, listener::Terminal},
    io::Stream,
    worker::{Connection, Downstream, Worker},
};

/// Streams that a client reset and that we still hold; more is an attack (CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 50;
/// A stream that its client resets within this time had no use but to make work.
const PREMATURE: Duration = Duration::from_secs(1);
/// Of the first so many streams, and of all after, no more than half may end so; Envoy's
/// `overload.premature_reset_total_stream_count`.
const PREMATURE_TOTAL: u64 = 500;
/// Bytes of responses queued per stream before its sender is held back.
const SEND_BUFFER: usize = 256 * 1024;

pub(super) async fn serve(worker: &Rc<Worker>, manager: &HttpManager, downstream: Downstream) {
    let connection = downstream.connection;
    let stats = manager.stats.worker(worker.index);
    let live = Rc::clone(downstream.stream.live());
    let stream = Rewound {
        read_ahead: downstream.read_ahead,
        stream: downstream.stream,
    };
    let options = &manager.http2;
    let mut builder = h2::server::Builder::new();
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let handshake = builder
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_header_list_size(manager.max_request_headers_kb * 1024)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(stream);
    let limit = manager.timeouts.request_headers;
    let Some(Ok(mut http2)) = worker.timers.timeout(limit, handshake).await else {
        return;
    };
    let mut streams = JoinSet::new();
    let mut resets = Resets::default();
    let mut draining = std::pin::pin!(live.draining());
    let mut goaway = false;
    let mut left = manager.max_requests_per_connection.map(NonZeroU32::get);
    loop {
        let limit = wait_limit(manager, &connection, goaway, streams.is_empty());
        tokio::select! {
            () = &mut draining, if !goaway => {
                goaway = true;
                stats.downstream_cx_drain_close.inc();
                http2.graceful_shutdown();
            }
            Some(premature) = streams.join_next() => {
                counts::passed_bytes(stats, &live);
                if resets.are_too_many(premature.unwrap_or_default()) {
                    stats.downstream_cx_protocol_error.inc();
                    http2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
            accepted = worker.timers.timeout(limit, http2.accept()) => match accepted {
                Some(Some(Ok((request, respond)))) => {
                    let stream = serve_stream(Rc::clone(worker), Rc::clone(&connection), request, respond);
                    streams.spawn_local(stream);
                    // Others may be on their way still.
                    left = left.map(|left| left.saturating_sub(1));
                    if left == Some(0) && !goaway {
                        goaway = true;
                        stats.downstream_cx_max_requests_reached.inc();
                        http2.graceful_shutdown();
                    }
                }
                Some(Some(Err(error))) => {
                    if error.is_remote() || error.is_library() {
                        stats.downstream_cx_protocol_error.inc();
                    }
                    tracing::debug!(%error, "an http/2 connection failed");
                    break;
                }
                Some(None) => break,
                // The client had its time to see that no stream is left.
                None if goaway => break,
                None => {
                    goaway = true;
                    live.end_by_us();
                    if is_too_old(manager, &connection) {
                        stats.downstream_cx_max_duration_reached.inc();
                    } else if streams.is_empty() {
                        stats.downstream_cx_idle_timeout.inc();
                    }
                    http2.graceful_shutdown();
                }
            },
        }
    }
    if !streams.is_empty() {
        counts::ended_midway(stats, &live);
    }
}

/// How the streams of one connection ended (CVE-2023-44487).
#[derive(Default)]
struct Resets {
    ended: u64,
    premature: u64,
}

impl Resets {
    /// Counts a stream that ended.
    fn are_too_many(&mut self, premature: bool) -> bool {
        self.ended += 1;
        self.premature += u64::from(premature);
        self.premature * 2 > self.ended.max(PREMATURE_TOTAL)
    }
}

/// How long a new stream is waited for until the connection ends: forever beside others, unless it
/// has had its time.
fn wait_limit(
    manager: &HttpManager,
    connection: &Connection,
    goaway: bool,
    is_idle: bool,
) -> Option<Duration> {
    let timeouts = &manager.timeouts;
    if goaway {
        return is_idle.then_some(timeouts.drain);
    }
    let left = timeouts
        .max_connection_duration
        .map(|limit| limit.saturating_sub(connection.accepted.elapsed()));
    let idle = timeouts.idle.filter(|_| is_idle);
    left.into_iter().chain(idle).min()
}

fn is_too_old(manager: &HttpManager, connection: &Connection) -> bool {
    let limit = manager.timeouts.max_connection_duration;
    limit.is_some_and(|limit| connection.accepted.elapsed() >= limit)
}

/// Serves one stream; whether its client reset it prematurely.
async fn serve_stream(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> bool {
    let chain = Arc::clone(&connection.chain);
    let Terminal::Http(manager) = &chain.terminal else {
        return false;
    };
    let stats = manager.stats.worker(worker.index);
    stats.downstream_rq_http2_total.inc();
    let context = Context {
        worker: &worker,
        connection: &connection,
        manager,
        stats,
    };
    let Some((request, tunnel, mut source)) = read(request, manager) else {
        stats.downstream_rq_tx_reset.inc();
        respond.send_reset(h2::Reason::PROTOCOL_ERROR);
        return true;
    };
    let mut client = Client::Http2 {
        respond,
        head_request: request.is_head(),
        tunnel,
    };
    let meter = Meter::start(&manager.access_log);
    let mut exchange = Exchange::new(&context, request, &meter);
    exchange.serve(&mut source, &mut client).await;
    let flags = exchange.outcome.flags;
    let reset =
        ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION | ResponseFlags::DOWNSTREAM_REMOTE_RESET;
    flags.intersects(reset) && meter.started.elapsed() < PREMATURE
}

/// The request, and what follows it: into a tunnel, or as its body.
fn read(
    request: http::Request<RecvStream>,
    manager: &HttpManager,
) -> Option<(Request, Option<RecvStream>, Source<'static, 'static>)> {
    let (head, body) = request.into_parts();
    let is_bounded = head.headers.len() <= manager.max_headers_count as usize;
    let request = request_of(head, &body).filter(|_| is_bounded)?;
    Some(match request.asks_for_tunnel() {
        true => (request, Some(body), Source::Empty),
        false => (request, None, Source::http2(body)),
    })
}

fn request_of(head: http::request::Parts, body: &RecvStream) -> Option<Request> {
    let upgrade = head.extensions.get::<h2::ext::Protocol>();
    let upgrade = upgrade.map(|protocol| Bytes::copy_from_slice(protocol.as_ref()));
    let connect = head.method == http::Method::CONNECT && upgrade.is_none();
    let mut hosts = head.headers.get_all(http::header::HOST).iter();
    let authority = match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, _) => return None,
        (Some(authority), ..) => Bytes::copy_from_slice(authority.as_str().as_bytes()),
        (None, Some(host), None) => Bytes::copy_from_slice(host.as_bytes()),
    };
    let path = match head.uri.path_and_query() {
        Some(path) if !connect => Bytes::copy_from_slice(path.as_str().as_bytes()),
        _ => Bytes::new(),
    };
    // They may be written into an HTTP/1 head.
    if !is_authority(&authority) || check_target(&path).is_err() {
        return None;
    }
    let length = head.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let body = match (body.is_end_stream() || connect || upgrade.is_some(), length) {
        (true, _) => BodyLength::Empty,
        (false, Some(length)) if length > 0 => BodyLength::Known(length),
        (false, _) => BodyLength::Unknown,
    };
    let mut headers = Headers::from_map(head.headers);
    headers.remove_known(Known::Host);
    Some(Request {
        method: match upgrade {
            Some(_) => Bytes::from_static(b"GET"),
            None => Bytes::copy_from_slice(head.method.as_str().as_bytes()),
        },
        scheme: None,
        authority,
        path,
        headers,
        body,
        upgrade,
        protocol: Protocol::Http2,
        metadata: None,
    })
}

/// A stream with what was read of it put back in front.
struct Rewound {
    read_ahead: BytesMut,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.read_ahead.len().min(buf.remaining());
        buf.put_slice(&self.read_ahead[..length]);
        self.read_ahead.advance(length);
        if self.read_ahead.is_empty() {
            self.read_ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
