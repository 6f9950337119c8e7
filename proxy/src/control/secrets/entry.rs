//! One secret: its last good form, and the slots that it fills.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::SystemTime,
};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, secret,
};
use ithildin_tls::{Identity, Slot, Trust, Validation};
use ithildin_xds::SecretState;
use prost::Message;
use tokio::time::Instant;

use super::{
    identity,
    validation::{self, Origin},
};
use crate::{
    control::{
        inventory::HeldSecret,
        report::{At, ConfigErrors, Report},
        resources::Stamp,
    },
    stats::SubscriptionStats,
};

/// One secret as `/certs` and `/config_dump` tell of it.
#[derive(Clone, Debug)]
pub struct SecretStatus {
    pub name: Arc<str>,
    /// Why there is none, or why the newest one was refused.
    pub error: Option<Arc<str>>,
    /// Holds material now.
    pub ready: bool,
    /// Accepted updates.
    pub updates: u64,
    /// Refused updates.
    pub rejected: u64,
}

/// Reads `secret` and forgets it.
pub(in crate::control) fn check(secret: &Secret) -> Result<(), ConfigErrors> {
    let report = Report::default();
    let root = format!("secret {:?}", secret.name);
    let material = Material::read(secret, &report.root(&root));
    report.finish(material).map(drop)
}

/// The state of one subscription.
pub(super) struct Entry {
    name: Arc<str>,
    /// Until then users wait; `None`: for ever.
    deadline: Option<Instant>,
    /// A first answer, good or bad, is there.
    answered: bool,
    error: Option<Arc<str>>,
    updates: u64,
    rejected: u64,
    secret: Option<Arc<Secret>>,
    /// Of the update that brought it.
    stamp: Option<Stamp>,
    /// `sds.<name>`; `None` for a secret of the bootstrap.
    stats: Option<Arc<SubscriptionStats>>,
    material: Option<Material>,
    identity: Option<Arc<Slot<Identity>>>,
    /// Thousands of clusters may differ in the names that they accept.
    validations: HashMap<ValidationUse, Weak<Slot<Validation>>>,
}

/// How a validation context is used.
#[derive(PartialEq, Eq, Hash)]
struct ValidationUse {
    /// `default_validation_context`, encoded.
    defaults: Vec<u8>,
    match_server_name: bool,
}

impl Entry {
    pub(super) fn new(
        name: &str,
        deadline: Option<Instant>,
        stats: Option<Arc<SubscriptionStats>>,
    ) -> Self {
        Self {
            name: name.into(),
            deadline,
            answered: false,
            error: None,
            updates: 0,
            rejected: 0,
            secret: None,
            stamp: None,
            stats,
            material: None,
            identity: None,
            validations: HashMap::new(),
        }
    }

    /// The slot of this secret as a certificate.
    pub(super) fn identity(&mut self) -> Arc<Slot<Identity>> {
        if let Some(slot) = &self.identity {
            return Arc::clone(slot);
        }
        let slot = Slot::new(None);
        self.identity = Some(Arc::clone(&slot));
        self.first_fill(&slot, |material, at| material.identity(at));
        slot
    }

    /// The slot of this secret as a validation context.
    pub(super) fn validation(
        &mut self,
        defaults: &CertificateValidationContext,
        match_server_name: bool,
    ) -> Arc<Slot<Validation>> {
        let user = ValidationUse {
            defaults: defaults.encode_to_vec(),
            match_server_name,
        };
        if let Some(slot) = self.validations.get(&user).and_then(Weak::upgrade) {
            return slot;
        }
        let slot = Slot::new(None);
        self.first_fill(&slot, |material, at| {
            material.validation(&user, at).map(Arc::new)
        });
        self.validations.insert(user, Arc::downgrade(&slot));
        slot
    }

