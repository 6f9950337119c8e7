//! Two federated trust domains, and an SDS server for a workload of the first.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ithildin_proto::{
    pb::{
        envoy::{
            config::core::v3::{DataSource, Node, data_source::Specifier},
            extensions::transport_sockets::tls::v3::{
                CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret,
            },
            service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
        google::protobuf::{Struct, Value, value::Kind},
    },
    unpack,
};
use ithildin_spiffe::{
    Caller, IdentityState, Provider, SpiffeId, TrustDomain,
    authority::{Authority, AuthorityConfig, TrustDomainConfig, WorkloadConfig},
    x509::certificates_from_pem,
};
use ithildin_xds::{SdsOptions, SdsServer, serve::Socket};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, service::Routes, transport::Channel};

pub(crate) const OWN: &str = "domain.test";
pub(crate) const OTHER: &str = "otherdomain.test";
pub(crate) const WORKLOAD: &str = "spiffe://domain.test/workload";

/// Longer than anything takes that works.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Long enough that a response which should not come would have come.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    /// What the SDS server is told; a test may overwrite it.
    pub(crate) identity: watch::Sender<IdentityState>,
    pub(crate) folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    options: SdsOptions,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::with(SdsOptions::default()).await
    }

    pub(crate) async fn with(options: SdsOptions) -> Self {
        let mut own = TrustDomainConfig::new(domain(OWN));
        own.workloads.push(WorkloadConfig::new(id(WORKLOAD)));
        let other = TrustDomainConfig::new(domain(OTHER));
        let authority = Authority::start(AuthorityConfig {
            trust_domains: vec![own, other],
            federation: vec![(domain(OWN), domain(OTHER))],
        })
        .unwrap();
        let identity = watch::Sender::new(IdentityState::Waiting("the test has not begun".into()));
        let mut mesh = Self {
            authority,
            identity,
            folder: tempfile::tempdir().unwrap(),
            stop: None,
            options,
        };
        mesh.sync().await;
        mesh.serve();
        mesh
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("sds.sock")
    }

    /// Starts the server, again if it runs.
    pub(crate) fn serve(&mut self) {
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        let provider = Everyone(self.identity.subscribe());
        let server = SdsServer::new(Arc::new(provider), self.options.clone());
        let socket = Socket::unix(&self.socket(), 0o600).unwrap();
        let stopped = async move {
            let _ = stopped.await;
        };
        tokio::spawn(socket.serve(Routes::new(server.into_service()), stopped));
    }

    /// Stops the server; its socket is gone then.
    pub(crate) async fn stop(&mut self) {
        self.stop.take();
        let socket = self.socket();
        let gone = async {
            while socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, gone)
            .await
            .expect("the server stops");
    }

    /// Hands the authority's present state to the SDS server.
    pub(crate) async fn sync(&self) {
        let provider = self.authority.workload(OWN, &id(WORKLOAD)).unwrap();
        let state = provider.identities(&Default::default()).borrow().clone();
        self.identity.send_replace(state);
    }

    pub(crate) fn withdraw(&self) {
        self.identity
            .send_replace(IdentityState::Withdrawn("the entry was deleted".into()));
    }

    pub(crate) async fn client(&self) -> SecretDiscoveryServiceClient<Channel> {
        let uri = format!("unix://{}", self.socket().display());
        let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
        SecretDiscoveryServiceClient::new(endpoint.connect().await.unwrap())
    }

    pub(crate) async fn stream(&self) -> Stream {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = self.client().await;
        let responses = client
            .stream_secrets(ReceiverStream::new(receiver))
            .await
            .unwrap();
        Stream {
            requests,
            responses: responses.into_inner(),
        }
    }
}

/// One identity, whoever calls.
struct Everyone(watch::Receiver<IdentityState>);

impl Provider for Everyone {
    fn identities(&self, _: &Caller) -> watch::Receiver<IdentityState> {
        self.0.clone()
    }
}

