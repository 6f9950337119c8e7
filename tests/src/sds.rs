//! An SDS server that serves what a test wants it to serve, and hears what its client says of it.

use std::{collections::BTreeMap, path::Path, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            extensions::transport_sockets::tls::v3::Secret,
            service::{
                discovery::v3::{
                    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
                    DiscoveryResponse,
                },
                secret::v3::secret_discovery_service_server::{
                    SecretDiscoveryService, SecretDiscoveryServiceServer,
                },
            },
        },
        google::protobuf::Any,
    },
};
use parking_lot::Mutex;
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::unix::UnixIncoming;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// What is served under each name.
type Secrets = BTreeMap<String, Any>;

/// The server; it ends when dropped.
pub struct ScriptedSds {
    secrets: watch::Sender<Secrets>,
    refusals: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl ScriptedSds {
    /// Serves at `socket`; nothing at first.
    pub fn start(socket: &Path) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let secrets = watch::Sender::new(Secrets::new());
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let service = SecretDiscoveryServiceServer::new(Script {
            secrets: secrets.clone(),
            refusals: Arc::clone(&refusals),
        });
        let listener = runtime.block_on(async { UnixListener::bind(socket) });
        let listener = UnixIncoming(listener.expect("the socket's folder is there"));
        runtime.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(listener),
        );
        Self {
            secrets,
            refusals,
            _runtime: runtime,
        }
    }

    /// Serves `secret` under `name`.
    pub fn serve(&self, name: &str, secret: &Secret) {
        self.serve_any(name, pack(secret));
    }

    /// Serves anything under `name`.
    pub fn serve_any(&self, name: &str, resource: Any) {
        self.secrets.send_modify(|secrets| {
            secrets.insert(name.to_owned(), resource);
        });
    }

    /// What clients have refused, in their words.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().clone()
    }
}

struct Script {
    secrets: watch::Sender<Secrets>,
    refusals: Arc<Mutex<Vec<String>>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Script {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (responses, stream) = mpsc::unbounded_channel();
        let secrets = self.secrets.subscribe();
        let refusals = Arc::clone(&self.refusals);
        tokio::spawn(session(request.into_inner(), secrets, refusals, responses));
        let stream = futures_util::stream::unfold(stream, |mut stream| async {
            let response = stream.recv().await?;
            Some((Ok(response), stream))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("not of this test"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("not of this test"))
    }
}

/// Answers with each version of what the stream asks for, once.
async fn session(
    mut requests: Streaming<DiscoveryRequest>,
    mut secrets: watch::Receiver<Secrets>,
    refusals: Arc<Mutex<Vec<String>>>,
    responses: mpsc::UnboundedSender<DiscoveryResponse>,
) {
    let mut wanted: Vec<String> = Vec::new();
    let mut sent: Option<Vec<Any>> = None;
    let mut version = 0_u64;
    loop {
        tokio::select! {
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                refusals.lock().extend(request.error_detail.map(|error| error.message));
                wanted = request.resource_names;
            }
            changed = secrets.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let resources: Vec<Any> = {
            let secrets = secrets.borrow_and_update();
            wanted
                .iter()
                .filter_map(|name| secrets.get(name))
                .cloned()
                .collect()
        };
        if resources.is_empty() || sent.as_ref() == Some(&resources) {
            continue;
        }
        version += 1;
        sent = Some(resources.clone());
        let response = DiscoveryResponse {
            version_info: version.to_string(),
            nonce: version.to_string(),
            type_url: SECRET.to_owned(),
            resources,
            ..DiscoveryResponse::default()
        };
        if responses.send(response).is_err() {
            return;
        }
    }
}
