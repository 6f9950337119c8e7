//! SDS clients and the in-process secrets, as the built-in proxy sees them.

use std::{path::Path, sync::Arc};

use ithildin_proto::pb::envoy::{
    config::core::v3::{
        ApiConfigSource, ConfigSource, GrpcService, Node, PathConfigSource,
        api_config_source::ApiType,
        config_source::ConfigSourceSpecifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
    },
    extensions::transport_sockets::tls::v3::Secret,
    service::{
        discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        },
        secret::v3::secret_discovery_service_server::{
            SecretDiscoveryService, SecretDiscoveryServiceServer,
        },
    },
};
use ithildin_xds::{
    LocalSecrets, SdsClients, SecretRef, SecretState, SecretSubscriber, ServerAddress,
    serve::Socket,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::common::{LIMIT, Mesh, OTHER, OWN, WORKLOAD, domain, id, summary};

const CLUSTER: &str = "spire_agent";

fn clients(socket: &Path) -> SdsClients {
    let address = ServerAddress::Pipe(socket.to_path_buf());
    let lookup = move |name: &str| (name == CLUSTER).then(|| address.clone());
    let node = Node {
        id: "proxy".into(),
        ..Default::default()
    };
    let check = |secret: &Secret| match secret.name.as_str() {
        "refused" => Err("the proxy cannot use it".to_owned()),
        _ => Ok(()),
    };
    let fixed = Secret {
        name: "fixed".into(),
        ..Default::default()
    };
    SdsClients::new(node, Arc::new(lookup), vec![fixed], Arc::new(check))
}

fn secret(name: &str, cluster: &str, api: ApiType) -> SecretRef {
    let grpc = EnvoyGrpc {
        cluster_name: cluster.into(),
        ..Default::default()
    };
    let api = ApiConfigSource {
        api_type: api.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
            ..Default::default()
        }],
        ..Default::default()
    };
    SecretRef {
        name: name.into(),
        source: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
            ..Default::default()
        }),
    }
}

fn grpc(name: &str) -> SecretRef {
    secret(name, CLUSTER, ApiType::Grpc)
}

/// The first state that `wanted` takes.
async fn until(
    states: &mut watch::Receiver<SecretState>,
    wanted: impl FnMut(&SecretState) -> bool,
) -> SecretState {
    let found = tokio::time::timeout(LIMIT, states.wait_for(wanted)).await;
    found.expect("the state in time").unwrap().clone()
}

fn text(state: &SecretState) -> String {
    match state {
        SecretState::Pending(reason) => format!("pending: {reason}"),
        SecretState::Unavailable(reason) => format!("unavailable: {reason}"),
        SecretState::Ready(secret) => summary(secret),
    }
}

fn is_ready(state: &SecretState) -> bool {
    matches!(state, SecretState::Ready(_))
}

#[tokio::test]
async fn a_late_socket_a_rotation_and_a_restart() {
    for api in [ApiType::Grpc, ApiType::DeltaGrpc] {
        let mut mesh = Mesh::start().await;
        mesh.stop().await;
        let clients = clients(&mesh.socket());
        let mut states = clients.subscribe(&secret("default", CLUSTER, api));
        let waiting = until(&mut states, |state| text(state).contains("No such file")).await;
        assert!(text(&waiting).contains("sds.sock"), "{}", text(&waiting));

        mesh.serve();
        let first = until(&mut states, is_ready).await;
        assert_eq!(text(&first), format!("default: cert {WORKLOAD}"));

        mesh.stop().await;
        mesh.authority
            .rotate_leaf(OWN, Some(&id(WORKLOAD)))
            .unwrap();
        mesh.sync().await;
        assert!(
            is_ready(&states.borrow_and_update()),
            "an outage takes nothing away"
        );
        mesh.serve();
        tokio::time::timeout(LIMIT, states.changed())
            .await
            .expect("the new one")
            .unwrap();
        assert!(is_ready(&states.borrow()));
    }
}

#[tokio::test]
async fn one_stream_for_all_who_want_a_secret() {
    let mesh = Mesh::start().await;
    let clients = clients(&mesh.socket());
    let mut first = clients.subscribe(&grpc("ROOTCA"));
    until(&mut first, is_ready).await;
    let second = clients.subscribe(&grpc("ROOTCA"));
    assert!(is_ready(&second.borrow()), "it is there at once");
    mesh.authority
        .unfederate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    for mut states in [first, second] {
        let state = until(&mut states, |state| !text(state).contains(OTHER)).await;
        assert_eq!(text(&state), format!("ROOTCA: spiffe {OWN}=1"));
    }
}

