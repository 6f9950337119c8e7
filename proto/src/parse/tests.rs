use super::*;
use crate::pb::envoy::config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster};

/// As people write it: maps for lists, lower-case enums, deprecated fields, tabs.
const SEED: &str = "\
node: {id: a, cluster: b}
static_resources:
  listeners:
  - name: l
    address:
      socket_address: {address: 0.0.0.0, port_value: 3001}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: auto
          stat_prefix: ingress_http
          common_http_protocol_options: {idle_timeout: 1s}
  clusters:
  - name: spire_agent
    connect_timeout: 0.25s
    http2_protocol_options: {}
    load_assignment:\t
      cluster_name: other
  - name: backend
    type: strict_dns
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs:
          - name: spiffe://td/x
            sds_config:
              resource_api_version: v3
              api_config_source:
                api_type: GRPC
                grpc_services:
                  envoy_grpc: {cluster_name: spire_agent}
";

#[test]
fn files_are_taken_as_people_write_them() {
    let bootstrap: Bootstrap = from_yaml(SEED).unwrap();
    let resources = bootstrap.static_resources.unwrap();
    assert_eq!(resources.clusters[1].name, "backend");
    assert_eq!(resources.listeners[0].filter_chains.len(), 1);
}

#[test]
fn every_error_has_its_path() {
    let cases = [
        ("nope: 1", "nope: unknown field"),
        ("[1]", "the document: expected a mapping, found a list"),
        (
            "type: sometimes",
            "type: \"sometimes\" is none of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST",
        ),
        ("type: 99", "type: 99 is not a value of DiscoveryType"),
        ("name: 5", "name: expected text, found a number"),
        (
            "connect_timeout: soon",
            "connect_timeout: expected a duration such as \"1.5s\", found \"soon\"",
        ),
        (
            "dns_jitter: 5",
            "dns_jitter: expected a duration such as \"1.5s\", found 5",
        ),
        (
            "per_connection_buffer_limit_bytes: -1",
            "per_connection_buffer_limit_bytes: -1 is out of range",
        ),
        (
            "per_connection_buffer_limit_bytes: many",
            "per_connection_buffer_limit_bytes: expected a whole number, found text",
        ),
        (
            "respect_dns_ttl: 1",
            "respect_dns_ttl: expected true or false, found a number",
        ),
        (
            "transport_socket: {name: x, typed_config: {\"@type\": type.googleapis.com/foo.Bar}}",
            "transport_socket.typed_config: could not find @type \"type.googleapis.com/foo.Bar\"",
        ),
        (
            "transport_socket: {name: x, typed_config: {a: 1}}",
            "transport_socket.typed_config: needs an \"@type\"",
        ),
        (
            "load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {adress: 1}}]}]}",
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.adress: unknown field",
        ),
    ];
    for (text, expected) in cases {
        let errors = from_yaml::<Cluster>(text).unwrap_err();
        assert_eq!(errors.to_string(), expected, "{text}");
    }
    let errors = from_yaml::<Cluster>("a: 1\nb: 2\nname: ok\n").unwrap_err();
    assert_eq!(errors.0, ["a: unknown field", "b: unknown field"]);
}

#[test]
fn numbers_may_be_text_and_null_is_unset() {
    let cluster: Cluster =
        from_yaml("name: a\nper_connection_buffer_limit_bytes: '80'\ntype: null\n").unwrap();
    assert_eq!(cluster.per_connection_buffer_limit_bytes.unwrap().value, 80);
    assert!(cluster.cluster_discovery_type.is_none());
}

#[test]
fn the_descriptors_are_those_of_the_messages() {
    let pool = Pool::load();
    for name in [
        "envoy.config.bootstrap.v3.Bootstrap",
        "envoy.config.listener.v3.Listener",
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    ] {
        assert!(pool.message(name).is_some(), "{name}");
    }
}

#[test]
fn what_is_printed_is_read_again() {
    let bootstrap: Bootstrap = from_yaml(SEED).unwrap();
    let printed = crate::Printer::new().json(&bootstrap);
    assert_eq!(from_value::<Bootstrap>(printed).unwrap(), bootstrap);
}

#[test]
fn every_form_of_value_is_read() {
    let text = "
name: a
metadata:
  filter_metadata:
    x: {text: b, number: 1.5, flag: true, nothing: null, list: [1, two]}
  typed_filter_metadata:
    y: {\"@type\": type.googleapis.com/google.protobuf.StringValue, value: five}
    z: {\"@type\": type.googleapis.com/google.protobuf.Duration, value: 1.25s}
connectTimeout: 0.25s
common_lb_config: {healthy_panic_threshold: {value: 12.5}}
circuit_breakers: {thresholds: {priority: high, max_connections: '7'}}
ring_hash_lb_config: {minimum_ring_size: 18446744073709551615}
transport_socket_matches:
- name: m
  transport_socket:
    name: n
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      common_tls_context:
        tls_certificates: [{private_key: {inline_bytes: aGk-}}]
";
    let cluster: Cluster = from_yaml(text).unwrap();
    let printed = crate::Printer::new().json(&cluster);
    assert_eq!(printed["connect_timeout"], "0.250s");
    let metadata = &printed["metadata"];
    assert_eq!(metadata["typed_filter_metadata"]["y"]["value"], "five");
    assert_eq!(metadata["typed_filter_metadata"]["z"]["value"], "1.250s");
    let free = &metadata["filter_metadata"]["x"];
    // Envoy's number is text where it is not whole; null is left out nowhere.
    assert_eq!(free["text"], "b");
    assert_eq!(free["list"], serde_json::json!([1, "two"]));
    let lb = cluster.common_lb_config.unwrap();
    assert_eq!(lb.healthy_panic_threshold.unwrap().value, 12.5);
    let thresholds = &cluster.circuit_breakers.unwrap().thresholds;
    assert_eq!(thresholds[0].priority, 1);
    assert_eq!(thresholds[0].max_connections.unwrap().value, 7);
    let Some(crate::pb::envoy::config::cluster::v3::cluster::LbConfig::RingHashLbConfig(ring)) =
        cluster.lb_config
    else {
        panic!("{:?}", cluster.lb_config);
    };
    assert_eq!(ring.minimum_ring_size.unwrap().value, u64::MAX);
}

#[test]
fn what_protobuf_has_once_is_there_once() {
    for (text, expected) in [
        (
            "connect_timeout: 1s\nconnectTimeout: 2s\n",
            "connectTimeout: is there twice, under both of its names",
        ),
        (
            "type: STATIC\ncluster_type: {name: x}\n",
            "cluster_type: another field of cluster_discovery_type is set too",
        ),
        (
            "metadata: {typed_filter_metadata: {z: {\"@type\": x/google.protobuf.Duration}}}",
            "metadata.typed_filter_metadata[\"z\"]: needs a \"value\", and nothing else",
        ),
    ] {
        let errors = from_yaml::<Cluster>(text).unwrap_err();
        assert_eq!(errors.to_string(), expected, "{text}");
    }
}
