//! Statistics: plain counters that one worker writes and the control runtime sums.
//!
//! A *block* is what is counted for one target (a listener, a cluster, ...) under the names that
//! Envoy gives it. The data path holds a handle to the target and picks its own worker's block; the
//! [`Registry`] knows all targets, sums their blocks and names the sums when somebody asks.
//!
//! Invariants: the data path never looks up a counter by name or label; a counter of a block has
//! one writing thread.

mod block;
mod blocks;
mod cell;
mod histogram;
mod metric;
pub(crate) mod process;
mod prometheus;
mod registry;
mod shape;
mod sums;
mod targets;
#[cfg(test)]
mod tests;
mod text;

pub use blocks::{
    AccessServiceBlock, ClusterBlock, ClusterControl, ClusterManagerBlock, CodesBlock,
    EndpointBlock, ExtAuthzBlock, FilesystemBlock, HttpBlock, JwtBlock, LimitServiceBlock,
    ListenerBlock, ListenerControl, ListenerManagerBlock, LuaBlock, OpenTelemetryBlock,
    OutlierBlock, ProxyProtocolBlock, RateLimitBlock, RbacBlock, ServerBlock, SubscriptionBlock,
    TcpBlock, TcpExtAuthzBlock, TlsBlock, ZipkinBlock,
};
pub use cell::{Counter, Gauge, Labelled, Lazy, SharedCounter, SharedGauge};
pub use histogram::{Histogram, HistogramSum};
pub use metric::{Metric, Tag, Value};
pub use prometheus::{process as process_exposition, prometheus};
pub use registry::Registry;
pub use shape::{Included, StatsShape, TagRule};
pub use targets::{
    AccessServiceStats, ClusterStats, EndpointStats, ExtAuthzStats, FilterStats, HttpStats,
    JwtStats, ListenerStats, LuaStats, OpenTelemetryStats, PerWorker, ProxyProtocolStats,
    RateLimitStats, RbacStats, ScopedStats, SubscriptionStats, TcpExtAuthzStats, TcpStats,
    ZipkinStats,
};
pub use text::{QUANTILES, text};

/// Whole milliseconds since `start`, for histograms of times.
pub fn milliseconds(start: std::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
