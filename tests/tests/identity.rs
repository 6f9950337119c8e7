//! The agent's identity from a real SPIRE, in the way of its CSI driver: one socket in a folder of the
//! Pod, and SDS for the Pod from the agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_proto::pb::envoy::{
    config::core::v3::{
        ApiConfigSource, ConfigSource, GrpcService, Node,
        api_config_source::ApiType,
        config_source::ConfigSourceSpecifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
    },
    extensions::transport_sockets::tls::v3::{Secret, secret},
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use ithildin_spiffe::{
    IdentityState, Source,
    workload_api::{SourceOptions, WorkloadApiSource, WorkloadEndpoint},
};
use ithildin_tests::{
    Process, eventually,
    net::free_port,
    process::binary,
    spire::{Plan, Spire},
};
use ithildin_xds::{
    SdsClients, SecretRef, SecretState, SecretSubscriber, ServerAddress, sds::FEDERATED_BUNDLE,
};
use tokio::sync::watch;

const OWN: &str = "domain.test";
const OTHER: &str = "other.test";
const SOCKETS: &str = "var/run/secrets/workload-spiffe-uds";
/// What the data plane may lag behind the agent of SPIRE.
const LAG: Duration = Duration::from_secs(1);
/// SPIRE's agent asks its server for news every few seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// An agent in a Pod whose identity is at `endpoint`; SDS for the Pod is beside it.
struct Pod {
    process: Process,
    socket: PathBuf,
}

impl Pod {
    fn start(folder: &Path, endpoint: Option<&Path>, variables: &[(&str, &str)]) -> Self {
        fs::create_dir_all(folder.join("istio")).unwrap();
        let sockets = folder.join(SOCKETS);
        fs::create_dir_all(&sockets).unwrap();
        let config = format!(
            "{{configPath: {}, proxyAdminPort: {}, statusPort: {}, concurrency: 1}}",
            folder.join("etc").display(),
            free_port(),
            free_port(),
        );
        let mut command = Command::new(binary("pilot-agent"));
        command
            .args(["proxy", "router", "--configDir", "istio"])
            .current_dir(folder)
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .env("PROXY_CONFIG", config)
            .env("ENVOY_STATUS_PORT", free_port().to_string())
            .env("ENVOY_PROMETHEUS_PORT", free_port().to_string())
            .env("TRUST_DOMAIN", OWN)
            .envs(variables.iter().copied());
        if let Some(endpoint) = endpoint {
            let endpoint = format!("unix://{}", endpoint.display());
            command.env("SPIFFE_ENDPOINT_SOCKET", endpoint);
        }
        Self {
            process: Process::spawn("pilot-agent", folder, command),
            socket: sockets.join("socket"),
        }
    }

    /// A secret of the Pod's SDS. Needs a tokio runtime.
    fn secret(&self, name: &str) -> watch::Receiver<SecretState> {
        eventually("SDS for the Pod is there", || match self.socket.exists() {
            true => Ok(()),
            false => Err(self.process.log()),
        });
        let address = ServerAddress::Pipe(self.socket.clone());
        let lookup = move |_: &str| Some(address.clone());
        let all = Arc::new(|_: &Secret| Ok(()));
        let clients = SdsClients::new(Node::default(), Arc::new(lookup), Vec::new(), all);
        let grpc = EnvoyGrpc {
            cluster_name: "sds-grpc".into(),
            ..Default::default()
        };
        let api = ApiConfigSource {
            api_type: ApiType::Grpc.into(),
            grpc_services: vec![GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                ..Default::default()
            }],
            ..Default::default()
        };
        clients.subscribe(&SecretRef {
            name: name.into(),
            source: Some(ConfigSource {
                config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
                ..Default::default()
            }),
        })
    }
}

#[allow(deprecated)]
fn admitted(state: &SecretState) -> Option<Vec<String>> {
    let SecretState::Ready(secret) = state else {
        return None;
    };
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else {
        return None;
    };
    let prefix = |pattern: &Option<MatchPattern>| match pattern {
        Some(MatchPattern::Prefix(prefix)) => prefix.clone(),
        other => format!("{other:?}"),
    };
    let rules = context.match_subject_alt_names.iter();
    Some(rules.map(|rule| prefix(&rule.match_pattern)).collect())
}