    /// Whether a newer form was accepted.
    pub(super) fn apply(&mut self, state: &SecretState) -> bool {
        match state {
            SecretState::Pending(waiting) => {
                if self.secret.is_none() {
                    self.error = Some(Arc::clone(waiting));
                }
            }
            SecretState::Unavailable(reason) => {
                self.answered = true;
                self.material = None;
                if self.secret.take().is_some() || self.error.as_ref() != Some(reason) {
                    tracing::warn!(secret = %self.name, %reason, "secret is unavailable");
                }
                self.error = Some(Arc::clone(reason));
                self.empty();
            }
            SecretState::Ready(secret) => {
                self.answered = true;
                if self.secret.as_ref() != Some(secret) || self.error.is_some() {
                    return self.replace(secret);
                }
            }
        }
        false
    }

    /// What is waited for at `now`.
    pub(super) fn waiting(&self, now: Instant) -> Option<String> {
        if self.answered || self.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let detail = self.error.as_deref().unwrap_or("no answer yet");
        Some(format!("secret {:?}: {detail}", self.name))
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let waiting = !self.answered;
        self.deadline
            .filter(|deadline| waiting && *deadline > Instant::now())
    }

    pub(super) fn not_after(&self) -> Option<SystemTime> {
        Some(self.identity.as_ref()?.load()?.not_after)
    }

    pub(super) fn expire(&mut self, now: SystemTime) {
        if self.not_after().is_some_and(|not_after| not_after <= now) {
            tracing::error!(secret = %self.name, "certificate has expired and is no longer used");
            self.error = Some("the certificate has expired".into());
            self.secret = None;
            self.material = None;
            self.empty();
        }
    }

    /// Forgets uses that have ended. Whether there are any left.
    pub(super) fn collect(&mut self) -> bool {
        self.validations.retain(|_, slot| slot.strong_count() > 0);
        // The entry itself holds one.
        self.identity
            .as_ref()
            .is_some_and(|slot| Arc::strong_count(slot) > 1)
            || !self.validations.is_empty()
    }

    pub(super) fn status(&self) -> SecretStatus {
        SecretStatus {
            name: Arc::clone(&self.name),
            error: self.error.clone(),
            ready: self.secret.is_some(),
            updates: self.updates,
            rejected: self.rejected,
        }
    }

    /// `None` for a secret of the bootstrap.
    pub(super) fn held(&self) -> Option<HeldSecret> {
        self.stats.as_ref()?;
        Some(HeldSecret {
            status: self.status(),
            secret: self.secret.clone(),
            stamp: self.stamp.clone(),
        })
    }

    /// Fills all slots from `secret`, or none of them. Whether it was accepted.
    fn replace(&mut self, secret: &Arc<Secret>) -> bool {
        let filled = self.fill(secret);
        let stamp = Stamp::now(self.updates + 1);
        if let Some(stats) = &self.stats {
            stamp.count(stats, filled.is_ok());
        }
        match filled {
            Ok(material) => {
                self.updates += 1;
                self.error = None;
                self.secret = Some(Arc::clone(secret));
                self.stamp = Some(stamp);
                self.material = Some(material);
                tracing::info!(secret = %self.name, "secret updated");
                true
            }
            Err(errors) => {
                self.rejected += 1;
                self.error = Some(errors.to_string().into());
                let kept = self.secret.is_some();
                tracing::error!(secret = %self.name, kept, "secret refused: {errors}");
                false
            }
        }
    }

    fn fill(&self, secret: &Secret) -> Result<Material, ConfigErrors> {
        let report = Report::default();
        let root = format!("secret {:?}", self.name);
        let at = report.root(&root);
        let material = Material::read(secret, &at);
        let identity = match (&material, &self.identity) {
            (Some(material), Some(slot)) => material.identity(&at).map(|identity| (slot, identity)),
            _ => None,
        };
        let live = self.validations.iter();
        let validations: Vec<_> = match &material {
            Some(material) => live
                .filter_map(|(user, slot)| Some((slot.upgrade()?, material.validation(user, &at)?)))
                .collect(),
            None => Vec::new(),
        };
        // Slots are written only when nothing is wrong.
        let material = report.finish(material)?;
        if let Some((slot, identity)) = identity {
            slot.store(Some(identity));
        }
        for (slot, validation) in validations {
            slot.store(Some(Arc::new(validation)));
        }
        Ok(material)
    }

