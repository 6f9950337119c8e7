//! An accepted connection after its filter chain is found and its handshake is done.

use std::{cell::OnceCell, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use ithildin_tls::Peer;

use crate::{
    access_log,
    config::{FilterChain, Listener},
    io::{Live, Stream},
    tls_session::TlsSession,
    upstream::DownstreamEnd,
};

/// What HTTP and TCP take over. When [`Live`](crate::io::Live) says close, the stream fails at
/// once and whoever serves it is dropped shortly after.
#[derive(Debug)]
pub struct Downstream {
    pub connection: Rc<Connection>,
    pub stream: Stream,
    /// Bytes that were read while the connection was inspected; they come before the stream's.
    pub read_ahead: BytesMut,
}

/// What is known of an accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// Unique in the process.
    pub id: u64,
    pub accepted: Instant,
    /// Where the client connected to: the original destination where there is one.
    pub local: SocketAddr,
    /// Whether `local` is an original destination, and not only our own address.
    pub restored: bool,
    /// The client's address, as far as a proxy before us tells of it.
    pub remote: SocketAddr,
    /// Boxed, since most connections have none.
    pub findings: Option<Box<Findings>>,
    /// Lower-case SNI of the ClientHello.
    pub server_name: Option<Box<str>>,
    pub listener: Arc<Listener>,
    pub chain: Arc<FilterChain>,
    pub tls: Option<TlsSession>,
    /// Tells why the connection was closed from outside, if it was.
    pub live: Rc<Live>,
    /// Its `x-forwarded-client-cert`, once a request has needed it.
    pub xfcc: OnceCell<Box<Bytes>>,
}

/// What listener filters say of a connection besides its ends.
#[derive(Debug)]
pub struct Findings {
    /// Who connected to us.
    pub direct_remote: SocketAddr,
    /// Upstream connections are to come from the client's address, with this SO_MARK.
    pub source_mark: Option<u32>,
}

impl Connection {
    /// Who connected to us: the client, or a proxy that told of it.
    pub fn direct_remote(&self) -> SocketAddr {
        let findings = self.findings.as_ref();
        findings.map_or(self.remote, |it| it.direct_remote)
    }

    /// Where the client meant to go before the kernel redirected it; `None` if nobody asked.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        self.restored.then_some(self.local)
    }

    /// What upstream connections show of it.
    pub fn end(&self) -> DownstreamEnd<'_> {
        DownstreamEnd {
            live: &self.live,
            remote: self.remote,
            local: self.local,
            source_mark: self.findings.as_ref().and_then(|it| it.source_mark),
        }
    }

    /// The verified peer, if there is one.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.tls.as_ref().and_then(|tls| tls.peer.as_ref())
    }

    /// The negotiated protocol, if there is one.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref().and_then(|tls| tls.alpn.as_deref())
    }

    /// The downstream side of an access log line.
    pub fn log_info(&self) -> access_log::Downstream<'_> {
        access_log::Downstream {
            direct_remote: Some(self.direct_remote()),
            remote: Some(self.remote),
            local: Some(self.local),
            server_name: self.server_name.as_deref(),
            connection_id: self.id,
            tls: self.tls.as_ref(),
            transport_failure: None,
        }
    }
}
