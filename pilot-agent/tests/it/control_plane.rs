//! The agent and an istiod that asks who it is: Pods with a token, machines that trade one for a
//! certificate, and certificates that somebody else keeps in files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use ithildin_spiffe::{
    X509Svid,
    x509::{PemPair, certificates_from_pem, key_from_pem},
};
use ithildin_xds::{SecretState, SecretSubscriber, sds::certificate_pem};

use crate::{
    identity::each_data_plane,
    istiod::{Istiod, Let},
    lab::{Agent, BINARY, LIMIT, Lab, Ports, Process, free_port, http, until},
    sds::{clients, secret},
};

pub(crate) const NAMES: [&str; 3] = ["cert-chain.pem", "key.pem", "root-cert.pem"];
pub(crate) const TOKEN: &str = "var/run/secrets/tokens/istio-token";
pub(crate) const ROOT: &str = "var/run/secrets/istio/root-cert.pem";
const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// Renew at once, as often as may be.
const RESTLESS: [(&str, &str); 2] = [
    ("SECRET_GRACE_PERIOD_RATIO", "1"),
    ("SECRET_GRACE_PERIOD_RATIO_JITTER", "0"),
];

pub(crate) fn write(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// An agent in the lab's folder whose configuration comes from `istiod`.
pub(crate) fn agent(lab: &Lab, istiod: &Istiod, plane: &str, variables: &[(&str, &str)]) -> Agent {
    let ports = Ports {
        admin: free_port(),
        status: free_port(),
        health: free_port(),
        prometheus: free_port(),
    };
    let config = format!(
        "{{discoveryAddress: 'localhost:{}', configPath: {}, proxyAdminPort: {}, statusPort: {},
           concurrency: 1, terminationDrainDuration: 1s}}",
        istiod.address.port(),
        lab.path("etc/istio/proxy").display(),
        ports.admin,
        ports.status,
    );
    let mut command = Command::new(BINARY);
    command
        .args(["proxy", "sidecar", "--dataPlane", plane])
        .current_dir(lab.path(""))
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .env("PROXY_CONFIG", config)
        .env("POD_NAME", "web-0")
        .env("POD_NAMESPACE", "shop")
        .env("SERVICE_ACCOUNT", "web")
        .env("ENVOY_STATUS_PORT", ports.health.to_string())
        .env("ENVOY_PROMETHEUS_PORT", ports.prometheus.to_string())
        .env("ISTIO_META_INTERCEPTION_MODE", "NONE")
        .env("ECC_SIGNATURE_ALGORITHM", "ECDSA")
        .envs(variables.iter().copied());
    Agent {
        process: Process::spawn(command, &lab.path("agent.log")),
        ports,
    }
}

/// The certificate in `folder`; one file after the other is written.
fn held(folder: &Path) -> Option<X509Svid> {
    let read = |name: &str| fs::read(folder.join(name)).ok();
    let (chain, key) = (read(NAMES[0])?, read(NAMES[1])?);
    PemPair::check(&chain, &key).ok()?;
    read(NAMES[2])?;
    let (chain, key) = (
        certificates_from_pem(&chain).ok()?,
        key_from_pem(&key).ok()?,
    );
    X509Svid::new(chain, key, None).ok()
}

/// Waits until another certificate than `before` is written.
fn written(folder: &Path, before: Option<&X509Svid>) -> X509Svid {
    let mut found = None;
    until("a certificate is written", || {
        found = held(folder).filter(|now| before.is_none_or(|before| before.chain != now.chain));
        found.is_some()
    });
    let found = found.unwrap();
    assert_eq!(found.id.as_str(), ID);
    assert!(found.not_after > SystemTime::now());
    found
}

/// Everything that a Pod gets from the kubelet; files too, which follow though nobody asks for a secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_a_token() {
    let istiod = Istiod::start(Let::Token("pod"), Let::Token("pod")).await;
    each_data_plane("a_pod_has_a_token", |plane| {
        let lab = Lab::new();
        write(&lab, ROOT, &istiod.root());
        write(&lab, TOKEN, "pod\n");
        let out = lab.path("out");
        let mut variables = vec![("OUTPUT_CERTS", out.to_str().unwrap())];
        variables.extend(RESTLESS);
        let agent = agent(&lab, &istiod, plane, &variables);
        agent.until_ready(200, "");
        let first = written(&out, None);
        let second = written(&out, Some(&first));
        written(&out, Some(&second));
        let socket = lab.path("var/run/secrets/workload-spiffe-uds/socket");
        until("SDS for the Pod is there", || socket.exists());
    });
}

