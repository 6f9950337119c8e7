//! The Kubernetes Gateway API, whose routes istiod makes Istio's: at a gateway, and of Services in the mesh.

use ithildin_tests::{
    Identities, Mesh, Net, Process,
    authority::Files,
    curl::{self, Answer},
    eventually,
    mesh::{Cluster, INGRESS, PodSpec, Program, SLEEP, talk},
    pki::Ca,
};
use serde_json::json;

use crate::support::{GRPC, assert_refused, on_each};

const FIRST: PodSpec<'static> = PodSpec::server(
    "web-0",
    "web",
    [10, 0, 4, 2],
    &[("app", "web"), ("version", "v1")],
);

const SECOND: PodSpec<'static> = PodSpec::server(
    "web-1",
    "web",
    [10, 0, 4, 3],
    &[("app", "web"), ("version", "v2")],
);

const FIRST_IP: &str = "10.0.4.2";
const SECOND_IP: &str = "10.0.4.3";
/// With the label by which policies of a Gateway find it.
const GATEWAY: PodSpec<'static> = PodSpec {
    labels: &[
        ("istio", "ingressgateway"),
        ("gateway.networking.k8s.io/gateway-name", "front"),
    ],
    ..INGRESS
};
/// Whoever is not of the mesh.
const MACHINE: [u8; 4] = [10, 0, 4, 60];

const POLICIES: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: istio-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]
  action: DENY
  rules: [{to: [{operation: {paths: [/get/denied]}}]}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: front, namespace: istio-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]
  accessLogging: [{providers: [{name: as-text}]}]
";

on_each!(gateway_api, and_istios_agent);

fn gateway_api(test: &str, program: Program) {
    let Some(identities) = Identities::of_mesh(test) else {
        return;
    };
    let files = ["gateway-api.yaml", "gateway-api-routes.yaml"];
    let Some(mut mesh) = Mesh::start_in(test, program, identities, Cluster::ONLY, &files) else {
        return;
    };
    let ca = Ca::plain("edge");
    secrets(&mesh, &ca);
    for pod in [SLEEP, FIRST, SECOND, GATEWAY] {
        mesh.add(&pod);
    }
    let machine = mesh.host(MACHINE);
    let files = ca.server("server.test").write(machine.subdir("own"), &ca);
    let _services = services(&mesh, &machine, &files);
    mesh.wait_ready();
    let edge = Edge { machine, files };
    eventually("the gateway's route", || {
        edge.get("/get", &[]).expect_status(200)
    });
    edge.matches();
    edge.filters();
    edge.redirect();
    edge.outcomes();
    edge.mirror(&mesh);
    edge.over_tls();
    edge.calls();
    edge.streams();
    edge.policies(&mesh);
    in_the_mesh(&mesh);
}

fn secrets(mesh: &Mesh, ca: &Ca) {
    for (namespace, name, host) in [
        ("istio-system", "secure", "a.secure.test"),
        ("other", "granted", "granted.test"),
    ] {
        let leaf = ca.server(host);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"tls.crt": leaf.certificate.pem(), "tls.key": leaf.key.serialize_pem()},
        });
        mesh.istiod
            .apply(&format!("secret-{name}.json"), &object.to_string());
    }
    let roots = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "roots", "namespace": "default"},
        "data": {"ca.crt": ca.pem},
    });
    mesh.istiod.apply("roots.json", &roots.to_string());
}

fn services(mesh: &Mesh, machine: &Net, files: &Files) -> Vec<Process> {
    let mut server = machine.command("openssl");
    server.args(["s_server", "-accept", "9443", "-www", "-quiet"]);
    server.arg("-cert").arg(&files.chain);
    server.arg("-key").arg(&files.key);
    let mut all = vec![machine.spawn("server", server)];
    for pod in [FIRST, SECOND] {
        let pod = mesh.pod(pod.name);
        all.push(pod.peer("grpc", &["serve", "0.0.0.0:8082"]));
        all.push(pod.peer("tcp", &["echo", "0.0.0.0:9000", "220 welcome"]));
    }
    all
}