#[tokio::test]
async fn sources_that_cannot_serve() {
    let mesh = Mesh::start().await;
    let clients = clients(&mesh.socket());
    let of = |secret: &SecretRef| text(&clients.subscribe(secret).borrow());
    let fixed = |name: &str| SecretRef {
        name: name.into(),
        source: None,
    };
    assert!(is_ready(&clients.subscribe(&fixed("fixed")).borrow()));
    assert!(of(&fixed("other")).starts_with("unavailable: static_resources.secrets"));
    let unknown = of(&secret("default", "nowhere", ApiType::Grpc));
    assert!(unknown.contains(r#"no cluster "nowhere""#), "{unknown}");
    let rest = of(&secret("default", CLUSTER, ApiType::Rest));
    assert!(rest.contains("REST is not supported"), "{rest}");
    let empty = SecretRef {
        name: "default".into(),
        source: Some(ConfigSource::default()),
    };
    assert!(of(&empty).contains("api_config_source"));
}

#[tokio::test]
async fn a_file_of_resources_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sds.yaml");
    let clients = clients(&folder.path().join("unused.sock"));
    let source = PathConfigSource {
        path: path.display().to_string(),
        ..Default::default()
    };
    let file = |name: &str| SecretRef {
        name: name.into(),
        source: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(source.clone())),
            ..Default::default()
        }),
    };
    let write = |ca: &str| {
        let yaml = format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  \
             name: ca\n  validation_context: {{trusted_ca: {{inline_string: {ca}}}}}\n"
        );
        std::fs::write(&path, yaml).unwrap();
    };
    let mut states = clients.subscribe(&file("ca"));
    assert!(
        text(&states.borrow()).contains("sds.yaml"),
        "{}",
        text(&states.borrow())
    );
    let has = |state: &SecretState, ca: &str| matches!(state, SecretState::Ready(secret) if format!("{:?}", ***secret).contains(ca));
    for ca in ["first", "second"] {
        write(ca);
        until(&mut states, |state| has(state, ca)).await;
    }
    std::fs::write(&path, "resources: [{").unwrap();
    let other = clients.subscribe(&file("other"));
    assert!(text(&other.borrow()).starts_with("pending"));
    assert!(has(&states.borrow(), "second"), "what was good stays");
}

/// A server that says what it is told to.
struct Script(
    Vec<Result<DiscoveryResponse, Status>>,
    mpsc::Sender<DiscoveryRequest>,
);

