//! What a listener's filter chain presents and demands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    ConfigBuilder, ServerConfig, SupportedProtocolVersion, WantsVerifier,
    crypto::{CryptoProvider, aws_lc_rs::Ticketer},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
};

use super::{
    ClientAuth, Epochs, Shown, TlsVersion,
    choice::{Candidate, Choice},
};
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
    /// Further certificates, with other names or with keys of other algorithms: the client's choose.
    pub alternatives: Vec<Arc<Slot<Identity>>>,
    /// Whether a client that asks for a name of none of several certificates may have any of them, and not
    /// the first one alone.
    pub full_scan: bool,
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
    epochs: Epochs,
    /// One at least.
    candidates: Arc<[Candidate]>,
    full_scan: bool,
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
        self.identities().all(|slot| slot.is_filled())
            && self.validation().is_none_or(|slot| slot.is_filled())
    }

    /// The places of all certificates, of which there is one at least.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<Slot<Identity>>> {
        [&self.params.identity]
            .into_iter()
            .chain(&self.params.alternatives)
    }

    /// Epochs of all identities together, each of which only grows, and of validation.
    fn epochs(&self) -> Epochs {
        (
            self.identities().map(|slot| slot.epoch()).sum(),
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
        let first = self.candidate(&self.params.identity)?;
        let mut candidates = vec![first.clone()];
        for slot in &self.params.alternatives {
            candidates.push(self.candidate(slot)?);
        }
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
            .config(&first.identity, judge.as_ref())
            .map_err(|error| self.not_ready(&error.to_string()))?;
        let mut without_alpn = config.clone();
        without_alpn.alpn_protocols.clear();
        Ok(ServerState {
            epochs: (
                candidates.iter().map(|candidate| candidate.epoch).sum(),
                validation_epoch,
            ),
            candidates: candidates.into(),
            full_scan: self.params.full_scan,
            judge,
            config: Arc::new(config),
            without_alpn: Arc::new(without_alpn),
        })
    }

    fn candidate(&self, slot: &Arc<Slot<Identity>>) -> Result<Candidate, HandshakeError> {
        Candidate::of(slot).ok_or_else(|| self.not_ready("has no certificate yet"))
    }

    /// It shows this one, unless there is a [`Choice`].
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
    /// The configuration for a client that offers these protocols, and the choice that it makes if there
    /// are several certificates.
    pub(crate) fn config_for(
        &self,
        offered: Protocols<'_>,
    ) -> (Arc<ServerConfig>, Option<Arc<Choice>>) {
        let config = self.config_with(offered);
        if self.candidates.len() == 1 {
            return (Arc::clone(config), None);
        }
        // One of this handshake: what was chosen is told by nothing else.
        let choice = Arc::new(Choice::new(Arc::clone(&self.candidates), self.full_scan));
        let mut config = ServerConfig::clone(config);
        config.cert_resolver = Arc::clone(&choice) as _;
        (Arc::new(config), Some(choice))
    }

    /// What was shown by this choice, and the epochs of that and of validation.
    pub(crate) fn shown(&self, choice: Option<&Choice>) -> (Option<Shown>, Epochs) {
        let index = choice.and_then(Choice::chosen).unwrap_or(0);
        let shown = self.candidates.get(index);
        let epoch = shown.map_or(0, |shown| shown.epoch);
        (shown.map(Candidate::shown), (epoch, self.epochs.1))
    }

    fn config_with(&self, offered: Protocols<'_>) -> &Arc<ServerConfig> {
        let ours = &self.config.alpn_protocols;
        let speaks = |offer: &[u8]| ours.iter().any(|protocol| protocol == offer);
        if offered.is_empty() || offered.iter().any(speaks) {
            &self.config
        } else {
            &self.without_alpn
        }
    }
}
