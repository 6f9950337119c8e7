//! What is counted for each kind of target, under the names that Envoy gives it.
//!
//! `*Block` is written by one worker, `*Control` and the blocks of the process by the control
//! runtime. `downstream_cx_reauthorization_closed` and `upstream_cx_reauthorization_closed` are
//! ours: connections that were closed because their peer is no longer trusted.

use super::{
    Counter, Gauge, Histogram, Labelled, Lazy, SharedCounter, SharedGauge, block::stat_block,
};

stat_block! {
    /// `listener.<address>.*`.
    pub struct ListenerBlock {
        downstream_cx_total: Counter,
        downstream_cx_destroy: Counter,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        downstream_pre_cx_timeout: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        no_filter_chain_match: Counter,
        rbac_allowed: Counter = "rbac.allowed",
        rbac_denied: Counter = "rbac.denied",
        rbac_shadow_allowed: Counter = "rbac.shadow_allowed",
        rbac_shadow_denied: Counter = "rbac.shadow_denied",
        downstream_cx_reauthorization_closed: Counter,
        downstream_cx_active: Gauge,
        downstream_pre_cx_active: Gauge,
        /// Milliseconds.
        downstream_cx_length_ms: Histogram,
        ssl: TlsBlock,
    }
}

stat_block! {
    /// `listener.<address>.*` that follows configuration and secrets.
    pub struct ListenerControl {
        ssl_context_update_by_sds: SharedCounter =
            "server_ssl_socket_factory.ssl_context_update_by_sds",
        downstream_context_secrets_not_ready: SharedCounter =
            "server_ssl_socket_factory.downstream_context_secrets_not_ready",
    }
}

stat_block! {
    /// `ssl.*` of a listener or cluster.
    pub struct TlsBlock {
        handshake: Counter,
        connection_error: Counter,
        session_reused: Counter,
        no_certificate: Counter,
        fail_verify_no_cert: Counter,
        fail_verify_error: Counter,
        fail_verify_san: Counter,
        fail_verify_cert_hash: Counter,
        /// By OpenSSL's name.
        ciphers: Labelled<&'static str>,
        /// By BoringSSL's name.
        curves: Labelled<&'static str>,
        sigalgs: Labelled<&'static str>,
        /// `TLSv1.2`, `TLSv1.3`.
        versions: Labelled<&'static str>,
    }
}

/// `http.<stat_prefix>.rbac.*` of a filter that has a prefix for these names.
#[derive(Debug, Default)]
pub struct RbacBlock {
    pub allowed: Counter,
    pub denied: Counter,
    pub shadow_allowed: Counter,
    pub shadow_denied: Counter,
}

stat_block! {
    /// `http.<stat_prefix>.jwt_authn.*`. Tokens are not remembered, but Envoy has the names, and
    /// counts each token of a named provider as one that it did not remember.
    pub struct JwtBlock {
        allowed: Counter,
        denied: Counter,
        cors_preflight_bypassed: Counter,
        jwks_fetch_success: Counter,
        jwks_fetch_failed: Counter,
        jwt_cache_hit: Counter,
        jwt_cache_miss: Counter,
    }
}

stat_block! {
    /// `http.<stat_prefix>.ext_authz.*`.
    pub struct ExtAuthzBlock {
        denied: Counter,
        disabled: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
        ignored_dynamic_metadata: Counter,
        invalid: Counter,
        ok: Counter,
    }
}

stat_block! {
    /// `http.<stat_prefix>.lua.*`.
    pub struct LuaBlock {
        errors: Counter,
        executions: Counter,
    }
}

stat_block! {
    /// `tracing.opentelemetry.*`.
    pub struct OpenTelemetryBlock {
        spans_sent: Counter,
        spans_dropped: Counter,
        timer_flushed: Counter,
    }
}

stat_block! {
    /// `tracing.zipkin.*`. `spans_dropped` is ours: spans for which there was no room.
    pub struct ZipkinBlock {
        spans_sent: Counter,
        spans_dropped: Counter,
        timer_flushed: Counter,
        reports_skipped_no_cluster: Counter,
        reports_sent: Counter,
        reports_dropped: Counter,
        reports_failed: Counter,
    }
}

