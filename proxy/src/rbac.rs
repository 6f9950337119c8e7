//! Role-based access control (`envoy.config.rbac.v3`): who may do what.
//!
//! Invariant: a rule set is what its policies say and nothing else. `ALLOW` without a policy that
//! matches denies; what a rule asks for and a connection lacks (a peer, a header) does not match.

use std::{net::IpAddr, ops::Range, sync::Arc};

use crate::{
    config::matchers::{HeaderMatch, StringMatch},
    metadata::{DynamicMetadata, MetadataMatch},
    stats::RbacStats,
    worker::Connection,
};

/// One RBAC filter.
#[derive(Debug)]
pub struct Rbac {
    /// `None`: everything passes.
    pub rules: Option<RuleSet>,
    /// Evaluated and counted only.
    pub shadow_rules: Option<RuleSet>,
    /// Keys in dynamic metadata: what the shadow rules came to, and which policy decided.
    pub shadow_keys: [Box<str>; 2],
    /// Where names of statistics are configured, or there is no other place for them.
    pub stats: Option<Arc<RbacStats>>,
}

/// Policies and what a match means.
#[derive(Debug)]
pub struct RuleSet {
    pub action: Action,
    /// In the order of their names, which is the order of evaluation.
    pub policies: Vec<Policy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// What matches a policy passes; all else is denied.
    Allow,
    /// What matches a policy is denied; all else passes.
    Deny,
    /// All passes.
    Log,
}

/// Matches if one of its permissions and one of its principals do.
#[derive(Debug)]
pub struct Policy {
    pub name: Arc<str>,
    pub permissions: Vec<Rule>,
    pub principals: Vec<Rule>,
}

/// A permission or a principal.
#[derive(Debug)]
pub enum Rule {
    Any,
    All(Vec<Self>),
    OneOf(Vec<Self>),
    Not(Box<Self>),
    Header(HeaderMatch),
    /// The path without its query.
    UrlPath(StringMatch),
    DestinationIp(Cidr),
    DestinationPort(Range<u32>),
    ServerName(StringMatch),
    /// Some verified peer, or one that is named so.
    Authenticated(Option<StringMatch>),
    /// The address of who connected to us.
    DirectRemoteIp(Cidr),
    /// The client's address by the PROXY protocol, where it is spoken, and no header.
    SourceIp(Cidr),
    /// The client's address as its proxies tell it.
    RemoteIp(Cidr),
    /// What filters before left.
    Metadata(MetadataMatch),
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

/// What is judged: a connection, or a request on one.
pub trait Subject {
    fn connection(&self) -> &Connection;
    fn header(&self, matcher: &HeaderMatch) -> bool;
    fn metadata(&self, matcher: &MetadataMatch) -> bool;
    /// `None` where there is no request.
    fn path(&self) -> Option<&[u8]>;
    /// See [`Rule::RemoteIp`].
    fn remote_ip(&self) -> IpAddr;
}

/// What a rule set says of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'r> {
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'r Arc<str>>,
}

impl Verdict<'_> {
    /// Leaves what shadow rules came to, for logs and for filters behind, under these
    /// [keys](Rbac::shadow_keys) of a filter's namespace.
    pub fn leave(
        &self,
        metadata: &mut DynamicMetadata,
        namespace: &str,
        [result, policy]: &[Box<str>; 2],
    ) {
        let allowed = if self.allowed { "allowed" } else { "denied" };
        metadata.set(namespace, result, allowed.into());
        if let Some(matched) = self.policy {
            metadata.set(namespace, policy, (**matched).into());
        }
    }

    /// Envoy's response code details of a denial.
    pub fn details(&self) -> String {
        let policy = self.policy.map_or("none", |policy| policy);
        let policy = policy.replace(char::is_whitespace, "_");
        format!("rbac_access_denied_matched_policy[{policy}]")
    }
}

impl RuleSet {
    pub fn judge(&self, subject: &impl Subject) -> Verdict<'_> {
        let matched = self.policies.iter().find(|policy| policy.covers(subject));
        Verdict {
            allowed: match self.action {
                Action::Allow => matched.is_some(),
                Action::Deny => matched.is_none(),
                Action::Log => true,
            },
            policy: matched.map(|policy| &policy.name),
        }
    }
}

impl Policy {
    fn covers(&self, subject: &impl Subject) -> bool {
        self.permissions.iter().any(|rule| rule.holds(subject))
            && self.principals.iter().any(|rule| rule.holds(subject))
    }
}

impl Rule {
    fn holds(&self, subject: &impl Subject) -> bool {
        let connection = || subject.connection();
        match self {
            Self::Any => true,
            Self::All(rules) => rules.iter().all(|rule| rule.holds(subject)),
            Self::OneOf(rules) => rules.iter().any(|rule| rule.holds(subject)),
            Self::Not(rule) => !rule.holds(subject),
            Self::Header(matcher) => subject.header(matcher),
            Self::UrlPath(matcher) => subject.path().is_some_and(|path| matcher.admits(path)),
            Self::DestinationIp(cidr) => cidr.contains(connection().local.ip()),
            Self::DestinationPort(ports) => ports.contains(&connection().local.port().into()),
            // Without SNI the name is empty, as Envoy has it.
            Self::ServerName(matcher) => {
                let name = connection().server_name.as_deref().unwrap_or_default();
                matcher.admits(name.as_bytes())
            }
            Self::Authenticated(name) => authenticated(connection(), name.as_ref()),
            Self::DirectRemoteIp(cidr) => cidr.contains(connection().direct_remote().ip()),
            Self::SourceIp(cidr) => cidr.contains(connection().remote.ip()),
            Self::RemoteIp(cidr) => cidr.contains(subject.remote_ip()),
            Self::Metadata(matcher) => subject.metadata(matcher),
        }
    }
}

fn authenticated(connection: &Connection, name: Option<&StringMatch>) -> bool {
    let session = connection.tls.as_ref();
    let Some(session) = session.filter(|tls| tls.peer_text().is_some()) else {
        return false;
    };
    let Some(name) = name else {
        return true;
    };
    let mut names = session.peer_names();
    names.any(|it| name.admits(it.as_bytes()))
}

impl Cidr {
    /// An IPv4 address in IPv6 form counts as itself.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                let differ = network.to_bits() ^ ip.to_bits();
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                let differ = network.to_bits() ^ ip.to_bits();
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}