/// SDS at Istio's path, with the key of either kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pod_is_served_its_certificate() {
    let istiod = Istiod::start(Let::Token("pod"), Let::Token("pod")).await;
    for algorithm in ["ECDSA", ""] {
        let lab = Lab::new();
        write(&lab, ROOT, &istiod.root());
        write(&lab, TOKEN, "pod");
        let variables = [("ECC_SIGNATURE_ALGORITHM", algorithm)];
        let agent = agent(&lab, &istiod, "builtin", &variables);
        agent.until_ready(200, "");
        let socket = lab.path("var/run/secrets/workload-spiffe-uds/socket");
        until("SDS for the Pod is there", || socket.exists());
        let clients = clients(&socket);
        let mut certificate = clients.subscribe(&secret("default"));
        let ready = certificate.wait_for(|state| matches!(state, SecretState::Ready(_)));
        let ready = tokio::time::timeout(LIMIT, ready).await.unwrap().unwrap();
        let SecretState::Ready(served) = &*ready else {
            unreachable!("it is ready");
        };
        let (chain, key) = certificate_pem(served).unwrap();
        PemPair::check(&chain, &key).unwrap();
        let chain = certificates_from_pem(&chain).unwrap();
        let svid = X509Svid::new(chain, key_from_pem(&key).unwrap(), None).unwrap();
        assert_eq!(svid.id.as_str(), ID);
    }
}

/// The token of a machine lives for an hour; from then on, and after a restart, its certificate is what
/// both discovery and the CA know it by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_trades_its_token_for_a_certificate() {
    for folder in ["certs", "etc/certs"] {
        let istiod = Istiod::start(Let::Certificate, Let::Token("machine")).await;
        let lab = Lab::new();
        write(&lab, &format!("{folder}/root-cert.pem"), &istiod.root());
        write(&lab, TOKEN, "machine");
        let certs = lab.path(folder);
        let mut variables = vec![("PROV_CERT", folder), ("OUTPUT_CERTS", folder)];
        variables.extend(RESTLESS);
        let first = {
            let mut agent = agent(&lab, &istiod, "builtin", &variables);
            let first = written(&certs, None);
            agent.until_ready(200, "");
            // The token ends while the agent runs.
            istiod.admit(Let::Certificate, Let::Certificate);
            write(&lab, TOKEN, "expired");
            let signed = istiod.signed();
            until("the certificate is renewed by itself", || {
                istiod.signed() > signed
            });
            agent.until_ready(200, "");
            let second = written(&certs, Some(&first));
            // In its own time, so that no certificate is left without its key.
            agent.process.terminate();
            agent.process.ended();
            second
        };
        let discovered = istiod.discovered();
        let agent = agent(&lab, &istiod, "builtin", &variables);
        agent.until_ready(200, "");
        assert!(istiod.discovered() > discovered, "{folder}");
        written(&certs, Some(&first));
    }
}

/// A certificate that some tool keeps on the machine: shown, and never written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provisioned_certificate_stays_as_it_is() {
    let istiod = Istiod::start(Let::Certificate, Let::Certificate).await;
    let lab = Lab::new();
    let folder = lab.path("certs");
    istiod.provision(&folder, "spiffe://cluster.local/ns/shop/sa/machine", NAMES);
    let read = || NAMES.map(|name| fs::read(folder.join(name)).unwrap());
    let before = read();
    let mut variables = vec![("PROV_CERT", "certs")];
    variables.extend(RESTLESS);
    let agent = agent(&lab, &istiod, "builtin", &variables);
    agent.until_ready(200, "");
    let signed = istiod.signed();
    until("it is renewed", || istiod.signed() > signed + 1);
    assert!(before == read(), "the tool's files are the tool's");
}

