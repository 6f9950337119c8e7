//! `istio.stats`: which metrics there are, and with which labels.
//!
//! It only observes: an expression that we do not understand is named in a warning, and its label
//! is `unknown`, which is what Istio writes where one has no value.

use std::sync::Arc;

use ithildin_proto::istio::stats::{MetricConfig, PluginConfig, Reporter as ReporterProto};
use prost::Message as _;

use super::Compiler;
use crate::{
    access_log::Expression,
    control::report::{At, no_effect, refuse},
    istio::{
        Telemetry,
        telemetry::{Changes, Dimension, MeshMetric, Reporter},
    },
};

/// A filter's reporter, and its configuration on the wire.
pub(super) type Key = (Reporter, Vec<u8>);

/// The filter; one that is there already if it says the same, so that it goes on counting.
pub(super) fn telemetry(
    config: &PluginConfig,
    inbound: bool,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Option<Arc<Telemetry>> {
    let PluginConfig {
        disable_host_header_fallback,
        tcp_reporting_duration,
        metrics,
        definitions,
        reporter,
        rotation_interval,
        graceful_deletion_interval,
    } = config;
    // What is counted shows at once; and how old statistics are forgotten is deprecated, and off
    // where istiod says nothing.
    no_effect!(
        tcp_reporting_duration,
        rotation_interval,
        graceful_deletion_interval,
    );
    refuse!(at; definitions);
    let reporter = match (at.enumeration("reporter", *reporter)?, inbound) {
        (ReporterProto::ServerGateway, _) => Reporter::Waypoint,
        (ReporterProto::Unspecified, true) => Reporter::Destination,
        (ReporterProto::Unspecified, false) => Reporter::Source,
    };
    // Protobuf's maps have no order: the same configuration may come in other bytes, and is
    // another one then, which counts under the same names.
    let key = (reporter, config.encode_to_vec());
    if let Some(known) = compiler
        .telemetry
        .get(&key)
        .and_then(std::sync::Weak::upgrade)
    {
        return Some(known);
    }
    let mut expressions = Vec::new();
    let mut changes = Changes::default();
    for (i, config) in metrics.iter().enumerate() {
        change(
            config,
            &mut changes,
            &mut expressions,
            &at.index("metrics", i),
        );
    }
    let telemetry = Arc::new(Telemetry {
        id: compiler.next_generation(),
        reporter,
        node: Arc::clone(&compiler.node),
        host_fallback: !disable_host_header_fallback,
        changes,
        expressions,
        registry: Arc::clone(&compiler.stats.mesh),
    });
    compiler.telemetry.insert(key, Arc::downgrade(&telemetry));
    Some(telemetry)
}

fn change(
    config: &MetricConfig,
    changes: &mut Changes,
    expressions: &mut Vec<Expression>,
    at: &At<'_>,
) {
    let MetricConfig {
        dimensions,
        name,
        tags_to_remove,
        r#match,
        drop,
    } = config;
    // Istio does not implement it either.
    let _ = r#match;
    let metrics: Vec<_> = MeshMetric::ALL
        .into_iter()
        .filter(|metric| name.is_empty() || metric.name() == name)
        .collect();
    if metrics.is_empty() {
        at.field("name")
            .warn(format_args!("there is no metric {name:?}; it is left out"));
    }
    if *drop {
        metrics
            .iter()
            .for_each(|metric| changes.drop_metric(*metric));
        return;
    }
    for label in tags_to_remove {
        for metric in &metrics {
            changes.change(*metric, label, Dimension::Removed);
        }
    }
    let mut dimensions: Vec<_> = dimensions.iter().collect();
    dimensions.sort_unstable();
    for (label, text) in dimensions {
        // One beyond the last has no value.
        let mut index = usize::MAX;
        match Expression::parse(text) {
            Ok(expression) => {
                index = expressions.len();
                expressions.push(expression);
            }
            Err(error) => at.key("dimensions", label).warn(format_args!(
                "{text:?} is not supported: {error}; the label is \"unknown\""
            )),
        }
        for metric in &metrics {
            changes.change(*metric, label, Dimension::Computed(index));
        }
    }
}