/// A state-of-the-world stream of secrets.
pub(crate) struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Stream {
    pub(crate) async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn ask(&self, names: &[&str]) {
        self.send(request(names)).await;
    }

    pub(crate) async fn next(&mut self) -> DiscoveryResponse {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        next.expect("a response in time")
            .unwrap()
            .expect("the stream goes on")
    }

    /// The next response, or with what the stream ends instead.
    pub(crate) async fn first(&mut self) -> Result<DiscoveryResponse, tonic::Status> {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        let next = next.expect("a response in time")?;
        Ok(next.expect("the stream goes on"))
    }

    /// The next response's secrets, which are ACKed.
    pub(crate) async fn secrets(&mut self, names: &[&str]) -> Vec<Secret> {
        let response = self.next().await;
        self.send(ack(names, &response)).await;
        secrets(&response)
    }

    /// The status with which the stream ends.
    pub(crate) async fn end(&mut self) -> tonic::Status {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        next.expect("an end in time").unwrap_err()
    }

    /// Fails if a response comes.
    pub(crate) async fn quiet(&mut self) {
        if let Ok(message) = tokio::time::timeout(QUIET, self.responses.message()).await {
            panic!("unexpected: {message:?}");
        }
    }
}

pub(crate) fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node {
            id: "test".into(),
            cluster: "test".into(),
            ..Default::default()
        }),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        ..Default::default()
    }
}

pub(crate) fn ack(names: &[&str], response: &DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        node: None,
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..request(names)
    }
}

pub(crate) fn with_metadata(
    mut request: DiscoveryRequest,
    key: &str,
    value: Kind,
) -> DiscoveryRequest {
    let fields = [(key.to_owned(), Value { kind: Some(value) })].into();
    request.node.as_mut().unwrap().metadata = Some(Struct { fields });
    request
}

pub(crate) fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    let secrets = response
        .resources
        .iter()
        .map(|any| unpack::<Secret>(any).unwrap());
    secrets.collect()
}

/// What a secret says, in one line: `name: cert <id>`, `name: spiffe <domain>=<roots>…`,
/// `name: ca <roots>`, with `+crl` where there is one.
pub(crate) fn summary(secret: &Secret) -> String {
    let content = match secret.r#type.as_ref().unwrap() {
        secret::Type::TlsCertificate(cert) => {
            let chain = certificates_from_pem(inline(&cert.certificate_chain)).unwrap();
            let leaf = ithildin_spiffe::x509::check_leaf(&chain[0]);
            assert!(inline(&cert.private_key).starts_with(b"-----BEGIN PRIVATE KEY-----"));
            match leaf {
                Ok(id) => format!("cert {id}"),
                Err(_) => "cert of nobody".into(),
            }
        }
        secret::Type::ValidationContext(context) => validation(context),
        other => panic!("{other:?}"),
    };
    format!("{}: {content}", secret.name)
}

pub(crate) fn summaries(secrets: &[Secret]) -> Vec<String> {
    secrets.iter().map(summary).collect()
}

fn validation(context: &CertificateValidationContext) -> String {
    let crl = |text: &[u8]| match String::from_utf8_lossy(text).contains("BEGIN X509 CRL") {
        true => "+crl",
        false => "",
    };
    let Some(custom) = &context.custom_validator_config else {
        let ca = inline(&context.trusted_ca);
        let crl = context
            .crl
            .as_ref()
            .map_or("", |_| crl(inline(&context.crl)));
        return format!("ca {}{crl}", certificates_from_pem(ca).unwrap().len());
    };
    assert_eq!(custom.name, "envoy.tls.cert_validator.spiffe");
    assert!(
        context.trusted_ca.is_none(),
        "the two validators must not be mixed"
    );
    let config: SpiffeCertValidatorConfig = unpack(custom.typed_config.as_ref().unwrap()).unwrap();
    let domains = config.trust_domains.iter().map(|domain| {
        let pem = inline(&domain.trust_bundle);
        let roots = certificates_from_pem(pem).unwrap().len();
        format!(" {}={roots}{}", domain.name, crl(pem))
    });
    format!("spiffe{}", domains.collect::<String>())
}

pub(crate) fn inline(source: &Option<DataSource>) -> &[u8] {
    match source.as_ref().and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        other => panic!("not inline bytes: {other:?}"),
    }
}
