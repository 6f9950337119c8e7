//! Keys that a request's tokens need and that are fetched: they are there before the tokens are looked at.

use std::{future::poll_fn, pin::pin, sync::Arc};

use ithildin_jwt::{JwtError, KeySet, Token};

use super::{By, is_preflight, locations, now, owner, requirement};
use crate::{
    config::{
        jwt::{JwtAuthn, JwtOverride, JwtProvider, Locations, Requirement},
        jwt_keys::JwtKeys,
    },
    http::{client::Client, exchange::Exchange, jwks, race::Beside, request::Request},
};

/// The keys of providers that have them fetched, as they are for one request.
pub(super) struct Fetched<'f> {
    /// Seconds since the epoch, by which tokens are timely: the same for whose keys are fetched and for
    /// whose are asked for.
    pub(super) now: u64,
    /// `None`: it failed.
    keys: Vec<(&'f JwtProvider, Option<Arc<KeySet>>)>,
}

impl Default for Fetched<'_> {
    /// None, as of now.
    fn default() -> Self {
        Self {
            now: now(),
            keys: Vec::new(),
        }
    }
}

impl Fetched<'_> {
    pub(super) fn keys<'k>(&'k self, provider: &'k JwtProvider) -> Result<&'k KeySet, JwtError> {
        if let JwtKeys::Local(keys) = &provider.keys {
            return Ok(keys);
        }
        let mut fetched = self.keys.iter();
        let (_, keys) = fetched
            .find(|(it, _)| std::ptr::eq(*it, provider))
            .ok_or(JwtError::Fetch)?;
        keys.as_deref().ok_or(JwtError::Fetch)
    }
}

impl Exchange<'_> {
    /// Waits for the keys of the request's tokens; `None` if the client has gone.
    pub(super) async fn fetch_keys<'f>(
        &self,
        filter: &'f JwtAuthn,
        own: Option<&JwtOverride>,
        client: &mut Client<'_, '_>,
    ) -> Option<Fetched<'f>> {
        let mut fetched = Fetched::default();
        if filter.bypass_cors_preflight && is_preflight(&self.request) {
            return Some(fetched);
        }
        let Ok(Some(requirement)) = requirement(filter, own, &self.request) else {
            return Some(fetched);
        };
        wanted(filter, requirement, &self.request, &mut fetched);
        let worker = self.context.worker;
        for (provider, fetched) in &mut fetched.keys {
            let JwtKeys::Remote(remote) = &provider.keys else {
                continue;
            };
            let fetching = jwks::keys(worker, remote, &filter.stats);
            let mut gone = pin!(poll_fn(|cx| client.poll_gone(cx)));
            let mut gone = Beside::new(gone.as_mut());
            *fetched = gone.with(pin!(fetching), |()| true).await?;
        }
        Some(fetched)
    }
}

/// Notes the providers whose keys are fetched and whose tokens the request shows.
fn wanted<'f>(
    filter: &'f JwtAuthn,
    requirement: &'f Requirement,
    request: &Request,
    fetched: &mut Fetched<'f>,
) {
    let mut look = |locations: &'f Locations, by: By<'f>| {
        for found in locations::tokens(locations, request) {
            let mut provider = match by {
                By::Provider(provider, _) => Some(provider),
                By::Issuer { .. } => None,
            };
            let Ok(token) = Token::parse(&found.text) else {
                continue;
            };
            if let Ok(owner) = owner(filter, &found, by, &token, fetched.now, &mut provider)
                && let JwtKeys::Remote(_) = &owner.keys
                && !fetched.keys.iter().any(|(it, _)| std::ptr::eq(*it, owner))
            {
                fetched.keys.push((owner, None));
            }
        }
    };
    match requirement {
        Requirement::Provider {
            provider,
            audiences,
        } => {
            let provider = &filter.providers[*provider];
            let audiences = audiences.as_ref().unwrap_or(&provider.audiences);
            look(&provider.locations, By::Provider(provider, audiences));
        }
        Requirement::Optional {
            locations,
            allow_failed,
        } => look(
            locations,
            By::Issuer {
                allow_failed: *allow_failed,
            },
        ),
        Requirement::All(parts) | Requirement::Any(parts, _) => {
            for part in parts {
                wanted(filter, part, request, fetched);
            }
        }
    }
}
