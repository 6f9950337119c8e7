//! TLS of the data path: the only crate there that names rustls.
//!
//! Contexts are long-lived and read their identity and their trust from slots at each handshake, so
//! that rotation replaces material and not contexts. Invariants: see [`verify`] and [`context`].

pub mod certificate;
mod chain;
pub mod context;
mod crl;
mod judge;
mod leaf;
pub mod material;
mod memory;
mod provider;
mod roots;
mod san;
pub mod slot;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod verify;

pub use context::{
    ClientAuth, ClientContext, ClientParams, ServerContext, ServerParams, TlsVersion, is_dns_name,
};
pub use material::{Identity, MaterialError};
pub use roots::Roots;
pub use san::{SanMatcher, SanPattern, SanType, is_plain};
pub use slot::Slot;
pub use stream::{
    ClientHello, FirstBytes, HandshakeError, Inspected, MAX_CLIENT_HELLO, PendingTls, Protocols,
    TlsStream, inspect, inspect_from,
};
pub use verify::{Peer, Refusal, Role, Trust, Validation, Verified};
