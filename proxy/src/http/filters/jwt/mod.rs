//! `envoy.filters.http.jwt_authn`: requests must show the tokens that their rule asks for.
//!
//! Invariants: what a token says reaches headers, metadata and routes only once its signature,
//! time, issuer and audience are found good; headers that tell of tokens are taken from every
//! request first, so that no client writes them; of several tokens at the places of a provider each
//! must be good, or the upstream might believe the bad one. (Envoy lets a bad one pass beside a good
//! one where `allow_missing` stands alone, which istiod does not send.)

mod effects;
mod keys;
mod locations;

use std::time::SystemTime;

use bytes::Bytes;
use ithildin_jwt::{JwtError, Token};

use self::{keys::Fetched, locations::Found};
use crate::{
    access_log::ResponseFlags,
    config::jwt::{
        Audiences, JwtAuthn, JwtOverride, JwtProvider, Leniency, Locations, Requirement,
    },
    http::{
        client::Client,
        exchange::Exchange,
        failure::LocalReply,
        filters::{Verdict, is_preflight},
        request::Request,
    },
    metadata::DynamicMetadata,
    stats::JwtBlock,
};

/// Where it leaves what tokens say, whatever its own name is.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// Most bytes of a path in an answer; Envoy's.
const MAX_REALM_PATH: usize = 256;

impl Exchange<'_> {
    /// Lets the request pass, or says what is wrong with its tokens. The result is whether its
    /// route must be found again.
    pub(super) async fn check_tokens(
        &mut self,
        filter: &JwtAuthn,
        own: Option<&JwtOverride>,
        client: &mut Client<'_, '_>,
    ) -> Result<bool, Verdict> {
        for header in &filter.own_headers {
            self.request.headers.remove(header.as_str());
        }
        let fetched = match filter.remote_keys().next() {
            None => Fetched::default(),
            Some(_) => {
                let fetched = Box::pin(self.fetch_keys(filter, own, client)).await;
                fetched.ok_or(Verdict::Gone)?
            }
        };
        let judged = self.authenticate(filter, own, &fetched);
        judged.map_err(Verdict::Reply)
    }

    fn authenticate(
        &mut self,
        filter: &JwtAuthn,
        own: Option<&JwtOverride>,
        fetched: &Fetched<'_>,
    ) -> Result<bool, LocalReply> {
        let stats = filter.stats.worker(self.context.worker.index);
        let request = &mut self.request;
        if filter.bypass_cors_preflight && is_preflight(request) {
            stats.cors_preflight_bypassed.inc();
            stats.allowed.inc();
            return Ok(false);
        }
        let requirement = match requirement(filter, own, request) {
            Ok(requirement) => requirement,
            Err(reply) => {
                stats.denied.inc();
                return Err(reply);
            }
        };
        let Some(requirement) = requirement else {
            stats.allowed.inc();
            return Ok(false);
        };
        let realm = realm(request);
        let mut check = Check {
            filter,
            stats,
            request,
            fetched,
            reroute: false,
        };
        match check.requirement(requirement) {
            Ok(()) => {
                stats.allowed.inc();
                Ok(check.reroute)
            }
            Err(error) => {
                stats.denied.inc();
                Err(refusal(filter, error, &realm))
            }
        }
    }
}

/// What this request must show.
fn requirement<'f>(
    filter: &'f JwtAuthn,
    own: Option<&JwtOverride>,
    request: &Request,
) -> Result<Option<&'f Requirement>, LocalReply> {
    match own {
        None => {
            let mut rules = filter.rules.iter();
            let rule = rules.find(|rule| rule.matches.admits(request));
            Ok(rule.and_then(|rule| rule.requirement.as_ref()))
        }
        Some(JwtOverride::Disabled) => Ok(None),
        Some(JwtOverride::Requirement(name)) => {
            let mut named = filter.named.iter();
            let found = named.find(|(known, _)| known == name);
            found.map(|(_, it)| Some(it)).ok_or_else(|| {
                let known: Vec<_> = filter.named.iter().map(|(name, _)| &**name).collect();
                let known = known.join(",");
                let error =
                    format!("Wrong requirement_name: {name}. It should be one of [{known}]");
                let mut reply = denied(403, &error);
                reply.body = format!("Failed JWT authentication: {error}").into();
                reply
            })
        }
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The request's address as the client wrote it.
fn realm(request: &Request) -> Vec<u8> {
    let original = request.headers.get("x-envoy-original-path");
    let path = original.unwrap_or(&request.path);
    let path = &path[..path.len().min(MAX_REALM_PATH)];
    let scheme = request.scheme.unwrap_or_default().as_bytes();
    [scheme, b"://", &request.authority, path].concat()
}

fn refusal(filter: &JwtAuthn, error: JwtError, realm: &[u8]) -> LocalReply {
    let status = match error {
        JwtError::AudienceNotAllowed => 403,
        _ => 401,
    };
    let mut reply = denied(status, &error.to_string());
    if filter.strip_failure_response {
        reply.body = Bytes::new();
        return reply;
    }
    let hint: &[u8] = match error {
        JwtError::Missing => b"\"",
        _ => b"\", error=\"invalid_token\"",
    };
    let challenge = [b"Bearer realm=\"", realm, hint].concat();
    let challenge = (http::header::WWW_AUTHENTICATE, challenge.into());
    reply.headers.push(challenge);
    reply
}

fn denied(status: u16, error: &str) -> LocalReply {
    let mut reply = LocalReply::new(status, "", ResponseFlags::NONE, "");
    let reason = error.replace(' ', "_");
    reply.details = format!("jwt_authn_access_denied{{{reason}}}").into();
    reply.body = error.to_owned().into();
    reply
}

/// One request that is being checked.
struct Check<'c> {
    filter: &'c JwtAuthn,
    stats: &'c JwtBlock,
    request: &'c mut Request,
    fetched: &'c Fetched<'c>,
    reroute: bool,
}

