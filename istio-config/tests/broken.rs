//! Broken configuration, and the words in which a user hears of it.

use ithildin_istio_config::load;

/// A case: what is wrong, the file `mesh.yaml`, and every error that it gives.
struct Case {
    name: &'static str,
    yaml: String,
    errors: &'static [&'static str],
}

/// All errors of a folder with this one file.
fn errors(yaml: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("mesh.yaml"), yaml).expect("the file is written");
    match load(dir.path()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn check(cases: Vec<Case>) {
    for case in &cases {
        assert_eq!(
            errors(&case.yaml),
            case.errors,
            "{}:\n{}",
            case.name,
            case.yaml
        );
    }
}

fn case(name: &'static str, yaml: &str, errors: &'static [&'static str]) -> Case {
    Case {
        name,
        yaml: yaml.to_owned(),
        errors,
    }
}

/// A resource of Istio's networking API.
fn networking(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
}

fn gateway(name: &'static str, server: &str, errors: &'static [&'static str]) -> Case {
    case(
        name,
        &networking("Gateway", &format!("{{servers: [{server}]}}")),
        errors,
    )
}

fn route(name: &'static str, http: &str, errors: &'static [&'static str]) -> Case {
    let spec = format!("{{hosts: [a.example.org], http: [{http}]}}");
    case(name, &networking("VirtualService", &spec), errors)
}

fn policy(name: &'static str, policy: &str, errors: &'static [&'static str]) -> Case {
    let spec = format!("{{host: a.example.org, trafficPolicy: {policy}}}");
    case(name, &networking("DestinationRule", &spec), errors)
}

fn entry(name: &'static str, more: &str, errors: &'static [&'static str]) -> Case {
    let spec = format!("{{hosts: [a.example.org], {more}}}");
    case(name, &networking("ServiceEntry", &spec), errors)
}

const TO_A: &str = "route: [{destination: {host: a.example.org}}]";

#[test]
fn files_and_kinds() {
    check(vec![
        case(
            "not YAML",
            "kind: [",
            &[
                "mesh.yaml: while parsing a node, did not find expected node content at byte 7 line 2 column 1",
            ],
        ),
        case(
            "not a resource",
            "a: b",
            &["mesh.yaml: not a Kubernetes resource: apiVersion and kind are required"],
        ),
        case(
            "no kind",
            "apiVersion: v1\nmetadata: {name: x}",
            &["mesh.yaml: not a Kubernetes resource: apiVersion and kind are required"],
        ),
        case(
            "no name",
            "apiVersion: v1\nkind: Service\nspec: {}",
            &["mesh.yaml: Service default/: metadata.name: required"],
        ),
        case(
            "a list",
            "[1, 2]",
            &["mesh.yaml: not a Kubernetes resource: apiVersion and kind are required"],
        ),
        case(
            "a policy that would be needed",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: y}\nspec: {}",
            &[
                "mesh.yaml: AuthorizationPolicy y/x: security.istio.io/v1 AuthorizationPolicy is not supported",
            ],
        ),
        case(
            "Sidecar",
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {}",
            &["mesh.yaml: Sidecar default/x: networking.istio.io/v1 Sidecar is not supported"],
        ),
        case(
            "the Gateway of Kubernetes",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: x}\nspec: {}",
            &[
                "mesh.yaml: Gateway default/x: gateway.networking.k8s.io/v1 Gateway is not supported",
            ],
        ),
        case(
            "an unknown version",
            "apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: x}\nspec: {}",
            &[
                "mesh.yaml: Gateway default/x: apiVersion: version v2 is not supported, expected v1, v1beta1, v1alpha3",
            ],
        ),
        case(
            "twice the same",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: default}",
            &["mesh.yaml: Service default/x: already defined in mesh.yaml"],
        ),
        case(
            "a field beside spec",
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: x, label: y}\nspecs: {}",
            &[
                "mesh.yaml: Gateway default/x: metadata.label: unknown field, expected one of `name`, `namespace`, `labels`, `annotations`, `creationTimestamp`, `deletionTimestamp`, `ownerReferences`, `generateName`, `uid`, `resourceVersion`, `generation`, `selfLink`, `finalizers`, `managedFields`, `deletionGracePeriodSeconds`",
                "mesh.yaml: Gateway default/x: specs: unknown field, expected `spec` or `status`",
            ],
        ),
    ]);
}

#[test]
fn gateways() {
    check(vec![
        case(
            "no server",
            &networking("Gateway", "{}"),
            &["mesh.yaml: Gateway default/x: spec.servers: required"],
        ),
        gateway(
            "nothing in the server",
            "{}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].port.number: required",
                "mesh.yaml: Gateway default/x: spec.servers[0].port.name: required",
                "mesh.yaml: Gateway default/x: spec.servers[0].port.protocol: required",
                "mesh.yaml: Gateway default/x: spec.servers[0].hosts: required",
            ],
        ),
        gateway(
            "HTTPS without tls",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*']}",
            &["mesh.yaml: Gateway default/x: spec.servers[0].tls: required with protocol HTTPS"],
        ),
        gateway(
            "certificates with ISTIO_MUTUAL",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, minProtocolVersion: TLSV1_3}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.serverCertificate: cannot be set with mode ISTIO_MUTUAL",
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.privateKey: cannot be set with mode ISTIO_MUTUAL",
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.caCertificates: cannot be set with mode ISTIO_MUTUAL",
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.minProtocolVersion: has no effect with mode ISTIO_MUTUAL",
            ],
        ),
        gateway(
            "MUTUAL without files",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: MUTUAL, serverCertificate: /c}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.privateKey: required with mode MUTUAL",
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.caCertificates: required with mode MUTUAL",
            ],
        ),
        gateway(
            "SIMPLE with roots",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k, caCertificates: /ca}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.caCertificates: cannot be set with mode SIMPLE",
            ],
        ),
        gateway(
            "a secret of Kubernetes",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: cred}}",
            &["mesh.yaml: Gateway default/x: spec.servers[0].tls.credentialName: not supported"],
        ),
        gateway(
            "an unknown mode",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: MTLS}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.mode: unknown value `MTLS`, expected one of `PASSTHROUGH`, `SIMPLE`, `MUTUAL`, `AUTO_PASSTHROUGH`, `ISTIO_MUTUAL`, `OPTIONAL_MUTUAL`",
            ],
        ),
        gateway(
            "passed through",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.mode: passing TLS through is not supported",
            ],
        ),
        gateway(
            "certificates on plaintext",
            "{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls: only httpsRedirect can be set with protocol HTTP",
            ],
        ),
        gateway(
            "versions the wrong way round",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.minProtocolVersion: above maxProtocolVersion",
            ],
        ),
        gateway(
            "old TLS",
            "{port: {number: 443, name: a, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k, minProtocolVersion: TLSV1_1}}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].tls.minProtocolVersion: TLS before 1.2 is not supported",
            ],
        ),
        gateway(
            "TCP and a bad host",
            "{port: {number: 70000, name: a, protocol: TCP}, hosts: ['a/b/c']}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].port.number: invalid value: integer `70000`, expected 0 to 65535",
            ],
        ),
        gateway(
            "protocols, hosts, addresses",
            "{port: {number: 80, name: a, protocol: TCP}, hosts: ['a b', 'x/*.*']}, {port: {number: 81, name: a, protocol: HTTTP}, hosts: [a], bind: here}",
            &[
                "mesh.yaml: Gateway default/x: spec.servers[0].port.protocol: TCP is not supported",
                "mesh.yaml: Gateway default/x: spec.servers[0].hosts[0]: invalid host \"a b\"",
                "mesh.yaml: Gateway default/x: spec.servers[0].hosts[1]: invalid host \"*.*\"",
                "mesh.yaml: Gateway default/x: spec.servers[1].port.name: \"a\" is used by another server",
                "mesh.yaml: Gateway default/x: spec.servers[1].port.protocol: unknown protocol \"HTTTP\"",
                "mesh.yaml: Gateway default/x: spec.servers[1].bind: \"here\" is not an IP address",
            ],
        ),
    ]);
}

