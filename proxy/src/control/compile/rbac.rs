//! RBAC policies, of the HTTP and of the network filter.

use ithildin_proto::pb::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        rbac::v3::{
            MetadataSource, Permission, Policy as PolicyProto, Principal, Rbac as RulesProto,
            SourcedMetadata,
            permission::{Rule as PermissionRule, Set as Permissions},
            principal::{Authenticated, Identifier, Set as Principals},
            rbac::Action as ActionProto,
        },
    },
    extensions::{
        filters::{http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as NetworkRbac},
        path::r#match::uri_template::v3::UriTemplateMatchConfig,
    },
    r#type::matcher::v3::{
        FilterStateMatcher, PathMatcher, filter_state_matcher::Matcher as StateMatcher,
        path_matcher::Rule as PathRule,
    },
};

use super::{address, matchers, metadata};
use crate::{
    config::matchers::{StringMatch, StringPattern},
    control::{
        any,
        report::{At, no_effect, refuse},
    },
    rbac::{Action, Cidr, Policy, Rbac, Rule, RuleSet},
    stats::Registry,
};

/// Where Istio's authentication leaves the peer's identity.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// The HTTP filter.
///
/// `stats` and the stat prefix of its connection manager are there where it has names of its own
/// for what it counts.
pub(super) fn http(
    config: &HttpRbac,
    stats: Option<(&Registry, &str)>,
    at: &At<'_>,
) -> Option<Rbac> {
    let HttpRbac {
        rules,
        rules_stat_prefix,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        track_per_rule_stats,
    } = config;
    // Statistics.
    no_effect!(track_per_rule_stats);
    refuse!(at; matcher, shadow_matcher);
    let mut rbac = both(rules, shadow_rules, shadow_rules_stat_prefix, at)?;
    if let Some((registry, manager)) = stats
        && !(rules_stat_prefix.is_empty() && shadow_rules_stat_prefix.is_empty())
    {
        let stats = registry.rbac(manager, rules_stat_prefix, shadow_rules_stat_prefix);
        rbac.stats = Some(stats);
    }
    Some(rbac)
}

/// The network filter. It is asked when the connection is established, before an upstream is:
/// nothing that it may look at is known later.
pub(super) fn network(config: &NetworkRbac, at: &At<'_>) -> Option<Rbac> {
    let NetworkRbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = config;
    // ONE_TIME_ON_FIRST_BYTE is the enumeration's zero.
    refuse!(at; matcher, shadow_matcher, enforcement_type, delay_deny);
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    both(rules, shadow_rules, shadow_rules_stat_prefix, at)
}

fn both(
    rules: &Option<RulesProto>,
    shadow_rules: &Option<RulesProto>,
    shadow_prefix: &str,
    at: &At<'_>,
) -> Option<Rbac> {
    let set = |name: &'static str, rules: &Option<RulesProto>| match rules {
        Some(rules) => rule_set(rules, &at.field(name)).map(Some),
        None => Some(None),
    };
    let (rules, shadow_rules) = (set("rules", rules), set("shadow_rules", shadow_rules));
    Some(Rbac {
        rules: rules?,
        shadow_rules: shadow_rules?,
        shadow_keys: ["shadow_engine_result", "shadow_effective_policy_id"]
            .map(|key| format!("{shadow_prefix}{key}").into()),
        stats: None,
    })
}

fn rule_set(config: &RulesProto, at: &At<'_>) -> Option<RuleSet> {
    let RulesProto {
        action,
        policies,
        audit_logging_options,
    } = config;
    refuse!(at; audit_logging_options);
    let action = match at.enumeration("action", *action)? {
        ActionProto::Allow => Action::Allow,
        ActionProto::Deny => Action::Deny,
        ActionProto::Log => Action::Log,
    };
    let mut named: Vec<_> = policies.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    let errors = at.errors();
    let policies = named
        .into_iter()
        .filter_map(|(name, config)| policy(name, config, &at.key("policies", name)))
        .collect();
    (at.errors() == errors).then_some(RuleSet { action, policies })
}

