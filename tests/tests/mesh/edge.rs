//! TLS at an ingress gateway, with certificates from Secrets: every mode, version and cipher, clients that are
//! refused, and Secrets that change, are broken or are not there.

use ithildin_tests::{
    Identities, Mesh, Net, Process,
    authority::Files,
    curl::{self, Answer, ClientCertificate},
    eventually,
    mesh::{Cluster, INGRESS, PodSpec, Program},
    pki::{Ca, Svid},
};
use serde_json::{Value, json};

use crate::support::{assert_refused, on_each};

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);
const OUTSIDE: [u8; 4] = [10, 0, 4, 60];
/// Behind the gateway, with TLS of its own.
const SERVER: [u8; 4] = [10, 0, 4, 50];

on_each!(edge, and_istios_agent);

fn edge(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let mesh = Mesh::start_in(test, program, identities, Cluster::ONLY, &["edge.yaml"]);
    let Some(mut mesh) = mesh else {
        return;
    };
    let secrets = Secrets {
        ca: Ca::plain("edge"),
    };
    secrets.put_all(&mesh);
    mesh.add(&WEB);
    mesh.add(&INGRESS);
    mesh.wait_ready();
    let edge = Edge::new(&mesh, secrets);
    let _server = edge.serve_outside();
    edge.simple();
    edge.versions();
    edge.passed_on();
    edge.mutual();
    edge.optional();
    edge.revoked();
    edge.rotated();
    edge.broken();
}

/// Certificates of the gateway, as Kubernetes has them.
struct Secrets {
    /// Of the servers and, for mutual TLS, of the clients.
    ca: Ca,
}

impl Secrets {
    fn put_all(&self, mesh: &Mesh) {
        put(mesh, "simple", &self.keys("simple.test"));
        put(mesh, "wild", &self.keys("*.wild.test"));
        put(mesh, "split", &self.keys("split.test"));
        put(mesh, "split-cacert", &json!({"ca.crt": self.ca.pem}));
        self.put_mutual(mesh, None);
    }

    fn keys(&self, host: &str) -> Value {
        let leaf = self.ca.server(host);
        json!({"tls.crt": leaf.certificate.pem(), "tls.key": leaf.key.serialize_pem()})
    }

    /// With what the clients of mutual TLS are verified by.
    fn put_mutual(&self, mesh: &Mesh, list: Option<String>) {
        let mut data = self.keys("mutual.test");
        data["ca.crt"] = self.ca.pem.clone().into();
        if let Some(list) = list {
            data["ca.crl"] = list.into();
        }
        put(mesh, "mutual", &data);
    }
}

fn put(mesh: &Mesh, name: &str, data: &Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "generic",
        "metadata": {"name": name, "namespace": "istio-system"},
        "stringData": data,
    });
    mesh.istiod
        .apply(&format!("secret-{name}.json"), &object.to_string());
}

/// Who asks, and what he has.
struct Edge<'a> {
    mesh: &'a Mesh,
    secrets: Secrets,
    outside: Net,
    first: (Svid, Files),
    second: Files,
    stranger: Files,
}

impl<'a> Edge<'a> {
    fn new(mesh: &'a Mesh, secrets: Secrets) -> Self {
        let outside = mesh.host(OUTSIDE);
        let (ca, other) = (&secrets.ca, Ca::plain("other"));
        let write = |name: &str, leaf: &Svid, ca: &Ca| leaf.write(outside.subdir(name), ca);
        let first = ca.server("first.client.test");
        let files = write("first", &first, ca);
        Self {
            second: write("second", &ca.server("second.client.test"), ca),
            stranger: write("stranger", &other.server("first.client.test"), &other),
            first: (first, files),
            mesh,
            secrets,
            outside,
        }
    }

    /// `openssl s_server` with a certificate of its own.
    fn serve_outside(&self) -> (Net, Process) {
        let net = self.mesh.host(SERVER);
        let ca = &self.secrets.ca;
        let files = ca.server("passed.test").write(net.subdir("own"), ca);
        let mut command = net.command("openssl");
        command.args(["s_server", "-accept", "9443", "-www", "-quiet"]);
        command.arg("-cert").arg(files.chain);
        command.arg("-key").arg(files.key);
        let process = net.spawn("outside", command);
        (net, process)
    }

    /// A request by TLS, whose server is verified by our CA and its name.
    fn ask(&self, host: &str, port: u16, client: Option<&Files>, arguments: &[&str]) -> Answer {
        let url = format!("https://{host}:{port}/get");
        let to = format!("{host}:{port}:10.0.4.10:{port}");
        let bundle = self.first.1.bundle.display().to_string();
        let usual = ["--no-insecure", "--cacert", &*bundle, "--connect-to", &*to];
        let arguments = [&usual, arguments].concat();
        match client {
            None => curl::get(&self.outside, &url, &arguments),
            Some(Files { chain, key, .. }) => {
                let certificate = ClientCertificate { chain, key };
                curl::get_mtls(&self.outside, &url, certificate, &arguments)
            }
        }
    }

