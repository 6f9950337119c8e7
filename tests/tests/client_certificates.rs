//! When a listener insists on a client certificate: ours and a real Envoy, on the same file, with
//! `require_client_certificate: false` and each kind of validation context, inline and by SDS.

use std::{fs, path::Path, process::Command};

use base64::prelude::{BASE64_STANDARD, Engine};
use ithildin_tests::{
    Net, curl,
    curl::ClientCertificate,
    eventually, peers,
    pki::{Ca, Svid},
    process::binary,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The port of the first case.
const FIRST_PORT: usize = 15100;

/// A listener's validation context, and whether a client without a certificate is served.
struct Case {
    name: &'static str,
    context: String,
    /// Served by SDS under this case's name.
    secret: Option<String>,
    optional: bool,
}

struct Lab {
    net: Net,
    cases: Vec<Case>,
}

#[test]
fn the_builtin_data_plane_asks_as_listed() {
    let lab = Lab::new();
    let mut command = lab.net.command(binary("ithildin-proxy"));
    command.arg("-c").arg(lab.net.dir().join("proxy.yaml"));
    lab.check("ithildin-proxy", command);
}

#[test]
fn envoy_asks_as_listed() {
    let Some(envoy) = peers::envoy("envoy_asks_as_listed") else {
        return;
    };
    let lab = Lab::new();
    let mut command = lab.net.command(envoy);
    command.args(["--use-dynamic-base-id", "-l", "warn", "-c"]);
    command.arg(lab.net.dir().join("proxy.yaml"));
    lab.check("envoy", command);
}

impl Lab {
    fn new() -> Self {
        let net = Net::new(&[]);
        let ca = Ca::new("example.org");
        let client = ca.svid("spiffe://example.org/client");
        let cases = cases(&ca, &client, net.dir());
        for (name, text) in [
            ("client.pem", client.certificate.pem()),
            ("client.key", client.key.serialize_pem()),
            ("proxy.yaml", bootstrap(&ca, &cases)),
        ] {
            fs::write(net.dir().join(name), text).expect("the scratch folder is writable");
        }
        for case in &cases {
            if let Some(context) = &case.secret {
                let path = net.dir().join(format!("{}.yaml", case.name));
                let text = secret_file(case.name, context);
                fs::write(path, text).expect("the scratch folder is writable");
            }
        }
        Self { net, cases }
    }

    /// Runs the proxy and compares what each listener does with the table.
    fn check(&self, name: &str, command: Command) {
        let _proxy = self.net.spawn(name, command);
        let (chain, key) = (
            self.net.dir().join("client.pem"),
            self.net.dir().join("client.key"),
        );
        let client = ClientCertificate {
            chain: &chain,
            key: &key,
        };
        let mut wrong = Vec::new();
        for (i, case) in self.cases.iter().enumerate() {
            let url = format!("https://127.0.0.1:{}/", FIRST_PORT + i);
            eventually(case.name, || {
                curl::get_mtls(&self.net, &url, client, &[]).expect_status(200)
            });
            let without = curl::get(&self.net, &url, &[]);
            // A refusal is an alert, whichever error curl makes of it.
            let served = without.exit == 0 && without.status == 200;
            if served != case.optional {
                wrong.push(format!("{}: served {served}: {}", case.name, without.error));
            }
        }
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

fn cases(ca: &Ca, client: &Svid, dir: &Path) -> Vec<Case> {
    let roots = format!("trusted_ca: {{inline_string: {:?}}}", ca.pem);
    let spiffe = format!(
        "custom_validator_config: {{name: envoy.tls.cert_validator.spiffe, typed_config: {{\
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
         SPIFFECertValidatorConfig, trust_domains: [{{name: example.org, trust_bundle: \
         {{inline_string: {:?}}}}}]}}}}",
        ca.pem
    );
    let names =
        "match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: \"spiffe://\"}}]";
    let hash = format!("verify_certificate_spki: [{:?}]", spki_hash(client));
    let anybody = "trust_chain_verification: ACCEPT_UNTRUSTED";
    let inline = |name, context: &[&str], optional| Case {
        name,
        context: format!("validation_context: {{{}}}", context.join(", ")),
        secret: None,
        optional,
    };
    let reference = |name| {
        let path = dir.join(format!("{name}.yaml"));
        format!("{{name: {name}, sds_config: {{path_config_source: {{path: {path:?}}}}}}}")
    };
    let served = |name, context: &[&str], optional| Case {
        name,
        context: format!("validation_context_sds_secret_config: {}", reference(name)),
        secret: Some(context.join(", ")),
        optional,
    };
    let combined = |name, defaults: &str, context: &[&str], optional| Case {
        name,
        context: format!(
            "combined_validation_context: {{default_validation_context: {{{defaults}}}, \
             validation_context_sds_secret_config: {}}}",
            reference(name)
        ),
        secret: Some(context.join(", ")),
        optional,
    };
    vec![
        inline("inline-roots", &[&roots], true),
        inline("inline-spiffe", &[&spiffe], false),
        inline("inline-names", &[&roots, names], false),
        inline("inline-hash", &[&roots, &hash], false),
        inline("inline-anybody", &[&roots, anybody], true),
        inline("inline-anybody-names", &[&roots, anybody, names], true),
        served("served-roots", &[&roots], true),
        served("served-spiffe", &[&spiffe], false),
        served("served-names", &[&roots, names], false),
        served("served-hash", &[&roots, &hash], false),
        combined("combined-roots", "", &[&roots], true),
        combined("combined-names", names, &[&roots], false),
        combined("combined-spiffe", "", &[&spiffe], false),
        combined("combined-spiffe-names", names, &[&spiffe], false),
    ]
}

fn spki_hash(svid: &Svid) -> String {
    let (_, leaf) = X509Certificate::from_der(svid.certificate.der()).expect("a certificate");
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-binary"]);
    let digest = ithildin_tests::process::filter(openssl, leaf.public_key().raw);
    BASE64_STANDARD.encode(digest)
}

/// The file that SDS reads: Envoy takes one secret from each.
fn secret_file(name: &str, context: &str) -> String {
    format!(
        "resources: [{{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
         Secret, name: {name}, validation_context: {{{context}}}}}]\n"
    )
}

fn bootstrap(ca: &Ca, cases: &[Case]) -> String {
    let server = ca.svid("spiffe://example.org/server");
    let mut text = "node: {id: test, cluster: test}\nstatic_resources:\n  listeners:\n".to_owned();
    for (i, case) in cases.iter().enumerate() {
        text += &format!(
            r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: false
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{inline_string: {chain:?}}}
              private_key: {{inline_string: {key:?}}}
            {context}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]
"#,
            name = case.name,
            port = FIRST_PORT + i,
            chain = server.certificate.pem(),
            key = server.key.serialize_pem(),
            context = case.context,
        );
    }
    text
}
