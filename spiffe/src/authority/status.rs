//! What there is now, for people and tests.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::state::State;
use crate::{SpiffeId, TrustDomain};

/// The whole authority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub trust_domains: Vec<TrustDomainStatus>,
    /// (who, whom): the workloads of `who` get the bundle of `whom`.
    pub federation: Vec<(TrustDomain, TrustDomain)>,
}

/// One authority of a trust domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrustDomainStatus {
    pub authority: String,
    pub name: TrustDomain,
    pub roots: Vec<RootStatus>,
    /// The serial number of the intermediate that signs, if one does.
    pub intermediate: Option<String>,
    pub workloads: Vec<WorkloadStatus>,
}

/// One root of a bundle; the first is the active one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootStatus {
    pub serial: String,
    /// Seconds since 1970.
    pub not_after: u64,
}

/// One workload and its current SVID.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadStatus {
    pub id: SpiffeId,
    pub serial: String,
    /// Seconds since 1970.
    pub not_after: u64,
}

impl State {
    pub(super) fn status(&self) -> Status {
        let trust_domains = self
            .servers()
            .map(|(authority, server, roots)| TrustDomainStatus {
                authority: authority.to_owned(),
                name: server.trust_domain().clone(),
                roots: roots
                    .published()
                    .map(|root| RootStatus {
                        serial: root.serial.to_string(),
                        not_after: seconds(root.not_after),
                    })
                    .collect(),
                intermediate: server.intermediate().map(|ca| ca.serial.to_string()),
                workloads: server
                    .workloads()
                    .map(|workload| WorkloadStatus {
                        id: workload.config().id.clone(),
                        serial: workload.serial().to_string(),
                        not_after: seconds(workload.svid().not_after),
                    })
                    .collect(),
            });
        Status {
            trust_domains: trust_domains.collect(),
            federation: self.federation.iter().cloned().collect(),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
