//! The secrets of one stream: which names it asked for, what they mean now, and what it held before.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use ithildin_proto::{
    pack,
    pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret},
};
use ithildin_spiffe::{Caller, IdentityState};
use prost::Message;
use tokio::sync::watch;
use tokio_stream::{StreamMap, wrappers::WatchStream};
use tracing::{debug, info, warn};

use super::{
    feeds::SecretFeeds,
    files::{self, FileName, FileSecrets},
    lines::Lines,
    options::SdsOptions,
    resolve::{Answer, resolve, wildcard},
    validator::Validator,
};
use crate::{
    SecretMessage, SecretState,
    subscription::{Catalog, Claims, Interest, Resource},
};

/// One stream's view of the secrets.
pub(super) struct Session {
    options: Arc<SdsOptions>,
    caller: Caller,
    files: FileSecrets,
    feeds: SecretFeeds,
    lines: Lines,
    /// By name; those of the stream's secrets from files and feeds.
    file_states: BTreeMap<String, SecretState>,
    file_changes: StreamMap<String, WatchStream<SecretState>>,
    /// From before this stream, as the peer says.
    claims: Claims,
    answers: BTreeMap<String, Answer>,
    /// What `answers` were resolved from.
    resolved_from: Option<(IdentityState, Validator)>,
    view: View,
}

/// What a machine needs to respond.
#[derive(Default)]
pub(super) struct View {
    pub(super) catalog: Catalog,
    pub(super) undecided: BTreeSet<String>,
}

impl Session {
    pub(super) fn new(
        options: Arc<SdsOptions>,
        caller: Caller,
        files: FileSecrets,
        feeds: SecretFeeds,
        lines: Lines,
    ) -> Self {
        Self {
            options,
            caller,
            files,
            feeds,
            lines,
            file_states: BTreeMap::new(),
            file_changes: StreamMap::new(),
            claims: Claims::default(),
            answers: BTreeMap::new(),
            resolved_from: None,
            view: View::default(),
        }
    }

    pub(super) fn claim(&mut self, claims: Claims) {
        self.claims = claims;
    }

    /// The last answers by name, for whoever must say why there is no secret.
    pub(super) fn answers(&self) -> &BTreeMap<String, Answer> {
        &self.answers
    }

    /// Waits until a file secret of this stream changes; for ever if it has none.
    pub(super) async fn file_changed(&mut self) {
        use tokio_stream::StreamExt;
        match self.file_changes.next().await {
            Some((name, state)) => {
                self.file_states.insert(name, state);
            }
            None => std::future::pending().await,
        }
    }

    /// Brings the view up to date. Names are resolved anew only where something changed: a peer that
    /// sends requests without end must not have bundles encoded without end.
    pub(super) fn refresh(
        &mut self,
        interest: &Interest,
        identity: &IdentityState,
        validator: Validator,
    ) -> &View {
        self.drop_files(interest);
        let mut names = interest.names().clone();
        if interest.is_wildcard() {
            names.extend(wildcard(identity));
            names.extend(self.view.catalog.keys().cloned());
        }
        let basis = (identity.clone(), validator);
        let same_basis = self
            .resolved_from
            .replace(basis)
            .is_some_and(|(old, validator_then)| {
                validator_then == validator && is_same(&old, identity)
            });
        let before = std::mem::take(&mut self.view);
        let mut answers = BTreeMap::new();
        for name in names {
            let known = self.answers.remove(&name);
            let answer = match &known {
                Some(known) if same_basis && !self.is_fed(&name) => known.clone(),
                _ => self.answer(&name, identity, validator),
            };
            let held = before.catalog.get(&name);
            let holds = held.is_some() || self.claims.contains(&name);
            let sent = known.as_ref().and_then(Answer::secret);
            if known.as_ref() != Some(&answer) && self.lines.admit() {
                report(&name, &answer, known.as_ref(), holds);
            }
            match &answer {
                Answer::Secret(secret) => self.put(&name, secret, held, sent),
                Answer::Gone { tombstone, .. } if holds => self.put(&name, tombstone, held, sent),
                Answer::Gone { .. } | Answer::Unknown(_) => {}
                Answer::Pending(_) => {
                    if let Some(held) = held {
                        self.view.catalog.insert(name.clone(), Arc::clone(held));
                    }
                    self.view.undecided.insert(name.clone());
                }
            }
            answers.insert(name, answer);
        }
        self.answers = answers;
        &self.view
    }

    fn answer(&mut self, name: &str, identity: &IdentityState, validator: Validator) -> Answer {
        if let Some(feed) = self.feeds.get(name) {
            return self.fed(name, |_| feed);
        }
        match FileName::parse(name) {
            None => resolve(name, identity, &self.options, validator),
            Some(Err(reason)) => Answer::Unknown(reason.into()),
            Some(Ok(_)) if !files::may_read(&self.caller) => {
                Answer::Unknown("files are served only to the agent's own user and to root".into())
            }
            Some(Ok(file)) => self.fed(name, |files| files.subscribe(name, file)),
        }
    }

    /// Whether `name` changes by itself and not with the identity.
    fn is_fed(&self, name: &str) -> bool {
        self.feeds.get(name).is_some() || FileName::parse(name).is_some()
    }

    /// The state of a secret that changes by itself; `open` is asked the first time.
    fn fed(
        &mut self,
        name: &str,
        open: impl FnOnce(&FileSecrets) -> watch::Receiver<SecretState>,
    ) -> Answer {
        if !self.file_states.contains_key(name) {
            let mut receiver = open(&self.files);
            let state = receiver.borrow_and_update().clone();
            let changes = WatchStream::from_changes(receiver);
            self.file_changes.insert(name.to_owned(), changes);
            self.file_states.insert(name.to_owned(), state);
        }
        match self.file_states.get(name) {
            Some(SecretState::Ready(secret)) => Answer::Secret(Arc::clone(secret)),
            Some(SecretState::Pending(reason) | SecretState::Unavailable(reason)) => {
                Answer::Pending(Arc::clone(reason))
            }
            None => Answer::Pending("the secret is not there yet".into()),
        }
    }