fn policy(name: &str, config: &PolicyProto, at: &At<'_>) -> Option<Policy> {
    let PolicyProto {
        permissions,
        principals,
        condition,
        checked_condition,
        cel_config,
    } = config;
    refuse!(at; condition, checked_condition, cel_config);
    if permissions.is_empty() {
        at.field("permissions").error("is empty");
    }
    if principals.is_empty() {
        at.field("principals").error("is empty");
    }
    Some(Policy {
        name: name.into(),
        permissions: all(permissions, "permissions", permission, at)?,
        principals: all(principals, "principals", principal, at)?,
    })
}

/// Every one of `configs`, so that each error is found.
fn all<T>(
    configs: &[T],
    name: &'static str,
    compile: fn(&T, &At<'_>) -> Option<Rule>,
    at: &At<'_>,
) -> Option<Vec<Rule>> {
    let rules: Vec<_> = configs
        .iter()
        .enumerate()
        .map(|(i, config)| compile(config, &at.index(name, i)))
        .collect();
    rules.into_iter().collect()
}

fn permission(config: &Permission, at: &At<'_>) -> Option<Rule> {
    let Some(rule) = &config.rule else {
        at.error("a permission must say what it permits");
        return None;
    };
    let set = |name: &'static str, set: &Permissions| {
        let at = at.field(name);
        not_empty(&set.rules, "rules", &at)?;
        all(&set.rules, "rules", permission, &at)
    };
    Some(match rule {
        PermissionRule::AndRules(rules) => Rule::All(set("and_rules", rules)?),
        PermissionRule::OrRules(rules) => Rule::OneOf(set("or_rules", rules)?),
        PermissionRule::NotRule(rule) => {
            Rule::Not(Box::new(permission(rule, &at.field("not_rule"))?))
        }
        PermissionRule::Any(any) => any_rule(*any, at)?,
        PermissionRule::Header(config) => {
            Rule::Header(matchers::header(config, &at.field("header"))?)
        }
        PermissionRule::UrlPath(path) => url_path(path, &at.field("url_path"))?,
        PermissionRule::DestinationIp(range) => {
            Rule::DestinationIp(cidr(range, &at.field("destination_ip"))?)
        }
        PermissionRule::DestinationPort(port) => Rule::DestinationPort(*port..port.checked_add(1)?),
        PermissionRule::DestinationPortRange(range) => {
            let bounds = (u32::try_from(range.start), u32::try_from(range.end));
            let (Ok(start), Ok(end)) = bounds else {
                at.field("destination_port_range").error("is negative");
                return None;
            };
            Rule::DestinationPort(start..end)
        }
        PermissionRule::RequestedServerName(matcher) => Rule::ServerName(matchers::string(
            matcher,
            &at.field("requested_server_name"),
        )?),
        PermissionRule::Metadata(config) => {
            Rule::Metadata(metadata::matcher(config, &at.field("metadata"))?)
        }
        PermissionRule::SourcedMetadata(config) => {
            sourced_metadata(config, &at.field("sourced_metadata"))?
        }
        PermissionRule::Matcher(_) => return unsupported("matcher", at),
        PermissionRule::UriTemplate(config) => uri_template(config, &at.field("uri_template"))?,
    })
}

fn principal(config: &Principal, at: &At<'_>) -> Option<Rule> {
    let Some(identifier) = &config.identifier else {
        at.error("a principal must say who it is");
        return None;
    };
    let set = |name: &'static str, set: &Principals| {
        let at = at.field(name);
        not_empty(&set.ids, "ids", &at)?;
        all(&set.ids, "ids", principal, &at)
    };
    Some(match identifier {
        Identifier::AndIds(ids) => Rule::All(set("and_ids", ids)?),
        Identifier::OrIds(ids) => Rule::OneOf(set("or_ids", ids)?),
        Identifier::NotId(id) => Rule::Not(Box::new(principal(id, &at.field("not_id"))?)),
        Identifier::Any(any) => any_rule(*any, at)?,
        Identifier::Authenticated(Authenticated { principal_name }) => {
            let at = at.field("authenticated");
            let name = principal_name.as_ref();
            let name = name.map(|name| matchers::string(name, &at.field("principal_name")));
            Rule::Authenticated(match name {
                Some(name) => Some(name?),
                None => None,
            })
        }
        Identifier::FilterState(state) => peer_principal(state, &at.field("filter_state"))?,
        Identifier::SourceIp(range) => Rule::SourceIp(cidr(range, &at.field("source_ip"))?),
        Identifier::RemoteIp(range) => Rule::RemoteIp(cidr(range, &at.field("remote_ip"))?),
        Identifier::DirectRemoteIp(range) => {
            Rule::DirectRemoteIp(cidr(range, &at.field("direct_remote_ip"))?)
        }
        Identifier::Header(config) => Rule::Header(matchers::header(config, &at.field("header"))?),
        Identifier::UrlPath(path) => url_path(path, &at.field("url_path"))?,
        Identifier::Metadata(config) => {
            Rule::Metadata(metadata::matcher(config, &at.field("metadata"))?)
        }
        Identifier::SourcedMetadata(config) => {
            sourced_metadata(config, &at.field("sourced_metadata"))?
        }
        Identifier::Custom(_) => return unsupported("custom", at),
    })
}

