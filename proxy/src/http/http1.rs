//! The HTTP/1 server side: one request after the other on a connection.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ithildin_http1::{Limits, ParseError, RequestHead, encode, parse_request};

use super::{
    body::Source,
    client::Client,
    exchange::{Context, Exchange, Outcome},
    request::{BodyLength, Request},
    wire::Wire,
};
use crate::{
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
    loop {
        let head = match next_head(&context, &wire).await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(error) => {
                stats.downstream_cx_protocol_error.inc();
                refuse(&wire, error).await;
                break;
            }
        };
        stats.downstream_rq_http1_total.inc();
        if !Box::pin(serve_request(&context, &wire, head)).await {
            break;
        }
        wire.release_buffer();
    }
    close(worker, &wire).await;
}

/// The next request head; `None` when the connection ends as it may.
async fn next_head(
    context: &Context<'_>,
    wire: &Wire<'_>,
) -> Result<Option<RequestHead>, ParseError> {
    let manager = context.manager;
    let timers = &context.worker.timers;
    if !wire.has_read_ahead() {
        let idle = manager.timeouts.idle;
        match timers.timeout(idle, wire.readable_or_draining()).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Ok(None),
            None => {
                context.stats.downstream_cx_idle_timeout.inc();
                return Ok(None);
            }
        }
        if wire.is_draining() && !wire.has_read_ahead() {
            return Ok(None);
        }
    }
    let limits = Limits {
        head: manager.max_request_headers_kb as usize * 1024,
        fields: manager.max_headers_count as usize,
    };
    let read = async {
        loop {
            let parsed = wire.with_buffer(|buffer| parse_request(buffer, limits))?;
            if parsed.is_some() {
                return Ok(parsed);
            }
            match wire.fill().await {
                Ok(0) | Err(_) if wire.has_read_ahead() => return Err(ParseError::Truncated),
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    };
    match timers.timeout(manager.timeouts.request_headers, read).await {
        Some(head) => head,
        None => {
            context.stats.downstream_rq_header_timeout.inc();
            answer(wire, 408, b"request header timeout").await;
            Ok(None)
        }
    }
}

/// Whether the connection can carry another request.
async fn serve_request(context: &Context<'_>, wire: &Wire<'_>, head: RequestHead) -> bool {
    if head.version == ithildin_http1::Version::Http10 && !context.manager.http1.accept_http_10 {
        answer(wire, 426, b"").await;
        return false;
    }
    let request = Request::from_http1(&head);
    let mut client = Client::Wire {
        wire,
        protocol: request.protocol,
        keep_alive: head.keep_alive && !wire.is_draining(),
        head_request: request.is_head(),
        trailers: context.manager.http1.enable_trailers && Exchange::wants_trailers(&request),
    };
    if head.expect_continue
        && request.body != BodyLength::Empty
        && !context.manager.proxy_100_continue
        && client
            .interim(100, super::headers::Headers::default())
            .await
            .is_err()
    {
        return false;
    }
    let mut source = match request.upgrade.is_some() {
        // What follows belongs to the protocol that is changed to.
        true => Source::Empty,
        false => Source::wire(wire, head.framing),
    };
    let mut exchange = Exchange {
        context,
        request,
        started: Instant::now(),
        bytes_in: Cell::new(0),
        bytes_out: Cell::new(0),
        outcome: Outcome::default(),
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

async fn refuse(wire: &Wire<'_>, error: ParseError) {
    if error != ParseError::Truncated {
        tracing::debug!(%error, "a request was refused");
        answer(wire, error.status(), b"").await;
    }
}

/// A last word, without a request to answer.
async fn answer(wire: &Wire<'_>, status: u16, body: &'static [u8]) {
    let mut head = BytesMut::with_capacity(128);
    encode::status_line(&mut head, status, b"");
    encode::field(
        &mut head,
        b"content-length",
        body.len().to_string().as_bytes(),
    );
    encode::field(&mut head, b"connection", b"close");
    encode::end_of_head(&mut head);
    // The connection ends in any case.
    let _ = wire
        .write(&mut [head.freeze(), Bytes::from_static(body)])
        .await;
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
