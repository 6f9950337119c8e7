//! Broken Istio resources, written into the folder of a running gateway.

use std::fs;

use ithildin_tests::{
    DataPlane, Identities, Lan, Load,
    clusters::{Client, HTTPBIN, Server},
    peers,
};

use crate::{Case, case, finish, wait_for_words};

#[test]
fn on_builtin() {
    resources(DataPlane::Builtin);
}

#[test]
fn on_envoy() {
    if peers::envoy("resources::on_envoy").is_some() {
        resources(DataPlane::Envoy);
    }
}

fn resources(data_plane: DataPlane) {
    let identities = Identities::federated("").expect("the authority is our own");
    let lan = Lan::new();
    let mut server = Server::start(&lan, &identities, "example.org", &HTTPBIN, data_plane);
    let client = Client::start(&lan, &identities, "domain.test", DataPlane::Builtin);
    let net = &client.sleep.net;
    let load = Load::start(net, "127.0.0.1:8000", "app.example.org:8000", "/status/200");
    load.wait_beyond(0);
    let file = server.config.join("zz-broken.yaml");
    let cases = cases();
    let mut untold = Vec::new();
    for Case { name, bad, told } in &cases {
        let before = server.gateway.log().len();
        fs::write(&file, bad).expect("the folder is writable");
        let words: Vec<_> = [&["refused".to_owned()][..], told].concat();
        untold.extend(wait_for_words(name, &words, before, || {
            server.gateway.log()
        }));
        load.wait_beyond(load.sent());
    }
    // The mistake gone, changes are taken again.
    let before = server.gateway.log().len();
    fs::remove_file(&file).expect("it is there");
    let words = ["configuration read".to_owned()];
    untold.extend(wait_for_words("mended", &words, before, || {
        server.gateway.log()
    }));
    finish(load, cases.len(), &untold, data_plane.as_str());
    assert!(server.gateway.agent.process.is_running());
    assert!(
        !server.gateway.log().contains("panicked"),
        "{}",
        server.gateway.log()
    );
}

fn istio(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: broken}}\nspec: {spec}\n"
    )
}

fn server(text: &str) -> String {
    istio(
        "Gateway",
        &format!("{{selector: {{istio: ingressgateway}}, servers: [{text}]}}"),
    )
}

fn tls(text: &str) -> String {
    server(&format!(
        "{{port: {{number: 8443, name: x, protocol: HTTPS}}, hosts: ['*'], tls: {text}}}"
    ))
}

fn route(text: &str) -> String {
    istio(
        "VirtualService",
        &format!("{{hosts: ['*'], gateways: [httpbin-gateway], http: [{text}]}}"),
    )
}

fn policy(text: &str) -> String {
    istio(
        "DestinationRule",
        &format!("{{host: httpbin, trafficPolicy: {text}}}"),
    )
}

fn entry(text: &str) -> String {
    istio(
        "ServiceEntry",
        &format!("{{hosts: [x.example.org], {text}}}"),
    )
}

const TO: &str = "route: [{destination: {host: httpbin, port: {number: 8000}}}]";

fn cases() -> Vec<Case<String>> {
    let mut all = files();
    all.extend(gateways());
    all.extend(routes());
    all.extend(rules());
    all
}

fn files() -> Vec<Case<String>> {
    vec![
        case("not YAML", "kind: [".to_owned(), &["zz-broken.yaml", "line 2"]),
        case("binary", "\u{0}\u{1}\u{2}".to_owned(), &["zz-broken.yaml"]),
        case("no resource", "a: b".to_owned(), &["zz-broken.yaml", "apiVersion and kind are required"]),
        case("a number", "17".to_owned(), &["zz-broken.yaml", "apiVersion and kind are required"]),
        case(
            "deeply nested",
            "[".repeat(5000),
            &["zz-broken.yaml"],
        ),
        case(
            "an alias bomb",
            bomb(),
            &["zz-broken.yaml"],
        ),
        case(
            "no name",
            "apiVersion: v1\nkind: Service\nspec: {}".to_owned(),
            &["metadata.name: required"],
        ),
        case(
            "a name that is taken",
            server("{port: {number: 81, name: x, protocol: HTTP}, hosts: ['*']}").replace("broken", "httpbin-gateway"),
            &["Gateway default/httpbin-gateway", "already defined"],
        ),
        case(
            "an unknown version",
            istio("Gateway", "{}").replace("/v1", "/v9"),
            &["apiVersion: version v9 is not supported"],
        ),
        case("an unsupported kind", istio("Sidecar", "{}"), &["Sidecar is not supported"]),
        case(
            "a policy that would be needed",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {}".to_owned(),
            &["AuthorizationPolicy is not supported"],
        ),
    ]
}

/// Ten lines that would be a thousand million values.
fn bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let before = format!("*a{}", n - 1);
        let items = [before.as_str(); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{items}]\n"));
    }
    text
}

