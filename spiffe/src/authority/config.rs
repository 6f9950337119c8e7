//! What the authority is asked to be: the YAML file of `pilot-agent authority`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ca::KeyType;
use crate::{Caller, SpiffeId, TrustDomain};

/// SPIRE's default life of an X.509-SVID.
const DEFAULT_SVID_TTL: Duration = Duration::from_secs(3600);
/// SPIRE's default life of a JWT-SVID.
const DEFAULT_JWT_TTL: Duration = Duration::from_secs(300);
/// SPIRE's default life of a server's CA.
const DEFAULT_CA_TTL: Duration = Duration::from_secs(24 * 3600);
/// A root outlives many CAs.
const DEFAULT_ROOT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is wrong with a configuration, naming the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    pub field: String,
    pub reason: String,
}

/// All trust domains of a development authority.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    pub trust_domains: Vec<TrustDomainConfig>,
    /// Pairs of trust domains that are federated in both directions from the start.
    #[serde(default)]
    pub federation: Vec<(TrustDomain, TrustDomain)>,
}

/// One authority: a trust domain's SPIRE server with its agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainConfig {
    /// The trust domain.
    pub name: TrustDomain,
    /// Tells two authorities of one trust domain apart; the trust domain's name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The agent's socket, for the Workload API and SDS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Authorities that name one root share it and differ in their intermediates, as SPIRE servers
    /// with one upstream CA do; then an intermediate is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The key of an intermediate `OU=DOWNSTREAM-1` that signs the leaves; without, the root does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<KeyType>,
    #[serde(default = "default_svid_ttl", with = "duration")]
    pub svid_ttl: Duration,
    #[serde(default = "default_jwt_ttl", with = "duration")]
    pub jwt_ttl: Duration,
    #[serde(default = "default_ca_ttl", with = "duration")]
    pub ca_ttl: Duration,
    #[serde(default = "default_root_ttl", with = "duration")]
    pub root_ttl: Duration,
    #[serde(default)]
    pub workloads: Vec<WorkloadConfig>,
}

impl TrustDomainConfig {
    /// An authority with an EC root that signs leaves of an hour, and no workload yet.
    pub fn new(name: TrustDomain) -> Self {
        Self {
            name,
            authority: None,
            socket: None,
            root: None,
            intermediate: None,
            svid_ttl: DEFAULT_SVID_TTL,
            jwt_ttl: DEFAULT_JWT_TTL,
            ca_ttl: DEFAULT_CA_TTL,
            root_ttl: DEFAULT_ROOT_TTL,
            workloads: Vec::new(),
        }
    }

    /// The name under which operations find this authority.
    pub fn authority(&self) -> &str {
        self.authority.as_deref().unwrap_or(self.name.as_str())
    }
}

/// One workload: its identity, and who it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadConfig {
    pub id: SpiffeId,
    /// Which callers of the agent's socket it is. Without any, every caller.
    #[serde(default)]
    pub selector: Selector,
    /// A socket of its own: whoever connects there is this workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Of the trust domains that its own federates with, those whose bundles it gets; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federates_with: Option<BTreeSet<TrustDomain>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The life of its SVIDs; the authority's `svid_ttl` by default.
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttl: Option<Duration>,
}

impl WorkloadConfig {
    /// A workload that every caller of the agent's socket is.
    pub fn new(id: SpiffeId) -> Self {
        Self {
            id,
            selector: Selector::default(),
            socket: None,
            federates_with: None,
            dns: Vec::new(),
            hint: None,
            ttl: None,
        }
    }
}

/// Which callers a workload is: all that is given must be theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

impl Selector {
    /// Whether anything is asked for.
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }

    /// Whether `caller` has all that is asked for.
    pub fn matches(&self, caller: &Caller) -> bool {
        (self.uid.is_none() || self.uid == caller.uid)
            && (self.gid.is_none() || self.gid == caller.gid)
            && (self.pid.is_none() || self.pid == caller.pid)
    }
}

