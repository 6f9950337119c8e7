//! Connections, and the discovery service on them.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use futures_util::Stream;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use ithildin_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{
    Conduct, Order, Shared, TOKEN,
    session::{Delta, Protocol, Session, Sotw},
};
use crate::pki::Svid;

/// Neither TLS nor HTTP.
const GARBAGE: [u8; 64] = [0xf5; 64];

pub(super) fn acceptor(leaf: &Svid) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(leaf.key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.certificate.der().clone()], key.into())
        .expect("the key is the certificate's");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

pub(super) async fn run(listener: UnixListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&shared)));
    }
}

/// One connection, as long as the conduct lets it live.
async fn connection(stream: UnixStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut conduct = shared.conduct.subscribe();
    let first = *conduct.borrow_and_update();
    let mut serving = Box::pin(serve(stream, acceptor, shared, first));
    tokio::select! {
        () = &mut serving => return,
        _ = conduct.changed() => {}
    }
    // It is kept, and not served, until something else is wanted.
    let _ = conduct.wait_for(|now| *now != Conduct::Silent).await;
}

async fn serve(
    mut stream: UnixStream,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    conduct: Conduct,
) {
    match conduct {
        Conduct::Dead => return,
        Conduct::Silent => std::future::pending().await,
        Conduct::Garbage => {
            let _ = stream.write_all(&GARBAGE).await;
            return;
        }
        Conduct::Good | Conduct::GarbageInTls => {}
    }
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    if conduct == Conduct::GarbageInTls {
        let _ = stream.write_all(&GARBAGE).await;
        let _ = stream.shutdown().await;
        return;
    }
    let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Service(shared)));
    let service = TowerToHyperService::new(routes);
    // A proxy may close whenever it likes.
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct Service(Arc<Shared>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Sotw>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}

impl Service {
    #[allow(clippy::result_large_err, reason = "tonic wants it")]
    fn open<P: Protocol + 'static>(
        &self,
        request: Request<Streaming<P::Request>>,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        let token = request.metadata().get("authorization");
        let expected = format!("Bearer {TOKEN}");
        if token.and_then(|token| token.to_str().ok()) != Some(&expected) {
            return Err(Status::unauthenticated("authentication failure"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(follow::<P>(
            request.into_inner(),
            Arc::clone(&self.0),
            sender,
        ));
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            let next = receiver.recv().await?;
            Some((next, receiver))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// One stream to its end.
async fn follow<P: Protocol>(
    mut requests: Streaming<P::Request>,
    shared: Arc<Shared>,
    responses: mpsc::UnboundedSender<Result<P::Response, Status>>,
) {
    let mut changes = shared.changes.subscribe();
    let mut orders = shared.orders.subscribe();
    let mut session = {
        let mut state = shared.state.lock();
        state.streams += 1;
        Session::new(state.streams)
    };
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else {
                    return;
                };
                P::request(&mut session, &mut shared.state.lock(), &request);
            }
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            order = orders.recv() => match order {
                Ok(Order::Send(raw)) => if let Some(response) = P::raw(&raw) {
                    let _ = responses.send(Ok(response));
                },
                Ok(Order::End(Some(status))) => {
                    let _ = responses.send(Err(status));
                    return;
                }
                Ok(Order::End(None)) | Err(_) => return,
            },
            () = responses.closed() => return,
        }
        while let Some(response) = P::respond(&mut session, &mut shared.state.lock()) {
            let _ = responses.send(Ok(response));
        }
    }
}
