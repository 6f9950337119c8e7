//! TLS of an accepted connection: handshake, its failure on record, and its place in the registry.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use ithildin_tls::{
    ClientHello, HandshakeError, Inspected, PendingTls, ServerContext, TlsStream, inspect_from,
    verify::Role,
};

use super::inspect::Arrival;
use crate::{
    config::{FilterChain, Listener},
    io::{Authority, Registration, Socket, Stream, Trust, tls_stats},
    worker::Worker,
};

/// Limit of a TLS handshake where the filter chain sets none; Istio's value.
const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The first byte of a record of a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// TLS, if the chain has it; from its end on the connection lives only as long as its peer is
/// trusted. The error is the text of `DOWNSTREAM_TRANSPORT_FAILURE_REASON`.
pub(super) async fn secure(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    arrival: Arrival,
    registration: Registration,
) -> Result<(Stream, BytesMut), String> {
    let Some(context) = &chain.tls else {
        let stream = Stream::plain(arrival.socket, registration);
        return Ok((stream, arrival.read));
    };
    let remote = arrival.remote;
    let params = context.params();
    let validation = params.validation.as_ref();
    let stats = listener.stats.worker(worker.index);
    let limit = chain.handshake_timeout.unwrap_or(DEFAULT_HANDSHAKE_TIMEOUT);
    let handshake = Box::pin(handshake(context, arrival));
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
            identity: stream.identity_slot().cloned(),
        },
        peer: stream.peer().cloned(),
        role: Role::Client,
        epochs: stream.epochs(),
    });
    Ok((Stream::tls(stream, registration), BytesMut::new()))
}

async fn handshake(
    context: &ServerContext,
    arrival: Arrival,
) -> Result<TlsStream<Socket>, HandshakeError> {
    let Arrival {
        socket,
        read,
        hello,
        ..
    } = arrival;
    if let Some(hello) = hello {
        return PendingTls::new(socket, read, hello).accept(context).await;
    }
    // Nobody has looked yet, or not for TLS.
    match inspect_from(socket, read).await? {
        Inspected::Tls(pending) => pending.accept(context).await,
        Inspected::Plain(_, read) if read.is_empty() => {
            let kind = std::io::ErrorKind::UnexpectedEof;
            Err(std::io::Error::new(kind, "the client left without a word").into())
        }
        // A broken ClientHello has its alert coming.
        Inspected::Plain(socket, read) if read.first() == Some(&TLS_HANDSHAKE) => {
            let pending = PendingTls::new(socket, read, ClientHello::default());
            pending.accept(context).await
        }
        Inspected::Plain(..) => Err(HandshakeError::Protocol("not a tls client".into())),
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
