use ithildin_proto::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;

use super::*;

const BACKENDS: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ports: [{name: http, port: 80}]}
";

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
{servers}
"
    )
}

fn virtual_service(name: &str, hosts: &str, gateways: &str, to: &str) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: {hosts}
  gateways: {gateways}
  http: [{{route: [{{destination: {{host: {to}}}}}]}}]
"
    )
}

fn of(parts: &[String]) -> Built {
    built(&format!("{BACKENDS}{}", parts.concat()), &router())
}

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";

#[test]
fn only_selected_gateways_are_served() {
    let own = gateway(
        "own",
        "  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}",
    );
    let other = gateway(
        "other",
        "  - {port: {number: 8081, name: http, protocol: HTTP}, hosts: ['*']}",
    )
    .replace("ingressgateway", "egressgateway");
    let built = of(&[own, other]);
    assert_eq!(names(&built.resources.listeners), ["0.0.0.0_8080"]);
    assert_eq!(
        hosts(routes(&built, "http.8080")),
        ["blackhole:8080 * -> nothing"]
    );
    assert_eq!(warnings(&built), Vec::<String>::new());
}

#[test]
fn a_router_that_no_gateway_selects_is_told_so() {
    let server = "  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}";
    let other = gateway("other", server).replace("ingressgateway", "egressgateway");
    let built = of(&[other]);
    assert_eq!(names(&built.resources.listeners), Vec::<String>::new());
    assert_eq!(
        warnings(&built),
        [
            "no Gateway selects this router, which therefore listens nowhere; its labels are \
             {\"istio\": \"ingressgateway\"}"
        ]
    );
}

#[test]
fn plaintext_servers_of_one_port_share_their_routes() {
    let built = of(&[
        gateway(
            "one",
            "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.org]}",
        ),
        gateway(
            "two",
            "  - {port: {number: 80, name: http, protocol: HTTP2}, hosts: ['*.example.org']}",
        ),
        virtual_service("a", "[a.example.org]", "[one]", "a"),
        virtual_service("b", "[b.example.org, other.org]", "[two]", "b"),
        virtual_service("c", "['*']", "[default/two]", "b"),
        virtual_service("mesh", "[c.example.org]", "[mesh]", "b"),
    ]);
    assert_eq!(names(&built.resources.routes), ["http.80"]);
    assert_eq!(
        hosts(routes(&built, "http.80")),
        [
            format!("*.example.org:80 *.example.org -> {B}"),
            format!("a.example.org:80 a.example.org -> {A}"),
            format!("b.example.org:80 b.example.org -> {B}"),
        ]
    );
    let chains = &listener(&built, "0.0.0.0_80").filter_chains;
    assert_eq!(chains.len(), 1);
    assert!(chains[0].transport_socket.is_none());
}

#[test]
fn tls_servers_of_one_port_are_told_apart_by_sni() {
    let built = of(&[
        gateway(
            "gw",
            "
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [default/a.example.org, '*.a.org'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 443, name: b, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k, minProtocolVersion: TLSV1_3}}
  - {port: {number: 443, name: c, protocol: HTTPS}, hosts: [m.example.org], tls: {mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, subjectAltNames: [spiffe://example.org/x]}}
  - {port: {number: 443, name: d, protocol: HTTPS}, hosts: [o.example.org], tls: {mode: OPTIONAL_MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca}}",
        ),
        virtual_service("a", "[a.example.org]", "[gw]", "a"),
    ]);
    assert_eq!(
        names(&built.resources.routes),
        [
            "https.443.a.gw.default",
            "https.443.b.gw.default",
            "https.443.c.gw.default",
            "https.443.d.gw.default"
        ]
    );
    // Each server has its own routes: the name of one does not lead to those of another.
    assert_eq!(
        hosts(routes(&built, "https.443.a.gw.default")),
        [format!("a.example.org:443 a.example.org -> {A}")]
    );
    let chains = &listener(&built, "0.0.0.0_443").filter_chains;
    let seen: Vec<_> = chains
        .iter()
        .map(|chain| {
            let context: DownstreamTlsContext = tls(chain.transport_socket.as_ref());
            let common = context.common_tls_context.unwrap();
            let (roots, sans) = match &common.validation_context_type {
                Some(ValidationContextType::CombinedValidationContext(combined)) => {
                    #[expect(deprecated, reason = "istiod's field")]
                    let sans = combined
                        .default_validation_context
                        .as_ref()
                        .unwrap()
                        .match_subject_alt_names
                        .len();
                    let sds = combined.validation_context_sds_secret_config.as_ref();
                    (sds.map(|sds| sds.name.clone()), sans)
                }
                _ => (None, 0),
            };
            let names = chain
                .filter_chain_match
                .as_ref()
                .map(|matching| matching.server_names.join(","));
            let own = common.tls_certificate_sds_secret_configs[0].name.clone();
            let required = context.require_client_certificate.unwrap().value;
            (names, own, roots, sans, required)
        })
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (
                text("a.example.org,*.a.org"),
                "default".to_owned(),
                text("ROOTCA"),
                0,
                true
            ),
            (None, "file-cert:/c~/k".to_owned(), None, 0, false),
            (
                text("m.example.org"),
                "file-cert:/c~/k".to_owned(),
                text("file-root:/ca"),
                1,
                true
            ),
            (
                text("o.example.org"),
                "file-cert:/c~/k".to_owned(),
                text("file-root:/ca"),
                0,
                false
            ),
        ]
    );
}

