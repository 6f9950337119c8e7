//! Access logs: Envoy's command operators, compiled once, written by a thread of their own.
//!
//! The data path fills an [`Entry`] and hands it to each [`AccessLog`] of its listener or
//! connection manager. Formatting appends to the file's bounded buffer; a full buffer drops the
//! line and counts it, and never blocks the worker. [`Template`] serves header values too.

mod entry;
mod flags;

pub use entry::{
    Bytes, Downstream, Durations, Entry, Headers, Protocol, TlsInfo, Upstream, UpstreamHost,
};
pub use flags::ResponseFlags;

/// One access logger.
#[derive(Debug)]
pub struct AccessLog {}

/// A format string with command operators (`%REQ(:PATH)%`), compiled.
#[derive(Debug)]
pub struct Template {}
