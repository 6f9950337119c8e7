//! What a secret's name means, to one caller, at one instant.

use std::sync::Arc;

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use ithildin_spiffe::{IdentitySnapshot, IdentityState, SpiffeId, SvidSelector, X509Bundle};

use super::{
    encode,
    options::{FEDERATED_BUNDLE, SdsOptions},
    tombstone,
    validator::Validator,
};
use crate::SecretMessage;

/// The meaning of a name.
#[derive(Clone, PartialEq)]
pub(crate) enum Answer {
    Secret(Arc<SecretMessage>),
    /// Nobody can tell yet; whatever was served before stays in force.
    Pending(Arc<str>),
    /// There is none. Whoever has one must lose it.
    Gone {
        reason: Arc<str>,
        tombstone: Arc<SecretMessage>,
    },
    /// Not a name that any source could ever answer.
    Unknown(Arc<str>),
}

impl Answer {
    /// What is sent to a peer that holds the secret.
    pub(crate) fn secret(&self) -> Option<&Arc<SecretMessage>> {
        match self {
            Self::Secret(secret)
            | Self::Gone {
                tombstone: secret, ..
            } => Some(secret),
            Self::Pending(_) | Self::Unknown(_) => None,
        }
    }
}

/// What a name stands for.
enum Meaning {
    Svid(SvidSelector),
    AllBundles,
    /// The same, with SAN rules for the domains that an operator lets in.
    Federated,
    Bundle(String),
    Unknown(String),
}

/// Resolves a name that is not a file's.
pub(crate) fn resolve(
    name: &str,
    state: &IdentityState,
    options: &SdsOptions,
    validator: Validator,
) -> Answer {
    let meaning = meaning(name, options);
    if let Meaning::Unknown(reason) = meaning {
        return Answer::Unknown(reason.into());
    }
    let snapshot = match state {
        IdentityState::Ready(snapshot) => snapshot,
        IdentityState::Waiting(reason) => return Answer::Pending(Arc::clone(reason)),
        IdentityState::Withdrawn(reason) | IdentityState::Opaque(reason) => {
            return gone(name, &meaning, validator, Arc::clone(reason));
        }
    };
    match look_up(name, &meaning, snapshot, options, validator) {
        Ok(secret) => Answer::Secret(Arc::new(secret.into())),
        Err(reason) => gone(name, &meaning, validator, reason.into()),
    }
}

/// What a wildcard subscription covers: every trust domain and every identity, by SPIFFE ID.
pub(crate) fn wildcard(state: &IdentityState) -> Vec<String> {
    let Some(snapshot) = state.snapshot() else {
        return Vec::new();
    };
    let domains = snapshot.bundles.keys().map(|domain| domain.id());
    let identities = snapshot.svids.iter().map(|svid| svid.id.to_string());
    domains.chain(identities).collect()
}

fn meaning(name: &str, options: &SdsOptions) -> Meaning {
    let names = &options.names;
    if names.default_svid.matches(name) {
        return Meaning::Svid(options.svid.clone());
    }
    if names.default_bundle.matches(name) || names.all_bundles.matches(name) {
        return Meaning::AllBundles;
    }
    if name == FEDERATED_BUNDLE {
        return Meaning::Federated;
    }
    match SpiffeId::parse(name) {
        Ok(id) if id.is_workload() => Meaning::Svid(SvidSelector::Id(id)),
        Ok(id) => Meaning::Bundle(id.trust_domain_name().to_owned()),
        Err(error) if name.starts_with("spiffe://") => {
            Meaning::Unknown(format!("{name:?} {error}"))
        }
        Err(_) => Meaning::Unknown(format!("{name:?} is not the name of a secret")),
    }
}

fn look_up(
    name: &str,
    meaning: &Meaning,
    snapshot: &IdentitySnapshot,
    options: &SdsOptions,
    validator: Validator,
) -> Result<Secret, String> {
    match meaning {
        Meaning::Svid(selector) => match snapshot.select(selector) {
            Some(svid) => Ok(encode::certificate(name, svid)),
            None => Err(format!("the workload has no identity with {selector}")),
        },
        Meaning::AllBundles => all_bundles(name, snapshot, options, validator),
        Meaning::Federated => {
            let mut secret = all_bundles(name, snapshot, options, validator)?;
            let admitted = options.federated.iter().filter(|domain| {
                let bundle = snapshot.bundles.get(*domain);
                bundle.is_some_and(|bundle| !bundle.roots.is_empty())
            });
            encode::admit(&mut secret, admitted);
            Ok(secret)
        }
        Meaning::Bundle(domain) => {
            let bundle = snapshot.bundles.get(domain.as_str());
            let bundle = bundle.ok_or_else(|| {
                format!("there is no bundle for trust domain {domain}, neither own nor federated")
            })?;
            encode::validation(name, [bundle.as_ref()], snapshot, validator)
                .ok_or_else(|| format!("the bundle of trust domain {domain} has no root"))
        }
        Meaning::Unknown(reason) => Err(reason.clone()),
    }
}

fn all_bundles(
    name: &str,
    snapshot: &IdentitySnapshot,
    options: &SdsOptions,
    validator: Validator,
) -> Result<Secret, String> {
    let secret = if options.pool_roots || !snapshot.unbound_roots.is_empty() {
        encode::pooled(name, snapshot)
    } else {
        encode::validation(name, own_first(snapshot), snapshot, validator)
    };
    secret.ok_or_else(|| "no trust domain has a bundle".to_owned())
}

/// The own bundle, then the federated ones by name.
fn own_first(snapshot: &IdentitySnapshot) -> impl Iterator<Item = &X509Bundle> {
    let own = snapshot.bundles.get(&snapshot.trust_domain);
    let others = snapshot
        .bundles
        .iter()
        .filter(|(domain, _)| **domain != snapshot.trust_domain)
        .map(|(_, bundle)| bundle);
    own.into_iter().chain(others).map(Arc::as_ref)
}

fn gone(name: &str, meaning: &Meaning, validator: Validator, reason: Arc<str>) -> Answer {
    let tombstone = match meaning {
        Meaning::Svid(_) => encode::no_certificate(name),
        Meaning::Bundle(domain) => encode::no_trust(name, domain, validator),
        Meaning::AllBundles | Meaning::Federated | Meaning::Unknown(_) => {
            encode::no_trust(name, tombstone::NOBODY, validator)
        }
    };
    Answer::Gone {
        reason,
        tombstone: Arc::new(tombstone.into()),
    }
}
