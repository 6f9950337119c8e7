//! What a cluster presents to its endpoints and demands of them.

use std::{net::Ipv4Addr, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, SupportedProtocolVersion, WantsVerifier,
    client::Resumption, crypto::CryptoProvider, pki_types::ServerName, sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ClientAuth, Epochs, Shown, TlsVersion, opaque_name::OpaqueName};
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
    pub(crate) shown: Option<Shown>,
    pub(crate) judge: Arc<Judge>,
    config: Arc<ClientConfig>,
}

/// Whether this is what SNI is meant to be (RFC 6066, section 3), or an IP address. Other names are
/// for configurations to choose, and not for clients: each that is ever used is kept.
pub fn is_dns_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
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
        let (identity_epoch, shown) = match &self.params.identity {
            None => (0, None),
            Some(slot) => {
                let (epoch, identity) = slot.load_with_epoch();
                let identity = identity.ok_or_else(|| self.not_ready("has no certificate yet"))?;
                let slot = Arc::clone(slot);
                (epoch, Some(Shown { identity, slot }))
            }
        };
        let (validation_epoch, validation) = self.params.validation.load_with_epoch();
        let validation = validation.ok_or_else(|| self.not_ready("has no trust material yet"))?;
        let judge = Arc::new(Judge::new(validation, Role::Server, ClientAuth::Required));
        let builder = self
            .builder()
            .map_err(|error| self.not_ready(&error.to_string()))?;
        let mut config = self.config(builder, &judge, shown.as_ref());
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(ClientState {
            epochs: (identity_epoch, validation_epoch),
            shown,
            judge,
            config: Arc::new(config),
        })
    }

    /// A connection to a server whose name is no DNS name, and that name; it speaks TLS 1.3.
    fn opaque(&self, state: &ClientState, name: &str) -> Result<OpaqueConnection, HandshakeError> {
        let impossible = |why| HandshakeError::Protocol(format!("the SNI {name:?} {why}"));
        if self.params.versions.1 < TlsVersion::Tls13 {
            return Err(impossible("is not a DNS name, which takes TLS 1.3"));
        }
        let opaque =
            OpaqueName::get(name, &self.provider).ok_or_else(|| impossible("cannot be sent"))?;
        let provider = Arc::new(opaque.provider(&self.provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let judge = Arc::new(state.judge.for_server(name));
        let mut config = self.config(builder, &judge, state.shown.as_ref());
        config.resumption = Resumption::disabled();
        Ok(OpaqueConnection { config, opaque })
    }

    fn config(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsVerifier>,
        judge: &Arc<Judge>,
        shown: Option<&Shown>,
    ) -> ClientConfig {
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(judge.clone());
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let resolver = SingleCertAndKey::from(shown.identity.certified.clone());
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols.clone_from(&self.params.alpn);
        config
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

/// What [`ClientContext::opaque`] makes.
struct OpaqueConnection {
    config: ClientConfig,
    opaque: Arc<OpaqueName>,
}

impl ClientContext {
    /// A connection that has its ClientHello to send, and the name to put into it if that is no DNS
    /// name.
    pub(crate) fn connection(
        &self,
        state: &ClientState,
        server_name: Option<&str>,
        alpn: Option<&[&[u8]]>,
    ) -> Result<(ClientConnection, Option<Arc<OpaqueName>>), HandshakeError> {
        let dns_name =
            server_name.map(|name| ServerName::try_from(name.to_owned()).map_err(|_| name));
        let (config, name, opaque) = match dns_name {
            Some(Ok(name)) => (state.config.clone(), name, None),
            // rustls sends no SNI for an address; which one does not matter.
            None => (state.config.clone(), Ipv4Addr::UNSPECIFIED.into(), None),
            Some(Err(name)) => {
                let OpaqueConnection { config, opaque } = self.opaque(state, name)?;
                (Arc::new(config), opaque.stand_in(), Some(opaque))
            }
        };
        let connection = match alpn {
            None => ClientConnection::new(config, name),
            Some(alpn) => {
                let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
                ClientConnection::new_with_alpn(config, name, alpn)
            }
        };
        Ok((connection?, opaque))
    }
}
