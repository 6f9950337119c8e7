//! TLS of an accepted connection: handshake, its failure on record, and its place in the registry.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use ithildin_tls::{HandshakeError, Inspected, ServerContext, TlsStream, inspect, verify::Role};

use super::inspect::Opening;
use crate::{
    config::{FilterChain, Listener},
    io::{Authority, Registration, Socket, Stream, Trust, tls_stats},
    worker::Worker,
};

/// Limit of a TLS handshake where the filter chain sets none; Istio's value.
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// TLS, if the chain has it; from its end on the connection lives only as long as its peer is
/// trusted. The error is the text of `DOWNSTREAM_TRANSPORT_FAILURE_REASON`.
pub(super) async fn secure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    remote: SocketAddr,
    opening: Opening,
    registration: Registration,
) -> Result<(Stream, BytesMut), String> {
    let Some(context) = &chain.tls else {
        let (socket, read_ahead) = match opening {
            Opening::Tls(pending) => pending.into_raw(),
            Opening::Plain(socket, read) => (socket, read),
        };
        return Ok((Stream::plain(socket, registration), read_ahead));
    };
    let params = context.params();
    let validation = params.validation.as_ref();
    let stats = listener.stats.worker(worker.index);
    let limit = chain.handshake_timeout.unwrap_or(DEFAULT_HANDSHAKE_TIMEOUT);
    let handshake = Box::pin(handshake(context, listener, opening));
    let stream = match worker.timers.timeout(Some(limit), handshake).await {
        Some(Ok(stream)) => stream,
        // Port probes are no failures of TLS.
        Some(Err(HandshakeError::Io(error))) => {
            tracing::debug!(listener = %listener.name, %remote, %error, "handshake broke off");
            return Err(format!("TLS_error: {error}"));
        }
        Some(Err(error)) => {
            tls_stats::count_failure(&stats.ssl, &error);
            log_failure(worker, listener, chain, remote, &error);
            return Err(format!("TLS_error: {error}"));
        }
        None => {
            stats.downstream_cx_transport_socket_connect_timeout.inc();
            return Err("transport socket timeout".into());
        }
    };
    tls_stats::count_handshake(&stats.ssl, &stream);
    registration.authorise(Authority {
        trust: Trust {
            validation: validation.cloned(),
            identity: Some(Arc::clone(&params.identity)),
        },
        peer: stream.peer().cloned(),
        role: Role::Client,
        epochs: stream.epochs(),
    });
    Ok((Stream::tls(stream, registration), BytesMut::new()))
}

async fn handshake(
    context: &ServerContext,
    listener: &Listener,
    opening: Opening,
) -> Result<TlsStream<Socket>, HandshakeError> {
    let opening = match opening {
        // Nobody has looked yet.
        Opening::Plain(socket, _) if !listener.inspect_tls => match inspect(socket).await? {
            Inspected::Tls(pending) => Opening::Tls(pending),
            Inspected::Plain(socket, read) => Opening::Plain(socket, read),
        },
        looked => looked,
    };
    match opening {
        Opening::Tls(pending) => pending.accept(context).await,
        Opening::Plain(_, read) if read.is_empty() => {
            let kind = std::io::ErrorKind::UnexpectedEof;
            Err(std::io::Error::new(kind, "the client left without a word").into())
        }
        Opening::Plain(..) => Err(HandshakeError::Protocol("not a tls client".into())),
    }
}

/// One line for each refused client, with what refused it.
fn log_failure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    remote: SocketAddr,
    error: &HandshakeError,
) {
    let Some(suppressed) = worker.log.admit() else {
        return;
    };
    let refusal = match error {
        HandshakeError::Refused(refusal) => Some(refusal),
        _ => None,
    };
    tracing::warn!(
        listener = %listener.name,
        chain = %chain.name,
        %remote,
        peer = refusal.and_then(|it| it.peer.as_deref()),
        bundle = refusal.and_then(|it| it.bundle.as_ref()).map(tracing::field::display),
        rule = refusal.map(|refusal| refusal.rule),
        suppressed,
        "downstream tls handshake failed: {error}",
    );
}