#[test]
fn https_redirect_covers_every_host_of_the_server() {
    let built = of(&[
        gateway(
            "gw",
            "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.org, b.example.org], tls: {httpsRedirect: true}}",
        ),
        virtual_service("a", "[a.example.org]", "[gw]", "a"),
    ]);
    let routes = routes(&built, "http.80");
    assert_eq!(
        hosts(routes),
        [
            format!("a.example.org:80 a.example.org -> {A}"),
            "b.example.org:80 b.example.org -> nothing".to_owned(),
        ]
    );
    let all = i32::from(TlsRequirementType::All);
    assert!(
        routes
            .virtual_hosts
            .iter()
            .all(|host| host.require_tls == all)
    );
}

#[test]
fn routes_of_several_virtual_services_merge_with_catch_alls_last() {
    let exact = virtual_service("z", "[a.example.org]", "[gw]", "b").replace(
        "http: [{route",
        "http: [{match: [{uri: {exact: /b}}], route",
    );
    let built = of(&[
        gateway(
            "gw",
            "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
        ),
        virtual_service("a", "[a.example.org]", "[gw]", "a"),
        exact,
    ]);
    let host = &routes(&built, "http.80").virtual_hosts[0];
    let operations: Vec<_> = host
        .routes
        .iter()
        .map(|route| route.decorator.as_ref().unwrap().operation.as_str())
        .collect();
    assert_eq!(
        operations,
        [
            "b.default.svc.cluster.local:80/b",
            "a.default.svc.cluster.local:80/*"
        ]
    );
}

#[test]
fn a_server_may_narrow_the_namespaces() {
    let servers = "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['./a.example.org', 'other/b.example.org', '*/c.example.org']}";
    let built = of(&[
        gateway("gw", servers),
        virtual_service(
            "a",
            "[a.example.org, b.example.org, c.example.org]",
            "[gw]",
            "a",
        ),
    ]);
    let domains: Vec<_> = routes(&built, "http.80")
        .virtual_hosts
        .iter()
        .map(|host| host.domains.join(","))
        .collect();
    assert_eq!(domains, ["a.example.org", "c.example.org"]);
}

#[test]
fn the_port_behind_the_service_is_bound() {
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]}
"
    .to_owned();
    let servers = "
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}";
    let built = of(&[service, gateway("gw", servers)]);
    assert_eq!(
        names(&built.resources.listeners),
        ["0.0.0.0_8080", "0.0.0.0_8443"]
    );
    assert_eq!(
        names(&built.resources.routes),
        ["http.8080", "https.443.https.gw.default"]
    );
}

#[test]
fn conflicts_leave_the_later_server_out() {
    let mut node = router();
    node.unprivileged = true;
    let yaml = [
        gateway(
            "a",
            "
  - {port: {number: 8443, name: https, protocol: HTTPS}, hosts: [a.example.org], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 8443, name: again, protocol: HTTPS}, hosts: [b.example.org, a.example.org], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 15021, name: agent, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 80, name: low, protocol: HTTP}, hosts: ['*']}",
        ),
        gateway("b", "  - {port: {number: 8443, name: http, protocol: HTTP}, hosts: ['*']}"),
    ];
    let built = built(&format!("{BACKENDS}{}", yaml.concat()), &node);
    assert_eq!(names(&built.resources.listeners), ["0.0.0.0_8443"]);
    assert_eq!(listener(&built, "0.0.0.0_8443").filter_chains.len(), 1);
    assert_eq!(
        warnings(&built),
        [
            "mesh.yaml: Gateway default/a: spec.servers[1].hosts: another server of this port has \"a.example.org\": the server is left out",
            "mesh.yaml: Gateway default/a: spec.servers[2].port.number: port 15021 belongs to the proxy's own agent: the server is left out",
            "mesh.yaml: Gateway default/a: spec.servers[3].port.number: the proxy may not bind port 80: the server is left out",
            "mesh.yaml: Gateway default/b: spec.servers[0].port.protocol: Gateway default/a uses the port with protocol HTTPS: the server is left out",
        ]
    );
}

#[test]
fn unknown_destinations_are_warned_of() {
    let built = of(&[
        gateway(
            "gw",
            "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
        ),
        virtual_service("a", "['*']", "[gw]", "missing"),
        virtual_service("b", "['*']", "[gw]", "a, port: {number: 81}"),
        virtual_service("c", "['*']", "[gw]", "a, subset: v9"),
    ]);
    assert_eq!(
        warnings(&built),
        [
            "mesh.yaml: VirtualService default/a: spec.http[0].route[0].destination.host: no Service or ServiceEntry declares missing.default.svc.cluster.local",
            "mesh.yaml: VirtualService default/b: spec.http[0].route[0].destination.port.number: a.default.svc.cluster.local has no port 81",
            "mesh.yaml: VirtualService default/c: spec.http[0].route[0].destination.subset: no DestinationRule for a.default.svc.cluster.local has this subset",
        ]
    );
}

#[test]
fn gateways_write_the_clients_certificate_anew() {
    let built = of(&[gateway(
        "gw",
        "  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}",
    )]);
    let manager = manager(&listener(&built, "0.0.0.0_443").filter_chains[0]);
    // 3 is SANITIZE_SET.
    assert_eq!(manager.forward_client_cert_details, 3);
    assert_eq!(manager.server_name, "istio-envoy");
    assert!(manager.use_remote_address.unwrap().value);
}
