//! What the status server counts of itself, and all that the agent counts, as text.

use prometheus::{
    Counter, CounterVec, Encoder, Opts, TextEncoder, core::Collector, proto::MetricFamily,
};
use tracing::warn;

use super::process;
use crate::agent::Agent;

/// The counters that Istio's agent has for scrapes.
#[derive(Debug)]
pub(super) struct Own {
    scrapes: Counter,
    failures: CounterVec,
}

/// Where a scrape has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    DataPlane,
    Application,
    Agent,
}

impl Kind {
    /// The value of the label `type`, as Istio's agent has it whatever the data plane.
    fn label(self) -> &'static str {
        match self {
            Self::DataPlane => "envoy",
            Self::Application => "application",
            Self::Agent => "agent",
        }
    }
}

impl Own {
    pub(super) fn new() -> Self {
        let scrapes = Opts::new("istio_agent_scrapes_total", "The total number of scrapes.");
        let failures = Opts::new(
            "istio_agent_scrape_failures_total",
            "The total number of failed scrapes.",
        );
        Self {
            scrapes: Counter::with_opts(scrapes).expect("the name is a metric's"),
            failures: CounterVec::new(failures, &["type"]).expect("the names are a metric's"),
        }
    }

    pub(super) fn scraped(&self) {
        self.scrapes.inc();
    }

    /// Counts a failure and says it.
    pub(super) fn failed(&self, kind: Kind, what: &str, error: &dyn std::fmt::Display) {
        warn!(source = kind.label(), target = what, %error, "cannot scrape metrics");
        self.failures.with_label_values(&[kind.label()]).inc();
    }

    /// The agent's metrics and ours, in Prometheus' text format, sorted by name.
    pub(super) async fn text(&self, agent: &dyn Agent) -> Vec<u8> {
        let mut families = agent.metrics().await.unwrap_or_else(|error| {
            self.failed(Kind::Agent, "the agent", &error);
            Vec::new()
        });
        families.extend(process::families());
        families.extend(self.scrapes.collect());
        families.extend(self.failures.collect());
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families.dedup_by(|a, b| a.name() == b.name());
        self.encode(&families)
    }

    fn encode(&self, families: &[MetricFamily]) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(families, &mut text) {
            self.failed(Kind::Agent, "the agent", &error);
            text.clear();
        }
        text
    }
}
