//! HTTP filters, and what routes say of them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    ext_authz::{CheckSettings, ExtAuthz},
    http::AlpnOverrides,
    jwt::{JwtAuthn, JwtOverride},
    limit_service::{LimitService, LimitServiceRoute},
    lua::{Lua, LuaOverride},
    matchers::{HeaderMatch, StringMatch},
    rate_limit::RateLimit,
};
use crate::{
    istio::{PeerMetadata, Telemetry},
    rbac::Rbac,
    stats::RateLimitStats,
};

/// One filter of a connection manager, before the router.
#[derive(Debug)]
pub struct HttpFilter {
    /// The name under which routes configure it.
    pub name: Box<str>,
    /// It does nothing but where a route configures it.
    pub disabled: bool,
    pub kind: FilterKind,
}

#[derive(Debug)]
pub enum FilterKind {
    /// `istio.metadata_exchange`.
    PeerMetadata(PeerMetadata),
    /// `istio.alpn`.
    Alpn(AlpnOverrides),
    /// `istio.stats`.
    Telemetry(Arc<Telemetry>),
    Rbac(Rbac),
    Fault(Fault),
    Jwt(JwtAuthn),
    ExtAuthz(Box<ExtAuthz>),
    Lua(Arc<Lua>),
    RateLimit(Arc<RateLimit>, Arc<RateLimitStats>),
    LimitService(Box<LimitService>),
    /// Acts by the configuration of routes only.
    Cors,
}

/// What one level of a route configuration says of filters (`typed_per_filter_config`).
#[derive(Debug, Default)]
pub struct FilterOverrides(Box<[(Box<str>, FilterOverride)]>);

impl FilterOverrides {
    pub fn new(overrides: Vec<(Box<str>, FilterOverride)>) -> Self {
        Self(overrides.into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it says of the filter `name`.
    pub fn get(&self, name: &str) -> Option<&FilterOverride> {
        let (_, found) = self.0.iter().find(|(known, _)| **known == *name)?;
        Some(found)
    }
}

/// What a route says of one filter. All but the first put a disabled filter to work.
#[derive(Debug)]
pub enum FilterOverride {
    Disabled,
    Enabled,
    Rbac(Rbac),
    Fault(Fault),
    Cors(CorsPolicy),
    Jwt(JwtOverride),
    ExtAuthz(CheckSettings),
    Lua(LuaOverride),
    RateLimit(Arc<RateLimit>),
    LimitService(LimitServiceRoute),
}

impl FilterOverride {
    pub fn rate_limit(&self) -> Option<&Arc<RateLimit>> {
        match self {
            Self::RateLimit(own) => Some(own),
            _ => None,
        }
    }

    pub fn limit_service(&self) -> Option<&LimitServiceRoute> {
        match self {
            Self::LimitService(own) => Some(own),
            _ => None,
        }
    }

    pub fn jwt(&self) -> Option<&JwtOverride> {
        match self {
            Self::Jwt(own) => Some(own),
            _ => None,
        }
    }

    pub fn lua(&self) -> Option<&LuaOverride> {
        match self {
            Self::Lua(own) => Some(own),
            _ => None,
        }
    }
}

/// `envoy.filters.http.fault`.
#[derive(Debug, Default)]
pub struct Fault {
    pub delay: Option<(Duration, Percent)>,
    pub abort: Option<(Abort, Percent)>,
    /// Conditions: all of these headers, one of these clusters and nodes. Empty: any.
    pub headers: Vec<HeaderMatch>,
    pub upstream_cluster: Option<Box<str>>,
    pub downstream_nodes: Vec<Box<str>>,
}

/// What a request is answered with in place of its upstream's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
}

/// `envoy.type.v3.FractionalPercent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent {
    pub numerator: u32,
    pub denominator: u32,
}

impl Percent {
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };
    pub const NONE: Self = Self {
        numerator: 0,
        denominator: 100,
    };

    /// Whether it has `chance`, one of very many.
    pub fn covers(self, chance: u64) -> bool {
        chance % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }

    /// Whether chance has it this time.
    pub fn hits(self) -> bool {
        self.numerator > 0 && fastrand::u32(..self.denominator.max(1)) < self.numerator
    }
}

/// `envoy.filters.http.cors` of one level of a route configuration. What it leaves open the next
/// level may say.
#[derive(Debug)]
pub struct CorsPolicy {
    /// `filter_enabled`.
    pub enabled: Percent,
    pub origins: Vec<StringMatch>,
    pub methods: Option<Bytes>,
    pub headers: Option<Bytes>,
    pub expose: Option<Bytes>,
    pub max_age: Option<Bytes>,
    pub credentials: Option<bool>,
    pub private_network: Option<bool>,
    /// Whether preflights of other origins are for the upstream to answer.
    pub forward_unmatched: Option<bool>,
}