fn not_empty<T>(list: &[T], name: &str, at: &At<'_>) -> Option<()> {
    if list.is_empty() {
        at.field(name).error("is empty");
        return None;
    }
    Some(())
}

fn unsupported(name: &str, at: &At<'_>) -> Option<Rule> {
    at.field(name).error("is not supported");
    None
}

fn any_rule(any: bool, at: &At<'_>) -> Option<Rule> {
    if !any {
        at.field("any").error("must be true");
        return None;
    }
    Some(Rule::Any)
}

fn url_path(config: &PathMatcher, at: &At<'_>) -> Option<Rule> {
    match &config.rule {
        Some(PathRule::Path(matcher)) => {
            matchers::string(matcher, &at.field("path")).map(Rule::UrlPath)
        }
        None => {
            at.field("path").error("is required");
            None
        }
    }
}

/// A path of which some segments may be anything.
fn uri_template(config: &TypedExtensionConfig, at: &At<'_>) -> Option<Rule> {
    let TypedExtensionConfig { name, typed_config } = config;
    let Some(config) = typed_config else {
        at.error(format_args!("{name:?} has no typed_config"));
        return None;
    };
    if !any::is::<UriTemplateMatchConfig>(config) {
        any::unsupported(config, at);
        return None;
    }
    let at = at.field("typed_config");
    let UriTemplateMatchConfig { path_template } = any::read(config, &at)?;
    let path = matchers::path_template(&path_template, &at.field("path_template"))?;
    let pattern = StringPattern::Regex(path);
    Some(Rule::UrlPath(StringMatch::new(pattern, false)))
}

/// Of the two sources there is one: routes keep no metadata.
fn sourced_metadata(config: &SourcedMetadata, at: &At<'_>) -> Option<Rule> {
    let SourcedMetadata {
        metadata_matcher,
        metadata_source,
    } = config;
    match at.enumeration("metadata_source", *metadata_source)? {
        MetadataSource::Dynamic => {}
        MetadataSource::Route => {
            at.field("metadata_source").error("ROUTE is not supported");
            return None;
        }
    }
    let at = at.field("metadata_matcher");
    let Some(config) = metadata_matcher else {
        at.error("is required");
        return None;
    };
    metadata::matcher(config, &at).map(Rule::Metadata)
}

/// The verified peer is the only state of which policies may speak.
fn peer_principal(config: &FilterStateMatcher, at: &At<'_>) -> Option<Rule> {
    if config.key != PEER_PRINCIPAL {
        at.field("key").error(format_args!(
            "{:?} is not supported; {PEER_PRINCIPAL} is",
            config.key
        ));
        return None;
    }
    let name: StringMatch = match &config.matcher {
        Some(StateMatcher::StringMatch(matcher)) => {
            matchers::string(matcher, &at.field("string_match"))?
        }
        _ => {
            at.error("only string_match is supported");
            return None;
        }
    };
    Some(Rule::Authenticated(Some(name)))
}

fn cidr(config: &CidrRange, at: &At<'_>) -> Option<Cidr> {
    let (address, prefix) = address::cidr(config, at)?;
    Some(Cidr { address, prefix })
}
