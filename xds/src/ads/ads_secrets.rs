//! Secrets that a server sends over the aggregated stream, such as istiod's `kubernetes://` ones.

use std::{collections::BTreeMap, fmt, sync::Arc};

use ithildin_proto::{
    pb::{envoy::extensions::transport_sockets::tls::v3::Secret, google::protobuf::Any},
    unpack,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::{
    SecretMessage, SecretRef, SecretState, SecretSubscriber,
    subscription::{Interest, Update, Verdict},
};

/// Secrets by name, for whoever subscribes. A name is asked for while somebody holds a receiver.
#[derive(Clone)]
pub struct AdsSecrets {
    server: Arc<str>,
    slots: Arc<Mutex<BTreeMap<String, watch::Sender<SecretState>>>>,
    asked: Arc<Notify>,
}

impl AdsSecrets {
    pub(super) fn new(server: &Arc<str>) -> Self {
        Self {
            server: Arc::clone(server),
            slots: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// Names that somebody waits for; the others are let go.
    pub(super) fn wanted(&self) -> Interest {
        let mut slots = self.slots.lock();
        slots.retain(|_, slot| !slot.is_closed());
        Interest::of(slots.keys().cloned())
    }

    /// Waits for a subscription to a new name.
    pub(super) async fn changed(&self) {
        self.asked.notified().await;
    }

    pub(super) fn take(&self, update: &Update) -> Verdict {
        let mut verdict = Verdict::default();
        for resource in &update.resources {
            if let Err(reason) = self.accept(&resource.name, resource.body.as_ref()) {
                warn!(name = resource.name, reason, "a secret is refused");
                verdict.refused.insert(resource.name.clone(), reason);
            }
        }
        for name in &update.removed {
            self.withdraw(name);
        }
        verdict
    }

    fn accept(&self, name: &str, body: Option<&Any>) -> Result<(), String> {
        let body = body.ok_or("the resource is empty")?;
        let secret: Secret = unpack(body).map_err(|error| error.to_string())?;
        if secret.name != name || secret.r#type.is_none() {
            return Err(format!(
                "{:?} is not the secret that was asked for, or is empty",
                secret.name
            ));
        }
        let secret = Arc::new(SecretMessage::from(secret));
        let slots = self.slots.lock();
        let Some(slot) = slots.get(name) else {
            return Ok(());
        };
        let changed = slot.send_if_modified(|state| {
            if matches!(state, SecretState::Ready(old) if *old == secret) {
                return false;
            }
            *state = SecretState::Ready(secret);
            true
        });
        if changed {
            info!(name, server = %self.server, "a secret has arrived");
        }
        Ok(())
    }

    /// As in Envoy, a secret that is in use stays: an operator may delete one only to make it anew. Whoever
    /// has none need not wait for it any more.
    fn withdraw(&self, name: &str) {
        let slots = self.slots.lock();
        let Some(slot) = slots.get(name) else {
            return;
        };
        let reason: Arc<str> = format!("{} has no secret {name:?}", self.server).into();
        warn!(%reason, "a secret is not there; what was served before stays");
        slot.send_if_modified(|state| {
            let none = !matches!(state, SecretState::Ready(_));
            if none {
                *state = SecretState::Unavailable(reason);
            }
            none
        });
    }
}

impl SecretSubscriber for AdsSecrets {
    fn subscribe(&self, secret: &SecretRef) -> watch::Receiver<SecretState> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&secret.name) {
            return slot.subscribe();
        }
        let waits = format!("secret {:?} from {}", secret.name, self.server);
        let (slot, receiver) = watch::channel(SecretState::Pending(waits.into()));
        slots.insert(secret.name.clone(), slot);
        self.asked.notify_one();
        receiver
    }
}

impl fmt::Debug for AdsSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdsSecrets").field(&self.server).finish()
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::{
        pack,
        pb::envoy::extensions::transport_sockets::tls::v3::{TlsCertificate, secret::Type},
    };

    use super::*;
    use crate::{
        ResourceKind,
        subscription::{Incoming, Receipt},
    };

    const NAME: &str = "kubernetes://credential";

    fn update(resources: Vec<Incoming>, removed: &[&str]) -> Update {
        Update {
            url: ResourceKind::Secret.into(),
            resources,
            removed: removed.iter().map(ToString::to_string).collect(),
            full: false,
            receipt: Receipt::default(),
        }
    }

    #[test]
    fn a_removal_ends_waiting_and_takes_nothing_away() {
        let secrets = AdsSecrets::new(&"istiod".into());
        let credential = SecretRef {
            name: NAME.into(),
            source: None,
        };
        let state = secrets.subscribe(&credential);
        assert!(matches!(*state.borrow(), SecretState::Pending(_)));
        let _ = secrets.take(&update(Vec::new(), &[NAME]));
        assert!(matches!(*state.borrow(), SecretState::Unavailable(_)));
        let body = pack(&Secret {
            name: NAME.into(),
            r#type: Some(Type::TlsCertificate(TlsCertificate::default())),
        });
        let incoming = Incoming {
            name: NAME.into(),
            version: "1".into(),
            body: Some(body),
        };
        let verdict = secrets.take(&update(vec![incoming], &[]));
        assert_eq!(verdict.reason(), None);
        let _ = secrets.take(&update(Vec::new(), &[NAME]));
        assert!(matches!(*state.borrow(), SecretState::Ready(_)));
    }
}