impl AuthorityConfig {
    /// Checks what types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let error = |field: String, reason: String| Err(ConfigError { field, reason });
        if self.trust_domains.is_empty() {
            return error("trust_domains".into(), "is empty".into());
        }
        let mut names = BTreeSet::new();
        for (index, domain) in self.trust_domains.iter().enumerate() {
            let field = format!("trust_domains[{index}]");
            if !names.insert(domain.authority()) {
                let reason = format!("{:?} occurs twice; name one of them", domain.authority());
                return error(format!("{field}.authority"), reason);
            }
            if domain.root.is_some() && domain.intermediate.is_none() {
                let reason = "is needed where the root has a name, that is, may be shared";
                return error(format!("{field}.intermediate"), reason.into());
            }
            domain.check(&field)?;
        }
        for (index, pair) in self.federation.iter().enumerate() {
            for name in [&pair.0, &pair.1] {
                if !self.trust_domains.iter().any(|domain| domain.name == *name) {
                    let reason = format!("{name} is not among trust_domains");
                    return error(format!("federation[{index}]"), reason);
                }
            }
        }
        Ok(())
    }
}

impl TrustDomainConfig {
    fn check(&self, field: &str) -> Result<(), ConfigError> {
        let ttls = [
            ("svid_ttl", self.svid_ttl),
            ("jwt_ttl", self.jwt_ttl),
            ("ca_ttl", self.ca_ttl),
            ("root_ttl", self.root_ttl),
        ];
        for (name, ttl) in ttls {
            if ttl < Duration::from_secs(1) {
                return Err(ConfigError {
                    field: format!("{field}.{name}"),
                    reason: "is shorter than a second".into(),
                });
            }
        }
        for (index, workload) in self.workloads.iter().enumerate() {
            workload.check(&self.name).map_err(|error| ConfigError {
                field: format!("{field}.workloads[{index}].{}", error.field),
                reason: error.reason,
            })?;
        }
        Ok(())
    }
}

impl WorkloadConfig {
    pub(super) fn check(&self, trust_domain: &TrustDomain) -> Result<(), ConfigError> {
        let error = |field: &str, reason: String| {
            Err(ConfigError {
                field: field.into(),
                reason,
            })
        };
        if self.id.trust_domain_name() != trust_domain.as_str() {
            return error(
                "id",
                format!("{} is not of trust domain {trust_domain}", self.id),
            );
        }
        if !self.id.is_workload() {
            return error("id", format!("{} has no path", self.id));
        }
        if self.ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
            return error("ttl", "is shorter than a second".into());
        }
        Ok(())
    }
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write a number with ms, s, m, h or d, such as 30s")]
pub struct DurationError(String);

/// Reads `500ms`, `30s`, `5m`, `1h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|_| error())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    // A century: later dates do not fit every certificate parser.
    const MAX: u64 = 100 * 365 * 86_400_000;
    match number.checked_mul(millis) {
        Some(millis) if millis <= MAX => Ok(Duration::from_millis(millis)),
        _ => Err(error()),
    }
}

/// Writes what [`parse_duration`] reads, in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ];
    match units
        .iter()
        .find(|(size, _)| millis != 0 && millis.is_multiple_of(*size))
    {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None => format!("{millis}ms"),
    }
}

mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, format_duration, parse_duration};
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*d))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

mod optional_duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, duration, parse_duration};
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(
        d: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => duration::serialize(d, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        match Option::<String>::deserialize(d)? {
            Some(text) => parse_duration(&text).map(Some).map_err(D::Error::custom),
            None => Ok(None),
        }
    }
}

fn default_svid_ttl() -> Duration {
    DEFAULT_SVID_TTL
}

fn default_jwt_ttl() -> Duration {
    DEFAULT_JWT_TTL
}

fn default_ca_ttl() -> Duration {
    DEFAULT_CA_TTL
}

fn default_root_ttl() -> Duration {
    DEFAULT_ROOT_TTL
}