type Never<T> = tokio_stream::Pending<Result<T, Status>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Script {
    type StreamSecretsStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = Never<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(8);
        let mut requests = request.into_inner();
        let script = self.0.clone();
        let seen = self.1.clone();
        tokio::spawn(async move {
            for line in script {
                let Ok(Some(request)) = requests.message().await else {
                    return;
                };
                let _ = seen.send(request).await;
                let _ = sender.send(line).await;
            }
            if let Ok(Some(request)) = requests.message().await {
                let _ = seen.send(request).await;
            }
            sender.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("Method is not implemented"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("Method is not implemented"))
    }
}

async fn scripted(
    script: Vec<Result<DiscoveryResponse, Status>>,
) -> (
    tempfile::TempDir,
    SdsClients,
    mpsc::Receiver<DiscoveryRequest>,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sock");
    let (seen, requests) = mpsc::channel(64);
    let service = SecretDiscoveryServiceServer::new(Script(script, seen));
    let socket = Socket::unix(&path, 0o600).unwrap();
    tokio::spawn(socket.serve(Routes::new(service), std::future::pending()));
    (folder, clients(&path), requests)
}

async fn real(mesh: &Mesh, name: &str) -> DiscoveryResponse {
    let request = crate::common::request(&[name]);
    let response = mesh.client().await.fetch_secrets(request).await.unwrap();
    let mut response = response.into_inner();
    response.nonce = "n".into();
    response
}

/// What SPIRE says when an entry is gone: the secret must not be used any longer.
#[tokio::test]
async fn a_server_takes_a_secret_away() {
    let mesh = Mesh::start().await;
    let gone = Status::invalid_argument("workload is not authorized for the requested identities");
    let script = vec![Ok(real(&mesh, "default").await), Err(gone)];
    let (_folder, clients, _requests) = scripted(script).await;
    let mut states = clients.subscribe(&grpc("default"));
    let state = until(&mut states, |state| {
        matches!(state, SecretState::Unavailable(_))
    })
    .await;
    assert!(text(&state).contains("not authorized"), "{}", text(&state));
    until(&mut states, is_ready).await;
}

#[tokio::test]
async fn bad_responses_are_refused_with_a_reason() {
    let mesh = Mesh::start().await;
    let good = real(&mesh, "default").await;
    let twice = DiscoveryResponse {
        resources: [good.resources.clone(), good.resources.clone()].concat(),
        ..good.clone()
    };
    let empty = DiscoveryResponse {
        resources: Vec::new(),
        ..good.clone()
    };
    let mut garbage = good.clone();
    garbage.resources[0].value = vec![0xff; 9];
    let mut foreign = good.clone();
    foreign.resources[0].type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    let other = real(&mesh, "ROOTCA").await;
    let cases = [
        ("default", twice, "expected one secret, found 2"),
        ("default", empty, "expected one secret, found 0"),
        ("default", garbage, "malformed"),
        ("default", foreign, "expected type"),
        (
            "default",
            other.clone(),
            r#"expected secret "default", found "ROOTCA""#,
        ),
    ];
    for (name, bad, reason) in cases {
        let script = vec![Ok(bad), Ok(good.clone())];
        let (_folder, clients, mut requests) = scripted(script).await;
        let mut states = clients.subscribe(&grpc(name));
        requests.recv().await.unwrap();
        let nack = requests.recv().await.unwrap();
        let detail = nack.error_detail.expect("a NACK").message;
        assert!(detail.contains(reason), "{detail}");
        until(&mut states, is_ready).await;
        let ack = requests.recv().await.unwrap();
        assert_eq!(
            (ack.error_detail, ack.version_info),
            (None, good.version_info.clone())
        );
    }
}

#[tokio::test]
async fn the_proxy_may_refuse_a_secret() {
    let mesh = Mesh::start().await;
    let mut response = real(&mesh, "ROOTCA").await;
    let mut secret: Secret = ithildin_proto::unpack(&response.resources[0]).unwrap();
    secret.name = "refused".into();
    response.resources[0] = ithildin_proto::pack(&secret);
    let (_folder, clients, mut requests) = scripted(vec![Ok(response)]).await;
    let mut states = clients.subscribe(&grpc("refused"));
    requests.recv().await.unwrap();
    let nack = requests.recv().await.unwrap();
    assert_eq!(
        nack.error_detail.unwrap().message,
        "the proxy cannot use it"
    );
    until(&mut states, |state| {
        text(state).contains("the proxy cannot use it")
    })
    .await;
}

#[tokio::test]
async fn a_refusal_from_the_start_is_waited_out() {
    let (_folder, clients, _requests) = scripted(vec![]).await;
    let mut states = clients.subscribe(&secret("default", CLUSTER, ApiType::DeltaGrpc));
    let state = until(&mut states, |state| text(state).contains("not implemented")).await;
    assert!(text(&state).starts_with("pending"));
}

#[tokio::test]
async fn in_process_the_same_secrets() {
    let mesh = Mesh::start().await;
    let local = LocalSecrets::new(
        mesh.identity.subscribe(),
        Default::default(),
        Default::default(),
    );
    let clients = clients(&mesh.socket());
    for name in ["default", "ROOTCA", WORKLOAD, "spiffe://otherdomain.test"] {
        let mut remote = clients.subscribe(&grpc(name));
        let remote = until(&mut remote, is_ready).await;
        let local = local.subscribe(&grpc(name)).borrow().clone();
        let (SecretState::Ready(local), SecretState::Ready(remote)) = (local, remote) else {
            panic!("{name} is not there");
        };
        assert_eq!(local, remote);
    }
    let mut cert = local.subscribe(&grpc("default"));
    let mut trust = local.subscribe(&grpc("ROOTCA"));
    assert!(text(&local.subscribe(&grpc("nobody")).borrow()).starts_with("unavailable"));

    mesh.authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    mesh.sync().await;
    tokio::time::timeout(LIMIT, cert.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(!trust.has_changed().unwrap(), "the bundle did not change");

    mesh.withdraw();
    for states in [&mut cert, &mut trust] {
        let state = until(states, |state| !is_ready(state)).await;
        assert_eq!(text(&state), "unavailable: the entry was deleted");
    }
    mesh.sync().await;
    for states in [&mut cert, &mut trust] {
        until(states, is_ready).await;
    }
}

#[tokio::test]
async fn in_process_an_outage_takes_nothing_away() {
    let mesh = Mesh::start().await;
    let local = LocalSecrets::new(
        mesh.identity.subscribe(),
        Default::default(),
        Default::default(),
    );
    let states = local.subscribe(&grpc("default"));
    let waiting = "the source started over";
    mesh.identity
        .send_replace(ithildin_spiffe::IdentityState::Waiting(waiting.into()));
    let newcomer = local.subscribe(&grpc("ROOTCA"));
    assert_eq!(text(&newcomer.borrow()), format!("pending: {waiting}"));
    tokio::task::yield_now().await;
    assert!(is_ready(&states.borrow()));
}
