//! A gateway's `credentialName: sds://...`: a certificate from somebody else's SDS in the Pod.

use std::{fs, path::Path, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use ithildin_proto::{
    pack,
    pb::envoy::{
        extensions::transport_sockets::tls::v3::Secret,
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
            secret::v3::secret_discovery_service_server::{
                SecretDiscoveryService, SecretDiscoveryServiceServer,
            },
        },
    },
};
use ithildin_xds::serve::Socket;
use serde_json::{Value, json};
use tonic::{Request, Response, Status, Streaming, async_trait, service::Routes};

use crate::{
    control_plane::{NAMES, ROOT, TOKEN, agent, write},
    istiod::{Istiod, Let, listener},
    lab::{Lab, free_port, until},
};

const NAME: &str = "sds://web";
const SOCKET: &str = "var/run/secrets/credential-uds/socket";

fn tls(cluster: &str) -> Value {
    let grpc = json!([{"envoy_grpc": {"cluster_name": cluster}}]);
    let config = json!({
        "initial_fetch_timeout": "0s",
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": grpc,
        },
    });
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": NAME, "sds_config": config}],
            },
        },
    })
}

/// It is asked by its whole name, as istiod says it, and the listener waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_comes_from_somebody_elses_socket() {
    let (lab, istiod) = scene("sds-external").await;
    let agent = agent(&lab, &istiod, "builtin", &[]);
    agent.until_ready(503, NAME);
    istiod.provision(&lab.path("web"), "spiffe://cluster.local/web", NAMES);
    serve(&lab.path("web"), &lab.path(SOCKET));
    agent.until_ready(200, "");
}

/// Our own server does not answer in the place of one that nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_knows_is_named() {
    let (lab, istiod) = scene("elsewhere").await;
    let agent = agent(&lab, &istiod, "builtin", &[]);
    until("it is named", || {
        let log = agent.process.log();
        log.contains("there is no cluster \"elsewhere\" to get it from")
    });
}

/// A Pod with a token, and an istiod whose listener has its certificate from `cluster`.
async fn scene(cluster: &str) -> (Lab, Istiod) {
    let listener = listener(free_port(), Some(tls(cluster)));
    let istiod = Istiod::serving(Let::Token("pod"), Let::Token("pod"), listener).await;
    let lab = Lab::new();
    write(&lab, ROOT, &istiod.root());
    write(&lab, TOKEN, "pod");
    (lab, istiod)
}

/// One secret, for whoever asks for it.
struct Server(Secret);

fn serve(certificates: &Path, socket: &Path) {
    let read = |name: &str| fs::read_to_string(certificates.join(name)).unwrap();
    let secret: Secret = ithildin_proto::from_value(json!({
        "name": NAME,
        "tls_certificate": {
            "certificate_chain": {"inline_string": read(NAMES[0])},
            "private_key": {"inline_string": read(NAMES[1])},
        },
    }))
    .unwrap();
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let socket = Socket::unix(socket, 0o666).unwrap();
    let routes = Routes::new(SecretDiscoveryServiceServer::new(Server(secret)));
    tokio::spawn(socket.serve(routes, std::future::pending()));
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl SecretDiscoveryService for Server {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        if first.resource_names != [NAME] || first.node.is_none_or(|node| node.id.is_empty()) {
            return Err(Status::invalid_argument("who asks for what?"));
        }
        let response = DiscoveryResponse {
            version_info: "1".into(),
            nonce: "1".into(),
            type_url: first.type_url,
            resources: vec![pack(&self.0)],
            ..Default::default()
        };
        // The requests live as long as the responses.
        let rest = stream::unfold(requests, |mut requests| async move {
            while let Ok(Some(_)) = requests.message().await {}
            None
        });
        Ok(Response::new(Box::pin(
            stream::iter([Ok(response)]).chain(rest),
        )))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("delta"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("fetch"))
    }
}