#[test]
fn virtual_services() {
    check(vec![
        case(
            "empty",
            &networking("VirtualService", "{}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.hosts: required",
                "mesh.yaml: VirtualService default/x: spec.http: required",
            ],
        ),
        case(
            "a wildcard for the mesh",
            &networking(
                "VirtualService",
                &format!("{{hosts: ['*'], http: [{{{TO_A}}}]}}"),
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.hosts[0]: \"*\" is only for gateways, not for the mesh",
            ],
        ),
        case(
            "other protocols",
            &networking(
                "VirtualService",
                "{hosts: [a.org], tls: [{}], tcp: [{}], gateways: [a/b/c]}",
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.tls: not supported",
                "mesh.yaml: VirtualService default/x: spec.tcp: not supported",
            ],
        ),
        route(
            "unsupported fields, all at once",
            &format!(
                "{{mirror: {{host: b}}, fault: {{}}, corsPolicy: {{}}, delegate: {{}}, {TO_A}}}"
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].mirror: not supported",
                "mesh.yaml: VirtualService default/x: spec.http[0].fault: not supported",
                "mesh.yaml: VirtualService default/x: spec.http[0].delegate: not supported",
                "mesh.yaml: VirtualService default/x: spec.http[0].corsPolicy: not supported",
            ],
        ),
        route(
            "a misspelt field",
            &format!("{{timeOut: 3s, {TO_A}}}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].timeOut: unknown field, expected one of `name`, `match`, `route`, `redirect`, `directResponse`, `rewrite`, `timeout`, `retries`, `headers`, `delegate`, `fault`, `mirror`, `mirrors`, `mirrorPercent`, `mirrorPercentage`, `corsPolicy`",
            ],
        ),
        route(
            "no action",
            "{timeout: 3s}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0]: one of route, redirect and directResponse is required",
                "mesh.yaml: VirtualService default/x: spec.http[0].timeout: only possible with route",
            ],
        ),
        route(
            "two actions",
            &format!("{{redirect: {{uri: /a}}, {TO_A}}}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0]: only one of route, redirect and directResponse may be set",
            ],
        ),
        route(
            "rewriting a redirect",
            "{redirect: {uri: /a}, rewrite: {uri: /b}}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].rewrite: only possible with route",
            ],
        ),
        route(
            "no host",
            "{route: [{destination: {subset: v1}}]}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].route[0].destination.host: required",
            ],
        ),
        route(
            "weights of nothing",
            "{route: [{destination: {host: a}}, {destination: {host: b}, weight: 0}]}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].route: the sum of all weights is 0",
            ],
        ),
        route(
            "a negative weight",
            "{route: [{destination: {host: a}, weight: -1}]}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].route[0].weight: invalid value: integer `-1`, expected 0 to 4294967295",
            ],
        ),
        route(
            "a bad expression",
            &format!("{{match: [{{uri: {{regex: 'a(b'}}}}], {TO_A}}}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].match[0].uri.regex: invalid regular expression: unclosed group",
            ],
        ),
        route(
            "two kinds of match",
            &format!("{{match: [{{uri: {{exact: /a, prefix: /b}}}}], {TO_A}}}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].match[0].uri: only one of exact, prefix and regex may be set",
            ],
        ),
        route(
            "claims of a token",
            &format!(
                "{{match: [{{headers: {{'@request.auth.claims.group': {{exact: a}}, 'x y': {{}}}}, uri: {{}}}}], {TO_A}}}"
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].match[0].uri: one of exact, prefix and regex is required",
                "mesh.yaml: VirtualService default/x: spec.http[0].match[0].headers.@request.auth.claims.group: matching on token claims is not supported",
                "mesh.yaml: VirtualService default/x: spec.http[0].match[0].headers.x y: not a header name",
            ],
        ),
        route(
            "bad durations",
            &format!("{{timeout: 3, retries: {{attempts: 1, perTryTimeout: 1 second}}, {TO_A}}}"),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].timeout: invalid type: integer `3`, expected a string",
                "mesh.yaml: VirtualService default/x: spec.http[0].retries.perTryTimeout: invalid duration \"1 second\", expected such as 3s or 100ms",
            ],
        ),
        route(
            "bad retries",
            &format!(
                "{{timeout: 1us, retries: {{attempts: 1, retryOn: '5xx,sometimes', backoff: 0s}}, {TO_A}}}"
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].timeout: shorter than 1ms",
                "mesh.yaml: VirtualService default/x: spec.http[0].retries.backoff: shorter than 1ms",
                "mesh.yaml: VirtualService default/x: spec.http[0].retries.retryOn: unknown condition \"sometimes\"",
            ],
        ),
        route(
            "bad redirect",
            "{redirect: {uri: /a, uriPrefix: /b, port: 80, derivePort: FROM_REQUEST_PORT, redirectCode: 200, scheme: ftp}}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].redirect: only one of uri and uriPrefix may be set",
                "mesh.yaml: VirtualService default/x: spec.http[0].redirect: only one of port and derivePort may be set",
                "mesh.yaml: VirtualService default/x: spec.http[0].redirect.scheme: expected http or https",
                "mesh.yaml: VirtualService default/x: spec.http[0].redirect.redirectCode: expected 301, 302, 303, 307 or 308",
            ],
        ),
        route(
            "bad response",
            "{directResponse: {status: 99, body: {bytes: '%'}}}",
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].directResponse.status: expected a status from 200 to 599",
                "mesh.yaml: VirtualService default/x: spec.http[0].directResponse.body.bytes: not base64",
            ],
        ),
        route(
            "bad rewrite",
            &format!(
                "{{rewrite: {{uri: /a, uriRegexRewrite: {{match: '[', rewrite: b}}}}, {TO_A}}}, {{rewrite: {{}}, {TO_A}}}"
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].rewrite: only one of uri and uriRegexRewrite may be set",
                "mesh.yaml: VirtualService default/x: spec.http[0].rewrite.uriRegexRewrite.match: invalid regular expression: unclosed character class",
                "mesh.yaml: VirtualService default/x: spec.http[1].rewrite: one of uri, uriRegexRewrite and authority is required",
            ],
        ),
        route(
            "bad headers",
            &format!(
                "{{headers: {{request: {{add: {{host: a}}, remove: ['a b']}}, response: {{set: {{':status': '1'}}}}}}, {TO_A}}}"
            ),
            &[
                "mesh.yaml: VirtualService default/x: spec.http[0].headers.request.add.host: the host can only be set, and only on requests",
                "mesh.yaml: VirtualService default/x: spec.http[0].headers.request.remove[0]: not a header that can be removed",
                "mesh.yaml: VirtualService default/x: spec.http[0].headers.response.set.:status: not a header name",
            ],
        ),
    ]);
}