    fn drop_files(&mut self, interest: &Interest) {
        let changes = &mut self.file_changes;
        self.file_states.retain(|name, _| {
            let wanted = interest.contains(name);
            if !wanted {
                changes.remove(name);
            }
            wanted
        });
    }

    /// An unchanged secret keeps its entry; `before` is what `held` was made of.
    fn put(
        &mut self,
        name: &str,
        secret: &Arc<SecretMessage>,
        held: Option<&Arc<Resource>>,
        before: Option<&Arc<SecretMessage>>,
    ) {
        let resource = match held {
            Some(held) if before.is_some_and(|before| Arc::ptr_eq(before, secret)) => {
                Arc::clone(held)
            }
            _ => {
                let version = version(secret);
                match held {
                    Some(held) if *held.version == *version => Arc::clone(held),
                    _ => Arc::new(Resource {
                        version: version.into(),
                        body: pack::<Secret>(secret),
                    }),
                }
            }
        };
        self.view.catalog.insert(name.to_owned(), resource);
    }
}

/// Whether nothing was published in between.
fn is_same(a: &IdentityState, b: &IdentityState) -> bool {
    match (a, b) {
        (IdentityState::Ready(a), IdentityState::Ready(b)) => Arc::ptr_eq(a, b),
        (IdentityState::Waiting(a), IdentityState::Waiting(b))
        | (IdentityState::Withdrawn(a), IdentityState::Withdrawn(b))
        | (IdentityState::Opaque(a), IdentityState::Opaque(b)) => a == b,
        _ => false,
    }
}

/// A hash of the public part: a certificate's public key stands for its private one. It is the same
/// on every stream and after a restart, so that a reconnecting client is not sent what it holds.
fn version(secret: &Secret) -> String {
    let mut hasher = DefaultHasher::new();
    match &secret.r#type {
        Some(secret::Type::TlsCertificate(certificate)) => {
            if let Some(chain) = &certificate.certificate_chain {
                hasher.write(&chain.encode_to_vec());
            }
        }
        _ => hasher.write(&secret.encode_to_vec()),
    }
    format!("{:016x}", hasher.finish())
}

fn report(name: &str, answer: &Answer, before: Option<&Answer>, holds: bool) {
    match (answer, before) {
        (Answer::Secret(_), Some(Answer::Secret(_))) => debug!(name, "a secret has changed"),
        (Answer::Secret(_), _) => info!(name, "a secret is served"),
        (Answer::Pending(reason), _) => info!(name, %reason, "a secret is waited for"),
        (Answer::Gone { reason, .. }, _) if holds => {
            warn!(name, %reason, "a secret is withdrawn; one that nobody trusts replaces it");
        }
        (Answer::Gone { reason, .. } | Answer::Unknown(reason), _) => {
            warn!(name, %reason, "a secret is held back until there is one");
        }
    }
}

#[cfg(test)]
mod tests {
    use ithildin_spiffe::{
        Provider, SpiffeId, TrustDomain,
        authority::{Authority, AuthorityConfig, TrustDomainConfig, WorkloadConfig},
    };

    use super::*;
    use crate::sds::FileOptions;

    fn authority() -> Authority {
        let mut domain = TrustDomainConfig::new(TrustDomain::parse("domain.test").unwrap());
        let id = SpiffeId::parse("spiffe://domain.test/web").unwrap();
        domain.workloads.push(WorkloadConfig::new(id));
        Authority::start(AuthorityConfig {
            trust_domains: vec![domain],
            federation: Vec::new(),
        })
        .unwrap()
    }

    fn refresh(session: &mut Session, identity: &IdentityState, validator: Validator) -> Catalog {
        let interest = Interest::of(["default", "ROOTCA", "spiffe://no.test"]);
        session
            .refresh(&interest, identity, validator)
            .catalog
            .clone()
    }

    fn encoded(session: &Session) -> Vec<*const SecretMessage> {
        let secrets = session.answers.values().filter_map(Answer::secret);
        secrets.map(Arc::as_ptr).collect()
    }

    #[tokio::test]
    async fn a_secret_is_encoded_once_for_each_change() {
        let authority = authority();
        let provider = authority.agent("domain.test").unwrap();
        let mut states = provider.identities(&Caller::default());
        let identity = states.borrow_and_update().clone();
        let files = FileSecrets::new(FileOptions::default());
        let feeds = SecretFeeds::default();
        let lines = Lines::default();
        let mut session = Session::new(Arc::default(), Caller::default(), files, feeds, lines);
        let first = refresh(&mut session, &identity, Validator::Spiffe);
        assert_eq!(first.len(), 2);
        let secrets = encoded(&session);
        assert_eq!(secrets.len(), 3, "one of them stands for what is not there");
        assert_eq!(refresh(&mut session, &identity, Validator::Spiffe), first);
        assert_eq!(encoded(&session), secrets);

        let plain = refresh(&mut session, &identity, Validator::TrustedCa);
        assert_ne!(plain["ROOTCA"], first["ROOTCA"]);
        assert_eq!(plain["default"], first["default"]);

        authority.rotate_leaf("domain.test", None).unwrap();
        let identity = states.borrow_and_update().clone();
        let rotated = refresh(&mut session, &identity, Validator::TrustedCa);
        assert_ne!(rotated["default"], first["default"]);
        assert_eq!(rotated["ROOTCA"], plain["ROOTCA"]);
    }
}
