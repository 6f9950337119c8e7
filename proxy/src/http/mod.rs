//! The HTTP connection manager: HTTP/1 and HTTP/2 downstream, one path for the requests of both.
//!
//! A request: [`http1`] or [`http2`] reads its head, [`exchange`] takes it from there.

mod ask;
mod attempts;
mod authorization;
mod body;
mod call;
mod client;
pub(crate) mod collector;
mod counts;
mod exchange;
mod failure;
mod filters;
mod grpc;
mod hash;
mod head_bytes;
mod headers;
mod http1;
mod http2;
mod jwks;
mod log;
mod matching;
mod messages;
mod meter;
mod mirror;
mod mutate;
mod names;
mod over_http1;
mod over_http2;
mod over_tcp;
mod path;
mod prepare;
mod query;
mod race;
mod redirect;
mod relay;
mod request;
mod response;
mod retry;
mod routing;
mod tape;
pub(crate) mod telemetry;
mod timeouts;
pub(crate) mod trace;
mod tunnel;
mod wire;
mod xfcc;

#[cfg(test)]
mod tests;

pub(crate) use grpc::{GrpcError, Method as GrpcMethod, unary};
pub(crate) use jwks::follow_keys;
pub(crate) use xfcc::encoded_pem as url_encoded_pem;

use std::rc::Rc;

use self::counts::ActiveConnection;
use crate::{
    config::{HttpManager, http::Codec},
    tcp::peer_exchange::greet_client,
    worker::{Downstream, Worker},
};

/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection to its end.
///
/// Futures that are large and short-lived, or one of several, are boxed from here on: an idle
/// connection holds none of what its next request will need.
pub async fn serve(worker: &Rc<Worker>, manager: &HttpManager, mut downstream: Downstream) {
    let stats = manager.stats.worker(worker.index);
    let active = ActiveConnection::new(stats, &downstream.connection);
    let limit = manager.timeouts.request_headers.or(manager.timeouts.idle);
    if downstream.connection.chain.peer_exchange.is_some() {
        let greeted = Box::pin(greet_client(&mut downstream));
        if !matches!(worker.timers.timeout(limit, greeted).await, Some(Ok(()))) {
            return;
        }
    }
    let codec = match (manager.codec, downstream.connection.alpn()) {
        (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => Some(Codec::Http2),
        (Codec::Http1, _) => Some(Codec::Http1),
        (Codec::Auto, _) => {
            let sniffed = worker.timers.timeout(limit, sniff(&mut downstream)).await;
            sniffed.and_then(Result::ok)
        }
    };
    match codec {
        Some(Codec::Http2) => {
            active.speaks(Codec::Http2);
            Box::pin(http2::serve(worker, manager, downstream)).await;
        }
        Some(_) => {
            active.speaks(Codec::Http1);
            Box::pin(http1::serve(worker, manager, downstream)).await;
        }
        None => {}
    }
}

/// Reads until it is clear whether the client speaks HTTP/2.
async fn sniff(downstream: &mut Downstream) -> std::io::Result<Codec> {
    loop {
        let read = &downstream.read_ahead;
        let length = read.len().min(PREFACE.len());
        if read[..length] != PREFACE[..length] {
            return Ok(Codec::Http1);
        }
        if length == PREFACE.len() {
            return Ok(Codec::Http2);
        }
        downstream.stream.readable().await?;
        downstream.read_ahead.reserve(PREFACE.len());
        if downstream.stream.read(&mut downstream.read_ahead).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