#[test]
fn destination_rules() {
    check(vec![
        case(
            "no host",
            &networking("DestinationRule", "{subsets: [{}, {name: a}, {name: a}]}"),
            &[
                "mesh.yaml: DestinationRule default/x: spec.host: required",
                "mesh.yaml: DestinationRule default/x: spec.subsets[0].name: required",
                "mesh.yaml: DestinationRule default/x: spec.subsets[2].name: \"a\" is used by another subset",
            ],
        ),
        policy(
            "MUTUAL without files",
            "{tls: {mode: MUTUAL, clientCertificate: /c}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.privateKey: required with mode MUTUAL",
            ],
        ),
        policy(
            "files with ISTIO_MUTUAL",
            "{tls: {mode: ISTIO_MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.clientCertificate: cannot be set with mode ISTIO_MUTUAL",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.privateKey: cannot be set with mode ISTIO_MUTUAL",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.caCertificates: cannot be set with mode ISTIO_MUTUAL",
            ],
        ),
        policy(
            "a certificate with SIMPLE",
            "{tls: {mode: SIMPLE, privateKey: /k}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.privateKey: cannot be set with mode SIMPLE",
            ],
        ),
        policy(
            "names with DISABLE",
            "{tls: {mode: DISABLE, sni: a, subjectAltNames: [b]}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.sni: has no effect with mode DISABLE",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.subjectAltNames: has no effect with mode DISABLE",
            ],
        ),
        policy(
            "no verification",
            "{tls: {mode: SIMPLE, insecureSkipVerify: true}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.insecureSkipVerify: a peer is never trusted unverified: set caCertificates instead",
            ],
        ),
        policy(
            "a secret of Kubernetes",
            "{tls: {mode: MUTUAL, credentialName: c}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tls.credentialName: not supported",
            ],
        ),
        policy(
            "hashing",
            "{loadBalancer: {consistentHash: {useSourceIp: true}}}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.loadBalancer.consistentHash: not supported",
            ],
        ),
        policy(
            "ports",
            "{portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}, {tls: {mode: MUTUAL}}]}",
            &[
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.portLevelSettings[1].port.number: 1 is set by another entry",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.portLevelSettings[2].port.number: required",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.portLevelSettings[2].tls.clientCertificate: required with mode MUTUAL",
                "mesh.yaml: DestinationRule default/x: spec.trafficPolicy.portLevelSettings[2].tls.privateKey: required with mode MUTUAL",
            ],
        ),
        policy(
            "pools and ejection",
            "{connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}, outlierDetection: {maxEjectionPercent: 101}, tunnel: {}}",
            &["mesh.yaml: DestinationRule default/x: spec.trafficPolicy.tunnel: not supported"],
        ),
    ]);
}