async fn until<T>(
    what: &str,
    states: &mut watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> Instant {
    let came = tokio::time::timeout(LIMIT, states.wait_for(wanted)).await;
    assert!(came.is_ok_and(|came| came.is_ok()), "{what}: not in time");
    Instant::now()
}

/// A federation that is added at SPIRE while everything runs: its bundle is in the data plane within a
/// second of the agent of SPIRE having it, and peers are let in only where the switch names the domain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_is_live_and_lets_in_nobody_without_the_switch() {
    let test = "a_federation_is_live_and_lets_in_nobody_without_the_switch";
    let plans = [Plan::new("own", OWN), Plan::new("other", OTHER)];
    let Some(spire) = Spire::start(test, &plans) else {
        return;
    };
    spire.register("own", "spiffe://domain.test/web", &[]);
    let endpoint = spire.socket("own");
    let dir = tempfile::tempdir().unwrap();
    let switch = [("ITHILDIN_FEDERATED_TRUST_DOMAINS", "other.test,never.test")];
    let open = Pod::start(&dir.path().join("open"), Some(&endpoint), &switch);
    let closed = Pod::start(&dir.path().join("closed"), Some(&endpoint), &[]);
    let mut open = (open.secret(FEDERATED_BUNDLE), open);
    let mut closed = (closed.secret(FEDERATED_BUNDLE), closed);
    for secret in [&mut open.0, &mut closed.0] {
        let ready = |state: &SecretState| admitted(state).is_some();
        until("the trust is served", secret, ready).await;
        assert_eq!(
            admitted(&secret.borrow()),
            Some(Vec::new()),
            "no domain has a bundle yet"
        );
    }

    let witness = WorkloadApiSource::start(
        WorkloadEndpoint::Unix(endpoint.clone()),
        SourceOptions::default(),
    );
    let mut witness = witness.subscribe();
    tokio::task::block_in_place(|| {
        spire.trust("own", "other");
        spire.federates_with("own", &[OTHER]);
    });
    let has_bundle = |state: &IdentityState| {
        state
            .snapshot()
            .is_some_and(|snapshot| snapshot.bundles.contains_key(OTHER))
    };
    let known = until(
        "the agent of SPIRE has the bundle",
        &mut witness,
        has_bundle,
    )
    .await;
    let with = vec![format!("spiffe://{OTHER}/")];
    let let_in = |state: &SecretState| admitted(state).as_ref() == Some(&with);
    let served = until("the peers are let in", &mut open.0, let_in).await;
    let lag = served.saturating_duration_since(known);
    assert!(
        lag < LAG,
        "the data plane is {lag:?} behind the agent of SPIRE"
    );
    println!("a new federation reached the data plane {lag:?} after the agent of SPIRE");

    let has_both = |state: &SecretState| match state {
        SecretState::Ready(secret) => format!("{:?}", secret.r#type).contains("spiffe"),
        _ => false,
    };
    until("the trust is there", &mut closed.0, has_both).await;
    assert_eq!(
        admitted(&closed.0.borrow()),
        Some(Vec::new()),
        "nobody is let in"
    );
    assert!(open.1.process.is_running() && closed.1.process.is_running());
}

/// SPIRE's socket at the place where the CSI driver mounts it: the agent speaks the Workload API on it,
/// and neither its death nor its return moves the identity to another source.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_the_csi_driver_is_the_workload_api() {
    let test = "the_socket_of_the_csi_driver_is_the_workload_api";
    let Some(mut spire) = Spire::start(test, &[Plan::new("own", OWN)]) else {
        return;
    };
    spire.register("own", "spiffe://domain.test/web", &[]);
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join(SOCKETS);
    fs::create_dir_all(&sockets).unwrap();
    symlink(spire.socket("own"), sockets.join("socket")).unwrap();
    let out = dir.path().join("out");
    let output = [("OUTPUT_CERTS", out.to_str().unwrap())];
    let mut pod = Pod::start(dir.path(), None, &output);
    let chain = out.join("cert-chain.pem");
    let written = || match chain.exists() {
        true => Ok(()),
        false => Err("no certificate"),
    };
    eventually("SPIRE's identity is written", written);
    spire.kill_agent("own");
    fs::remove_dir_all(&out).unwrap();
    spire.restart_agent("own");
    assert!(
        sockets.join("socket").symlink_metadata().is_ok(),
        "it is SPIRE's"
    );
    assert!(pod.process.is_running(), "{}", pod.process.log());
    assert!(
        !pod.process.log().contains("istiod's CA"),
        "{}",
        pod.process.log()
    );
}
