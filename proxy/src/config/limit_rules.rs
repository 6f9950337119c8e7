//! Rate limits of routes and filters (`envoy.config.route.v3.RateLimit`), compiled: which descriptors
//! a service gets of a request.

use super::matchers::{HeaderMatch, HeaderSource, QueryMatch};

/// Makes one descriptor of a request, or none.
#[derive(Debug)]
pub struct LimitRule {
    /// Filters go by the rules of their own stage.
    pub stage: u32,
    /// Each adds an entry, in this order.
    pub actions: Vec<LimitAction>,
    /// In place of what the service limits to.
    pub limit: Option<LimitOverride>,
    pub hits: Option<Hits>,
}

/// An entry of a descriptor. One that cannot be made leaves its descriptor out.
#[derive(Debug)]
pub enum LimitAction {
    SourceCluster,
    DestinationCluster,
    Header {
        source: HeaderSource,
        key: Box<str>,
        /// Whether the descriptor does without the entry where there is no such header.
        optional: bool,
    },
    Parameter {
        name: Box<str>,
        key: Box<str>,
        /// As with headers.
        optional: bool,
    },
    RemoteAddress,
    /// With the lengths of the networks.
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    Generic {
        key: Box<str>,
        value: Box<str>,
    },
    /// Only for requests whose headers match, or do not.
    HeadersMatch {
        key: Box<str>,
        value: Box<str>,
        headers: Vec<HeaderMatch>,
        expected: bool,
    },
    /// The same by parameters of the query.
    ParametersMatch {
        key: Box<str>,
        value: Box<str>,
        parameters: Vec<QueryMatch>,
        expected: bool,
    },
    /// A text in dynamic metadata.
    Metadata {
        key: Box<str>,
        place: MetadataPlace,
        /// Where there is none; empty for none.
        default: Box<str>,
        /// As with headers.
        optional: bool,
    },
}

/// A value in dynamic metadata.
#[derive(Debug)]
pub struct MetadataPlace {
    pub namespace: Box<str>,
    pub path: Vec<Box<str>>,
}

#[derive(Debug)]
pub enum LimitOverride {
    Fixed {
        requests: u32,
        /// As `envoy.type.v3.RateLimitUnit` numbers it.
        unit: i32,
    },
    Metadata(MetadataPlace),
}

/// How much a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hits {
    pub number: u64,
    /// They are given back.
    pub is_negative: bool,
}

/// When the rules of the virtual host count beside the route's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostRules {
    /// Where the route has none.
    #[default]
    Override,
    Include,
    Ignore,
}