#[test]
fn services_and_entries() {
    check(vec![
        entry(
            "no ports",
            "resolution: DNS",
            &["mesh.yaml: ServiceEntry default/x: spec.ports: required"],
        ),
        entry(
            "bad ports",
            "resolution: DNS, ports: [{number: 80, name: a, protocol: HTTTP}, {number: 80, name: a}, {}]",
            &[
                "mesh.yaml: ServiceEntry default/x: spec.ports[0].protocol: unknown protocol \"HTTTP\"",
                "mesh.yaml: ServiceEntry default/x: spec.ports[1].number: 80 is used by another port",
                "mesh.yaml: ServiceEntry default/x: spec.ports[1].name: \"a\" is used by another port",
                "mesh.yaml: ServiceEntry default/x: spec.ports[2].number: required",
                "mesh.yaml: ServiceEntry default/x: spec.ports[2].name: required",
            ],
        ),
        entry(
            "STATIC without endpoints",
            "resolution: STATIC, ports: [{number: 80, name: a}]",
            &["mesh.yaml: ServiceEntry default/x: spec.endpoints: required with resolution STATIC"],
        ),
        entry(
            "STATIC with names",
            "resolution: STATIC, ports: [{number: 80, name: a}], endpoints: [{address: b.org, ports: {b: 1}}, {}, {address: 'unix://x'}]",
            &[
                "mesh.yaml: ServiceEntry default/x: spec.endpoints[0].address: \"b.org\" is not an IP address, as resolution STATIC needs it",
                "mesh.yaml: ServiceEntry default/x: spec.endpoints[0].ports.b: no port of spec.ports has this name",
                "mesh.yaml: ServiceEntry default/x: spec.endpoints[1].address: required",
                "mesh.yaml: ServiceEntry default/x: spec.endpoints[2].address: expected unix:///path",
            ],
        ),
        entry(
            "NONE with endpoints",
            "ports: [{number: 80, name: a}], endpoints: [{address: 10.0.0.1}]",
            &[
                "mesh.yaml: ServiceEntry default/x: spec.resolution: NONE sends traffic to where it was going: endpoints need STATIC or DNS",
            ],
        ),
        entry(
            "endpoints and a selector",
            "resolution: STATIC, ports: [{number: 80, name: a}], endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {a: b}}",
            &["mesh.yaml: ServiceEntry default/x: spec.workloadSelector: excludes endpoints"],
        ),
        entry(
            "other resolutions",
            "resolution: DYNAMIC_DNS, ports: [{number: 80, name: a}], addresses: [10.0.0.0/8, x]",
            &[
                "mesh.yaml: ServiceEntry default/x: spec.addresses[0]: address ranges are not supported",
                "mesh.yaml: ServiceEntry default/x: spec.addresses[1]: \"x\" is not an IP address",
                "mesh.yaml: ServiceEntry default/x: spec.resolution: not supported, expected NONE, STATIC or DNS",
            ],
        ),
        case(
            "a wildcard to resolve",
            &networking(
                "ServiceEntry",
                "{hosts: ['*.example.org', '*'], resolution: DNS, ports: [{number: 80, name: a}], exportTo: ['?']}",
            ),
            &[
                "mesh.yaml: ServiceEntry default/x: spec.hosts[1]: \"*\" is not a service",
                "mesh.yaml: ServiceEntry default/x: spec.exportTo[0]: invalid value \"?\", expected a namespace, \"*\", \".\" or \"~\"",
                "mesh.yaml: ServiceEntry default/x: spec.hosts: a wildcard cannot be resolved: resolution DNS needs endpoints then",
            ],
        ),
        case(
            "a workload nowhere",
            &networking("WorkloadEntry", "{network: n, ports: {a: 0}}"),
            &["mesh.yaml: WorkloadEntry default/x: spec.network: not supported"],
        ),
        case(
            "a workload at a bad place",
            &networking("WorkloadEntry", "{address: 'a b'}"),
            &["mesh.yaml: WorkloadEntry default/x: spec.address: invalid address \"a b\""],
        ),
        case(
            "a service with an external name",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {networking.istio.io/exportTo: '.'}}\nspec: {type: ExternalName, externalName: a.org}",
            &["mesh.yaml: Service default/x: spec.externalName: not supported"],
        ),
        case(
            "a service that we cannot serve",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x, annotations: {networking.istio.io/exportTo: '.'}}\nspec: {sessionAffinity: ClientIP, internalTrafficPolicy: Local, ports: [{}]}",
            &[
                "mesh.yaml: Service default/x: spec.sessionAffinity: ClientIP is not supported",
                "mesh.yaml: Service default/x: spec.internalTrafficPolicy: Local is not supported",
                "mesh.yaml: Service default/x: spec.ports[0].port: required",
                "mesh.yaml: Service default/x: metadata.annotations.networking.istio.io/exportTo: not supported",
            ],
        ),
    ]);
}

