//! What a cluster presents to its endpoints and demands of them.

use std::{net::Ipv4Addr, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, SupportedProtocolVersion, WantsVerifier,
    client::Resumption, crypto::CryptoProvider, pki_types::ServerName, sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ClientAuth, Epochs, TlsVersion};
use crate::{
    HandshakeError, Identity, MaterialError, Slot, TlsStream, Validation, judge::Judge, provider,
    stream::handshake, verify::Role,
};

#[derive(Clone, Debug)]
pub struct ClientParams {
    /// For log lines and `/certs`: the cluster.
    pub name: Arc<str>,
    /// Offered by default; a request may override it.
    pub alpn: Vec<Vec<u8>>,
    pub versions: (TlsVersion, TlsVersion),
    /// As in [`crate::ServerParams`].
    pub cipher_suites: Vec<String>,
    pub curves: Vec<String>,
    /// `None`: we present no certificate. A slot that is empty fails the handshake.
    pub identity: Option<Arc<Slot<Identity>>>,
    pub validation: Arc<Slot<Validation>>,
}

#[derive(Debug)]
pub struct ClientContext {
    params: ClientParams,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    state: ArcSwapOption<ClientState>,
}

/// What the slots held at `epochs`, made ready for handshakes.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) epochs: Epochs,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) judge: Arc<Judge>,
    config: Arc<ClientConfig>,
}

/// Sessions kept for resumption, over all server names of a cluster.
const SESSIONS: usize = 64;

impl ClientContext {
    /// # Errors
    /// When the parameters contradict each other or name nothing that we support.
    pub fn new(params: ClientParams) -> Result<Self, MaterialError> {
        let context = Self {
            provider: provider::provider(&params.cipher_suites, &params.curves)?,
            versions: provider::versions(params.versions)?,
            params,
            state: ArcSwapOption::empty(),
        };
        context.builder()?;
        Ok(context)
    }

    pub fn params(&self) -> &ClientParams {
        &self.params
    }

    /// Whether handshakes can succeed: identity and trust are there.
    pub fn is_ready(&self) -> bool {
        let identity = self.params.identity.as_ref();
        identity.is_none_or(|slot| slot.is_filled()) && self.params.validation.is_filled()
    }

    /// Epochs of identity and of validation: part of every pool key.
    pub fn epochs(&self) -> (u64, u64) {
        let identity = self.params.identity.as_ref();
        (
            identity.map_or(0, |slot| slot.epoch()),
            self.params.validation.epoch(),
        )
    }

    /// Connects TLS over `io`. `server_name` is sent as SNI; `alpn` overrides the offered
    /// protocols.
    ///
    /// # Errors
    /// On refusal of the server the alert is flushed before this returns.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: S,
        server_name: Option<&str>,
        alpn: Option<&[&[u8]]>,
    ) -> Result<TlsStream<S>, HandshakeError> {
        // Boxed: a handshake's future is large, and most of a connection's life comes after it.
        Box::pin(handshake::connect(self, io, server_name, alpn)).await
    }

    /// The state for the material that is there now.
    pub(crate) fn state(&self) -> Result<Arc<ClientState>, HandshakeError> {
        let epochs = self.epochs();
        if let Some(state) = &*self.state.load()
            && state.epochs == epochs
        {
            return Ok(state.clone());
        }
        let state = Arc::new(self.derive()?);
        self.state.store(Some(state.clone()));
        Ok(state)
    }

    fn derive(&self) -> Result<ClientState, HandshakeError> {
        let (identity_epoch, identity) = match &self.params.identity {
            None => (0, None),
            Some(slot) => {
                let (epoch, identity) = slot.load_with_epoch();
                let identity = identity.ok_or_else(|| self.not_ready("has no certificate yet"))?;
                (epoch, Some(identity))
            }
        };
        let (validation_epoch, validation) = self.params.validation.load_with_epoch();
        let validation = validation.ok_or_else(|| self.not_ready("has no trust material yet"))?;
        let judge = Arc::new(Judge::new(validation, Role::Server, ClientAuth::Required));
        let builder = self
            .builder()
            .map_err(|error| self.not_ready(&error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(judge.clone());
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let resolver = SingleCertAndKey::from(identity.certified.clone());
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols.clone_from(&self.params.alpn);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(ClientState {
            epochs: (identity_epoch, validation_epoch),
            identity,
            judge,
            config: Arc::new(config),
        })
    }

    fn builder(&self) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, MaterialError> {
        ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(|error| MaterialError::Unusable(error.to_string()))
    }

    fn not_ready(&self, what: &str) -> HandshakeError {
        HandshakeError::NotReady(format!("{} {what}", self.params.name))
    }
}

impl ClientState {
    /// A connection that has its ClientHello to send.
    pub(crate) fn connection(
        &self,
        server_name: Option<&str>,
        alpn: Option<&[&[u8]]>,
    ) -> Result<ClientConnection, HandshakeError> {
        let name = match server_name {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| {
                HandshakeError::Protocol(format!("the SNI {name:?} is not a DNS name"))
            })?,
            // rustls sends no SNI for an address; which one does not matter.
            None => Ipv4Addr::UNSPECIFIED.into(),
        };
        let config = self.config.clone();
        let connection = match alpn {
            None => ClientConnection::new(config, name),
            Some(alpn) => {
                let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
                ClientConnection::new_with_alpn(config, name, alpn)
            }
        };
        connection.map_err(HandshakeError::from)
    }
}
