use ithildin_proto::from_yaml;

use super::*;

fn listener(rules: &str, secret: &str) -> Any {
    let text = format!(
        r#"
name: virtualInbound
traffic_direction: INBOUND
filter_chains:
- name: tls
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        combined_validation_context:
          default_validation_context: {{{rules}}}
          validation_context_sds_secret_config: {{name: {secret}}}
- name: plaintext
"#
    );
    pack(&from_yaml::<Listener>(&text).unwrap())
}

fn served(listener: &Any) -> String {
    let listener: Listener = unpack(listener).unwrap();
    let socket = listener.filter_chains[0].transport_socket.clone().unwrap();
    let Some(ConfigType::TypedConfig(config)) = socket.config_type else {
        panic!("no TLS");
    };
    let context: DownstreamTlsContext = unpack(&config).unwrap();
    assert!(context.require_client_certificate.unwrap().value);
    match context.common_tls_context.unwrap().validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.validation_context_sds_secret_config.unwrap().name
        }
        other => panic!("{other:?}"),
    }
}

const OF_DOMAINS: &str = "match_subject_alt_names: [{prefix: 'spiffe://cluster.local/'}, {prefix: 'spiffe://old.test/'}]";

#[test]
fn the_rules_of_trust_domains_get_company() {
    let mut changed = listener(OF_DOMAINS, "ROOTCA");
    assert_eq!(admit_federated(&mut changed).unwrap(), 1);
    assert_eq!(served(&changed), FEDERATED_BUNDLE);
    // What was pointed elsewhere stays there.
    assert_eq!(admit_federated(&mut changed).unwrap(), 0);
}

#[test]
fn what_istiod_did_not_mean_for_a_trust_domain_is_left_alone() {
    for (rules, secret) in [
        // A rule of ours would narrow it.
        ("", "ROOTCA"),
        // One workload is named.
        (
            "match_subject_alt_names: [{exact: 'spiffe://cluster.local/ns/a/sa/b'}]",
            "ROOTCA",
        ),
        (
            "match_subject_alt_names: [{prefix: 'spiffe://cluster.local/'}, {exact: 'spiffe://x.test/y'}]",
            "ROOTCA",
        ),
        ("match_subject_alt_names: [{prefix: 'example.'}]", "ROOTCA"),
        // The other kind of rule does not go with ours.
        (
            "match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: 'spiffe://cluster.local/'}}]",
            "ROOTCA",
        ),
        // A gateway's own roots.
        (OF_DOMAINS, "kubernetes://gateway-cacert"),
        (OF_DOMAINS, "file-root:/etc/ca.pem"),
    ] {
        let before = listener(rules, secret);
        let mut after = before.clone();
        assert_eq!(admit_federated(&mut after).unwrap(), 0, "{rules} {secret}");
        assert_eq!(after, before);
    }
}

#[test]
fn a_listener_that_cannot_be_read_is_an_error_and_stays() {
    let mut garbage = Any {
        value: vec![0xff; 9],
        ..listener("", "ROOTCA")
    };
    let before = garbage.clone();
    assert!(admit_federated(&mut garbage).is_err());
    assert_eq!(garbage, before);
    let mut other = Any {
        type_url: "type.googleapis.com/google.protobuf.Empty".into(),
        value: Vec::new(),
    };
    assert!(admit_federated(&mut other).is_err());
}