/// Where certificates are in files no CA is asked; discovery knows us by the certificate or by the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_certificates_in_files_no_ca_is_asked() {
    const GKE: [&str; 3] = ["certificates.pem", "private_key.pem", "ca_certificates.pem"];
    const CREDENTIALS: &str = "var/run/secrets/workload-spiffe-credentials";
    let mounted = "{proxyMetadata: {ISTIO_META_TLS_CLIENT_CERT_CHAIN: m/cert-chain.pem, \
                   ISTIO_META_TLS_CLIENT_KEY: m/key.pem, ISTIO_META_TLS_CLIENT_ROOT_CERT: m/root-cert.pem}}";
    let by_token = Let::Token("pod");
    let files_only = ("FILE_MOUNTED_CERTS", "true");
    let gke = ("CA_PROVIDER", "GkeWorkloadCertificate");
    let metadata = [
        files_only,
        ("ISTIO_META_TLS_CLIENT_CERT_CHAIN", "m/cert-chain.pem"),
        ("ISTIO_META_TLS_CLIENT_KEY", "m/key.pem"),
        ("ISTIO_META_TLS_CLIENT_ROOT_CERT", "m/root-cert.pem"),
    ];
    for (folder, names, door, token, annotated, variables) in [
        (
            "m",
            NAMES,
            Let::Certificate,
            Some("bogus"),
            false,
            &metadata[..],
        ),
        ("m", NAMES, Let::Certificate, None, false, &metadata[..]),
        ("m", NAMES, Let::Certificate, None, true, &[files_only]),
        ("etc/certs", NAMES, by_token, Some("pod"), false, &[]),
        (CREDENTIALS, NAMES, by_token, Some("pod"), false, &[]),
        (CREDENTIALS, GKE, by_token, Some("pod"), false, &[gke]),
    ] {
        let istiod = Istiod::start(door, Let::Nobody).await;
        let lab = Lab::new();
        write(&lab, ROOT, &istiod.root());
        istiod.provision(&lab.path(folder), ID, names);
        if let Some(token) = token {
            write(&lab, TOKEN, token);
        }
        if annotated {
            let quoted = format!("proxy.istio.io/config=\"{mounted}\"\n");
            write(&lab, "etc/istio/pod/annotations", &quoted);
        }
        let agent = agent(&lab, &istiod, "builtin", variables);
        agent.until_ready(200, "");
        assert_eq!((istiod.signed(), istiod.refused()), (0, 0), "{folder}");
    }
}

/// Whatever is missing or wrong at first: it comes, and nobody restarts anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_at_first_is_waited_out() {
    let istiod = Istiod::start(Let::Nobody, Let::Nobody).await;
    let other = Istiod::start(Let::Nobody, Let::Nobody).await;
    let lab = Lab::new();
    write(&lab, ROOT, &other.root());
    write(&lab, TOKEN, "late");
    let agent = agent(&lab, &istiod, "builtin", &[]);
    agent.until_ready(503, "invalid peer certificate");
    assert_eq!(istiod.refused(), 0, "nobody is told the token");
    write(&lab, ROOT, &istiod.root());
    until("both have sent us away", || istiod.refused() > 3);
    agent.until_ready(503, "who are you?");
    istiod.admit(Let::Token("late"), Let::Token("late"));
    agent.until_ready(200, "");
    let metrics = http(agent.ports.status, "GET", "/stats/prometheus")
        .unwrap()
        .1;
    assert!(metrics.contains(ID), "{metrics}");
}

/// gRPC without a proxy: ready says that istiod is there, before anybody asks it anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_proxy_istiod_must_have_been_reached() {
    let istiod = Istiod::start(Let::Token("pod"), Let::Token("pod")).await;
    let other = Istiod::start(Let::Nobody, Let::Nobody).await;
    let lab = Lab::new();
    // As the template grpc-agent has it, with an identity that does not wait for istiod.
    istiod.provision(&lab.path("etc/certs"), ID, NAMES);
    let root = write(&lab, "istiod.pem", &other.root());
    write(&lab, TOKEN, "pod");
    let out = lab.path("out");
    let bootstrap = lab.path("grpc/bootstrap.json");
    fs::create_dir_all(bootstrap.parent().unwrap()).unwrap();
    let variables = [
        ("DISABLE_ENVOY", "true"),
        ("ISTIO_META_GENERATOR", "grpc"),
        ("XDS_ROOT_CA", root.to_str().unwrap()),
        ("OUTPUT_CERTS", out.to_str().unwrap()),
        ("GRPC_XDS_BOOTSTRAP", bootstrap.to_str().unwrap()),
    ];
    let agent = agent(&lab, &istiod, "envoy", &variables);
    agent.until_ready(503, "waits for istiod at localhost:");
    agent.until_ready(503, "invalid peer certificate");
    fs::write(&root, istiod.root()).unwrap();
    agent.until_ready(200, "");
    let bootstrap = fs::read_to_string(&bootstrap).unwrap();
    for part in ["unix://", "/XDS", "cert-chain.pem", "\"GENERATOR\""] {
        assert!(bootstrap.contains(part), "{part}: {bootstrap}");
    }
    written(&out, None);
}