/// Who asks the gateway from outside.
struct Edge {
    machine: Net,
    files: Files,
}

impl Edge {
    fn get(&self, path: &str, arguments: &[&str]) -> Answer {
        let url = format!("http://10.0.4.10:8080{path}");
        curl::get(
            &self.machine,
            &url,
            &[&["-H", "host: web.test"], arguments].concat(),
        )
    }

    fn expect(&self, path: &str, arguments: &[&str], status: u16) -> Answer {
        let answer = self.get(path, arguments);
        let told = (answer.exit, answer.status);
        assert_eq!(told, (0, status), "{path} {arguments:?}: {answer:?}");
        answer
    }

    fn matches(&self) {
        for (path, arguments, address) in [
            ("/matched", &[][..], FIRST_IP),
            ("/matched/below", &[], FIRST_IP),
            ("/matched", &["-H", "end-user: jason"], SECOND_IP),
            ("/matched", &["-H", "end-user: anna"], FIRST_IP),
            ("/matched?beta=yes", &[], SECOND_IP),
            ("/matched?beta=no", &[], FIRST_IP),
            ("/matched", &["-X", "PUT"], SECOND_IP),
            ("/regex/12", &[], SECOND_IP),
            ("/zero", &[], SECOND_IP),
        ] {
            let answer = self.expect(path, arguments, 200);
            assert_eq!(answer.address(), address, "{path} {arguments:?}");
        }
        // A prefix ends where an element of the path does.
        self.expect("/matchedtoo", &[], 404);
        self.expect("/regex/12a", &[], 404);
        let elsewhere = curl::get(&self.machine, "http://10.0.4.10:8080/get", &[]);
        assert_eq!(elsewhere.status, 404, "{elsewhere:?}");
    }

    fn filters(&self) {
        let answer = self.expect("/headers", &["-H", "x-removed: 0"], 200);
        let headers = &answer.echoed()["headers"];
        assert_eq!(headers["x-set"], "1", "{answer:?}");
        assert_eq!(headers["x-added"], "2", "{answer:?}");
        assert!(headers["x-removed"].is_null(), "{answer:?}");
        assert_eq!(answer.header("x-answer"), Some("3"), "{answer:?}");
        assert_eq!(answer.header("content-type"), None, "{answer:?}");
        for (path, rewritten, host) in [
            ("/old/page?a=b", "/new/page", "rewritten.test"),
            ("/old", "/new", "rewritten.test"),
            ("/whole/of/it", "/all", "web.test"),
        ] {
            let request = self.expect(path, &[], 200).echoed();
            assert_eq!(request["path"], rewritten, "{request}");
            assert_eq!(request["headers"]["host"], host, "{request}");
        }
        let origin = ["-H", "origin: https://example.org"];
        let answer = self.expect("/shared", &origin, 200);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://example.org"), "{answer:?}");
        let strange = self.expect("/shared", &["-H", "origin: https://other.org"], 200);
        let allowed = strange.header("access-control-allow-origin");
        assert_eq!(allowed, None, "{strange:?}");
    }

    fn redirect(&self) {
        for (path, location) in [
            ("/moved", "https://new.test:8443/new"),
            ("/moved/page?a=b", "https://new.test:8443/new/page?a=b"),
        ] {
            let answer = self.expect(path, &[], 302);
            assert_eq!(answer.header("location"), Some(location), "{answer:?}");
        }
    }

    fn outcomes(&self) {
        self.expect("/delay/2", &[], 504);
        self.expect("/delay/0", &[], 200);
        self.expect("/flaky/2/retried", &[], 200);
        self.expect("/flaky/5/given-up", &[], 500);
        // A backend that is not there, and one that nobody granted.
        self.expect("/missing", &[], 500);
        self.expect("/foreign", &[], 500);
        // By the policy of the backend.
        let page = self.expect("/over-tls", &[], 200);
        assert!(page.body.contains("s_server"), "{page:?}");
    }

