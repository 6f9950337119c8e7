//! Server and client contexts: one per target, compiled once, rotating in place.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{HandshakeError, Identity, MaterialError, Slot, TlsStream, Validation};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Whether a server asks for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// Verified if presented.
    Optional,
    Required,
}

#[derive(Clone, Debug)]
pub struct ServerParams {
    /// For log lines and `/certs`: listener and chain, or cluster.
    pub name: Arc<str>,
    /// In our order of preference. A client that offers none of them gets none, as from Envoy.
    pub alpn: Vec<Vec<u8>>,
    pub versions: (TlsVersion, TlsVersion),
    /// OpenSSL names; unknown ones are dropped, and it is an error if none remains. Empty: all of ours.
    pub cipher_suites: Vec<String>,
    /// Group names as BoringSSL writes them. Empty: all of ours.
    pub curves: Vec<String>,
    pub client_auth: ClientAuth,
    pub identity: Arc<Slot<Identity>>,
    /// `None` only with [`ClientAuth::None`].
    pub validation: Option<Arc<Slot<Validation>>>,
}

#[derive(Clone, Debug)]
pub struct ClientParams {
    pub name: Arc<str>,
    /// Offered by default; a request may override it.
    pub alpn: Vec<Vec<u8>>,
    pub versions: (TlsVersion, TlsVersion),
    pub cipher_suites: Vec<String>,
    pub curves: Vec<String>,
    /// `None`: we present no certificate. A slot that is empty fails the handshake.
    pub identity: Option<Arc<Slot<Identity>>>,
    pub validation: Arc<Slot<Validation>>,
}

#[derive(Debug)]
pub struct ServerContext {
    params: ServerParams,
}

impl ServerContext {
    pub fn new(params: ServerParams) -> Result<Self, MaterialError> {
        Ok(Self { params })
    }

    pub fn params(&self) -> &ServerParams {
        &self.params
    }

    /// Whether handshakes can succeed: identity and trust are there.
    pub fn is_ready(&self) -> bool {
        todo!()
    }
}

#[derive(Debug)]
pub struct ClientContext {
    params: ClientParams,
}

impl ClientContext {
    pub fn new(params: ClientParams) -> Result<Self, MaterialError> {
        Ok(Self { params })
    }

    pub fn params(&self) -> &ClientParams {
        &self.params
    }

    pub fn is_ready(&self) -> bool {
        todo!()
    }

    /// Epochs of identity and validation: part of every pool key.
    pub fn epochs(&self) -> (u64, u64) {
        todo!()
    }

    /// Connects TLS over `io`. `alpn` overrides the offered protocols.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        _io: S,
        _server_name: Option<&str>,
        _alpn: Option<&[&[u8]]>,
    ) -> Result<TlsStream<S>, HandshakeError> {
        todo!()
    }
}
