//! An external workload's file as people write it: the proxy starts without the agent's socket and
//! waits for it.

use std::{sync::Arc, time::Duration};

use ithildin_proto::{from_yaml, pb::envoy::config::bootstrap::v3::Bootstrap};
use ithildin_xds::{ResourceSet, SdsClients, ServerAddress};
use tokio::sync::watch;

use crate::{Proxy, ProxyOptions, Readiness, control};

const FILE: &str = "\
node:\t
  id: workload
  cluster: workloads
static_resources:
  listeners:
  - name: outbound
    address:
      socket_address:
        address: 127.0.0.1
        port_value: 0
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: auto
          stat_prefix: ingress_http
          route_config:
            name: service_route
            virtual_hosts:
            - name: outbound_proxy
              domains: [\"*\"]
              routes:
              - match:
                  prefix: \"/\"
                route:
                  cluster: backend
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: spire_agent
    connect_timeout: 0.25s
    http2_protocol_options: {}
    load_assignment:
      cluster_name: spire_agent
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              pipe:
                path: /no/such/agent.sock\t
  - name: backend
    load_assignment:
      cluster_name: mtls-envoy
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: 127.0.0.1
                port_value: 9
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs:
          - name: spiffe://example.org/workload
            sds_config:
              resource_api_version: V3
              api_config_source:
                api_type: grpc
                transport_api_version: V3
                grpc_services:
                  envoy_grpc:
                    cluster_name: spire_agent
          combined_validation_context:
            default_validation_context:
              match_typed_subject_alt_names:
              - san_type: uri
                matcher:
                  exact: spiffe://example.org/backend
            validation_context_sds_secret_config:
              name: spiffe://example.org
              sds_config:
                resource_api_version: V3
                api_config_source:
                  api_type: grpc
                  transport_api_version: V3
                  grpc_services:
                    envoy_grpc:
                      cluster_name: spire_agent
          tls_params:
            ecdh_curves:
            - X25519:P-256:P-521:P-384
";

#[tokio::test]
async fn for_the_agents_socket() {
    let bootstrap: Bootstrap = from_yaml(FILE).expect("a file as people write it");
    control::validate(bootstrap.clone()).expect("it is sound");
    let lookup = |name: &str| {
        (name == "spire_agent").then(|| ServerAddress::Pipe("/no/such/agent.sock".into()))
    };
    let secrets = SdsClients::new(
        bootstrap.node.clone().unwrap_or_default(),
        Arc::new(lookup),
        Vec::new(),
        Arc::new(control::check_secret),
    );
    let (_sender, resources) = watch::channel(Arc::new(ResourceSet::default()));
    let proxy = Proxy::start(ProxyOptions {
        bootstrap,
        resources,
        secrets: Arc::new(secrets),
        concurrency: 1,
        drain_time: Duration::from_secs(1),
    })
    .await
    .expect("it starts");
    let mut ready = proxy.ready();
    let waits = |state: &Readiness| match state {
        Readiness::Waiting(what) => what
            .iter()
            .any(|text| text.starts_with("cluster \"backend\": secret \"spiffe://example.org")),
        Readiness::Ready | Readiness::Draining => false,
    };
    // The guard that comes of it would keep the state from changing.
    let waited = tokio::time::timeout(Duration::from_secs(10), ready.wait_for(waits))
        .await
        .is_ok();
    assert!(waited, "{:?}", proxy.ready().borrow());
    assert!(
        proxy.listeners().borrow().listeners.is_empty(),
        "no port is open before the secrets are there"
    );
    proxy.shutdown(Duration::from_secs(1)).await;
}