    fn mirror(&self, mesh: &Mesh) {
        assert_eq!(self.expect("/mirrored", &[], 200).address(), FIRST_IP);
        eventually("the other Pod is asked too", || {
            let count = mesh.curl(SECOND.name, "http://127.0.0.1:8080/count/mirrored", &[]);
            (count.body == "1").then_some(()).ok_or(count)
        });
    }

    /// With the certificate of the listener, from its own namespace or from one that grants it.
    fn over_tls(&self) {
        let bundle = self.files.bundle.display().to_string();
        let ask = |host: &str, port: u16, path: &str| {
            let to = format!("{host}:{port}:10.0.4.10:{port}");
            let usual = ["--no-insecure", "--cacert", &*bundle, "--connect-to", &*to];
            curl::get(
                &self.machine,
                &format!("https://{host}:{port}{path}"),
                &usual,
            )
        };
        for host in ["a.secure.test", "granted.test"] {
            eventually(host, || ask(host, 8443, "/get").expect_status(200));
        }
        assert_refused("another host", &ask("other.test", 8443, "/get"));
        assert_refused("another name", &ask("server.test", 8444, "/"));
        let to = ["--connect-to", "passed.test:8444:10.0.4.10:8444"];
        let passed = curl::get(&self.machine, "https://passed.test:8444/", &to);
        assert_eq!(passed.status, 200, "{passed:?}");
        assert!(passed.body.contains("s_server"), "{passed:?}");
    }

    fn calls(&self) {
        let call = |method: &str| {
            let url = format!("http://10.0.4.10:8080/echo.Echo/{method}");
            let host = ["-H", "host: grpc.test"];
            curl::get(&self.machine, &url, &[&GRPC[..], &host].concat())
        };
        let answer = eventually("a call", || call("Say").expect_status(200));
        assert!(answer.error.contains("grpc-status: 0"), "{answer:?}");
        assert_eq!(answer.header("x-route"), Some("grpc"), "{answer:?}");
        let other = call("Shout");
        assert!(other.header("grpc-status") == Some("12"), "{other:?}");
    }

    fn streams(&self) {
        let steps = ["<220", ">hello", "<hello"];
        let told = talk(&self.machine, "10.0.4.10:8090", &steps);
        assert!(told.is_ok(), "{told:?}");
    }

    /// Of the Gateway, and of nobody else.
    fn policies(&self, mesh: &Mesh) {
        mesh.istiod.apply("policies.yaml", POLICIES);
        eventually("what is denied", || {
            self.get("/get/denied", &[]).expect_status(403)
        });
        self.expect("/get/allowed", &[], 200);
        let inside = mesh.curl(SLEEP.name, "http://web/get/denied", &[]);
        assert_eq!(inside.status, 200, "{inside:?}");
        eventually("what is logged", || {
            self.expect("/get/logged", &[], 200);
            let log = mesh.pod(GATEWAY.name).log();
            log.contains("told GET /get/logged 200 web.test")
                .then_some(())
                .ok_or("not yet")
        });
        let elsewhere = mesh.pod(FIRST.name).log() + &mesh.pod(SECOND.name).log();
        assert!(!elsewhere.contains("told GET"), "{elsewhere}");
    }
}

fn in_the_mesh(mesh: &Mesh) {
    for (path, address, route) in [
        ("/any", FIRST_IP, Some("mesh")),
        ("/second", SECOND_IP, None),
        ("/second/below", SECOND_IP, None),
    ] {
        let url = format!("http://web{path}");
        let answer = mesh.curl(SLEEP.name, &url, &[]);
        assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
        assert_eq!(answer.address(), address, "{path}");
        assert_eq!(answer.header("x-route"), route, "{path}: {answer:?}");
    }
}
