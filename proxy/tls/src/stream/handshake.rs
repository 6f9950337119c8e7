//! Handshakes, both sides.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use rustls::{Connection, HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    HandshakeError, PendingTls, TlsStream,
    session::{FillError, Session},
};
use crate::{
    ClientContext, Peer, Refusal, ServerContext, Slot, Validation,
    context::{Epochs, OpaqueName, Shown},
    judge::{Judge, Verdict, take_verdict},
    verify::Role,
};

/// Answers a ClientHello.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    pending: PendingTls<S>,
    context: &ServerContext,
) -> Result<TlsStream<S>, HandshakeError> {
    let PendingTls { io, raw, hello } = pending;
    let state = context.state()?;
    let (config, choice) = state.config_for(hello.alpn());
    let connection = ServerConnection::new(config)?;
    let mut driver = Driver::new(io, connection.into());
    driver.take(&raw).await?;
    drop(raw);
    driver.run().await?;
    let peer = driver.peer(state.judge.as_deref(), None)?;
    let (shown, epochs) = state.shown(choice.as_deref());
    let stream = driver.finish(peer, shown, epochs);
    still_welcome(stream, context.validation(), Role::Client)
}

/// Opens a connection.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    context: &ClientContext,
    io: S,
    server_name: Option<&str>,
    alpn: Option<&[&[u8]]>,
) -> Result<TlsStream<S>, HandshakeError> {
    let state = context.state()?;
    let (connection, opaque_name) = context.connection(&state, server_name, alpn)?;
    let mut driver = Driver::new(io, connection.into());
    driver.opaque_name = opaque_name;
    driver.run().await?;
    let peer = driver.peer(Some(&state.judge), server_name)?;
    let stream = driver.finish(peer, state.shown.clone(), state.epochs);
    still_welcome(stream, Some(&context.params().validation), Role::Server)
}

/// Judges the peer again if trust changed while the handshake went on.
fn still_welcome<S: AsyncRead + AsyncWrite + Unpin>(
    stream: TlsStream<S>,
    slot: Option<&Arc<Slot<Validation>>>,
    role: Role,
) -> Result<TlsStream<S>, HandshakeError> {
    let (Some(slot), Some(peer)) = (slot, stream.peer()) else {
        return Ok(stream);
    };
    let (_, epoch) = stream.epochs();
    if slot.epoch() != epoch {
        let validation = slot.load().ok_or_else(Refusal::no_trust)?;
        validation.reverify(peer, role, SystemTime::now())?;
    }
    Ok(stream)
}

/// A handshake on its way.
struct Driver<S> {
    io: S,
    session: Session,
    verdict: Option<Verdict>,
    /// The name to put into our ClientHello.
    opaque_name: Option<Arc<OpaqueName>>,
    /// What is to be sent after that.
    outgoing: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn new(io: S, connection: Connection) -> Self {
        Self {
            io,
            session: Session::new(connection),
            verdict: None,
            opaque_name: None,
            outgoing: Vec::new(),
        }
    }

    /// Takes bytes that were read before.
    async fn take(&mut self, ciphertext: &[u8]) -> Result<(), HandshakeError> {
        take_verdict();
        let fed = self.session.feed(ciphertext, &mut ReadBuf::new(&mut []));
        self.verdict = take_verdict();
        match fed {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(error).await),
        }
    }

    async fn run(&mut self) -> Result<(), HandshakeError> {
        loop {
            if !self.only_tickets_wait() {
                poll_fn(|cx| self.poll_flush(cx)).await?;
            }
            if !self.session.connection.is_handshaking() {
                return Ok(());
            }
            match poll_fn(|cx| self.poll_fill(cx)).await {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) => {}
                Err(error) => return Err(self.fail(error).await),
            }
        }
    }

    /// A TLS 1.3 server that is done has nothing to send but its tickets. They go out with the
    /// first response, which saves a system call.
    fn only_tickets_wait(&self) -> bool {
        let connection = &*self.session.connection;
        matches!(connection, Connection::Server(_))
            && !connection.is_handshaking()
            && connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(name) = &self.opaque_name {
            while self.session.connection.wants_write() {
                let start = self.outgoing.len();
                self.session.connection.write_tls(&mut self.outgoing)?;
                name.put_into(&mut self.outgoing[start..]);
            }
            while !self.outgoing.is_empty() {
                let written = Pin::new(&mut self.io).poll_write(cx, &self.outgoing);
                match ready!(written)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => drop(self.outgoing.drain(..written)),
                }
            }
        }
        ready!(self.session.poll_flush(&mut self.io, cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, FillError>> {
        take_verdict();
        let nowhere = &mut ReadBuf::new(&mut []);
        let filled = self.session.poll_fill(&mut self.io, cx, nowhere);
        if let Some(verdict) = take_verdict() {
            self.verdict = Some(verdict);
        }
        filled
    }

    /// Tells the peer why, and the caller.
    async fn fail(&mut self, error: FillError) -> HandshakeError {
        let error = match error {
            FillError::Io(error) => return error.into(),
            FillError::Tls(error) => error,
        };
        // The peer may be gone; what matters is the first error.
        let _ = poll_fn(|cx| self.poll_flush(cx)).await;
        match self.verdict.take() {
            Some(Err(refusal)) => refusal.into(),
            _ => error.into(),
        }
    }

    /// The peer that was verified; one that resumed a session is judged anew.
    fn peer(
        &mut self,
        judge: Option<&Judge>,
        server_name: Option<&str>,
    ) -> Result<Option<Arc<Peer>>, HandshakeError> {
        let Some(judge) = judge else {
            return Ok(None);
        };
        if let Some(verdict) = self.verdict.take() {
            return Ok(Some(verdict?));
        }
        let connection = &self.session.connection;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        match connection.peer_certificates() {
            Some([leaf, intermediates @ ..]) if resumed => {
                let now = SystemTime::now();
                Ok(Some(judge.judge(leaf, intermediates, server_name, now)?))
            }
            None | Some([]) if !judge.certificate_is_mandatory() => Ok(None),
            _ => Err(Refusal::no_certificate().into()),
        }
    }

    fn finish(self, peer: Option<Arc<Peer>>, shown: Option<Shown>, epochs: Epochs) -> TlsStream<S> {
        TlsStream::new(self.io, self.session, peer, shown, epochs)
    }
}
