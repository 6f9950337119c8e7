//! `envoy.filters.http.jwt_authn`: whose tokens are asked for. What is known of a token's places:
//! `jwt_locations`; which keys verify it: `jwt_keys`.

use std::collections::HashMap;

use http::HeaderName;
use ithildin_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtProvider as ProviderProto, JwtRequirement,
    PerRouteConfig, RequirementRule, jwt_provider::NormalizePayload, jwt_requirement::RequiresType,
    per_route_config::RequirementSpecifier, requirement_rule::RequirementType,
};

use super::{Compiler, jwt_keys, jwt_locations, routes};
use crate::{
    config::jwt::{
        Audiences, ClaimHeader, JwtAuthn, JwtOverride, JwtProvider, JwtRule, Leniency, Requirement,
    },
    control::report::{At, no_effect, refuse},
};

/// Envoy's default, in seconds.
const DEFAULT_CLOCK_SKEW: u64 = 60;

/// The filter of a connection manager with this stat prefix.
pub(super) fn filter(
    config: &JwtAuthentication,
    compiler: &mut Compiler,
    manager: &str,
    at: &At<'_>,
) -> Option<JwtAuthn> {
    let JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = config;
    refuse!(at; filter_state_rules);
    let errors = at.errors();
    let sorted = sorted(providers);
    let names: Vec<_> = sorted.iter().map(|(name, _)| *name).collect();
    let scope = Scope {
        names: &names,
        configs: &sorted.iter().map(|(_, config)| *config).collect::<Vec<_>>(),
    };
    let compiled = sorted
        .iter()
        .filter_map(|(name, config)| provider(config, compiler, &at.key("providers", name)))
        .collect::<Vec<_>>();
    let named = self::sorted(requirement_map);
    let named = named.into_iter().filter_map(|(name, config)| {
        let at = at.key("requirement_map", name);
        Some((name.into(), scope.requirement(config, &at)?))
    });
    let named = named.collect();
    let rules = rules.iter().enumerate();
    let rules = rules
        .filter_map(|(i, config)| scope.rule(config, requirement_map, &at.index("rules", i)))
        .collect();
    (at.errors() == errors).then(|| JwtAuthn {
        own_headers: own_headers(&compiled),
        providers: compiled,
        rules,
        named,
        bypass_cors_preflight: *bypass_cors_preflight,
        strip_failure_response: *strip_failure_response,
        stats: compiler.stats.jwt(manager, stat_prefix),
    })
}

/// What a route says.
pub(super) fn per_route(config: &PerRouteConfig, at: &At<'_>) -> Option<JwtOverride> {
    match &config.requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Some(JwtOverride::Disabled),
        Some(RequirementSpecifier::Disabled(false)) => {
            at.field("disabled").error("must be true");
            None
        }
        Some(RequirementSpecifier::RequirementName(name)) => {
            Some(JwtOverride::Requirement(name.as_str().into()))
        }
        None => {
            at.error("one of disabled and requirement_name is required");
            None
        }
    }
}

fn sorted<T>(map: &HashMap<String, T>) -> Vec<(&str, &T)> {
    let mut list: Vec<_> = map.iter().map(|(name, it)| (name.as_str(), it)).collect();
    list.sort_unstable_by_key(|(name, _)| *name);
    list
}

fn own_headers(providers: &[JwtProvider]) -> Vec<HeaderName> {
    let headers = providers.iter().flat_map(|provider| {
        let claims = provider.claim_to_headers.iter().map(|it| &it.header);
        provider.forward_payload_header.iter().chain(claims)
    });
    let mut headers: Vec<_> = headers.cloned().collect();
    headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    headers.dedup();
    headers
}

fn provider(config: &ProviderProto, compiler: &mut Compiler, at: &At<'_>) -> Option<JwtProvider> {
    let ProviderProto {
        issuer,
        audiences,
        subjects,
        require_expiration,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        normalize_payload_in_metadata,
        header_in_metadata,
        failed_status_in_metadata,
        clock_skew_seconds,
        jwt_cache_config,
        claim_to_headers,
        clear_route_cache,
        jwks_source_specifier,
    } = config;
    // A cache only spares work. The places are read with those of others: see `jwt_locations`.
    no_effect!(jwt_cache_config, from_headers, from_params, from_cookies);
    let errors = at.errors();
    let subjects = subjects.as_ref();
    let subjects = subjects.map(|it| super::matchers::string(it, &at.field("subjects")));
    let claims = claim_to_headers.iter().enumerate();
    let claims = claims.filter_map(|(i, it)| claim(it, &at.index("claim_to_headers", i)));
    let claims = claims.collect();
    let payload_header = match forward_payload_header.as_str() {
        "" => None,
        name => header_name(name, &at.field("forward_payload_header")),
    };
    let lifetime = at.duration("max_lifetime", max_lifetime);
    let locations = jwt_locations::locations(&[config], Some(at));
    let keys = jwt_keys::keys(jwks_source_specifier.as_ref(), compiler, at);
    let key = |text: &String| (!text.is_empty()).then(|| text.as_str().into());
    let NormalizePayload {
        space_delimited_claims,
    } = normalize_payload_in_metadata.clone().unwrap_or_default();
    (at.errors() == errors).then_some(())?;
    Some(JwtProvider {
        issuer: issuer.as_str().into(),
        audiences: Audiences::new(audiences),
        subjects: subjects.flatten(),
        require_expiration: *require_expiration,
        max_lifetime: lifetime.map(|it| it.as_secs()),
        clock_skew: match *clock_skew_seconds {
            0 => DEFAULT_CLOCK_SKEW,
            seconds => seconds.into(),
        },
        keys: keys?,
        locations,
        forward: *forward,
        forward_payload_header: payload_header,
        pad_forward_payload_header: *pad_forward_payload_header,
        claim_to_headers: claims,
        payload_in_metadata: key(payload_in_metadata),
        header_in_metadata: key(header_in_metadata),
        failed_status_in_metadata: key(failed_status_in_metadata),
        space_delimited_claims: space_delimited_claims.into_iter().map(Into::into).collect(),
        clear_route_cache: *clear_route_cache,
    })
}

