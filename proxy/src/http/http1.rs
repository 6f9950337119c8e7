//! The HTTP/1 server side: one request after the other on a connection.

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use ithildin_http1::{Limits, ParseError, RequestHead, encode, parse_request};

use super::{
    body::{Part, Source},
    client::Client,
    exchange::{Context, Exchange},
    meter::Meter,
    request::{BodyLength, Request},
    wire::Wire,
};
use crate::{
    access_log::ResponseFlags,
    config::HttpManager,
    worker::{Downstream, Worker},
};

/// How long a client that is still sending is listened to after its connection is done with: a
/// reset would take the answer away from it.
const LINGER: Duration = Duration::from_secs(1);
/// The most that is read and thrown away meanwhile, in bytes.
const LINGER_BYTES: usize = 1024 * 1024;

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
    while begins(&context, &wire).await {
        // Boxed: an idle connection holds none of it.
        if !Box::pin(serve_next(&context, &wire)).await {
            break;
        }
        wire.release_buffer();
    }
    close(worker, &wire).await;
}

/// Waits for the next request; `false` when the connection ends as it may.
async fn begins(context: &Context<'_>, wire: &Wire<'_>) -> bool {
    if wire.has_read_ahead() {
        return true;
    }
    let idle = context.manager.timeouts.idle;
    match context
        .worker
        .timers
        .timeout(idle, wire.first_bytes())
        .await
    {
        Some(read) => matches!(read, Ok(Some(1..))),
        None => {
            context.stats.downstream_cx_idle_timeout.inc();
            false
        }
    }
}

/// One request, and its log line; whether the connection can carry another.
async fn serve_next(context: &Context<'_>, wire: &Wire<'_>) -> bool {
    let meter = Meter::start(&context.manager.access_log);
    let before = wire.passed();
    let mut exchange = Exchange::new(context, Request::unreadable(), &meter);
    let goes_on = read_and_serve(wire, &mut exchange).await;
    let (read, written) = wire.passed();
    let passed = (read - before.0, written - before.1);
    meter.downstream_wire.set(Some(passed));
    goes_on
}

async fn read_and_serve(wire: &Wire<'_>, exchange: &mut Exchange<'_>) -> bool {
    let stats = exchange.context.stats;
    let head = next_head(exchange.context, wire).await;
    if head.is_err() {
        // It belongs to what could not be read.
        wire.with_buffer(BytesMut::clear);
    }
    match head {
        Ok(head) => {
            stats.downstream_rq_http1_total.inc();
            serve_request(wire, exchange, head).await
        }
        Err(Unread::Gone) => {
            exchange.client_gone();
            false
        }
        Err(Unread::Late) => {
            stats.downstream_rq_header_timeout.inc();
            let body = b"request header timeout";
            let flags = ResponseFlags::NONE;
            answer(wire, exchange, 408, body, (flags, "request_header_timeout")).await;
            false
        }
        Err(Unread::Malformed(error)) => {
            stats.downstream_cx_protocol_error.inc();
            tracing::debug!(%error, "a request was refused");
            let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
            answer(
                wire,
                exchange,
                error.status(),
                b"",
                (flags, error.details()),
            )
            .await;
            false
        }
    }
}

/// Why there is no request head.
enum Unread {
    Malformed(ParseError),
    /// The client went away in the middle.
    Gone,
    /// `request_headers_timeout` is over.
    Late,
}

/// The request head that has begun.
async fn next_head(context: &Context<'_>, wire: &Wire<'_>) -> Result<RequestHead, Unread> {
    let manager = context.manager;
    let limits = Limits {
        head: manager.max_request_headers_kb as usize * 1024,
        fields: manager.max_headers_count as usize,
    };
    let read = async {
        loop {
            let parsed = wire.with_buffer(|buffer| parse_request(buffer, limits));
            if let Some(head) = parsed.map_err(Unread::Malformed)? {
                return Ok(head);
            }
            match wire.fill().await {
                Ok(0) | Err(_) => return Err(Unread::Gone),
                Ok(_) => {}
            }
        }
    };
    let limit = manager.timeouts.request_headers;
    let head = context.worker.timers.timeout(limit, read).await;
    head.unwrap_or(Err(Unread::Late))
}

/// Whether the connection can carry another request.
async fn serve_request(wire: &Wire<'_>, exchange: &mut Exchange<'_>, head: RequestHead) -> bool {
    let manager = exchange.context.manager;
    if head.version == ithildin_http1::Version::Http10 && !manager.http1.accept_http_10 {
        let flags = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        answer(wire, exchange, 426, b"", (flags, "low_version")).await;
        return false;
    }
    exchange.request = Request::from_http1(&head);
    let request = &exchange.request;
    let mut client = Client::Wire {
        wire,
        protocol: request.protocol,
        keep_alive: head.keep_alive && !wire.is_draining(),
        head_request: request.is_head(),
        trailers: manager.http1.enable_trailers && Exchange::wants_trailers(request),
    };
    if head.expect_continue
        && request.body != BodyLength::Empty
        && !manager.proxy_100_continue
        && client
            .interim(100, super::headers::Headers::default())
            .await
            .is_err()
    {
        exchange.client_gone();
        return false;
    }
    let mut source = match request.upgrade.is_some() {
        // What follows belongs to the protocol that is changed to.
        true => Source::Empty,
        false => Source::wire(wire, head.framing),
    };
    exchange.serve(&mut source, &mut client).await;
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

/// A last word to a request that cannot be served, with flags and details for its log line.
async fn answer(
    wire: &Wire<'_>,
    exchange: &mut Exchange<'_>,
    status: u16,
    body: &'static [u8],
    (flags, details): (ResponseFlags, &'static str),
) {
    exchange.outcome.status = status;
    exchange.outcome.flags |= flags;
    exchange.outcome.details = details.into();
    let mut head = BytesMut::with_capacity(128);
    encode::status_line(&mut head, status, b"");
    encode::field(
        &mut head,
        b"content-length",
        body.len().to_string().as_bytes(),
    );
    encode::field(&mut head, b"connection", b"close");
    encode::end_of_head(&mut head);
    let body = Bytes::from_static(body);
    exchange.meter.response_part(&Part::Data(body.clone()));
    // The connection ends in any case.
    let _ = wire.write(&mut [head.freeze(), body]).await;
}

/// Ends our direction, then waits for the client to end its own.
async fn close(worker: &Worker, wire: &Wire<'_>) {
    if wire.shutdown().await.is_err() {
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
    let _ = worker.timers.timeout(Some(LINGER), drain).await;
}
