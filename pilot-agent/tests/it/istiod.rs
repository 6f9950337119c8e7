//! An istiod of our own on loopback: discovery and a CA over TLS, which let in whom they are told to.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ithildin_istiod::ca::pb::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use ithildin_proto::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};
use ithildin_xds::{AdsServer, ResourceSet};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer,
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, async_trait,
    service::interceptor::InterceptedService,
    transport::{Server, server::Connected},
};

use crate::lab::free_port;

/// What its certificate bears.
const NAME: &str = "istiod.istio-system.svc";

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Let {
    Nobody,
    /// Whoever has this token.
    Token(&'static str),
    /// Whoever shows a certificate of the CA.
    Certificate,
}

/// The stand-in. It serves for as long as the test's runtime lives.
#[derive(Clone)]
pub(crate) struct Istiod {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    ca: CertifiedIssuer<'static, KeyPair>,
    doors: Mutex<Doors>,
}

#[derive(Debug)]
struct Doors {
    discovery: Let,
    ca: Let,
    /// How often somebody was let in, and sent away.
    discovered: u64,
    signed: u64,
    refused: u64,
}

impl Istiod {
    pub(crate) async fn start(discovery: Let, ca: Let) -> Self {
        let listener = listener(free_port(), None);
        Self::serving(discovery, ca, listener).await
    }

    /// As [`Istiod::start`], with this listener.
    pub(crate) async fn serving(discovery: Let, ca: Let, resource: Listener) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let istiod = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                ca: authority(),
                doors: Mutex::new(Doors {
                    discovery,
                    ca,
                    discovered: 0,
                    signed: 0,
                    refused: 0,
                }),
            }),
        };
        istiod.serve(listener, resource);
        istiod
    }

    fn serve(&self, listener: TcpListener, resource: Listener) {
        let (sender, connections) = mpsc::channel(8);
        let acceptor = TlsAcceptor::from(Arc::new(self.tls()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send(Ok::<_, std::io::Error>(Peer(stream))).await;
                    }
                });
            }
        });
        let (_, resources) = watch::channel(Arc::new(resources(resource)));
        let ads = AdsServer::new(resources).into_service();
        let here = self.clone();
        let discovery = InterceptedService::new(ads, move |call| here.let_in(call, false));
        let server = Server::builder()
            .add_service(discovery)
            .add_service(IstioCertificateServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
    }

    fn tls(&self) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.shared.ca).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.shared.ca.der().clone()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn let_in<T>(&self, call: Request<T>, is_ca: bool) -> Result<Request<T>, Status> {
        let mut doors = self.shared.doors.lock();
        let open = match if is_ca { doors.ca } else { doors.discovery } {
            Let::Nobody => false,
            Let::Token(token) => call
                .metadata()
                .get("authorization")
                .is_some_and(|it| it.as_bytes() == format!("Bearer {token}").as_bytes()),
            Let::Certificate => {
                call.extensions().get::<HasCertificate>() == Some(&HasCertificate(true))
            }
        };
        match (open, is_ca) {
            (false, _) => {
                doors.refused += 1;
                return Err(Status::unauthenticated("who are you?"));
            }
            (true, true) => doors.signed += 1,
            (true, false) => doors.discovered += 1,
        }
        Ok(call)
    }

    /// Changes who is let in.
    pub(crate) fn admit(&self, discovery: Let, ca: Let) {
        let mut doors = self.shared.doors.lock();
        (doors.discovery, doors.ca) = (discovery, ca);
    }

    pub(crate) fn discovered(&self) -> u64 {
        self.shared.doors.lock().discovered
    }

    pub(crate) fn signed(&self) -> u64 {
        self.shared.doors.lock().signed
    }

    pub(crate) fn refused(&self) -> u64 {
        self.shared.doors.lock().refused
    }

    /// The CA's certificate.
    pub(crate) fn root(&self) -> String {
        self.shared.ca.pem()
    }

    /// A certificate of `id` and its key in `folder`, with the CA's, under these names.
    pub(crate) fn provision(&self, folder: &Path, id: &str, [chain, key, root]: [&str; 3]) {
        let pair = KeyPair::generate().unwrap();
        let mut params = leaf(Duration::from_secs(3600));
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let pem = params.signed_by(&pair, &self.shared.ca).unwrap().pem();
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in [
            (chain, pem),
            (key, pair.serialize_pem()),
            (root, self.root()),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

#[async_trait]
impl IstioCertificateService for Istiod {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let message = self.let_in(request, true)?.into_inner();
        let mut csr = CertificateSigningRequestParams::from_pem(&message.csr).unwrap();
        let ttl = u64::try_from(message.validity_duration).unwrap();
        let names = std::mem::take(&mut csr.params.subject_alt_names);
        csr.params = leaf(Duration::from_secs(ttl));
        csr.params.subject_alt_names = names;
        let leaf = csr.signed_by(&self.shared.ca).unwrap().pem();
        let cert_chain = vec![leaf, self.root()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn leaf(ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + ttl).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A listener that leads nowhere.
pub(crate) fn listener(port: u16, tls: Option<Value>) -> Listener {
    ithildin_proto::from_value(json!({
        "name": "listener",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": tls,
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "nowhere", "cluster": "nowhere",
                },
            }],
        }],
    }))
    .unwrap()
}

fn resources(listener: Listener) -> ResourceSet {
    let cluster: Cluster = ithildin_proto::from_value(json!({
        "name": "nowhere", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "nowhere"},
    }))
    .unwrap();
    ResourceSet {
        clusters: [("nowhere".to_owned(), Arc::new(cluster))].into(),
        listeners: [("listener".to_owned(), Arc::new(listener))].into(),
        ..Default::default()
    }
}

/// A connection, and whether its peer has shown a certificate.
struct Peer(TlsStream<TcpStream>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HasCertificate(bool);

impl Connected for Peer {
    type ConnectInfo = HasCertificate;

    fn connect_info(&self) -> HasCertificate {
        HasCertificate(self.0.get_ref().1.peer_certificates().is_some())
    }
}

mod io {
    //! A [`Peer`] is its stream.

    use std::{
        io::Result,
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Peer;

    impl AsyncRead for Peer {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
}