stat_block! {
    /// `ext_authz.<stat_prefix>.*` of network filters.
    pub struct TcpExtAuthzBlock {
        cx_closed: Counter,
        denied: Counter,
        disabled: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
        ok: Counter,
        total: Counter,
        active: Gauge,
    }
}

stat_block! {
    /// `access_logs.grpc_access_log.*` and `access_logs.open_telemetry_access_log.[<stat_prefix>.]*`: entries that
    /// services took, and entries that they did not get. Those that could not be sent are among the latter; Envoy keeps
    /// them for another try while there is room.
    pub struct AccessServiceBlock {
        logs_written: Counter,
        logs_dropped: Counter,
        /// Of Envoy's own protocol alone.
        grpc_entries_flushed: Counter,
        grpc_entries_flush_failed: Counter,
    }
}

stat_block! {
    /// `proxy_proto.[<stat_prefix>.]*`.
    pub struct ProxyProtocolBlock {
        not_found_allowed: Counter,
        not_found_disallowed: Counter,
        v1: ProxyProtocolVersionBlock = "versions.v1",
        v2: ProxyProtocolVersionBlock = "versions.v2",
    }
}

stat_block! {
    /// Headers of one version.
    pub struct ProxyProtocolVersionBlock {
        found: Counter,
        disallowed: Counter,
        error: Counter,
    }
}

stat_block! {
    /// `<stat_prefix>.http_local_rate_limit.*`. Nothing runs in shadow mode.
    pub struct RateLimitBlock {
        enabled: Counter,
        enforced: Counter,
        ok: Counter,
        rate_limited: Counter,
        shadow_mode: Counter,
    }
}

stat_block! {
    /// `http.<stat_prefix>.*`.
    pub struct HttpBlock {
        downstream_cx_total: Counter,
        downstream_cx_ssl_total: Counter,
        downstream_cx_http1_total: Counter,
        downstream_cx_http2_total: Counter,
        downstream_cx_upgrades_total: Counter,
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_delayed_close_timeout: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_max_requests_reached: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_rq_total: Counter,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter,
        downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter,
        downstream_rq_completed: Counter,
        downstream_rq_response_before_rq_complete: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_non_relative_path: Counter,
        downstream_rq_failed_path_normalization: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        no_route: Counter,
        no_cluster: Counter,
        rbac_allowed: Counter = "rbac.allowed",
        rbac_denied: Counter = "rbac.denied",
        rbac_shadow_allowed: Counter = "rbac.shadow_allowed",
        rbac_shadow_denied: Counter = "rbac.shadow_denied",
        fault_delays_injected: Counter = "fault.delays_injected",
        fault_aborts_injected: Counter = "fault.aborts_injected",
        fault_active_faults: Gauge = "fault.active_faults",
        cors_origin_valid: Counter = "cors.origin_valid",
        cors_origin_invalid: Counter = "cors.origin_invalid",
        tracing_client_enabled: Counter = "tracing.client_enabled",
        tracing_health_check: Counter = "tracing.health_check",
        tracing_not_traceable: Counter = "tracing.not_traceable",
        tracing_random_sampling: Counter = "tracing.random_sampling",
        tracing_service_forced: Counter = "tracing.service_forced",
        rq_total: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        rs_too_large: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_ssl_active: Gauge,
        downstream_cx_http1_active: Gauge,
        downstream_cx_http2_active: Gauge,
        downstream_cx_upgrades_active: Gauge,
        downstream_rq_active: Gauge,
        /// Milliseconds.
        downstream_cx_length_ms: Histogram,
        /// Milliseconds from the first byte of the request to the last of the response.
        downstream_rq_time: Histogram,
    }
}

stat_block! {
    /// `tcp.<stat_prefix>.*`.
    pub struct TcpBlock {
        downstream_cx_total: Counter,
        downstream_cx_no_route: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
    }
}

