//! `envoy.config.cluster.v3.OutlierDetection`, compiled.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// So many in a row eject a host; 0: none do.
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    /// Failures without a response count for themselves, and not as 5xx.
    pub split_local_origin: bool,
    pub interval: Duration,
    /// Of the first ejection; each further one is longer by as much.
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    pub always_eject_one_host: bool,
    pub enforcing: Enforcing,
    pub success_rate: SuccessRate,
    pub failure_percentage: FailurePercentage,
}

/// Why a host is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

/// In how many of a hundred cases what was detected is acted on (`enforcing_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcing {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    pub success_rate: u32,
    pub local_origin_success_rate: u32,
    pub failure_percentage: u32,
    pub local_origin_failure_percentage: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuccessRate {
    pub minimum_hosts: u32,
    pub request_volume: u32,
    /// So many standard deviations below the average are too few.
    pub stdev_factor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    pub threshold: u32,
    pub minimum_hosts: u32,
    pub request_volume: u32,
}

impl Enforcing {
    pub(super) fn of(self, kind: Kind) -> u32 {
        match kind {
            Kind::Consecutive5xx => self.consecutive_5xx,
            Kind::ConsecutiveGatewayFailure => self.consecutive_gateway_failure,
            Kind::ConsecutiveLocalOriginFailure => self.consecutive_local_origin_failure,
            Kind::SuccessRate => self.success_rate,
            Kind::LocalOriginSuccessRate => self.local_origin_success_rate,
            Kind::FailurePercentage => self.failure_percentage,
            Kind::LocalOriginFailurePercentage => self.local_origin_failure_percentage,
        }
    }
}

/// Envoy's defaults.
impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            consecutive_local_origin_failure: 5,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            enforcing: Enforcing {
                consecutive_5xx: 100,
                consecutive_gateway_failure: 0,
                consecutive_local_origin_failure: 100,
                success_rate: 100,
                local_origin_success_rate: 100,
                failure_percentage: 0,
                local_origin_failure_percentage: 0,
            },
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1.9,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                minimum_hosts: 5,
                request_volume: 50,
            },
        }
    }
}
