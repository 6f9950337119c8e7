//! istiod as the workload's CA: a source of identities by certificate requests.
//!
//! The certificate is renewed by the clock and not because anybody asks for it, and an answer is
//! checked before it is used: what a CA answers wrongly leaves the last good certificate in force until
//! it expires. Each attempt makes a new key.
//!
//! Source: Istio's `security/pkg/nodeagent/caclient/providers/citadel` and `.../cache/secretcache.go`.

mod answer;
mod client;
mod expected;
mod request;
mod revocations;
mod rotation;
mod source;
mod trust;

#[cfg(test)]
mod tests;

pub use answer::AnswerError;
pub use client::SignError;
pub use expected::{Expected, Unexpected};
pub use request::{KeyKind, RequestError};
pub use rotation::Rotation;
pub use source::{CaOptions, CaSource};

/// The messages and the service of `istio.v1.auth`; the server half is for stand-ins.
#[allow(clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod pb {
    tonic::include_proto!("istio.v1.auth");
}