    fn get(&self, host: &str, client: Option<&Files>) -> Answer {
        self.ask(host, 8443, client, &[])
    }

    fn eventually_served(&self, host: &str, client: Option<&Files>) {
        eventually(host, || self.get(host, client).expect_status(200));
    }

    fn eventually_refused(&self, host: &str, client: Option<&Files>) {
        eventually(host, || {
            let answer = self.get(host, client);
            (answer.exit != 0).then_some(()).ok_or(answer)
        });
    }

    /// The data plane has heard of it, and asks for its Secret.
    fn eventually_known(&self, host: &str) {
        let pod = self.mesh.pod(INGRESS.name);
        eventually(host, || {
            let listeners = pod.admin("/config_dump?resource=dynamic_listeners").body;
            listeners.contains(host).then_some(()).ok_or(listeners)
        });
    }

    /// Each host has its certificate, and nobody else's.
    fn simple(&self) {
        for host in ["simple.test", "a.wild.test", "b.wild.test"] {
            self.eventually_served(host, None);
            let answer = self.ask(host, 8443, None, &["--http1.1"]);
            assert_eq!(
                (answer.status, &*answer.version),
                (200, "1.1"),
                "{answer:?}"
            );
            let answer = self.ask(host, 8443, None, &["--http2"]);
            assert_eq!((answer.status, &*answer.version), (200, "2"), "{answer:?}");
        }
        for host in ["unknown.test", "wild.test"] {
            assert_refused(host, &self.get(host, None));
        }
        // A connection is for the hosts of its server only.
        let answer = self.ask("simple.test", 8443, None, &["-H", "host: mutual.test"]);
        assert!([404, 421].contains(&answer.status), "{answer:?}");
        let answer = curl::get(&self.outside, "http://10.0.4.10:8443/", &[]);
        assert_ne!(
            (answer.exit, answer.status),
            (0, 200),
            "plain text: {answer:?}"
        );
    }

    fn versions(&self) {
        // The names are not those of the certificate, which is not the question here.
        let ask =
            |host, arguments: &[&str]| self.ask(host, 8443, None, &[arguments, &["-k"]].concat());
        let old = ["--tls-max", "1.2"];
        for (host, arguments, served) in [
            ("modern.test", &[][..], true),
            ("modern.test", &old, false),
            ("legacy.test", &[], true),
            ("legacy.test", &["--tlsv1.3"], false),
            (
                "legacy.test",
                &[
                    "--tls-max",
                    "1.2",
                    "--ciphers",
                    "ECDHE-ECDSA-AES256-GCM-SHA384",
                ],
                true,
            ),
            (
                "legacy.test",
                &[
                    "--tls-max",
                    "1.2",
                    "--ciphers",
                    "ECDHE-ECDSA-AES128-GCM-SHA256",
                ],
                false,
            ),
            ("simple.test", &old, true),
            ("simple.test", &["--tlsv1.3"], true),
        ] {
            let answer = ask(host, arguments);
            assert_eq!(
                answer.status == 200,
                served,
                "{host} {arguments:?}: {answer:?}"
            );
        }
    }

    /// TLS that the gateway does not end, and TLS that it ends and no more.
    fn passed_on(&self) {
        let answer = eventually("passed on", || {
            self.get("passed.test", None).expect_status(200)
        });
        assert!(answer.body.contains("s_server"), "{answer:?}");
        let answer = eventually("ended", || {
            self.ask("ended.test", 8444, None, &["-k"])
                .expect_status(200)
        });
        assert_eq!(answer.echoed()["headers"]["host"], "ended.test:8444");
    }

    fn mutual(&self) {
        let (first, second) = (&self.first.1, &self.second);
        for host in ["mutual.test", "split.test"] {
            for client in [first, second] {
                self.eventually_served(host, Some(client));
            }
            for client in [None, Some(&self.stranger)] {
                assert_refused(host, &self.get(host, client));
            }
        }
        self.eventually_served_as("san.test", first);
        assert_refused(
            "another name",
            &self.ask("san.test", 8443, Some(second), &["-k"]),
        );
        let answer = self.get("mutual.test", Some(first));
        let seen = answer.echoed()["headers"]["x-forwarded-client-cert"].to_string();
        assert!(
            seen.contains("DNS=first.client.test") || seen.contains("Hash="),
            "{seen}"
        );
    }

    /// The certificate has another name than the host.
    fn eventually_served_as(&self, host: &str, client: &Files) {
        eventually(host, || {
            self.ask(host, 8443, Some(client), &["-k"])
                .expect_status(200)
        });
    }