fn claim(config: &JwtClaimToHeader, at: &At<'_>) -> Option<ClaimHeader> {
    let JwtClaimToHeader {
        header_name,
        claim_name,
        claim_path,
    } = config;
    let header = self::header_name(header_name, &at.field("header_name"));
    if claim_name.is_empty() == claim_path.is_empty() {
        at.error("one of claim_name and claim_path is required");
        return None;
    }
    let path: Vec<Box<str>> = match claim_path.is_empty() {
        true => claim_name.split('.').map(Into::into).collect(),
        false => claim_path.iter().map(|it| it.key.as_str().into()).collect(),
    };
    let header = header?;
    Some(ClaimHeader { header, path })
}

pub(super) fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    at.check(
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not a header name")),
    )
}

/// The providers that requirements may name.
struct Scope<'p> {
    names: &'p [&'p str],
    configs: &'p [&'p ProviderProto],
}

impl Scope<'_> {
    fn rule(
        &self,
        config: &RequirementRule,
        named: &HashMap<String, JwtRequirement>,
        at: &At<'_>,
    ) -> Option<JwtRule> {
        let RequirementRule {
            r#match,
            requirement_type,
        } = config;
        let place = at.field("match");
        let Some(matches) = r#match else {
            place.error("is required");
            return None;
        };
        // Envoy looks at path, headers and query only.
        place.unset("grpc", &matches.grpc);
        place.unset("dynamic_metadata", &matches.dynamic_metadata);
        let matches = routes::route_match(matches, &place);
        let requirement = match requirement_type {
            None => None,
            Some(RequirementType::Requires(config)) => match config.requires_type {
                None => None,
                Some(_) => Some(self.requirement(config, &at.field("requires"))?),
            },
            Some(RequirementType::RequirementName(name)) => {
                let at = at.field("requirement_name");
                let Some(config) = named.get(name) else {
                    at.error(format_args!("{name:?} is not in requirement_map"));
                    return None;
                };
                Some(self.requirement(config, &at)?)
            }
        };
        Some(JwtRule {
            matches: matches?,
            requirement,
        })
    }

    fn requirement(&self, config: &JwtRequirement, at: &At<'_>) -> Option<Requirement> {
        let Some(requires) = &config.requires_type else {
            at.error("must say what it requires");
            return None;
        };
        Some(match requires {
            RequiresType::ProviderName(name) => Requirement::Provider {
                provider: self.index(name, &at.field("provider_name"))?,
                audiences: None,
            },
            RequiresType::ProviderAndAudiences(it) => {
                let at = at.field("provider_and_audiences");
                Requirement::Provider {
                    provider: self.index(&it.provider_name, &at.field("provider_name"))?,
                    audiences: Some(Audiences::new(&it.audiences)),
                }
            }
            RequiresType::RequiresAny(list) => {
                self.any(&list.requirements, &at.field("requires_any"))?
            }
            RequiresType::RequiresAll(list) => {
                let at = at.field("requires_all");
                let list = self.list(&list.requirements, &at)?;
                Requirement::All(list)
            }
            RequiresType::AllowMissing(_) => self.optional(false),
            RequiresType::AllowMissingOrFailed(_) => self.optional(true),
            RequiresType::ExtractOnlyWithoutValidation(_) => {
                at.field("extract_only_without_validation")
                    .error("is not supported");
                return None;
            }
        })
    }

    fn index(&self, name: &str, at: &At<'_>) -> Option<usize> {
        let index = self.names.iter().position(|it| *it == name);
        if index.is_none() {
            at.error(format_args!("{name:?} is not in providers"));
        }
        index
    }

    fn list(&self, list: &[JwtRequirement], at: &At<'_>) -> Option<Vec<Requirement>> {
        if list.len() < 2 {
            at.field("requirements").error("has less than two");
            return None;
        }
        let parts = list.iter().enumerate();
        let parts = parts.map(|(i, it)| self.requirement(it, &at.index("requirements", i)));
        let parts: Vec<_> = parts.collect();
        parts.into_iter().collect()
    }

    /// What lets a token be missing comes last, wherever it stands.
    fn any(&self, list: &[JwtRequirement], at: &At<'_>) -> Option<Requirement> {
        let mut parts = self.list(list, at)?;
        let mut leniency = Leniency::None;
        for part in &parts {
            leniency = match part {
                Requirement::Optional { allow_failed, .. } if *allow_failed => {
                    Leniency::MissingOrFailed
                }
                Requirement::Optional { .. } if leniency == Leniency::None => Leniency::Missing,
                _ => leniency,
            };
        }
        parts.retain(|it| !matches!(it, Requirement::Optional { .. }));
        if parts.is_empty() {
            let allow_failed = leniency == Leniency::MissingOrFailed;
            return Some(self.optional(allow_failed));
        }
        Some(Requirement::Any(parts, leniency))
    }

    /// A token may be missing from the places of all providers.
    fn optional(&self, allow_failed: bool) -> Requirement {
        Requirement::Optional {
            locations: jwt_locations::locations(self.configs, None),
            allow_failed,
        }
    }
}
