//! One secret: its last good form, and the slots that it fills.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Weak},
    time::SystemTime,
};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret,
};
use ithildin_tls::{Identity, Slot, Validation};
use ithildin_xds::{SecretMessage, SecretState};
use prost::Message;
use tokio::{sync::oneshot, time::Instant};

use super::material::{Material, ValidationUse};
use crate::{
    control::{
        held::Stamp,
        inventory::HeldSecret,
        report::{At, ConfigErrors, Report},
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
    secret: Option<Arc<SecretMessage>>,
    /// Of the update that brought it.
    stamp: Option<Stamp>,
    /// `sds.<name>`; `None` for a secret of the bootstrap.
    stats: Option<Arc<SubscriptionStats>>,
    material: Option<Material>,
    identity: Option<Arc<Slot<Identity>>>,
    /// Thousands of clusters may differ in the names that they accept.
    validations: HashMap<ValidationUse, Weak<Slot<Validation>>>,
    /// Ends the subscription when it is dropped; `None` for a secret of the bootstrap.
    _alive: Option<oneshot::Sender<Infallible>>,
}

impl Entry {
    pub(super) fn new(
        name: &str,
        deadline: Option<Instant>,
        stats: Option<Arc<SubscriptionStats>>,
        alive: Option<oneshot::Sender<Infallible>>,
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
            _alive: alive,
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
    fn replace(&mut self, secret: &Arc<SecretMessage>) -> bool {
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
