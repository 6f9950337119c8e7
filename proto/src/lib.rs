//! Protobuf for the whole workspace: Envoy's messages re-exported, the SPIFFE Workload API, and the
//! conversions between messages, `Any`, YAML and JSON.
//!
//! No other crate names `envoy-types`, so that its 8 MB of generated code are compiled once.

pub use envoy_types::pb;

/// The SPIFFE Workload API, client and server.
#[allow(clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

/// Istio's name discovery (NDS): `istio.networking.nds.v1`.
#[allow(clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod nds {
    include!(concat!(env!("OUT_DIR"), "/istio.networking.nds.v1.rs"));
}

/// Istio's own messages.
#[allow(clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod istio;

/// OpenTelemetry's messages, as far as they are sent.
#[allow(clippy::all, clippy::use_self, unused_qualifications, unreachable_pub)]
pub mod opentelemetry;

mod any;
pub mod parse;
mod pool;
mod print;
mod typed_struct;
pub mod yaml;

pub use any::{UnpackError, duration, pack, to_duration, unpack};
pub use parse::{ParseErrors, from_json, from_value, from_yaml};
pub use pool::Pool;
pub use print::Printer;
pub use typed_struct::{json, resolve};
