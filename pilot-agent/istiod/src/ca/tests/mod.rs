//! The source against a CA that answers well, badly, late or not at all.

mod stand_in;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use ithildin_spiffe::{IdentitySnapshot, IdentityState, Source, TrustDomain};
use ithildin_xds::sds::ExtraRoots;
use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::timeout};
use tonic::Status;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use self::stand_in::{Answer, StandIn, authority};
use super::*;
use crate::dial::{
    Address, CallHeaders, DEFAULT_KEEPALIVE, DEFAULT_KEEPALIVE_TIMEOUT, Endpoint, Options,
    Transport,
};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// Longer than anything takes that works.
const LIMIT: Duration = Duration::from_secs(20);

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(Options {
        address: Address {
            host: address.ip().to_string(),
            port: address.port(),
        },
        transport: Transport::Plaintext,
        headers: CallHeaders::default(),
        keepalive: DEFAULT_KEEPALIVE,
        keepalive_timeout: DEFAULT_KEEPALIVE_TIMEOUT,
    })
}

fn options() -> CaOptions {
    CaOptions {
        expected: Expected {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            namespace: "shop".into(),
            service_account: Some("web".into()),
        },
        key: KeyKind::EcdsaP256,
        ttl: Duration::from_secs(24 * 3600),
        signer: None,
        rotation: Rotation::default(),
        crl: None,
    }
}

/// A source with a CA, and what it publishes.
struct Bench {
    ca: StandIn,
    extra: watch::Sender<ExtraRoots>,
    states: watch::Receiver<IdentityState>,
    _source: std::sync::Arc<CaSource>,
}

impl Bench {
    async fn start(answer: Answer, options: CaOptions) -> Self {
        let (ca, address) = StandIn::start(answer).await;
        Self::with(ca, address, options)
    }

    fn with(ca: StandIn, address: SocketAddr, options: CaOptions) -> Self {
        let extra = watch::Sender::new(ExtraRoots::default());
        let source = CaSource::start(endpoint(address), options, extra.subscribe());
        Self {
            ca,
            extra,
            states: source.subscribe(),
            _source: source,
        }
    }

    async fn until(&mut self, wanted: impl FnMut(&IdentityState) -> bool) -> IdentityState {
        let state = timeout(LIMIT, self.states.wait_for(wanted)).await;
        state.expect("the state comes").unwrap().clone()
    }

    async fn ready(&mut self) -> std::sync::Arc<IdentitySnapshot> {
        let state = self.until(|state| state.snapshot().is_some()).await;
        state.snapshot().unwrap().clone()
    }

