//! The secret discovery service: identities as Envoy's `Secret`, over gRPC or inside the process.
//!
//! # Names
//!
//! | name | secret |
//! |---|---|
//! | `default` | certificate of the chosen SVID |
//! | a SPIFFE ID with a path | certificate of that SVID |
//! | `ROOTCA`, `ALL` | trust in the own and every federated trust domain |
//! | `ROOTCA-federated` | the same, letting in peers of the domains that an operator named |
//! | a trust domain's SPIFFE ID | trust in that domain |
//! | `file-cert:<chain>~<key>`, `file-root:<roots>`, `file-root:system` | those files, followed |
//! | no name, or `*` | every trust domain and every SVID, by SPIFFE ID |
//!
//! `ROOTCA` holds the federated domains too, where SPIRE's has the own one alone: a federation that is
//! joined at run time then works in meshes that know no other name. With Envoy's SPIFFE validator a
//! domain's bundle vouches for that domain only, so nothing is pooled. A node that opts out of the
//! validator gets `trusted_ca` with the own bundle and no other. Roots that came without a trust domain
//! (istiod's PEM) make it a `trusted_ca` with all of them, since nobody can tell whose they are.
//!
//! An identity from files ([`FileIdentity`]) takes the place of `default`, `ROOTCA` or both.
//!
//! # Names without a secret
//!
//! A name that cannot be answered fails alone. A state-of-the-world stream is silent about it, a
//! delta stream reports it in `removed_resources`, and both answer as soon as there is a secret. While
//! the source has not spoken yet neither says anything.
//!
//! # Withdrawal
//!
//! Envoy has no way to lose a secret: it keeps the old one when a resource is absent, removed or
//! refused, also across reconnects. So that a withdrawal fails closed, whoever holds a secret that is
//! withdrawn is sent another one under the same name:
//!
//! - trust: an authority whose key was discarded, in the same validator. No peer verifies.
//! - a certificate: a self-signed one without SPIFFE ID, so that Envoy stops using the withdrawn key
//!   and every peer refuses it.
//!
//! "Holds" means: sent on this stream, or claimed on reconnect (`version_info`,
//! `initial_resource_versions`). A peer that never held it waits instead, as it would for any secret.
//! When an identity is withdrawn as a whole, so is the trust that came with it. Connections that Envoy
//! has open live on; Envoy does not verify them again.

mod client;
mod client_stream;
mod crl;
mod encode;
mod expiry;
mod feeds;
mod file_identity;
mod files;
pub(crate) mod lines;
mod local;
mod options;
mod resolve;
mod server;
mod session;
mod tombstone;
mod validator;

pub use client::{ClusterLookup, SdsClients, SecretCheck};
pub use encode::{certificate_pem, roots_pem};
pub use feeds::SecretFeeds;
pub use file_identity::{ExtraRoots, FileIdentity};
pub use local::LocalSecrets;
pub use options::{
    ALL_BUNDLES, DEFAULT_BUNDLE, DEFAULT_SVID, DISABLED, FEDERATED_BUNDLE, FileOptions, SdsOptions,
    SecretName, SecretNames,
};
pub use server::SdsServer;
