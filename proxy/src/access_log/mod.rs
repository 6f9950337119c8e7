//! Access logs: Envoy's command operators, compiled once, written by a thread of their own.

/// One access logger.
#[derive(Debug)]
pub struct AccessLog {}

/// A format string with command operators (`%REQ(:PATH)%`), compiled.
#[derive(Debug)]
pub struct Template {}