stat_block! {
    /// `cluster.<name>.*`. The gauges are what circuit breakers compare.
    pub struct ClusterBlock {
        upstream_cx_total: Counter,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter,
        upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote: Counter,
        upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_destroy_with_active_rq: Counter,
        upstream_cx_close_notify: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_none_healthy: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_tx_bytes_total: Counter,
        upstream_cx_reauthorization_closed: Counter,
        upstream_rq_total: Counter,
        codes: Lazy<CodesBlock> = "",
        /// Of requests from outside of the mesh, and from inside (`x-envoy-internal`).
        external: Lazy<CodesBlock>,
        internal: Lazy<CodesBlock>,
        /// Of responses that another try was made in place of.
        retry: Lazy<CodesBlock>,
        /// What a service that limits rates said of requests to this cluster.
        ratelimit: Lazy<LimitServiceBlock>,
        upstream_rq_active_overflow: Counter,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_pending_failure_eject: Counter,
        upstream_rq_cancelled: Counter,
        upstream_rq_maintenance_mode: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        retry_or_shadow_abandoned: Counter,
        lb_healthy_panic: Counter,
        original_dst_host_invalid: Counter,
        upstream_cx_active: Gauge,
        upstream_rq_active: Gauge,
        upstream_rq_pending_active: Gauge,
        upstream_rq_retry_active: Gauge,
        /// Milliseconds.
        upstream_cx_connect_ms: Histogram,
        /// Milliseconds.
        upstream_cx_length_ms: Histogram,
        upstream_rq_per_cx: Histogram,
        ssl: TlsBlock,
    }
}

stat_block! {
    /// `cluster.<name>.ratelimit.*`.
    pub struct LimitServiceBlock {
        ok: Counter,
        over_limit: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
    }
}

stat_block! {
    /// `cluster.<name>.[<group>.]upstream_rq_*`: responses, whether the upstream's or ours in its place.
    pub struct CodesBlock {
        upstream_rq_completed: Counter,
        upstream_rq_1xx: Counter,
        upstream_rq_2xx: Counter,
        upstream_rq_3xx: Counter,
        upstream_rq_4xx: Counter,
        upstream_rq_5xx: Counter,
        /// By status code.
        upstream_rq: Labelled<u16>,
        /// Milliseconds from the request's start to the end of the response.
        upstream_rq_time: Histogram,
    }
}

impl CodesBlock {
    pub fn count(&self, status: u16) {
        match status {
            100..200 => self.upstream_rq_1xx.inc(),
            200..300 => self.upstream_rq_2xx.inc(),
            300..400 => self.upstream_rq_3xx.inc(),
            400..500 => self.upstream_rq_4xx.inc(),
            _ => self.upstream_rq_5xx.inc(),
        }
        self.upstream_rq.inc(status);
        self.upstream_rq_completed.inc();
    }
}

stat_block! {
    /// `cluster.<name>.*` that follows configuration, discovery and secrets.
    pub struct ClusterControl {
        assignment_stale: SharedCounter,
        assignment_timeout_received: SharedCounter,
        bind_errors: SharedCounter,
        membership_change: SharedCounter,
        update_attempt: SharedCounter,
        update_success: SharedCounter,
        update_failure: SharedCounter,
        update_empty: SharedCounter,
        update_no_rebuild: SharedCounter,
        update_rejected: SharedCounter,
        membership_total: SharedGauge,
        membership_healthy: SharedGauge,
        membership_degraded: SharedGauge,
        membership_excluded: SharedGauge,
        max_host_weight: SharedGauge,
        version: SharedGauge,
        warming_state: SharedGauge,
        ssl_context_update_by_sds: SharedCounter =
            "client_ssl_socket_factory.ssl_context_update_by_sds",
        upstream_context_secrets_not_ready: SharedCounter =
            "client_ssl_socket_factory.upstream_context_secrets_not_ready",
    }
}

