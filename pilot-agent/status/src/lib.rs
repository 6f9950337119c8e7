//! The agent's status: what the kubelet, Prometheus and an operator ask it over HTTP.
//!
//! | port | paths |
//! |---|---|
//! | status (15020) | all of them, see [`Server`] |
//! | health (15021) | `/healthz/ready` |
//! | prometheus (15090) | `/stats/prometheus` of the data plane alone |
//!
//! It knows nothing of SPIFFE, xDS or the data plane: whoever runs it is an [`Agent`]. Beside the servers
//! are [`Readiness`], to which each part of the agent says what it waits for, and [`WorkloadProbe`], for
//! workloads that no kubelet probes.
//!
//! Invariants: whatever a neighbour opens or sends is bounded, and the newest connection is always
//! served; what changes the agent's state is for clients on this host alone, told by the address of
//! their socket and never by what they send.

mod accept;
mod agent;
mod client;
mod connections;
pub mod grpc_bootstrap;
mod local;
mod metrics;
mod options;
mod pprof;
mod probe;
mod proxy_protocol;
mod readiness;
mod redirect;
mod response;
mod routes;
mod server;
mod workload;

pub use agent::Agent;
pub use client::{ClientError, Connector, Source};
pub use metrics::{SCRAPE_ENV, ScrapeTarget, TargetError};
pub use options::{Options, Port, Ports};
pub use probe::{AppProbers, PROBERS_ENV, ProbeOptions, ProbeTarget, ProberError};
pub use readiness::{Gate, Readiness};
pub use server::{Server, StartError};
pub use workload::{WorkloadHealth, WorkloadProbe, WorkloadProbeError};
