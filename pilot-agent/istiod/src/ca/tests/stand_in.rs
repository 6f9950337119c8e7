//! A CA of our own on loopback, which answers as it is told.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::ca::pb::{
    IstioCertificateRequest, IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

/// How a request is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Leaf, root.
    Good,
    /// Leaf, intermediate, root; the chain of the plug-in CA ends with the root too.
    Nested,
    /// The same, the intermediate of another name in between.
    OutOfOrder,
    LeafOnly,
    Nothing,
    /// For a key that is not the request's.
    WrongKey,
    WrongId(&'static str),
    /// A web certificate.
    NoId,
    Expired,
    NotYet,
    /// The root that comes with it did not sign it.
    OtherRoot,
    ExpiredRoot,
    Garbage,
    TooMany,
    /// Beyond the largest message.
    Huge,
    Refused(Status),
}

/// What was asked last, and how the next one is answered.
#[derive(Clone)]
pub(super) struct StandIn {
    pub(super) answer: watch::Sender<Answer>,
    pub(super) ttl: watch::Sender<Duration>,
    pub(super) asked: watch::Sender<Vec<IstioCertificateRequest>>,
    pub(super) root: watch::Sender<Arc<Authority>>,
}

impl StandIn {
    /// Serves for as long as the test's runtime lives.
    pub(super) async fn start(answer: Answer) -> (Self, SocketAddr) {
        let stand_in = Self {
            answer: watch::Sender::new(answer),
            ttl: watch::Sender::new(Duration::from_secs(3600)),
            asked: watch::Sender::default(),
            root: watch::Sender::new(Arc::new(authority("root", None))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = IstioCertificateServiceServer::new(stand_in.clone());
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (stand_in, address)
    }

    /// Waits until so many requests have come.
    pub(super) async fn asked(&self, count: usize) -> Vec<IstioCertificateRequest> {
        let mut asked = self.asked.subscribe();
        let enough = asked.wait_for(|asked| asked.len() >= count);
        let asked = tokio::time::timeout(super::LIMIT, enough).await;
        asked.expect("the CA is asked again").unwrap().clone()
    }

    fn chain(&self, csr: &str) -> Vec<String> {
        let root = Arc::clone(&self.root.borrow());
        let answer = self.answer.borrow().clone();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let life = match answer {
            Answer::Expired => (now - 2 * hour, now - hour),
            Answer::NotYet => (now + hour, now + 2 * hour),
            _ => (now - Duration::from_secs(60), now + *self.ttl.borrow()),
        };
        let id = match answer {
            Answer::WrongId(id) => Some(id),
            _ => None,
        };
        let intermediate = authority("intermediate", Some(&root));
        let leaf = |issuer: &Authority| match answer {
            Answer::WrongKey => other_key(issuer, life),
            Answer::NoId => web(csr, issuer, life),
            _ => sign(csr, issuer, life, id),
        };
        let root_pem = root.pem();
        match &answer {
            Answer::Nested => {
                vec![
                    leaf(&intermediate),
                    intermediate.pem() + &root_pem,
                    root_pem,
                ]
            }
            Answer::OutOfOrder => {
                let stranger = authority("stranger", Some(&root));
                vec![
                    leaf(&intermediate),
                    stranger.pem() + &intermediate.pem(),
                    root_pem,
                ]
            }
            Answer::LeafOnly => vec![leaf(&root)],
            Answer::Nothing => Vec::new(),
            Answer::OtherRoot => vec![leaf(&root), authority("root", None).pem()],
            Answer::ExpiredRoot => {
                let old = old_authority();
                vec![leaf(&old), old.pem()]
            }
            Answer::Garbage => vec!["-----BEGIN CERTIFICATE-----\nAAAA\n".into(), root_pem],
            Answer::TooMany => vec![leaf(&root); 100],
            Answer::Huge => vec![leaf(&root), "x".repeat(2 << 20)],
            _ => vec![leaf(&root), root_pem],
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for StandIn {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let message = request.into_inner();
        let csr = message.csr.clone();
        self.asked.send_modify(|asked| asked.push(message));
        if let Answer::Refused(status) = &*self.answer.borrow() {
            return Err(status.clone());
        }
        let cert_chain = self.chain(&csr);
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// A CA as istiod's: of no trust domain.
pub(super) fn authority(name: &str, above: Option<&Authority>) -> Authority {
    let params = authority_params(name);
    let key = KeyPair::generate().unwrap();
    match above {
        Some(above) => CertifiedIssuer::signed_by(params, key, above).unwrap(),
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
    }
}

fn old_authority() -> Authority {
    let mut params = authority_params("old");
    params.not_before = (SystemTime::now() - Duration::from_secs(7200)).into();
    params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

type Life = (SystemTime, SystemTime);

fn leaf_params(params: &mut CertificateParams, (begin, end): Life) {
    params.not_before = begin.into();
    params.not_after = end.into();
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.distinguished_name.push(DnType::CommonName, "leaf");
}

fn sign(csr: &str, issuer: &Authority, life: Life, id: Option<&str>) -> String {
    let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
    leaf_params(&mut csr.params, life);
    if let Some(id) = id {
        csr.params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    }
    csr.signed_by(issuer).unwrap().pem()
}

fn web(csr: &str, issuer: &Authority, life: Life) -> String {
    let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
    leaf_params(&mut csr.params, life);
    csr.params.subject_alt_names = vec![SanType::DnsName("web.test".try_into().unwrap())];
    csr.signed_by(issuer).unwrap().pem()
}

fn other_key(issuer: &Authority, life: Life) -> String {
    let mut params = CertificateParams::default();
    leaf_params(&mut params, life);
    params.subject_alt_names = vec![SanType::URI(super::ID.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, issuer).unwrap().pem()
}
