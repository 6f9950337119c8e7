//! The HTTP/1 server side: one request after the other on a connection.

use std::{num::NonZeroU32, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use ithildin_http1::{Framing, Limits, ParseError, Progress, Version, parse_request};

use super::{
    body::Source,
    client::Client,
    counts,
    exchange::{Context, Exchange},
    failure::LocalReply,
    meter::Meter,
    request::{BodyLength, Request},
    wire::Wire,
};
use crate::{
    config::HttpManager,
    worker::{Downstream, Worker},
};

/// An idle connection that is to drain waits so long for a last request, whose answer tells of the end: its
/// client may be sending just now.
const LAST_REQUEST: Duration = Duration::from_millis(500);
/// The most that is read and thrown away of a client that still sends after its connection is done
/// with, in bytes.
const LINGER_BYTES: usize = 1024 * 1024;

/// How long a client may take for our last bytes where `delayed_close_timeout` is off.
const SHUTDOWN: Duration = Duration::from_secs(1);

pub(super) async fn serve(worker: &Rc<Worker>, manager: &HttpManager, mut downstream: Downstream) {
    let connection = Rc::clone(&downstream.connection);
    let stats = manager.stats.worker(worker.index);
    let context = Context {
        worker,
        connection: &connection,
        manager,
        stats,
    };
    let wire = Wire::new(
        &mut downstream.stream,
        downstream.read_ahead,
        &worker.buffers,
    );
    let mut left = manager.max_requests_per_connection.map(NonZeroU32::get);
    while begins(&context, &wire).await {
        left = left.map(|left| left - 1);
        let is_last = left == Some(0);
        // Boxed: an idle connection holds none of it.
        if !Box::pin(serve_next(&context, &wire, is_last)).await {
            break;
        }
        wire.release_buffer();
    }
    close(&context, &wire).await;
}

/// Waits for the next request; `false` when the connection ends as it may.
async fn begins(context: &Context<'_>, wire: &Wire<'_>) -> bool {
    if wire.has_read_ahead() {
        return true;
    }
    let idle = idle_limit(context);
    match context
        .worker
        .timers
        .timeout(idle, wire.first_bytes())
        .await
    {
        Some(Ok(None)) => {
            let last = context
                .worker
                .timers
                .timeout(Some(LAST_REQUEST), wire.fill());
            matches!(last.await, Some(Ok(1..)))
        }
        Some(read) => matches!(read, Ok(Some(1..))),
        None => {
            match is_too_old(context) {
                true => context.stats.downstream_cx_max_duration_reached.inc(),
                false => context.stats.downstream_cx_idle_timeout.inc(),
            }
            false
        }
    }
}

/// One request, and its log line; whether the connection can carry another.
async fn serve_next(context: &Context<'_>, wire: &Wire<'_>, is_last: bool) -> bool {
    let meter = Meter::start(&context.manager.access_log);
    let before = wire.passed();
    let mut exchange = Exchange::new(context, Request::unreadable(), &meter);
    let goes_on = read_and_serve(wire, &mut exchange, is_last).await;
    counts::passed_bytes(context.stats, &context.connection.live);
    let (read, written) = wire.passed();
    let passed = (read - before.0, written - before.1);
    meter.downstream_wire.set(Some(passed));
    if !goes_on {
        meter.response_closes();
    }
    goes_on
}

async fn read_and_serve(wire: &Wire<'_>, exchange: &mut Exchange<'_>, is_last: bool) -> bool {
    let stats = exchange.context.stats;
    let begun = next_request(exchange, wire).await;
    stats.downstream_rq_http1_total.inc();
    if begun.is_err() {
        // It belongs to what could not be read.
        wire.with_buffer(BytesMut::clear);
    }
    match begun {
        Ok(begun) => {
            if is_last {
                stats.downstream_cx_max_requests_reached.inc();
            }
            serve_request(wire, exchange, begun, is_last).await
        }
        Err(Unread::Gone) => {
            exchange.begin();
            exchange.client_gone();
            exchange.end();
            false
        }
        Err(Unread::Late) => {
            stats.downstream_rq_header_timeout.inc();
            answer(wire, exchange, LocalReply::header_timeout()).await
        }
        Err(Unread::TooLate) => {
            stats.downstream_rq_timeout.inc();
            answer(wire, exchange, LocalReply::request_timeout()).await
        }
        Err(Unread::LowVersion) => {
            stats.downstream_cx_protocol_error.inc();
            answer(wire, exchange, LocalReply::low_version()).await
        }
        Err(Unread::Malformed(error)) => {
            stats.downstream_cx_protocol_error.inc();
            tracing::debug!(%error, "a request was refused");
            answer(wire, exchange, LocalReply::refused(error)).await
        }
    }
}

/// What the connection goes by of a request whose head is read.
#[derive(Clone, Copy)]
struct Begun {
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
}

/// Why there is no request.
enum Unread {
    Malformed(ParseError),
    /// HTTP/1.0, where that is not taken.
    LowVersion,
    /// The client went away in the middle.
    Gone,
    /// `request_headers_timeout` is over.
    Late,
    /// `request_timeout` is.
    TooLate,
}

impl Unread {
    /// Clients old enough to speak HTTP/1.0 may be so old that they end lines their own way: they
    /// are told of the version, as Envoy does.
    fn refused(manager: &HttpManager, buffer: &[u8], error: ParseError) -> Self {
        let end = memchr::memchr(b'\n', buffer).unwrap_or(0);
        let is_old = buffer[..end].trim_ascii_end().ends_with(b" HTTP/1.0");
        match is_old && error == ParseError::BareLf && !manager.http1.accept_http_10 {
            true => Self::LowVersion,
            false => Self::Malformed(error),
        }
    }
}

/// Reads the head that has begun, which becomes the exchange's request.
async fn next_request(exchange: &mut Exchange<'_>, wire: &Wire<'_>) -> Result<Begun, Unread> {
    let context = exchange.context;
    let manager = context.manager;
    let limits = Limits {
        head: manager.max_request_headers_kb as usize * 1024,
        fields: manager.max_headers_count as usize,
        // Whether the version is taken comes first.
        host_is_optional: true,
        custom_methods: manager.http1.custom_methods,
        keeps_names: manager.http1.header_format.keeps_names(),
        strips_fragment: manager.strips_fragment,
    };
    let read = async {
        let mut progress = Progress::default();
        loop {
            let parsed = wire.with_buffer(|it| parse_request(it, limits, &mut progress));
            let refused = |error| wire.with_buffer(|it| Unread::refused(manager, it, error));
            if let Some(head) = parsed.map_err(refused)? {
                return Ok(head);
            }
            match wire.fill().await {
                Ok(0) | Err(_) => return Err(Unread::Gone),
                Ok(_) => {}
            }
        }
    };
    let (head, whole) = (manager.timeouts.request_headers, manager.timeouts.request);
    let limit = head.into_iter().chain(whole).min();
    let read = context.worker.timers.timeout(limit, read).await;
    let head = read.unwrap_or(Err(match limit == head {
        true => Unread::Late,
        false => Unread::TooLate,
    }))?;
    exchange.meter.request_head_is_read(&head.fields);
    if head.version == Version::Http10 && !manager.http1.accept_http_10 {
        return Err(Unread::LowVersion);
    }
    exchange.request = Request::from_http1(&head, &manager.http1);
    Ok(Begun {
        framing: head.framing,
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
    })
}

/// How long the connection may wait for a request: not beyond its own time.
fn idle_limit(context: &Context<'_>) -> Option<Duration> {
    let timeouts = &context.manager.timeouts;
    let left = timeouts
        .max_connection_duration
        .map(|limit| limit.saturating_sub(context.connection.accepted.elapsed()));
    timeouts.idle.into_iter().chain(left).min()
}

/// Whether the connection has had its time (`max_connection_duration`).
fn is_too_old(context: &Context<'_>) -> bool {
    let limit = context.manager.timeouts.max_connection_duration;
    limit.is_some_and(|limit| context.connection.accepted.elapsed() >= limit)
}

/// Whether the connection can carry another request.
async fn serve_request(
    wire: &Wire<'_>,
    exchange: &mut Exchange<'_>,
    begun: Begun,
    is_last: bool,
) -> bool {
    let manager = exchange.context.manager;
    if exchange.request.authority.is_empty() {
        exchange.context.stats.downstream_cx_protocol_error.inc();
        return answer(wire, exchange, LocalReply::refused(ParseError::NoHost)).await;
    }
    let request = &exchange.request;
    let mut client = Client::Wire {
        wire,
        protocol: request.protocol,
        // After a request for another protocol, or a tunnel, nobody knows what follows.
        keep_alive: begun.keep_alive
            && request.upgrade.is_none()
            && !request.is_connect()
            && !is_last
            && !is_too_old(exchange.context),
        head_request: request.is_head(),
        trailers: manager.http1.enable_trailers,
        watched: request.body == BodyLength::Empty && !request.is_connect(),
        closes: false,
        unsent: Bytes::new(),
        format: manager.http1.header_format,
    };
    if begun.expect_continue
        && request.body != BodyLength::Empty
        && !manager.proxy_100_continue
        && client
            .interim(100, super::headers::Headers::default())
            .await
            .is_err()
    {
        exchange.begin();
        exchange.client_gone();
        exchange.end();
        return false;
    }
    let mut source = match request.upgrade.is_some() {
        // What follows belongs to the protocol that is changed to.
        true => Source::Empty,
        false => Source::wire(wire, begun.framing, manager.http1.enable_trailers),
    };
    exchange.serve(&mut source, &mut client).await;
    if wire.is_draining() {
        exchange.context.stats.downstream_cx_drain_close.inc();
    }
    let whole = matches!(source, Source::Empty) || source.is_ended();
    matches!(
        client,
        Client::Wire {
            keep_alive: true,
            ..
        }
    ) && whole
        && exchange.outcome.status != 0
}

/// A last word to a request that cannot be served: the connection ends with it.
async fn answer(wire: &Wire<'_>, exchange: &mut Exchange<'_>, reply: LocalReply) -> bool {
    let mut client = Client::Wire {
        wire,
        protocol: exchange.request.protocol,
        keep_alive: false,
        head_request: false,
        trailers: false,
        watched: false,
        closes: false,
        unsent: Bytes::new(),
        format: exchange.context.manager.http1.header_format,
    };
    exchange.begin();
    exchange.reply_in_time(reply, &mut client, true).await;
    exchange.response_came_first();
    exchange.end();
    false
}

/// Ends our direction, then listens to a client that still sends for a while
/// (`delayed_close_timeout`): a reset would take the answer away from it.
async fn close(context: &Context<'_>, wire: &Wire<'_>) {
    if wire.is_reset() {
        return;
    }
    let linger = context.manager.timeouts.delayed_close;
    let timers = &context.worker.timers;
    let ended = timers
        .timeout(linger.or(Some(SHUTDOWN)), wire.shutdown())
        .await;
    if !matches!(ended, Some(Ok(()))) || linger.is_none() {
        return;
    }
    let drain = async {
        let mut read = 0;
        while read < LINGER_BYTES {
            match wire.fill().await {
                Ok(0) | Err(_) => return,
                Ok(n) => read += n,
            }
            wire.with_buffer(BytesMut::clear);
        }
    };
    if timers.timeout(linger, drain).await.is_none() {
        context.stats.downstream_cx_delayed_close_timeout.inc();
    }
}
