//! The agent's own metrics, made when they are asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use ithildin_dns::Counts;
use ithildin_spiffe::IdentityState;
use ithildin_xds::ads::StreamCounts;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry, proto::MetricFamily};

use super::health::Health;

/// All of it, but for what the status server knows of itself.
pub(super) async fn families(health: &Health) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    collect(&registry, health).await?;
    Ok(registry.gather())
}

async fn collect(registry: &Registry, health: &Health) -> Result<(), prometheus::Error> {
    let gauge = |name: &str, help: &str, value: f64| {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        registry.register(Box::new(gauge))
    };
    let number = |value: bool| f64::from(u8::from(value));
    gauge(
        "istio_agent_uptime_seconds",
        "Time since the agent started.",
        health.readiness().started().elapsed().as_secs_f64(),
    )?;
    gauge(
        "istio_agent_ready",
        "Whether the proxy has become ready and does not terminate.",
        number(health.readiness().is_ready()),
    )?;
    if let Some(after) = health.readiness().ready_after() {
        gauge(
            "istio_agent_startup_duration_seconds",
            "The time from the process starting to being marked ready.",
            after.as_secs_f64(),
        )?;
    }
    gauge(
        "istio_agent_config_errors",
        "What is wrong with the configuration now; the last good one is in force.",
        health.config_errors().len() as f64,
    )?;
    let identity = health.identity();
    gauge(
        "istio_agent_identity_available",
        "Whether the Workload API has given us an identity that is in force.",
        number(matches!(
            identity,
            IdentityState::Ready(_) | IdentityState::Opaque(_)
        )),
    )?;
    identity_metrics(registry, &identity)?;
    if let Some(dns) = health.dns() {
        dns_metrics(registry, dns.counts())?;
    }
    if let Some(counts) = health.wasm_counts() {
        wasm_metrics(registry, &counts)?;
    }
    if let Some(counts) = health.istiod_counts().await {
        istiod_metrics(registry, counts)?;
    }
    if let Some(status) = health.ads_status().await {
        let refusals = vector(
            registry,
            "istio_agent_xds_refusals",
            "How often resources of a type were refused, by Envoy or before they came to it.",
            &["type"],
        )?;
        for (kind, status) in &status.kinds {
            refusals
                .with_label_values(&[kind.short()])
                .set(status.refusals as f64);
        }
    }
    Ok(())
}

/// By the names that Istio's agent gives them.
fn istiod_metrics(registry: &Registry, counts: StreamCounts) -> Result<(), prometheus::Error> {
    for (name, help, value) in [
        (
            "istio_agent_istiod_connection_failures",
            "The total number of connection failures to Istiod",
            counts.failures,
        ),
        (
            "istio_agent_istiod_connection_errors",
            "The total number of connection errors to Istiod",
            counts.losses,
        ),
        (
            "istio_agent_istiod_connection_terminations",
            "The total number of connections that Istiod has ended",
            counts.ends,
        ),
        (
            "istio_agent_xds_proxy_requests",
            "The total number of Xds Proxy Requests",
            counts.requests,
        ),
        (
            "istio_agent_xds_proxy_responses",
            "The total number of Xds Proxy Responses",
            counts.responses,
        ),
    ] {
        let counter = Counter::new(name, help)?;
        counter.inc_by(value as f64);
        registry.register(Box::new(counter))?;
    }
    Ok(())
}

/// By the names that Istio's agent gives them.
fn dns_metrics(registry: &Registry, counts: Counts) -> Result<(), prometheus::Error> {
    let counter = |name: &str, help: &str, value: u64| {
        let counter = Counter::new(name, help)?;
        counter.inc_by(value as f64);
        registry.register(Box::new(counter))
    };
    counter(
        "istio_agent_dns_requests_total",
        "Total number of DNS requests.",
        counts.requests,
    )?;
    counter(
        "istio_agent_dns_upstream_requests_total",
        "Total number of DNS requests forwarded to upstream.",
        counts.upstream_requests,
    )?;
    counter(
        "istio_agent_dns_upstream_failures_total",
        "Total number of DNS failures from upstream.",
        counts.upstream_failures,
    )
}

/// By the names that Istio's agent gives them.
fn wasm_metrics(
    registry: &Registry,
    counts: &ithildin_wasm::Counts,
) -> Result<(), prometheus::Error> {
    let entries = Gauge::new(
        "istio_agent_wasm_cache_entries",
        "number of Wasm remote fetch cache entries.",
    )?;
    entries.set(counts.entries as f64);
    registry.register(Box::new(entries))?;
    let lookups = counters(
        registry,
        "istio_agent_wasm_cache_lookup_count",
        "number of Wasm remote fetch cache lookups.",
        "hit",
    )?;
    for (hit, count) in [("true", counts.hits), ("false", counts.misses)] {
        lookups.with_label_values(&[hit]).inc_by(count as f64);
    }
    let fetches = counters(
        registry,
        "istio_agent_wasm_remote_fetch_count",
        "number of Wasm remote fetches and results, including success, download failure, and checksum mismatch.",
        "result",
    )?;
    for (result, count) in &counts.fetches {
        fetches.with_label_values(&[result]).inc_by(*count as f64);
    }
    Ok(())
}

fn identity_metrics(
    registry: &Registry,
    identity: &IdentityState,
) -> Result<(), prometheus::Error> {
    let Some(snapshot) = identity.snapshot() else {
        return Ok(());
    };
    let expiry = vector(
        registry,
        "istio_agent_cert_expiry_timestamp_seconds",
        "When an SVID expires, in seconds since 1970.",
        &["spiffe_id"],
    )?;
    for svid in &snapshot.svids {
        let at = svid
            .not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        expiry
            .with_label_values(&[svid.id.as_str()])
            .set(at.as_secs_f64());
    }
    let roots = vector(
        registry,
        "istio_agent_trust_domain_roots",
        "Roots of a trust domain that have not expired.",
        &["trust_domain"],
    )?;
    for (domain, bundle) in &snapshot.bundles {
        let live = bundle.live_roots(SystemTime::now()).count();
        roots.with_label_values(&[domain.as_str()]).set(live as f64);
    }
    Ok(())
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<CounterVec, prometheus::Error> {
    let vector = CounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

fn vector(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let vector = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(vector.clone()))?;
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn wasm_modules_are_counted_by_what_came_of_them() {
        let registry = Registry::new();
        let counts = ithildin_wasm::Counts {
            entries: 1,
            hits: 3,
            misses: 2,
            fetches: [("success", 1), ("checksum_mismatched", 1)].into(),
        };
        wasm_metrics(&registry, &counts).unwrap();
        let text = TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "istio_agent_wasm_cache_entries 1",
            "istio_agent_wasm_cache_lookup_count{hit=\"false\"} 2",
            "istio_agent_wasm_cache_lookup_count{hit=\"true\"} 3",
            "istio_agent_wasm_remote_fetch_count{result=\"checksum_mismatched\"} 1",
            "istio_agent_wasm_remote_fetch_count{result=\"success\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }
}
