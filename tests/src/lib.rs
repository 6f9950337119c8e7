//! The harness of the end-to-end tests: real binaries, real peers, and a network of their own.
//!
//! Invariants: every process that a test starts ends with it; every wait is a bounded poll; a test
//! whose peer is missing says so by name.

pub mod agent;
pub mod authority;
pub mod clusters;
pub mod curl;
pub mod external;
pub mod identities;
pub mod istiod;
pub mod load;
pub mod mesh;
pub mod net;
pub mod peer;
pub mod peers;
pub mod pki;
pub mod process;
pub mod replay;
pub mod sds;
pub mod spire;
pub mod tokens;
mod unix;
pub mod wait;
pub mod workload_api;

pub use agent::Agent;
pub use authority::Authority;
pub use identities::Identities;
pub use istiod::Istiod;
pub use load::Load;
pub use mesh::Mesh;
pub use net::{Lan, Net};
pub use process::Process;
pub use replay::Replay;
pub use spire::Spire;
pub use wait::{eventually, eventually_within};

/// Which data plane a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    Builtin,
    Envoy,
}

impl DataPlane {
    /// The value of `ITHILDIN_DATA_PLANE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Envoy => "envoy",
        }
    }
}
