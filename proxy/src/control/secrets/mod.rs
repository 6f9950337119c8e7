//! Secrets: from the configuration and from SDS into the slots that TLS contexts read.
//!
//! A slot lives as long as a context holds it; rotation replaces what is in it and compiles nothing.
//! Invariants: a secret that is withdrawn empties its slots; a malformed one is refused and the
//! previous one kept; an identity leaves its slot when its certificate expires.

mod entry;
mod identity;
mod material;
mod validation;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SdsSecretConfig, TlsCertificate,
};
use ithildin_tls::{Identity, Slot, Validation};
use ithildin_xds::{SecretMessage, SecretRef, SecretState, SecretSubscriber};
use prost::Message;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

pub use self::entry::SecretStatus;
pub(super) use self::material::check;
use self::{entry::Entry, validation::Origin};
use super::{data_source, inventory::HeldSecret, report::At};
use crate::stats::Registry;

/// How long a secret is waited for where the configuration does not say; Envoy's default.
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// Expiry follows the wall clock, which may jump: it is looked at no later than this.
const LONGEST_EXPIRY_SLEEP: Duration = Duration::from_secs(60);

/// Which secret: its name and, encoded, where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SecretKey(Arc<(String, Vec<u8>)>);

impl SecretKey {
    fn new(config: &SdsSecretConfig) -> Self {
        let source = config.sds_config.as_ref().map(Message::encode_to_vec);
        Self(Arc::new((config.name.clone(), source.unwrap_or_default())))
    }
}

/// `Err`: its subscriber or its entry is gone.
type Changed = (SecretKey, Result<Subscription, ()>);

/// One subscription, which ends with its entry.
struct Subscription {
    state: watch::Receiver<SecretState>,
    /// Closed when the entry is dropped.
    entry: oneshot::Receiver<Infallible>,
}

/// All secrets that are in use.
pub(super) struct SecretStore {
    subscriber: Arc<dyn SecretSubscriber>,
    /// `static_resources.secrets` by name.
    statics: BTreeMap<String, Arc<SecretMessage>>,
    entries: HashMap<SecretKey, Entry>,
    /// Identities that stand in the configuration; kept here for their expiry only.
    configured: Vec<Weak<Slot<Identity>>>,
    changes: FuturesUnordered<BoxFuture<'static, Changed>>,
    stats: Arc<Registry>,
}

impl SecretStore {
    pub(super) fn new(
        subscriber: Arc<dyn SecretSubscriber>,
        statics: BTreeMap<String, Arc<SecretMessage>>,
        stats: Arc<Registry>,
    ) -> Self {
        Self {
            subscriber,
            statics,
            entries: HashMap::new(),
            configured: Vec::new(),
            changes: FuturesUnordered::new(),
            stats,
        }
    }

    /// The slot of a certificate that SDS serves.
    pub(super) fn served_identity(
        &mut self,
        config: &SdsSecretConfig,
        at: &At<'_>,
    ) -> Option<(SecretKey, Arc<Slot<Identity>>)> {
        let key = self.subscribe(config, at)?;
        let slot = self.entries.get_mut(&key)?.identity();
        Some((key, slot))
    }

    /// The slot of a validation context that SDS serves, over `defaults`.
    pub(super) fn served_validation(
        &mut self,
        config: &SdsSecretConfig,
        defaults: &CertificateValidationContext,
        match_server_name: bool,
        at: &At<'_>,
    ) -> Option<(SecretKey, Arc<Slot<Validation>>)> {
        validation::rules(
            defaults,
            match_server_name,
            &at.field("default_validation_context"),
        )?;
        let key = self.subscribe(config, at)?;
        let entry = self.entries.get_mut(&key)?;
        let slot = entry.validation(defaults, match_server_name);
        Some((key, slot))
    }

    /// The slot of a certificate that stands in the configuration.
    pub(super) fn configured_identity(
        &mut self,
        certificate: &TlsCertificate,
        at: &At<'_>,
    ) -> Option<Arc<Slot<Identity>>> {
        let mut identity = identity::identity(certificate, at)?;
        let chain = certificate.certificate_chain.as_ref();
        identity.file = chain.and_then(data_source::file);
        if identity.not_after <= SystemTime::now() {
            at.field("certificate_chain")
                .error("the certificate has expired");
            return None;
        }
        let slot = Slot::new(Some(Arc::new(identity)));
        self.configured.push(Arc::downgrade(&slot));
        Some(slot)
    }

    /// The slot of a validation context that stands in the configuration.
    pub(super) fn configured_validation(
        context: &CertificateValidationContext,
        match_server_name: bool,
        at: &At<'_>,
    ) -> Option<Arc<Slot<Validation>>> {
        let validation =
            validation::validation(context, Origin::Configured, match_server_name, at)?;
        Some(Slot::new(Some(Arc::new(validation))))
    }