#[test]
fn security_and_mesh() {
    let peer = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: x}}\nspec: {spec}"
        )
    };
    let mesh = |mesh: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{mesh}'}}"
        )
    };
    check(vec![
        case(
            "an unknown mode",
            &peer("{mtls: {mode: MUTUAL}}"),
            &[
                "mesh.yaml: PeerAuthentication default/x: spec.mtls.mode: unknown value `MUTUAL`, expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`",
            ],
        ),
        case(
            "ports of no workload",
            &peer("{portLevelMtls: {80: {mode: STRICT}}}"),
            &[
                "mesh.yaml: PeerAuthentication default/x: spec.portLevelMtls: needs a selector: the ports are those of a workload",
            ],
        ),
        case(
            "a bad port",
            &peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}"),
            &["mesh.yaml: PeerAuthentication default/x: spec.portLevelMtls: keys must be numbers"],
        ),
        case(
            "a setting of the mesh that we lack",
            &mesh("{tlsDefaults: {}, connectTimeout: soon}"),
            &[
                "mesh.yaml: ConfigMap istio-system/istio: data.mesh.tlsDefaults: not supported",
                "mesh.yaml: ConfigMap istio-system/istio: data.mesh.connectTimeout: invalid duration \"soon\", expected such as 3s or 100ms",
            ],
        ),
        case(
            "a broken mesh configuration",
            &mesh("["),
            &[
                "mesh.yaml: ConfigMap istio-system/istio: data.mesh: while parsing a node, did not find expected node content at byte 1 line 2 column 1",
            ],
        ),
        case(
            "a log format that is not JSON",
            &mesh("{accessLogEncoding: JSON, accessLogFormat: x}"),
            &[
                "mesh.yaml: ConfigMap istio-system/istio: data.mesh.accessLogFormat: expected a JSON object of texts",
            ],
        ),
    ]);
}

#[test]
fn every_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("a.yaml"), "a: b").unwrap();
    std::fs::write(dir.path().join("sub/b.yml"), "c: d").unwrap();
    std::fs::write(dir.path().join(".hidden.yaml"), "e: f").unwrap();
    std::fs::write(dir.path().join("README.md"), "g: h").unwrap();
    let errors: Vec<String> = load(dir.path())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let reason = "not a Kubernetes resource: apiVersion and kind are required";
    assert_eq!(
        errors,
        [format!("a.yaml: {reason}"), format!("sub/b.yml: {reason}")]
    );
}
