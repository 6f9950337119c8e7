//! SPIFFE identity: strict IDs, X.509-SVIDs, bundles, snapshots of all of them at one instant, and
//! the Workload API, client and server, with a development authority behind it.

pub mod answers;
pub mod authority;
pub mod backoff;
pub mod id;
pub mod jwt;
pub mod snapshot;
pub mod source;
pub mod workload_api;
pub mod x509;

pub use answers::Answers;
pub use backoff::Backoff;
pub use id::{IdError, SpiffeId, TrustDomain};
pub use jwt::{JwtBundle, JwtBundles, JwtError, JwtSvid};
pub use snapshot::{IdentitySnapshot, SnapshotError, SvidSelector};
pub use source::{Caller, IdentityState, JwtProvider, Provider, Source};
pub use x509::{LeafError, PrivateKey, SvidError, X509Bundle, X509Svid};
