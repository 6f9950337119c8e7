//! `istio.stats`: the metrics of the mesh, with both ends of each request as labels.
//!
//! A *series* is what is counted under one set of labels. A worker finds the series of a request by
//! the values themselves, hashed, in a table of its own; labels become text when somebody asks for
//! the statistics. Invariants: nothing is formatted or locked per request but where a series is
//! new; the number of series has a bound.

mod changes;
mod labels;
mod metric;
mod series;

pub use changes::{Changes, Dimension};
pub use labels::{Labels, Protocol, ServiceName};
pub use metric::MeshMetric;
pub use series::{MeshRegistry, Series, SeriesTable};

use std::sync::Arc;

use super::Node;
use crate::access_log::Expression;

/// One configuration of the filter. Filters that say the same share it.
#[derive(Debug)]
pub struct Telemetry {
    /// Unique in the process.
    pub id: u64,
    pub reporter: Reporter,
    pub node: Arc<Node>,
    /// Whether the name that a request asks for stands for a service that istiod does not know.
    pub host_fallback: bool,
    pub changes: Changes,
    /// What labels are computed with; [`Dimension`]s name them by index.
    pub expressions: Vec<Expression>,
    pub registry: Arc<MeshRegistry>,
}

/// Which end of a request counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar, or a gateway.
    Source,
    /// The server's sidecar.
    Destination,
    /// A gateway in place of the server's sidecar.
    Waypoint,
}

impl Reporter {
    /// As in the label `reporter`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}
