use super::*;

fn value<'a>(metrics: &'a [Metric], name: &str) -> Option<&'a Value> {
    let metric = metrics.iter().find(|metric| metric.name == name);
    metric.map(|metric| &metric.value)
}

#[test]
fn workers_are_summed_under_envoys_names() {
    let registry = Registry::new(2);
    let cluster = registry.cluster("outbound|80||svc", true);
    cluster.worker(0).upstream_rq_total.add(2);
    cluster.worker(1).upstream_rq_total.inc();
    cluster.worker(1).codes.used().count(503);
    cluster.worker(1).ssl.versions.inc("TLSv1.3");
    cluster.worker(0).codes.used().upstream_rq_time.record(7);
    let metrics = registry.metrics(false);
    for (name, expected) in [
        ("cluster.outbound|80||svc.upstream_rq_total", 3),
        ("cluster.outbound|80||svc.upstream_rq_503", 1),
        ("cluster.outbound|80||svc.ssl.versions.TLSv1.3", 1),
        ("cluster.outbound|80||svc.ssl.handshake", 0),
    ] {
        assert_eq!(
            value(&metrics, name),
            Some(&Value::Counter(expected)),
            "{name}"
        );
    }
    assert_eq!(
        value(&metrics, "cluster.outbound|80||svc.upstream_cx_active"),
        Some(&Value::Gauge(0))
    );
}

#[test]
fn counts_survive_a_new_configuration_and_end_with_the_last_user() {
    let registry = Registry::new(1);
    let before = registry.http("ingress", "0.0.0.0:8080");
    before.worker(0).downstream_rq_2xx.inc();
    let after = registry.http("ingress", "0.0.0.0:8080");
    drop(before);
    after.worker(0).downstream_rq_2xx.inc();
    let metrics = registry.metrics(true);
    for name in [
        "http.ingress.downstream_rq_2xx",
        "listener.0.0.0.0_8080.http.ingress.downstream_rq_2xx",
    ] {
        assert_eq!(value(&metrics, name), Some(&Value::Counter(2)), "{name}");
    }
    drop(after);
    assert_eq!(
        value(&registry.metrics(false), "http.ingress.downstream_rq_2xx"),
        None
    );
}

#[test]
fn a_target_without_tls_has_no_tls_statistics() {
    let registry = Registry::new(1);
    let plain = registry.listener("127.0.0.1:80", false);
    plain.worker(0).downstream_cx_total.inc();
    let metrics = registry.metrics(false);
    assert_eq!(
        value(&metrics, "listener.127.0.0.1_80.downstream_cx_total"),
        Some(&Value::Counter(1))
    );
    assert!(!metrics.iter().any(|metric| metric.name.contains(".ssl.")));
}

#[test]
fn the_exposition_has_envoys_tags() {
    let registry = Registry::new(1);
    let http = registry.http("ingress", "0.0.0.0:8080");
    http.worker(0).downstream_rq_2xx.inc();
    http.worker(0).downstream_rq_time.record(3);
    let metrics = registry.metrics(true);
    let exposition = prometheus(metrics.iter());
    for line in [
        "# TYPE envoy_http_downstream_rq_xx counter",
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
         envoy_http_conn_manager_prefix=\"ingress\"} 1",
        "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"2\",\
         envoy_http_conn_manager_prefix=\"ingress\",envoy_listener_address=\"0.0.0.0_8080\"} 1",
        "# TYPE envoy_http_downstream_rq_time histogram",
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"ingress\",le=\"1\"} 0",
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"ingress\",le=\"5\"} 1",
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"ingress\",le=\"+Inf\"} 1",
        "envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"ingress\"} 3",
    ] {
        assert!(
            exposition.lines().any(|it| it == line),
            "{line}\n{exposition}"
        );
    }
}

#[test]
fn labels_that_peers_choose_are_bounded() {
    let labelled = Labelled::default();
    for code in 0..1_000_u16 {
        labelled.inc(code);
    }
    labelled.inc(0);
    assert_eq!(labelled.iter().count(), 16);
    assert_eq!(labelled.iter().next(), Some((0, 2)));
}