    /// The reason that is given while there is nothing.
    async fn reason(&mut self, part: &str) -> String {
        let says = |state: &IdentityState| matches!(state, IdentityState::Waiting(text) if text.contains(part));
        match self.until(says).await {
            IdentityState::Waiting(reason) => reason.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_of_each_kind_of_key() {
    for key in [KeyKind::EcdsaP256, KeyKind::EcdsaP384, KeyKind::Rsa2048] {
        let options = CaOptions {
            key,
            signer: Some("a.test/signer".into()),
            ..options()
        };
        let mut bench = Bench::start(Answer::Good, options).await;
        let snapshot = bench.ready().await;
        assert_eq!(snapshot.svids[0].id.as_str(), ID, "{key:?}");
        assert_eq!(snapshot.svids[0].chain.len(), 2);
        assert_eq!(
            snapshot.unbound_roots.len(),
            1,
            "istiod says nothing of its domain"
        );
        assert_eq!(
            snapshot.bundles["cluster.local"].roots,
            snapshot.unbound_roots
        );
        let request = &bench.ca.asked(1).await[0];
        assert_eq!(request.validity_duration, 86400);
        assert!(format!("{:?}", request.metadata).contains("a.test/signer"));
        let (_, pem) = x509_parser::pem::parse_x509_pem(request.csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        csr.verify_signature().unwrap();
        let extensions = csr.requested_extensions().unwrap();
        assert!(
            extensions
                .map(|extension| format!("{extension:?}"))
                .any(|text| text.contains(ID))
        );
    }
}

#[tokio::test]
async fn a_chain_is_shown_to_its_root() {
    let mut bench = Bench::start(Answer::Nested, options()).await;
    let snapshot = bench.ready().await;
    let chain = &snapshot.svids[0].chain;
    assert_eq!(chain.len(), 3);
    assert_eq!(chain[2..], *snapshot.unbound_roots);
}

#[tokio::test]
async fn a_wrong_answer_is_refused_with_its_reason_and_a_right_one_is_taken() {
    for (answer, part) in [
        (Answer::Nothing, "cert_chain has 0 elements"),
        (Answer::LeafOnly, "cert_chain has 1 elements"),
        (Answer::TooMany, "cert_chain has 100 elements"),
        (
            Answer::WrongKey,
            "the private key does not belong to the leaf",
        ),
        (
            Answer::WrongId("spiffe://cluster.local/ns/shop/sa/other"),
            "but we are spiffe://cluster.local/ns/shop/sa/web",
        ),
        (
            Answer::WrongId("spiffe://evil.test/ns/shop/sa/web"),
            "check TRUST_DOMAIN",
        ),
        (Answer::NoId, "the leaf has no URI"),
        (Answer::Expired, "does not lead to the root"),
        (Answer::NotYet, "does not lead to the root"),
        (Answer::OtherRoot, "does not lead to the root"),
        (
            Answer::ExpiredRoot,
            "every root that came with the chain has expired",
        ),
        (
            Answer::OutOfOrder,
            "certificate 0 of the chain is not issued by the one after it",
        ),
        (Answer::Garbage, "cert_chain[0]: "),
        (Answer::Huge, "too large"),
        (
            Answer::Refused(Status::unauthenticated("no token")),
            "the CA answered Unauthenticated: no token",
        ),
    ] {
        let case = format!("{answer:?}");
        let mut bench = Bench::start(answer, options()).await;
        let reason = bench.reason("no certificate of the CA at 127.0.0.1:").await;
        assert!(reason.contains(part), "{case}: {reason}");
        bench.ca.answer.send_replace(Answer::Good);
        bench.ready().await;
    }
}

#[tokio::test]
async fn a_ca_that_comes_late_is_found() {
    // Bound, it refuses until it listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let (ca, _) = StandIn::start(Answer::Good).await;
    let mut bench = Bench::with(ca.clone(), address, options());
    let reason = bench.reason("cannot reach the CA").await;
    assert!(reason.contains("refused"), "{reason}");
    let listener = socket.listen(16).unwrap();
    let service = pb::istio_certificate_service_server::IstioCertificateServiceServer::new(ca);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    bench.ready().await;
}

/// A life of three seconds is renewed though nobody asks for a secret; and while the CA is gone the
/// last certificate serves until it expires, and no longer.
#[tokio::test]
async fn renewal_is_by_the_clock_and_an_outage_lasts_until_the_expiry() {
    let (ca, address) = StandIn::start(Answer::Good).await;
    ca.ttl.send_replace(Duration::from_secs(3));
    let mut bench = Bench::with(ca, address, options());
    let first = bench.ready().await;
    bench.ca.asked(2).await;
    let renewed = |state: &IdentityState| {
        state
            .snapshot()
            .is_some_and(|now| now.svids[0].chain != first.svids[0].chain)
    };
    let second = bench.until(renewed).await;
    bench
        .ca
        .answer
        .send_replace(Answer::Refused(Status::unavailable("gone")));
    let state = bench
        .until(|state| matches!(state, IdentityState::Withdrawn(_)))
        .await;
    let end = second.snapshot().unwrap().next_expiry();
    assert!(SystemTime::now() > end, "{state:?}");
    bench.ca.answer.send_replace(Answer::Good);
    bench.ready().await;
}

#[tokio::test]
async fn a_bad_renewal_leaves_the_good_certificate() {
    let (ca, address) = StandIn::start(Answer::Good).await;
    ca.ttl.send_replace(Duration::from_secs(60));
    let rotation = Rotation {
        grace_ratio: 1.0,
        grace_jitter: 0.0,
    };
    let mut bench = Bench::with(
        ca,
        address,
        CaOptions {
            rotation,
            ..options()
        },
    );
    bench.ready().await;
    bench
        .ca
        .answer
        .send_replace(Answer::WrongId("spiffe://evil.test/x"));
    let count = bench.ca.asked.borrow().len();
    bench.ca.asked(count + 2).await;
    assert_eq!(bench.ready().await.svids[0].id.as_str(), ID);
}

#[tokio::test]
async fn roots_of_the_mesh_are_trusted_at_once_and_bring_a_new_certificate() {
    let mut bench = Bench::start(Answer::Good, options()).await;
    let before = bench.ready().await;
    let der: CertificateDer<'static> = authority("second", None).der().clone();
    bench.extra.send_replace([der.clone()].into());
    let after = bench
        .until(|state| {
            state
                .snapshot()
                .is_some_and(|now| now.unbound_roots.contains(&der))
        })
        .await;
    assert_eq!(after.snapshot().unwrap().unbound_roots.len(), 2);
    bench.ca.asked(2).await;
    let renewed = |state: &IdentityState| {
        state
            .snapshot()
            .is_some_and(|now| now.svids[0].chain != before.svids[0].chain)
    };
    bench.until(renewed).await;
    // A new root of the CA itself.
    bench
        .ca
        .root
        .send_replace(std::sync::Arc::new(authority("third", None)));
    bench.extra.send_replace(ExtraRoots::default());
    let third: CertificateDer<'static> = bench.ca.root.borrow().der().clone();
    bench
        .until(|state| {
            state
                .snapshot()
                .is_some_and(|now| now.unbound_roots == [third.clone()])
        })
        .await;
}

#[tokio::test]
async fn revocations_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca-crl.pem");
    let mut bench = Bench::start(
        Answer::Good,
        CaOptions {
            crl: Some(file.clone()),
            ..options()
        },
    )
    .await;
    assert!(bench.ready().await.crls.is_empty());
    let issuer = authority("root", None);
    let now = SystemTime::now();
    let list = rcgen::CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    fs::write(&file, list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
    let count = |wanted: usize| {
        move |state: &IdentityState| state.snapshot().is_some_and(|now| now.crls.len() == wanted)
    };
    bench.until(count(1)).await;
    fs::write(
        &file,
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    )
    .unwrap();
    bench.ca.asked(1).await;
    assert_eq!(bench.ready().await.crls.len(), 1, "garbage changes nothing");
    fs::remove_file(&file).unwrap();
    bench.until(count(0)).await;
}