    /// What `key` is waited for; `None` once it came, was refused, or its time is over.
    pub(super) fn waiting_for(&self, key: &SecretKey) -> Option<String> {
        let entry = self.entries.get(key)?;
        entry.waiting(Instant::now())
    }

    /// When the next secret stops being waited for.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::timeout).min()
    }

    /// When an identity may expire next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let served = self.entries.values().filter_map(Entry::not_after);
        let configured = self
            .configured
            .iter()
            .filter_map(|slot| Some(slot.upgrade()?.load()?.not_after));
        let next = served.chain(configured).min()?;
        let left = next.duration_since(SystemTime::now()).unwrap_or_default();
        Some(Instant::now() + left.min(LONGEST_EXPIRY_SLEEP))
    }

    /// Empties the slots of identities that are no longer valid.
    pub(super) fn expire(&mut self) {
        let now = SystemTime::now();
        for entry in self.entries.values_mut() {
            entry.expire(now);
        }
        for slot in self.configured.iter().filter_map(Weak::upgrade) {
            if slot
                .load()
                .is_some_and(|identity| identity.not_after <= now)
            {
                tracing::error!(
                    "a certificate of the configuration has expired and is no longer used"
                );
                slot.store(None);
            }
        }
    }

    /// Waits for the next change of any secret, and applies it; which one, if it was accepted.
    /// Cancel-safe.
    pub(super) async fn changed(&mut self) -> Option<SecretKey> {
        let Some((key, subscription)) = self.changes.next().await else {
            return std::future::pending().await;
        };
        // Without a subscriber the last word stands until it expires.
        let accepted = self.apply(key.clone(), subscription.ok()?);
        accepted.then_some(key)
    }

    /// Forgets the secrets that no context uses any more.
    pub(super) fn collect(&mut self) {
        self.configured.retain(|slot| slot.strong_count() > 0);
        self.entries.retain(|_, entry| entry.collect());
    }

    /// All secrets for admin, sorted by name.
    pub(super) fn statuses(&self) -> Vec<SecretStatus> {
        let mut all: Vec<_> = self.entries.values().map(Entry::status).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The same with what each holds, but for those of the bootstrap.
    pub(super) fn held(&self) -> Vec<HeldSecret> {
        let mut all: Vec<_> = self.entries.values().filter_map(Entry::held).collect();
        all.sort_by(|a, b| a.status.name.cmp(&b.status.name));
        all
    }

    fn subscribe(&mut self, config: &SdsSecretConfig, at: &At<'_>) -> Option<SecretKey> {
        let SdsSecretConfig { name, sds_config } = config;
        if name.is_empty() {
            at.field("name").error("is empty");
            return None;
        }
        let key = SecretKey::new(config);
        if self.entries.contains_key(&key) {
            return Some(key);
        }
        let Some(source) = sds_config else {
            let Some(secret) = self.statics.get(name) else {
                at.field("name").error(format_args!(
                    "{name:?} is not in static_resources.secrets, and there is no sds_config"
                ));
                return None;
            };
            let mut entry = Entry::new(name, None, None, None);
            entry.apply(&SecretState::Ready(Arc::clone(secret)));
            self.entries.insert(key.clone(), entry);
            return Some(key);
        };
        let timeout = at.limit(
            "sds_config.initial_fetch_timeout",
            &source.initial_fetch_timeout,
            Some(DEFAULT_FETCH_TIMEOUT),
        );
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let stats = self.stats.subscription(&format!("sds.{name}"));
        let (alive, gone) = oneshot::channel();
        let entry = Entry::new(name, deadline, Some(stats), Some(alive));
        self.entries.insert(key.clone(), entry);
        let state = self.subscriber.subscribe(&SecretRef {
            name: name.clone(),
            source: Some(source.clone()),
        });
        self.apply(key.clone(), Subscription { state, entry: gone });
        Some(key)
    }

    /// Whether a newer form of it was accepted.
    fn apply(&mut self, key: SecretKey, mut subscription: Subscription) -> bool {
        let Some(entry) = self.entries.get_mut(&key) else {
            // Collected meanwhile.
            return false;
        };
        let state = subscription.state.borrow_and_update().clone();
        let accepted = entry.apply(&state);
        self.changes.push(Box::pin(async move {
            let changed = tokio::select! {
                biased;
                // A later entry of this name has a subscription of its own.
                _ = &mut subscription.entry => Err(()),
                changed = subscription.state.changed() => changed.map_err(drop),
            };
            (key, changed.map(|()| subscription))
        }));
        accepted
    }
}
