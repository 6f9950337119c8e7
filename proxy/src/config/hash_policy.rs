//! What a request is hashed by, for clusters that balance by hash
//! (`envoy.config.route.v3.RouteAction.HashPolicy`).

use std::time::Duration;

use http::HeaderName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    pub on: HashOn,
    /// If there is a hash once this policy is done, the rest does not count.
    pub terminal: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    Header(HeaderName),
    Cookie {
        name: Box<str>,
        /// `None`: a cookie that is not there is not made; zero: it lives as long as the client's
        /// session.
        ttl: Option<Duration>,
        /// Behind the value of a new cookie: its attributes.
        attributes: Box<str>,
    },
    SourceIp,
    QueryParameter(Box<str>),
}
