//! What a listener's filter chain presents and demands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier,
    crypto::{CryptoProvider, aws_lc_rs::Ticketer},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
};

use super::{ClientAuth, Epochs, TlsVersion};
use crate::{
    HandshakeError, Identity, MaterialError, Protocols, Slot, Validation, judge::Judge, provider,
    verify::Role,
};

#[derive(Clone, Debug)]
pub struct ServerParams {
    /// For log lines and `/certs`: listener and chain.
    pub name: Arc<str>,
    /// In our order of preference. A client that offers none of them gets none, as from Envoy.
    pub alpn: Vec<Vec<u8>>,
    pub versions: (TlsVersion, TlsVersion),
    /// OpenSSL names; unknown ones are dropped, and it is an error if none remains. Empty: all of
    /// ours.
    pub cipher_suites: Vec<String>,
    /// Group names as BoringSSL writes them. Empty: all of ours.
    pub curves: Vec<String>,
    pub client_auth: ClientAuth,
    pub identity: Arc<Slot<Identity>>,
    /// `None` only with [`ClientAuth::None`].
    pub validation: Option<Arc<Slot<Validation>>>,
}

#[derive(Debug)]
pub struct ServerContext {
    params: ServerParams,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    state: ArcSwapOption<ServerState>,
}

/// What the slots held at `epochs`, made ready for handshakes.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) epochs: Epochs,
    pub(crate) identity: Arc<Identity>,
    pub(crate) judge: Option<Arc<Judge>>,
    config: Arc<ServerConfig>,
    /// For clients that offer protocols of which we speak none: rustls would refuse them.
    without_alpn: Arc<ServerConfig>,
}

/// One ticket per connection: a mesh client comes back from one pool.
const TICKETS: usize = 1;

impl ServerContext {
    /// # Errors
    /// When the parameters contradict each other or name nothing that we support.
    pub fn new(params: ServerParams) -> Result<Self, MaterialError> {
        if params.client_auth != ClientAuth::None && params.validation.is_none() {
            return Err(MaterialError::NoValidation);
        }
        let context = Self {
            provider: provider::provider(&params.cipher_suites, &params.curves)?,
            versions: provider::versions(params.versions)?,
            params,
            state: ArcSwapOption::empty(),
        };
        context.builder()?;
        Ok(context)
    }

    pub fn params(&self) -> &ServerParams {
        &self.params
    }

    /// Whether handshakes can succeed: identity and trust are there.
    pub fn is_ready(&self) -> bool {
        self.params.identity.is_filled() && self.validation().is_none_or(|slot| slot.is_filled())
    }

    /// Epochs of identity and of validation.
    pub fn epochs(&self) -> (u64, u64) {
        (
            self.params.identity.epoch(),
            self.validation().map_or(0, |slot| slot.epoch()),
        )
    }

    /// The state for the material that is there now.
    pub(crate) fn state(&self) -> Result<Arc<ServerState>, HandshakeError> {
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

    /// Workers may derive the same state at once; the last one stored serves, and a session of
    /// another one is merely not resumed.
    fn derive(&self) -> Result<ServerState, HandshakeError> {
        let (identity_epoch, identity) = self.params.identity.load_with_epoch();
        let identity = identity.ok_or_else(|| self.not_ready("has no certificate yet"))?;
        let (validation_epoch, judge) = match self.validation() {
            None => (0, None),
            Some(slot) => {
                let (epoch, validation) = slot.load_with_epoch();
                let validation =
                    validation.ok_or_else(|| self.not_ready("has no trust material yet"))?;
                let judge = Judge::new(validation, Role::Client, self.params.client_auth);
                (epoch, Some(Arc::new(judge)))
            }
        };
        let config = self
            .config(&identity, judge.as_ref())
            .map_err(|error| self.not_ready(&error.to_string()))?;
        let mut without_alpn = config.clone();
        without_alpn.alpn_protocols.clear();
        Ok(ServerState {
            epochs: (identity_epoch, validation_epoch),
            identity,
            judge,
            config: Arc::new(config),
            without_alpn: Arc::new(without_alpn),
        })
    }

    fn config(
        &self,
        identity: &Identity,
        judge: Option<&Arc<Judge>>,
    ) -> Result<ServerConfig, MaterialError> {
        let builder = self.builder()?;
        let builder = match judge {
            Some(judge) => builder.with_client_cert_verifier(judge.clone()),
            None => builder.with_no_client_auth(),
        };
        let resolver = SingleCertAndKey::from(identity.certified.clone());
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols.clone_from(&self.params.alpn);
        config.send_tls13_tickets = TICKETS;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer =
            Ticketer::new().map_err(|error| MaterialError::Unusable(error.to_string()))?;
        Ok(config)
    }

    fn builder(&self) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, MaterialError> {
        ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(|error| MaterialError::Unusable(error.to_string()))
    }

    /// The validation, unless no certificate is asked for.
    pub(crate) fn validation(&self) -> Option<&Arc<Slot<Validation>>> {
        let asked = self.params.client_auth != ClientAuth::None;
        self.params.validation.as_ref().filter(|_| asked)
    }

    fn not_ready(&self, what: &str) -> HandshakeError {
        HandshakeError::NotReady(format!("{} {what}", self.params.name))
    }
}

impl ServerState {
    /// The configuration for a client that offers these protocols.
    pub(crate) fn config_for(&self, offered: Protocols<'_>) -> &Arc<ServerConfig> {
        let ours = &self.config.alpn_protocols;
        let speaks = |offer: &[u8]| ours.iter().any(|protocol| protocol == offer);
        if offered.is_empty() || offered.iter().any(speaks) {
            &self.config
        } else {
            &self.without_alpn
        }
    }
}