    /// Fills `slot`, which is new, from what is there.
    fn first_fill<T>(
        &mut self,
        slot: &Slot<T>,
        read: impl FnOnce(&Material, &At<'_>) -> Option<Arc<T>>,
    ) {
        let Some(material) = &self.material else {
            return;
        };
        let report = Report::default();
        let root = format!("secret {:?}", self.name);
        let value = read(material, &report.root(&root));
        match report.finish(value) {
            Ok(value) => slot.store(Some(value)),
            Err(errors) => {
                tracing::error!(secret = %self.name, "secret cannot be used: {errors}");
                self.error = Some(errors.to_string().into());
            }
        }
    }

    fn empty(&self) {
        if let Some(slot) = &self.identity {
            slot.store(None);
        }
        for slot in self.validations.values().filter_map(Weak::upgrade) {
            slot.store(None);
        }
    }
}

/// A secret, read.
enum Material {
    Identity(Arc<Identity>),
    Validation(Box<Context>),
}

/// A validation context, its roots parsed once.
struct Context {
    trust: Trust,
    /// The served context without its roots.
    rules: CertificateValidationContext,
    /// The whole of it, for users whose defaults have roots too.
    whole: CertificateValidationContext,
}

impl Material {
    fn read(secret: &Secret, at: &At<'_>) -> Option<Self> {
        match &secret.r#type {
            Some(secret::Type::TlsCertificate(certificate)) => {
                let at = at.field("tls_certificate");
                let identity = identity::identity(certificate, &at)?;
                if identity.not_after <= SystemTime::now() {
                    at.field("certificate_chain")
                        .error("the certificate has expired");
                    return None;
                }
                Some(Self::Identity(Arc::new(identity)))
            }
            Some(secret::Type::ValidationContext(context)) => {
                let at = at.field("validation_context");
                validation::rules(context, false, &at)?;
                Some(Self::Validation(Box::new(Context {
                    trust: validation::trust(context, Origin::Served, &at)?,
                    rules: without_roots(context),
                    whole: context.clone(),
                })))
            }
            Some(secret::Type::SessionTicketKeys(_) | secret::Type::GenericSecret(_)) | None => {
                at.error("is neither a tls_certificate nor a validation_context");
                None
            }
        }
    }

    fn identity(&self, at: &At<'_>) -> Option<Arc<Identity>> {
        match self {
            Self::Identity(identity) => Some(Arc::clone(identity)),
            Self::Validation(_) => {
                at.error("is a validation_context, but is used as a tls_certificate");
                None
            }
        }
    }

    fn validation(&self, user: &ValidationUse, at: &At<'_>) -> Option<Validation> {
        let Self::Validation(context) = self else {
            at.error("is a tls_certificate, but is used as a validation_context");
            return None;
        };
        let at = at.field("validation_context");
        let defaults = CertificateValidationContext::decode(user.defaults.as_slice())
            .expect("a message that was just encoded decodes");
        if without_roots(&defaults) != defaults {
            let merged = merge(&defaults, &context.whole);
            return validation::validation(&merged, Origin::Served, user.match_server_name, &at);
        }
        let merged = merge(&defaults, &context.rules);
        let rules = validation::rules(&merged, user.match_server_name, &at)?;
        Some(rules.with(share(&context.trust)))
    }
}

/// The fields that say which roots there are, and how they are used, left out.
fn without_roots(context: &CertificateValidationContext) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: None,
        crl: None,
        custom_validator_config: None,
        trust_chain_verification: 0,
        ..context.clone()
    }
}

/// The same roots once more: they are parsed once, however many clusters use them.
fn share(trust: &Trust) -> Trust {
    match trust {
        Trust::Spiffe(domains) => Trust::Spiffe(domains.clone()),
        Trust::Ca(roots) => Trust::Ca(Arc::clone(roots)),
        Trust::AcceptUntrusted => Trust::AcceptUntrusted,
    }
}

/// What protobuf's merge makes of the two, as `combined_validation_context` says: single fields of
/// `served` win, lists are joined.
fn merge(
    defaults: &CertificateValidationContext,
    served: &CertificateValidationContext,
) -> CertificateValidationContext {
    let mut merged = defaults.clone();
    merged
        .merge(served.encode_to_vec().as_slice())
        .expect("a message that was just encoded decodes");
    merged
}