/// Whose token one may be.
#[derive(Clone, Copy)]
enum By<'c> {
    Provider(&'c JwtProvider, &'c Audiences),
    /// Of the provider that the token names.
    Issuer {
        allow_failed: bool,
    },
}

impl<'c> Check<'c> {
    fn requirement(&mut self, requirement: &'c Requirement) -> Result<(), JwtError> {
        match requirement {
            Requirement::Provider {
                provider,
                audiences,
            } => {
                let provider = &self.filter.providers[*provider];
                let audiences = audiences.as_ref().unwrap_or(&provider.audiences);
                self.tokens(&provider.locations, By::Provider(provider, audiences))
            }
            Requirement::Optional {
                locations,
                allow_failed,
            } => {
                let allow_failed = *allow_failed;
                match self.tokens(locations, By::Issuer { allow_failed }) {
                    Err(JwtError::Missing) => Ok(()),
                    other => other,
                }
            }
            Requirement::All(parts) => parts.iter().try_for_each(|it| self.requirement(it)),
            Requirement::Any(parts, leniency) => {
                let mut error = JwtError::Missing;
                for part in parts {
                    match self.requirement(part) {
                        Ok(()) => return Ok(()),
                        Err(other) if says_more(other, error) => error = other,
                        Err(_) => {}
                    }
                }
                match (leniency, error) {
                    (Leniency::MissingOrFailed, _) => Ok(()),
                    (Leniency::Missing, JwtError::Missing) => Ok(()),
                    _ => Err(error),
                }
            }
        }
    }

    /// Every token at these places.
    fn tokens(&mut self, locations: &'c Locations, by: By<'c>) -> Result<(), JwtError> {
        let mut found = locations::tokens(locations, self.request);
        if found.is_empty() {
            return Err(JwtError::Missing);
        }
        // The last first, as in Envoy.
        found.reverse();
        for found in found {
            let mut provider = match by {
                By::Provider(provider, _) => Some(provider),
                By::Issuer { .. } => None,
            };
            let checked = self.token(&found, by, &mut provider);
            let Err(error) = checked else { continue };
            if let Some(key) = provider.and_then(|it| it.failed_status_in_metadata.as_ref()) {
                let metadata = self.request.metadata.get_or_insert_default();
                metadata.set(NAMESPACE, key, effects::failure(error));
            }
            if !matches!(by, By::Issuer { allow_failed: true }) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// One token; if it is good, what it says is said. `provider` becomes known on the way.
    fn token(
        &mut self,
        found: &Found<'c>,
        by: By<'c>,
        provider: &mut Option<&'c JwtProvider>,
    ) -> Result<(), JwtError> {
        if provider.is_some() {
            self.stats.jwt_cache_miss.inc();
        }
        let token = Token::parse(&found.text)?;
        let provider = owner(self.filter, found, by, &token, self.fetched.now, provider)?;
        self.fetched.keys(provider)?.verify(&token)?;
        self.accept(found, &token, provider);
        Ok(())
    }
}

/// Whose token one is, if only its signature is left to be looked at. `provider` becomes known on the way.
fn owner<'c>(
    filter: &'c JwtAuthn,
    found: &Found<'_>,
    by: By<'c>,
    token: &Token<'_>,
    now: u64,
    provider: &mut Option<&'c JwtProvider>,
) -> Result<&'c JwtProvider, JwtError> {
    let issuer = token.issuer();
    if !found.issuers.admit(issuer) {
        return Err(JwtError::UnknownIssuer);
    }
    let by_issuer = || filter.issued_by(issuer);
    let provider = *provider.get_or_insert(by_issuer().ok_or(JwtError::UnknownIssuer)?);
    let audiences = match by {
        By::Provider(_, audiences) => audiences,
        By::Issuer { .. } => &provider.audiences,
    };
    is_acceptable(token, provider, now)?;
    match audiences.admit(token.audiences()) {
        true => Ok(provider),
        false => Err(JwtError::AudienceNotAllowed),
    }
}

/// Its time, and who it speaks of.
fn is_acceptable(token: &Token<'_>, provider: &JwtProvider, now: u64) -> Result<(), JwtError> {
    token.is_timely(now, provider.clock_skew)?;
    let subjects = provider.subjects.as_ref();
    let is_of_them = subjects.is_none_or(|it| it.admits(token.subject().as_bytes()));
    let lasts = match (token.expires(), provider.max_lifetime) {
        (Some(end), Some(most)) => end.saturating_sub(now) <= most,
        (None, Some(_)) => false,
        (end, None) => end.is_some() || !provider.require_expiration,
    };
    match is_of_them && lasts {
        true => Ok(()),
        false => Err(JwtError::VerificationFail),
    }
}

impl JwtAuthn {
    /// The provider of an issuer's tokens: one that names it, else one that takes anybody's.
    fn issued_by(&self, issuer: &str) -> Option<&JwtProvider> {
        let of = |issuer: &str| self.providers.iter().find(|it| *it.issuer == *issuer);
        of(issuer).or_else(|| of(""))
    }
}

/// Whether an error tells more than one of another part: that a token is bad is more than that it is
/// somebody else's, and that is more than that there is none.
fn says_more(error: JwtError, than: JwtError) -> bool {
    match error {
        JwtError::Missing => false,
        JwtError::UnknownIssuer => than == JwtError::Missing,
        _ => true,
    }
}
