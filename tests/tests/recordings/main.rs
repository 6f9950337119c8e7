//! What a real istiod has sent, replayed to the agent and either data plane, where there is no istiod:
//! nothing is refused but what a table names, and requests flow, also while istiod misbehaves.
//!
//! An Envoy from PyPI lacks Istio's own extensions: it gets what istiod sends to one (`stock`), and of
//! the default it must refuse exactly those extensions.

mod faults;
mod masses;
mod pushes;
mod scene;
mod secrets;
mod served;

use ithildin_tests::{DataPlane, peers};

/// Both variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Delta,
    Sotw,
}

impl Variant {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// Whether this data plane is here; said by name if not.
fn has(test: &str, plane: DataPlane) -> bool {
    plane == DataPlane::Builtin || peers::envoy(test).is_some()
}
