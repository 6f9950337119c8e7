//! A statistic with its value, as admin pages print it.

use std::{borrow::Cow, sync::Arc};

use super::HistogramSum;

/// One statistic.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Envoy's full name: `cluster.backend.upstream_rq_503`.
    pub name: String,
    /// The name without what the tags hold: `cluster.upstream_rq`.
    pub family: String,
    /// In Envoy's order.
    pub tags: Vec<Tag>,
    pub value: Value,
}

/// A variable part of a name (`envoy_cluster_name`, `backend`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub key: Cow<'static, str>,
    pub value: Arc<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram(Box<HistogramSum>),
    /// What Envoy calls a text readout.
    Text(Arc<str>),
}

impl Value {
    /// Whether something was ever counted: what `usedonly` asks. A gauge counts as used when it is
    /// not zero.
    pub fn is_used(&self) -> bool {
        match self {
            Self::Counter(n) => *n != 0,
            Self::Gauge(n) => *n != 0,
            Self::Histogram(sum) => sum.count() != 0,
            Self::Text(text) => !text.is_empty(),
        }
    }

    /// Adds a reading of the same cell by another worker or generation.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(n)) => *sum = sum.wrapping_add(*n),
            (Self::Gauge(sum), Self::Gauge(n)) => *sum = sum.wrapping_add(*n),
            (Self::Histogram(sum), Self::Histogram(other)) => sum.add(other),
            _ => {}
        }
    }
}
