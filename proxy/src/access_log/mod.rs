//! Access logs: Envoy's command operators, compiled once, written by a thread of their own; and entries for
//! services, which a worker gathers and sends ([`service`]).
//!
//! The data path fills an [`Entry`] and hands it to each [`AccessLog`] of its listener or
//! connection manager. Formatting appends to the file's bounded buffer; a full buffer drops the
//! line and counts it, and never blocks the worker. [`Template`] serves header values too.

mod entry;
mod expression;
mod file;
mod filter;
mod filter_state;
mod flags;
mod format;
mod grpc_status;
mod lacking;
mod log;
mod operator;
pub(crate) mod service;
mod template;
#[cfg(test)]
mod tests;
mod time;

pub use entry::{
    Bytes, Downstream, Durations, Entry, Headers, Heads, Occasion, Protocol, SpanIds, Upstream,
    UpstreamHost,
};
pub use expression::{Expression, ExpressionError};
pub use file::{Destination, LogFile, LogWriter};
pub use filter::{Comparison, Filter};
pub use flags::ResponseFlags;
pub use format::{DEFAULT_FORMAT, Format};
pub use log::{AccessLog, AccessLogs, Needs};
pub use template::{FormatError, Template, Unset};
