//! Talks to istiod: where it is, how it is trusted and how we show who we are, for its two services,
//! discovery (ADS) and the CA.
//!
//! Knows Istio's conventions and nothing of the data planes.

pub mod ca;
pub mod dial;
pub mod discovery;
pub mod federation;
pub mod relay;
