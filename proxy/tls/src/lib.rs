//! TLS of the data path: the only crate there that names rustls.
//!
//! Contexts are long-lived and read their identity and their trust from slots at each handshake, so
//! that rotation replaces material and not contexts. Invariants: see `verify`.

pub mod context;
pub mod material;
pub mod slot;
pub mod stream;
pub mod verify;

pub use context::{
    ClientAuth, ClientContext, ClientParams, ServerContext, ServerParams, TlsVersion,
};
pub use material::{Identity, MaterialError};
pub use slot::Slot;
pub use stream::{HandshakeError, Inspected, Peer, PendingTls, TlsStream, inspect};
pub use verify::{Refusal, SanMatcher, SanPattern, SanType, Trust, Validation};
