//! The harness of the end-to-end tests: real binaries, real peers, and a network of their own.
//!
//! Invariants: every process that a test starts ends with it; every wait is a bounded poll; a test
//! whose peer is missing says so by name.

pub mod curl;
pub mod net;
pub mod peers;
pub mod pki;
pub mod process;
pub mod wait;

pub use net::Net;
pub use process::Process;
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