    /// A certificate is asked for; none is as good as a valid one.
    fn optional(&self) {
        let ask = |client| self.ask("optional.test", 8443, client, &["-k"]);
        self.eventually_served_as("optional.test", &self.first.1);
        let answer = ask(None);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_refused("a stranger", &ask(Some(&self.stranger)));
    }

    /// A list of revoked certificates comes with the Secret.
    fn revoked(&self) {
        let (first, second) = (&self.first.1, &self.second);
        self.secrets
            .put_mutual(self.mesh, Some(self.secrets.ca.revoke(&[&self.first.0])));
        self.eventually_refused("mutual.test", Some(first));
        self.eventually_served("mutual.test", Some(second));
        self.secrets
            .put_mutual(self.mesh, Some(self.secrets.ca.revoke(&[])));
        self.eventually_served("mutual.test", Some(first));
        self.secrets.put_mutual(self.mesh, None);
        self.eventually_served("mutual.test", Some(first));
    }

    /// Another certificate, by another CA, and back.
    fn rotated(&self) {
        let other = Ca::plain("rotated");
        let leaf = other.server("simple.test");
        let data = json!({"tls.crt": leaf.certificate.pem(), "tls.key": leaf.key.serialize_pem()});
        put(self.mesh, "simple", &data);
        self.eventually_refused("simple.test", None);
        let bundle = self.outside.dir().join("rotated.pem");
        std::fs::write(&bundle, &other.pem).expect("the scratch folder is writable");
        let bundle = bundle.display().to_string();
        let answer = self.ask("simple.test", 8443, None, &["--cacert", &bundle]);
        assert_eq!(answer.status, 200, "{answer:?}");
        put(self.mesh, "simple", &self.secrets.keys("simple.test"));
        self.eventually_served("simple.test", None);
    }

    /// Whatever is wrong with one Secret, the hosts of the others are served.
    fn broken(&self) {
        let good = self.secrets.keys("broken.test");
        let no_key = json!({"tls.crt": good["tls.crt"]});
        let no_certificate = json!({"tls.key": good["tls.key"]});
        let cases = [
            ("no-key", "SIMPLE", no_key),
            ("no-certificate", "SIMPLE", no_certificate),
            ("no-ca", "MUTUAL", good.clone()),
            ("fine", "SIMPLE", self.secrets.keys("fine.test")),
        ];
        let mut servers = server("missing", "SIMPLE");
        for (name, mode, data) in &cases {
            put(self.mesh, name, data);
            servers += &server(name, mode);
        }
        self.mesh
            .istiod
            .apply("more.yaml", &gateway("more", &servers));
        self.eventually_served("fine.test", None);
        self.eventually_served("simple.test", None);
        let names = cases.iter().map(|(name, ..)| *name);
        for name in names.filter(|name| *name != "fine").chain(["missing"]) {
            self.expect_refused(name);
        }
        put(self.mesh, "missing", &self.secrets.keys("missing.test"));
        self.eventually_served("missing.test", None);
        let certs = self.mesh.pod(INGRESS.name).admin("/certs").body;
        assert!(certs.contains("missing.test"), "{certs}");
        self.mismatched(&good);
    }

    /// These istiod sends, and the data plane refuses them. One by one: Envoy takes nothing more of an
    /// answer once a secret in it is bad.
    fn mismatched(&self, good: &Value) {
        let other = self.secrets.keys("broken.test");
        let with = |key: &str, value: &Value| {
            let mut data = good.clone();
            data[key] = value.clone();
            data
        };
        let invalid = Value::from("invalid");
        for (name, mode, data) in [
            ("bad-certificate", "SIMPLE", with("tls.crt", &invalid)),
            ("bad-ca", "MUTUAL", with("ca.crt", &invalid)),
            ("bad-key", "SIMPLE", with("tls.key", &invalid)),
            ("mismatch", "SIMPLE", with("tls.key", &other["tls.key"])),
        ] {
            put(self.mesh, name, &data);
            let gateway = gateway(name, &server(name, mode));
            self.mesh.istiod.apply(&format!("{name}.yaml"), &gateway);
            self.eventually_known(&format!("{name}.test"));
            self.eventually_refused(&format!("{name}.test"), None);
            self.eventually_served("simple.test", None);
            self.expect_refused(name);
        }
        put(self.mesh, "mismatch", &self.secrets.keys("mismatch.test"));
        self.eventually_served("mismatch.test", None);
        self.eventually_served("simple.test", None);
    }

    fn expect_refused(&self, name: &str) {
        let client = Some(&self.first.1);
        let answer = self.ask(&format!("{name}.test"), 8443, client, &["-k"]);
        assert_refused(name, &answer);
    }
}

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
{servers}"
    )
}

fn server(name: &str, mode: &str) -> String {
    format!(
        "  - hosts: [{name}.test]
    port: {{number: 8443, name: {name}, protocol: HTTPS}}
    tls: {{mode: {mode}, credentialName: {name}}}
"
    )
}