stat_block! {
    /// `cluster.<name>.outlier_detection.*`, written by the control runtime.
    pub struct OutlierBlock {
        ejections_consecutive_5xx: SharedCounter,
        ejections_detected_consecutive_5xx: SharedCounter,
        ejections_detected_consecutive_gateway_failure: SharedCounter,
        ejections_detected_consecutive_local_origin_failure: SharedCounter,
        ejections_detected_failure_percentage: SharedCounter,
        ejections_detected_local_origin_failure_percentage: SharedCounter,
        ejections_detected_local_origin_success_rate: SharedCounter,
        ejections_detected_success_rate: SharedCounter,
        ejections_enforced_consecutive_5xx: SharedCounter,
        ejections_enforced_consecutive_gateway_failure: SharedCounter,
        ejections_enforced_consecutive_local_origin_failure: SharedCounter,
        ejections_enforced_failure_percentage: SharedCounter,
        ejections_enforced_local_origin_failure_percentage: SharedCounter,
        ejections_enforced_local_origin_success_rate: SharedCounter,
        ejections_enforced_success_rate: SharedCounter,
        ejections_enforced_total: SharedCounter,
        ejections_overflow: SharedCounter,
        ejections_success_rate: SharedCounter,
        ejections_total: SharedCounter,
        ejections_active: SharedGauge,
    }
}

stat_block! {
    /// What `/clusters` shows for each host.
    pub struct EndpointBlock {
        cx_total: Counter,
        cx_connect_fail: Counter,
        rq_total: Counter,
        rq_success: Counter,
        rq_error: Counter,
        rq_timeout: Counter,
        cx_active: Gauge,
        rq_active: Gauge,
    }
}

stat_block! {
    /// One subscription: `listener_manager.lds.*`, `cluster_manager.cds.*`,
    /// `http.<stat_prefix>.rds.<name>.*`, `sds.<name>.*`.
    pub struct SubscriptionBlock {
        update_attempt: SharedCounter,
        update_success: SharedCounter,
        update_failure: SharedCounter,
        update_rejected: SharedCounter,
        init_fetch_timeout: SharedCounter,
        /// Milliseconds since the Unix epoch.
        update_time: SharedGauge,
        /// xxHash of the version string in Envoy; here any number that changes with it.
        version: SharedGauge,
    }
}

stat_block! {
    /// `listener_manager.*`.
    pub struct ListenerManagerBlock {
        listener_added: SharedCounter,
        listener_modified: SharedCounter,
        listener_removed: SharedCounter,
        listener_stopped: SharedCounter,
        listener_create_success: SharedCounter,
        listener_create_failure: SharedCounter,
        listener_in_place_updated: SharedCounter,
        total_filter_chains_draining: SharedGauge,
        total_listeners_active: SharedGauge,
        total_listeners_draining: SharedGauge,
        total_listeners_warming: SharedGauge,
        workers_started: SharedGauge,
    }
}

stat_block! {
    /// `cluster_manager.*`.
    pub struct ClusterManagerBlock {
        cluster_added: SharedCounter,
        cluster_modified: SharedCounter,
        cluster_removed: SharedCounter,
        cluster_updated: SharedCounter,
        cluster_updated_via_merge: SharedCounter,
        update_merge_cancelled: SharedCounter,
        update_out_of_merge_window: SharedCounter,
        active_clusters: SharedGauge,
        warming_clusters: SharedGauge,
    }
}

stat_block! {
    /// `server.*`.
    pub struct ServerBlock {
        /// 1, unless draining.
        live: SharedGauge,
        /// 0 live, 1 draining, 2 pre-initialising, 3 initialising.
        state: SharedGauge,
        /// Seconds.
        uptime: SharedGauge,
        concurrency: SharedGauge,
        total_connections: SharedGauge,
        days_until_first_cert_expiring: SharedGauge,
        memory_allocated: SharedGauge,
        memory_heap_size: SharedGauge,
        memory_physical_size: SharedGauge,
        hot_restart_epoch: SharedGauge,
        version: SharedGauge,
    }
}

stat_block! {
    /// `filesystem.*`: access log files. `write_dropped` is ours: lines that found the buffer full.
    pub struct FilesystemBlock {
        write_buffered: SharedCounter,
        write_completed: SharedCounter,
        write_failed: SharedCounter,
        write_dropped: SharedCounter,
        reopen_failed: SharedCounter,
        flushed_by_timer: SharedCounter,
        write_total_buffered: SharedGauge,
    }
}
