//! How the end goes.

use std::time::Duration;

use super::env::{Env, EnvError};
use crate::proxy::proxy_config::ProxyConfig;

/// Istio's `MINIMUM_DRAIN_DURATION`.
const MINIMUM: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// What live requests get (`terminationDrainDuration`).
    pub(crate) termination: Duration,
    /// End when no connection is left, but not before `minimum` (`EXIT_ON_ZERO_ACTIVE_CONNECTIONS`).
    pub(crate) until_idle: bool,
    pub(crate) minimum: Duration,
}

impl Drain {
    pub(super) fn resolve(env: &Env, config: &ProxyConfig) -> Result<Self, EnvError> {
        Ok(Self {
            termination: config.termination_drain_duration,
            until_idle: env.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", false)?,
            minimum: env.duration("MINIMUM_DRAIN_DURATION", MINIMUM)?,
        })
    }
}
