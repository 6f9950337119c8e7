//! Whoever runs the servers.

use async_trait::async_trait;
use prometheus::proto::MetricFamily;
use serde_json::Value;

/// The agent whose status is served.
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// Why the proxy is not ready, a reason each; empty once it is.
    fn not_ready(&self) -> Vec<String>;

    /// Its own metrics at this moment; their names begin with `istio_agent_`.
    ///
    /// # Errors
    /// A metric that cannot be made; the others' are served without these.
    async fn metrics(&self) -> Result<Vec<MetricFamily>, prometheus::Error>;

    /// The DNS table as JSON (`/debug/ndsz`); `None` before the first one, or without a DNS proxy.
    fn name_table(&self) -> Option<Value>;

    /// What it knows of itself, without secrets (`/debug/status`).
    async fn describe(&self) -> Value;

    /// `POST /drain`: drain now, and end at once when the end comes.
    fn drain(&self);

    /// `POST /quitquitquit`: end now, without draining.
    fn quit(&self);
}
