//! What is counted for each kind of target, under the names that Envoy gives them.

use super::{Counter, Gauge};

/// `listener.<address>.*`.
#[derive(Debug, Default)]
pub struct ListenerBlock {
    pub downstream_cx_total: Counter,
    pub downstream_cx_destroy: Counter,
    pub downstream_cx_overflow: Counter,
    pub downstream_cx_transport_socket_connect_timeout: Counter,
    pub downstream_pre_cx_timeout: Counter,
    pub downstream_listener_filter_error: Counter,
    pub no_filter_chain_match: Counter,
    pub downstream_cx_reauthorization_closed: Counter,
    pub downstream_cx_active: Gauge,
    pub downstream_pre_cx_active: Gauge,
    pub ssl: TlsBlock,
}

/// `ssl.*` of a listener or cluster.
#[derive(Debug, Default)]
pub struct TlsBlock {
    pub handshake: Counter,
    pub connection_error: Counter,
    pub session_reused: Counter,
    pub no_certificate: Counter,
    pub fail_verify_no_cert: Counter,
    pub fail_verify_error: Counter,
    pub fail_verify_san: Counter,
    pub fail_verify_cert_hash: Counter,
}

/// `http.<stat_prefix>.*`.
#[derive(Debug, Default)]
pub struct HttpBlock {
    pub downstream_cx_total: Counter,
    pub downstream_cx_http1_total: Counter,
    pub downstream_cx_http2_total: Counter,
    pub downstream_cx_destroy: Counter,
    pub downstream_cx_protocol_error: Counter,
    pub downstream_cx_idle_timeout: Counter,
    pub downstream_cx_rx_bytes_total: Counter,
    pub downstream_cx_tx_bytes_total: Counter,
    pub downstream_rq_total: Counter,
    pub downstream_rq_http1_total: Counter,
    pub downstream_rq_http2_total: Counter,
    pub downstream_rq_1xx: Counter,
    pub downstream_rq_2xx: Counter,
    pub downstream_rq_3xx: Counter,
    pub downstream_rq_4xx: Counter,
    pub downstream_rq_5xx: Counter,
    pub downstream_rq_completed: Counter,
    pub downstream_rq_rx_reset: Counter,
    pub downstream_rq_tx_reset: Counter,
    pub downstream_rq_timeout: Counter,
    pub downstream_rq_idle_timeout: Counter,
    pub downstream_rq_header_timeout: Counter,
    pub no_route: Counter,
    pub no_cluster: Counter,
    pub rq_direct_response: Counter,
    pub rq_redirect: Counter,
    pub downstream_cx_active: Gauge,
    pub downstream_rq_active: Gauge,
}

/// `cluster.<name>.*`. The gauges are what circuit breakers compare.
#[derive(Debug, Default)]
pub struct ClusterBlock {
    pub upstream_cx_total: Counter,
    pub upstream_cx_http1_total: Counter,
    pub upstream_cx_http2_total: Counter,
    pub upstream_cx_connect_fail: Counter,
    pub upstream_cx_connect_timeout: Counter,
    pub upstream_cx_connect_attempts_exceeded: Counter,
    pub upstream_cx_overflow: Counter,
    pub upstream_cx_destroy: Counter,
    pub upstream_cx_idle_timeout: Counter,
    pub upstream_cx_max_requests: Counter,
    pub upstream_cx_none_healthy: Counter,
    pub upstream_cx_rx_bytes_total: Counter,
    pub upstream_cx_tx_bytes_total: Counter,
    pub upstream_rq_total: Counter,
    pub upstream_rq_completed: Counter,
    pub upstream_rq_1xx: Counter,
    pub upstream_rq_2xx: Counter,
    pub upstream_rq_3xx: Counter,
    pub upstream_rq_4xx: Counter,
    pub upstream_rq_5xx: Counter,
    pub upstream_rq_pending_total: Counter,
    pub upstream_rq_pending_overflow: Counter,
    pub upstream_rq_pending_failure_eject: Counter,
    pub upstream_rq_cancelled: Counter,
    pub upstream_rq_timeout: Counter,
    pub upstream_rq_per_try_timeout: Counter,
    pub upstream_rq_rx_reset: Counter,
    pub upstream_rq_tx_reset: Counter,
    pub upstream_rq_retry: Counter,
    pub upstream_rq_retry_success: Counter,
    pub upstream_rq_retry_overflow: Counter,
    pub upstream_rq_retry_limit_exceeded: Counter,
    pub lb_healthy_panic: Counter,
    pub upstream_cx_reauthorization_closed: Counter,
    pub upstream_cx_active: Gauge,
    pub upstream_rq_active: Gauge,
    pub upstream_rq_pending_active: Gauge,
    pub upstream_rq_retry_active: Gauge,
    pub ssl: TlsBlock,
}

/// What `/clusters` shows for each host.
#[derive(Debug, Default)]
pub struct EndpointBlock {
    pub cx_total: Counter,
    pub cx_connect_fail: Counter,
    pub rq_total: Counter,
    pub rq_success: Counter,
    pub rq_error: Counter,
    pub rq_timeout: Counter,
    pub cx_active: Gauge,
    pub rq_active: Gauge,
}