fn gateways() -> Vec<Case<String>> {
    const PATH: &str = "spec.servers[0].";
    vec![
        case(
            "no server",
            istio("Gateway", "{}"),
            &["spec.servers: required"],
        ),
        case(
            "an empty server",
            server("{}"),
            &[PATH, "port.number: required"],
        ),
        case(
            "an unknown mode",
            tls("{mode: MTLS}"),
            &[PATH, "tls.mode: unknown value `MTLS`"],
        ),
        case(
            "a misspelt field",
            tls("{mod: SIMPLE}"),
            &[PATH, "tls.mod: unknown field"],
        ),
        case(
            "no files",
            tls("{mode: SIMPLE}"),
            &[PATH, "tls", "required with mode SIMPLE"],
        ),
        case(
            "files with ISTIO_MUTUAL",
            tls("{mode: ISTIO_MUTUAL, privateKey: /k}"),
            &[PATH, "tls.privateKey: cannot be set with mode ISTIO_MUTUAL"],
        ),
        case(
            "a secret of Kubernetes",
            tls("{mode: SIMPLE, credentialName: x}"),
            &[PATH, "tls.credentialName: not supported"],
        ),
        case(
            "passed through",
            tls("{mode: PASSTHROUGH}"),
            &[PATH, "tls.mode"],
        ),
        case(
            "no tls",
            server("{port: {number: 8443, name: x, protocol: HTTPS}, hosts: ['*']}"),
            &[PATH, "tls: required with protocol HTTPS"],
        ),
        case(
            "a port beyond all",
            server("{port: {number: 70000, name: x, protocol: HTTP}, hosts: ['*']}"),
            &[PATH, "port.number", "70000"],
        ),
        case(
            "an unknown protocol",
            server("{port: {number: 81, name: x, protocol: HTTTP}, hosts: ['*']}"),
            &[PATH, "port.protocol: unknown protocol \"HTTTP\""],
        ),
        case(
            "a bad host",
            server("{port: {number: 81, name: x, protocol: HTTP}, hosts: ['a b']}"),
            &[PATH, "hosts[0]: invalid host \"a b\""],
        ),
        case(
            "a bad address",
            server("{port: {number: 81, name: x, protocol: HTTP}, hosts: ['*'], bind: here}"),
            &[PATH, "bind: \"here\" is not an IP address"],
        ),
    ]
}

fn routes() -> Vec<Case<String>> {
    const PATH: &str = "spec.http[0]";
    vec![
        case(
            "no action",
            route("{timeout: 3s}"),
            &[PATH, "one of route, redirect and directResponse"],
        ),
        case(
            "a misspelt field",
            route(&format!("{{timeOut: 3s, {TO}}}")),
            &[PATH, "timeOut: unknown field"],
        ),
        case(
            "a bad duration",
            route(&format!("{{timeout: soon, {TO}}}")),
            &[PATH, "timeout"],
        ),
        case(
            "a bad regex",
            route(&format!("{{match: [{{uri: {{regex: '('}}}}], {TO}}}")),
            &[PATH, "uri.regex"],
        ),
        case(
            "a match by two ways",
            route(&format!(
                "{{match: [{{uri: {{exact: /, prefix: /}}}}], {TO}}}"
            )),
            &[PATH, "uri"],
        ),
        case(
            "a mirror",
            route(&format!("{{mirror: {{host: b}}, {TO}}}")),
            &[PATH, "mirror: not supported"],
        ),
        case(
            "a fault",
            route(&format!("{{fault: {{}}, {TO}}}")),
            &[PATH, "fault: not supported"],
        ),
        case(
            "a bad status",
            route("{directResponse: {status: 99999}}"),
            &[PATH, "directResponse.status"],
        ),
        case(
            "a bad weight",
            route("{route: [{destination: {host: httpbin}, weight: -1}]}"),
            &[PATH, "weight"],
        ),
        case(
            "no host",
            route("{route: [{destination: {}}]}"),
            &[PATH, "destination.host"],
        ),
    ]
}

fn rules() -> Vec<Case<String>> {
    vec![
        case(
            "an unknown mode",
            policy("{tls: {mode: ON}}"),
            &["spec.trafficPolicy.tls.mode: unknown value `ON`"],
        ),
        case(
            "MUTUAL without files",
            policy("{tls: {mode: MUTUAL}}"),
            &["spec.trafficPolicy.tls", "required"],
        ),
        case(
            "a port twice",
            policy("{portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}]}"),
            &["spec.trafficPolicy.portLevelSettings[1]"],
        ),
        case(
            "a negative limit",
            policy("{connectionPool: {tcp: {maxConnections: -1}}}"),
            &["connectionPool.tcp.maxConnections"],
        ),
        case(
            "a misspelt field",
            policy("{loadbalancer: {}}"),
            &["spec.trafficPolicy.loadbalancer: unknown field"],
        ),
        case(
            "a subset twice",
            istio(
                "DestinationRule",
                "{host: httpbin, subsets: [{name: a}, {name: a}]}",
            ),
            &["spec.subsets[1].name"],
        ),
        case(
            "no ports",
            entry("resolution: STATIC"),
            &["spec.ports: required"],
        ),
        case(
            "a name where STATIC wants an address",
            entry(
                "resolution: STATIC, ports: [{number: 80, name: a, protocol: HTTP}], endpoints: [{address: a.b}]",
            ),
            &["spec.endpoints[0].address"],
        ),
        case(
            "an unknown resolution",
            entry("resolution: GUESS, ports: [{number: 80, name: a, protocol: HTTP}]"),
            &["spec.resolution: unknown value `GUESS`"],
        ),
        case(
            "a bad host",
            istio(
                "ServiceEntry",
                "{hosts: ['a b'], ports: [{number: 80, name: a, protocol: HTTP}], resolution: DNS}",
            ),
            &["spec.hosts[0]", "a b"],
        ),
    ]
}
