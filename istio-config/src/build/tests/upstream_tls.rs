use super::*;

/// A service with one endpoint in the mesh, and a rule for it.
fn mesh(traffic_policy: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: 10.1.0.1, selector: {{app: web}}, ports: [{{name: http, port: 80}}, {{name: grpc, port: 90}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web-0, labels: {{app: web, version: v1, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: web}}
status: {{podIP: 10.0.0.7}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web}}
spec: {{host: web, {traffic_policy}}}
"
    )
}

const WEB: &str = "outbound|80||web.default.svc.cluster.local";

fn of(traffic_policy: &str) -> Built {
    built(&mesh(traffic_policy), &sidecar(Interception::Redirect))
}

/// Own certificate, roots, SANs, SNI and ALPN.
fn parts(
    context: UpstreamTlsContext,
) -> (Option<String>, String, Vec<String>, String, Vec<String>) {
    let common = context.common_tls_context.unwrap();
    let Some(ValidationContextType::CombinedValidationContext(combined)) =
        common.validation_context_type
    else {
        panic!("no validation");
    };
    #[expect(deprecated, reason = "istiod's field")]
    let sans = combined
        .default_validation_context
        .unwrap()
        .match_subject_alt_names;
    let sans = sans
        .iter()
        .map(|san| format!("{:?}", san.match_pattern))
        .collect();
    let own = common
        .tls_certificate_sds_secret_configs
        .first()
        .map(|secret| secret.name.clone());
    let roots = combined.validation_context_sds_secret_config.unwrap().name;
    (own, roots, sans, context.sni, common.alpn_protocols)
}

fn exact(san: &str) -> String {
    format!("Some(Exact({san:?}))")
}

#[test]
fn endpoints_of_the_mesh_get_mtls_by_themselves() {
    let built = of("subsets: [{name: v1, labels: {version: v1}}]");
    for (name, subset) in [
        (WEB, ""),
        ("outbound|80|v1|web.default.svc.cluster.local", "v1"),
    ] {
        let cluster = cluster(&built, name);
        assert!(cluster.transport_socket.is_none());
        let matches: Vec<_> = cluster
            .transport_socket_matches
            .iter()
            .map(|m| m.name.as_str())
            .collect();
        assert_eq!(matches, ["tlsMode-istio", "tlsMode-disabled"]);
        let context: UpstreamTlsContext = tls(cluster.transport_socket_matches[0]
            .transport_socket
            .as_ref());
        let (own, roots, sans, sni, alpn) = parts(context);
        assert_eq!(
            (own.as_deref(), roots.as_str()),
            (Some("default"), "ROOTCA")
        );
        assert_eq!(sans, [exact("spiffe://example.org/ns/default/sa/web")]);
        assert_eq!(
            sni,
            format!("outbound_.80_.{subset}_.web.default.svc.cluster.local")
        );
        assert_eq!(alpn, ["istio"]);
    }
    let endpoints = format!("{:?}", built.resources.endpoints[WEB]);
    assert!(endpoints.contains("tlsMode"), "{endpoints}");
}

#[test]
fn istio_mutual_of_a_rule_holds_for_every_endpoint() {
    let built = of(
        "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: my.sni, subjectAltNames: [spiffe://other.org/x]}}",
    );
    let cluster = cluster(&built, "outbound|90||web.default.svc.cluster.local");
    assert!(cluster.transport_socket_matches.is_empty());
    let (_, _, sans, sni, alpn) = parts(tls(cluster.transport_socket.as_ref()));
    assert_eq!(
        (sni.as_str(), sans),
        ("my.sni", vec![exact("spiffe://other.org/x")])
    );
    assert_eq!(alpn, ["istio", "h2"]);
}

#[test]
fn disable_is_plaintext_even_for_endpoints_of_the_mesh() {
    let built = of("trafficPolicy: {tls: {mode: DISABLE}}");
    let cluster = cluster(&built, WEB);
    assert!(cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty());
    let endpoints = format!("{:?}", built.resources.endpoints[WEB]);
    assert!(!endpoints.contains("tlsMode"), "{endpoints}");
}

#[test]
fn simple_and_mutual_read_files() {
    let built = of(
        "trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 90}, tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, sni: a.org, subjectAltNames: [b.org]}}]}",
    );
    let simple = cluster(&built, WEB);
    let (own, roots, sans, sni, alpn) = parts(tls(simple.transport_socket.as_ref()));
    assert_eq!(
        (own, roots.as_str(), sni.as_str()),
        (None, "file-root:system", "")
    );
    assert!(sans.is_empty() && alpn.is_empty());
    // Without a name, the request's host is the name that is sent and verified.
    let options = &simple.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    let options: HttpProtocolOptions = unpack(options).unwrap();
    let names = options.upstream_http_protocol_options.unwrap();
    assert!(names.auto_sni && names.auto_san_validation);

    let mutual = cluster(&built, "outbound|90||web.default.svc.cluster.local");
    let (own, roots, sans, sni, alpn) = parts(tls(mutual.transport_socket.as_ref()));
    assert_eq!(
        (own.as_deref(), roots.as_str()),
        (Some("file-cert:/c~/k"), "file-root:/ca")
    );
    assert_eq!(
        (sni.as_str(), sans, alpn),
        ("a.org", vec![exact("b.org")], vec!["h2".to_owned()])
    );
}

#[test]
fn outside_the_mesh_there_is_no_mtls_by_itself() {
    let external = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [ext.example.org]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.8, serviceAccount: vm}]
";
    let node = sidecar(Interception::Redirect);
    let name = "outbound|80||ext.example.org";
    let outside = built(external, &node);
    assert!(cluster(&outside, name).transport_socket_matches.is_empty());
    let inside = external.replace("spec:", "spec:\n  location: MESH_INTERNAL");
    assert_eq!(
        cluster(&built(&inside, &node), name)
            .transport_socket_matches
            .len(),
        2
    );
}

#[test]
fn the_mesh_may_switch_automatic_mtls_off() {
    let mesh_config = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'enableAutoMtls: false'}
";
    let yaml = format!("{}{mesh_config}", mesh("subsets: []"));
    let off = built(&yaml, &sidecar(Interception::Redirect));
    assert!(cluster(&off, WEB).transport_socket_matches.is_empty());
    let disabled = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: DISABLE}}
";
    let yaml = format!("{}{disabled}", mesh("subsets: []"));
    let off = built(&yaml, &sidecar(Interception::Redirect));
    assert!(cluster(&off, WEB).transport_socket_matches.is_empty());
}

#[test]
fn the_trust_domain_of_the_mesh_and_its_aliases_name_services() {
    let mesh_config = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{trustDomain: new.org, trustDomainAliases: [old.org]}'}
";
    let yaml = format!(
        "{}{mesh_config}",
        mesh("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
    );
    let built = built(&yaml, &sidecar(Interception::Redirect));
    let (_, _, sans, _, _) = parts(tls(cluster(&built, WEB).transport_socket.as_ref()));
    assert_eq!(
        sans,
        [
            exact("spiffe://new.org/ns/default/sa/web"),
            exact("spiffe://old.org/ns/default/sa/web")
        ]
    );
}
