//! The secret discovery service over a real socket, as an SDS client sees it.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

use crate::common::{
    LIMIT, Mesh, OTHER, OWN, Stream, WORKLOAD, ack, domain, id, request, secrets, summaries,
    summary, with_metadata,
};
use ithildin_proto::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    google::{protobuf::value::Kind, rpc::Status},
};
use ithildin_spiffe::IdentityState;
use ithildin_xds::sds::{SdsOptions, SecretName, SecretNames};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const OPT_OUT: &str = "disable_spiffe_cert_validation";
const OWN_ID: &str = "spiffe://domain.test";
const OTHER_ID: &str = "spiffe://otherdomain.test";

async fn fetch(mesh: &Mesh, names: &[&str]) -> Result<Vec<String>, (Code, String)> {
    let response = mesh.client().await.fetch_secrets(request(names)).await;
    match response {
        Ok(response) => Ok(summaries(&secrets(response.get_ref()))),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// Streams and unary calls agree; each name alone has exactly one secret of that name.
#[tokio::test]
async fn names() {
    let mesh = Mesh::start().await;
    let both = format!("spiffe {OWN}=1 {OTHER}=1");
    for (name, expected) in [
        ("default", format!("cert {WORKLOAD}")),
        (WORKLOAD, format!("cert {WORKLOAD}")),
        ("ROOTCA", both.clone()),
        ("ALL", both),
        (OWN_ID, format!("spiffe {OWN}=1")),
        (OTHER_ID, format!("spiffe {OTHER}=1")),
    ] {
        let expected = vec![format!("{name}: {expected}")];
        assert_eq!(fetch(&mesh, &[name]).await, Ok(expected.clone()));
        let mut stream = mesh.stream().await;
        stream.ask(&[name]).await;
        assert_eq!(summaries(&stream.secrets(&[name]).await), expected);
        stream.quiet().await;
    }
}

#[tokio::test]
async fn all_names_in_one_request() {
    let mesh = Mesh::start().await;
    let names = ["default", WORKLOAD, "ROOTCA", "ALL", OWN_ID, OTHER_ID];
    let got: BTreeSet<_> = fetch(&mesh, &names).await.unwrap().into_iter().collect();
    assert_eq!(got.len(), names.len());
    for wildcard in [&[][..], &[""], &["*"]] {
        let got = fetch(&mesh, wildcard).await.unwrap();
        let expected = [
            format!("{OWN_ID}: spiffe {OWN}=1"),
            format!("{WORKLOAD}: cert {WORKLOAD}"),
            format!("{OTHER_ID}: spiffe {OTHER}=1"),
        ];
        assert_eq!(got, expected, "{wildcard:?}");
    }
}

#[tokio::test]
async fn an_unknown_name_fails_alone() {
    let mesh = Mesh::start().await;
    for unknown in [
        "nobody",
        "spiffe://domain.test/other",
        "spiffe://unknown.test",
        "spiffe://UPPER.test",
        "file-cert:no-tilde",
    ] {
        let (code, text) = fetch(&mesh, &[unknown]).await.unwrap_err();
        assert_eq!(code, Code::NotFound, "{unknown}: {text}");
        assert!(!text.is_empty());
        let names = ["default", unknown];
        let mut stream = mesh.stream().await;
        stream.ask(&names).await;
        let got = summaries(&stream.secrets(&names).await);
        assert_eq!(got, [format!("default: cert {WORKLOAD}")], "{unknown}");
        stream.quiet().await;
    }
}

/// Each name costs the server a secret: a peer may not ask for any number of them.
#[tokio::test]
async fn too_many_names_are_refused() {
    let mesh = Mesh::start().await;
    let names: Vec<_> = (0..1025).map(|n| format!("spiffe://a.test/{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (code, text) = fetch(&mesh, &names).await.unwrap_err();
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    let status = stream.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("1025"), "{status}");
    let fewer = [&names[..1023], &["default"]].concat();
    assert_eq!(fetch(&mesh, &fewer).await.unwrap().len(), 1);
}

#[tokio::test]
async fn names_without_end_are_refused() {
    let mesh = Mesh::start().await;
    let longest = format!("file-root:/{}", "x".repeat(16 << 10));
    let (code, text) = fetch(&mesh, &["default", &longest]).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument, "{text}");
    assert!(text.len() < 200, "{text}");
    let mut stream = mesh.stream().await;
    stream.ask(&["default", &longest]).await;
    assert_eq!(stream.end().await.code(), Code::InvalidArgument);
}

/// A proxy has one connection, and on it a stream for each secret that never ends: none may wait for
/// another one's end.
#[tokio::test]
async fn hundreds_of_streams_share_a_connection() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        let (requests, receiver) = mpsc::channel(1);
        requests.send(request(&["default"])).await.unwrap();
        let mut client = client.clone();
        let opened = client.stream_secrets(ReceiverStream::new(receiver));
        let opened = tokio::time::timeout(LIMIT, opened).await;
        let mut responses = opened.expect("it is not held up").unwrap().into_inner();
        let response = tokio::time::timeout(LIMIT, responses.message()).await;
        response.expect("it is answered").unwrap().unwrap();
        streams.push((requests, responses));
    }
}

#[tokio::test]
async fn a_name_is_answered_when_it_appears() {
    let mesh = Mesh::start().await;
    let ready = mesh.identity.borrow().clone();
    mesh.identity
        .send_replace(IdentityState::Waiting("SPIRE is away".into()));
    let (code, text) = fetch(&mesh, &["default"]).await.unwrap_err();
    assert_eq!((code, text.as_str()), (Code::Unavailable, "SPIRE is away"));
    let mut stream = mesh.stream().await;
    stream.ask(&["default"]).await;
    stream.quiet().await;
    mesh.identity.send_replace(ready);
    let got = summaries(&stream.secrets(&["default"]).await);
    assert_eq!(got, [format!("default: cert {WORKLOAD}")]);
}

#[tokio::test]
async fn only_what_changed_is_pushed() {
    let mesh = Mesh::start().await;
    let names = ["ROOTCA", "default"];
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    assert_eq!(stream.secrets(&names).await.len(), 2);

    mesh.authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    mesh.sync().await;
    let got = summaries(&stream.secrets(&names).await);
    assert_eq!(got, [format!("default: cert {WORKLOAD}")]);

    mesh.authority
        .unfederate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    let got = summaries(&stream.secrets(&names).await);
    assert_eq!(got, [format!("ROOTCA: spiffe {OWN}=1")]);

    mesh.sync().await;
    stream.quiet().await;
}

#[tokio::test]
async fn refusals_and_stale_nonces() {
    let mesh = Mesh::start().await;
    let mut stream = mesh.stream().await;
    stream.ask(&["default"]).await;
    let first = stream.next().await;
    let nack = || Status {
        code: 3,
        message: "bad key".into(),
        details: Vec::new(),
    };
    let mut refusal = ack(&["default"], &first);
    refusal.version_info.clear();
    refusal.error_detail = Some(nack());
    stream.send(refusal).await;
    stream.quiet().await;

    let mut stale = request(&["ROOTCA"]);
    stale.response_nonce = "an old one".into();
    stream.send(stale).await;
    stream.quiet().await;

    mesh.authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    mesh.sync().await;
    let second = stream.next().await;
    assert_ne!(first.version_info, second.version_info);
    assert_ne!(first.nonce, second.nonce);
    stream.send(ack(&["ROOTCA"], &second)).await;
    assert_eq!(stream.next().await.resources.len(), 1);
}

#[tokio::test]
async fn another_type_is_refused() {
    let mesh = Mesh::start().await;
    let mut wrong = request(&["default"]);
    wrong.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    let status = mesh.client().await.fetch_secrets(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let mut none = request(&["default"]);
    none.type_url.clear();
    mesh.client().await.fetch_secrets(none).await.unwrap();
}

#[tokio::test]
async fn the_opt_out_gives_the_own_bundle_alone() {
    let mesh = Mesh::start().await;
    let yes = || Kind::StringValue("true".into());
    for (name, expected) in [
        ("ROOTCA", "ca 1"),
        ("ALL", "ca 1"),
        (OWN_ID, "ca 1"),
        (OTHER_ID, "ca 1"),
    ] {
        let mut stream = mesh.stream().await;
        stream
            .send(with_metadata(request(&[name]), OPT_OUT, yes()))
            .await;
        let got = stream.next().await;
        assert_eq!(summary(&secrets(&got)[0]), format!("{name}: {expected}"));
        // The node comes with the first message only.
        stream.send(ack(&[name, "spiffe://none.test"], &got)).await;
        mesh.authority.prepare_root(OWN).unwrap();
        mesh.authority.prepare_root(OTHER).unwrap();
        mesh.sync().await;
        let got = summary(&secrets(&stream.next().await)[0]);
        assert!(got.contains(": ca "), "{got}");
        mesh.authority.activate_root(OWN).unwrap();
        mesh.authority.activate_root(OTHER).unwrap();
        mesh.authority.drop_old_roots(OWN).unwrap();
        mesh.authority.drop_old_roots(OTHER).unwrap();
        mesh.sync().await;
    }
}

#[tokio::test]
async fn names_are_configurable() {
    let options = SdsOptions {
        names: SecretNames {
            default_svid: SecretName::new("mine"),
            default_bundle: SecretName::new("null"),
            all_bundles: SecretName::new("ROOTCA"),
        },
        disable_spiffe_cert_validation: true,
        ..SdsOptions::default()
    };
    let mesh = Mesh::with(options).await;
    assert_eq!(
        fetch(&mesh, &["mine"]).await,
        Ok(vec![format!("mine: cert {WORKLOAD}")])
    );
    assert_eq!(
        fetch(&mesh, &["ROOTCA"]).await,
        Ok(vec!["ROOTCA: ca 1".into()])
    );
    for disabled in ["default", "null", "ALL"] {
        assert_eq!(
            fetch(&mesh, &[disabled]).await.unwrap_err().0,
            Code::NotFound,
            "{disabled}"
        );
    }
}

/// Whoever holds a withdrawn secret gets one that nobody trusts; whoever does not waits.
#[tokio::test]
async fn withdrawal_fails_closed() {
    let mesh = Mesh::start().await;
    let names = ["default", "ROOTCA", OWN_ID, OTHER_ID];
    let mut holder = mesh.stream().await;
    holder.ask(&names).await;
    let before = holder.secrets(&names).await;

    mesh.withdraw();
    let got = holder.secrets(&names).await;
    let expected = [
        "ROOTCA: spiffe withdrawn.invalid=1".to_owned(),
        "default: cert of nobody".to_owned(),
        format!("{OWN_ID}: spiffe {OWN}=1"),
        format!("{OTHER_ID}: spiffe {OTHER}=1"),
    ];
    let sorted: BTreeSet<_> = summaries(&got).into_iter().collect();
    assert_eq!(sorted, expected.into_iter().collect());
    for secret in &before {
        assert!(!got.contains(secret), "{} is still served", secret.name);
    }
    let mut newcomer = mesh.stream().await;
    newcomer.ask(&names).await;
    newcomer.quiet().await;
    assert_eq!(
        fetch(&mesh, &["default"]).await.unwrap_err().0,
        Code::NotFound
    );

    // Envoy says on a new stream what it holds.
    let mut again = mesh.stream().await;
    let mut claim = request(&["default"]);
    claim.version_info = "some version".into();
    again.send(claim).await;
    assert_eq!(
        summaries(&again.secrets(&["default"]).await),
        ["default: cert of nobody"]
    );

    mesh.sync().await;
    assert_eq!(holder.secrets(&names).await.len(), 4);
    assert_eq!(newcomer.secrets(&names).await.len(), 4);
    assert_eq!(
        summaries(&again.secrets(&["default"]).await),
        [format!("default: cert {WORKLOAD}")]
    );
}

#[tokio::test]
async fn a_federation_that_ends_takes_its_trust_along() {
    let mesh = Mesh::start().await;
    let mut stream = mesh.stream().await;
    stream.ask(&[OTHER_ID]).await;
    let before = stream.secrets(&[OTHER_ID]).await;
    mesh.authority
        .unfederate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    let after = stream.secrets(&[OTHER_ID]).await;
    assert_eq!(summaries(&after), [format!("{OTHER_ID}: spiffe {OTHER}=1")]);
    assert_ne!(before, after);
    mesh.authority
        .federate(&domain(OWN), &domain(OTHER))
        .unwrap();
    mesh.sync().await;
    assert_eq!(stream.secrets(&[OTHER_ID]).await, before);
}

#[tokio::test]
async fn crls_go_with_their_trust_domain() {
    let mesh = Mesh::start().await;
    mesh.authority.revoke_workload(OWN, &id(WORKLOAD)).unwrap();
    mesh.sync().await;
    let got = fetch(&mesh, &["ROOTCA"]).await.unwrap();
    assert_eq!(got, [format!("ROOTCA: spiffe {OWN}=1+crl {OTHER}=1")]);
    let mut stream = mesh.stream().await;
    stream
        .send(with_metadata(
            request(&["ROOTCA"]),
            OPT_OUT,
            Kind::BoolValue(true),
        ))
        .await;
    assert_eq!(
        summaries(&stream.secrets(&["ROOTCA"]).await),
        ["ROOTCA: ca 1+crl"]
    );
}

#[tokio::test]
async fn files_are_followed_through_links() {
    let mesh = Mesh::start().await;
    let dir = mesh.folder.path().join("certs");
    fs::create_dir(&dir).unwrap();
    let write = |version: &str| {
        let IdentityState::Ready(snapshot) = mesh.identity.borrow().clone() else {
            panic!("no identity");
        };
        let folder = dir.join(version);
        fs::create_dir(&folder).unwrap();
        let svid = &snapshot.svids[0];
        let chain = ithildin_spiffe::x509::certificates_to_pem(&svid.chain);
        fs::write(folder.join("tls.crt"), chain).unwrap();
        fs::write(folder.join("tls.key"), svid.key.to_pem().as_bytes()).unwrap();
        symlink(version, dir.join("tmp")).unwrap();
        fs::rename(dir.join("tmp"), dir.join("..data")).unwrap();
    };
    write("v1");
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), dir.join(file)).unwrap();
    }
    let at = dir.display();
    let cert = format!("file-cert:{at}/tls.crt~{at}/tls.key");
    let root = format!("file-root:{at}/tls.crt");
    let names = [cert.as_str(), root.as_str()];
    let mut stream = mesh.stream().await;
    stream.ask(&names).await;
    let first = stream.secrets(&names).await;
    let expected = [format!("{cert}: cert {WORKLOAD}"), format!("{root}: ca 1")];
    assert_eq!(summaries(&first), expected);

    mesh.authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    mesh.sync().await;
    write("v2");
    let mut second = stream.secrets(&names).await;
    if second.len() == 1 {
        second.extend(stream.secrets(&names).await);
    }
    // Each file is read by itself: either may come first.
    let mut renewed = summaries(&second);
    renewed.sort();
    assert_eq!(renewed, expected);
    assert!(first.iter().all(|old| !second.contains(old)));

    // A broken file leaves what was read before.
    fs::write(dir.join("v2/tls.crt"), "garbage").unwrap();
    stream.quiet().await;
    assert_eq!(
        summaries(&stream_once(&mesh, &[&root]).await),
        [format!("{root}: ca 1")]
    );
    let missing = "file-root:/nonexistent/ca.pem";
    let (_, text) = fetch(&mesh, &[missing]).await.unwrap_err();
    assert!(text.contains("/nonexistent/ca.pem"), "{text}");
}

async fn stream_once(
    mesh: &Mesh,
    names: &[&str],
) -> Vec<ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret> {
    let mut stream: Stream = mesh.stream().await;
    stream.ask(names).await;
    stream.secrets(names).await
}

/// istio#54220, spire#5687: SPIRE's own SDS does not have this name.
#[tokio::test]
async fn the_roots_of_the_system_are_a_secret_too() {
    let mesh = Mesh::start().await;
    let told = fetch(&mesh, &["file-root:system"]).await;
    match std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        true => {
            let told = told.unwrap();
            let count = told[0].strip_prefix("file-root:system: ca ").unwrap();
            assert!(count.parse::<usize>().unwrap() > 10, "{told:?}");
        }
        false => assert!(told.is_ok() || told.unwrap_err().1.contains("no root certificates")),
    }
}

/// An incremental stream.
struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn open(mesh: &Mesh) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = mesh.client().await;
        let responses = client
            .delta_secrets(ReceiverStream::new(receiver))
            .await
            .unwrap();
        Self {
            requests,
            responses: responses.into_inner(),
        }
    }

    async fn subscribe(&self, names: &[&str], has: &[(&str, &str)]) {
        let own = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
        let request = DeltaDiscoveryRequest {
            type_url: request(&[]).type_url,
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            initial_resource_versions: has.iter().map(own).collect(),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next response's secrets with their versions, and what it removes.
    async fn next(&mut self) -> (Vec<(String, String)>, Vec<String>) {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        let response = next.expect("a response in time").unwrap().unwrap();
        let secrets = response.resources.iter().map(|resource| {
            let any = resource.resource.as_ref().unwrap();
            let secret = ithildin_proto::unpack(any).unwrap();
            (summary(&secret), resource.version.clone())
        });
        (secrets.collect(), response.removed_resources)
    }
}

#[tokio::test]
async fn delta() {
    let mesh = Mesh::start().await;
    let mut stream = Delta::open(&mesh).await;
    stream
        .subscribe(&["default", "ROOTCA", "spiffe://unknown.test"], &[])
        .await;
    let (secrets, removed) = stream.next().await;
    assert_eq!(secrets.len(), 2);
    assert_eq!(removed, ["spiffe://unknown.test"]);
    let (_, bundle_version) = &secrets[0];

    mesh.authority
        .rotate_leaf(OWN, Some(&id(WORKLOAD)))
        .unwrap();
    mesh.sync().await;
    let (rotated, _) = stream.next().await;
    assert_eq!(rotated[0].0, format!("default: cert {WORKLOAD}"));
    assert_eq!(rotated.len(), 1);

    // A client that comes back is told what it missed, and no more.
    let mut again = Delta::open(&mesh).await;
    let has = [
        ("ROOTCA", bundle_version.as_str()),
        ("default", secrets[1].1.as_str()),
    ];
    again.subscribe(&["default", "ROOTCA"], &has).await;
    let (missed, removed) = again.next().await;
    assert_eq!((missed, removed), (rotated, vec![]));

    mesh.withdraw();
    let (tombstones, removed) = again.next().await;
    let texts: Vec<_> = tombstones.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "ROOTCA: spiffe withdrawn.invalid=1",
            "default: cert of nobody"
        ]
    );
    assert!(removed.is_empty());
}

#[tokio::test]
async fn delta_says_nothing_before_the_source_does() {
    let mesh = Mesh::start().await;
    let ready = mesh.identity.borrow().clone();
    mesh.identity
        .send_replace(IdentityState::Waiting("SPIRE is away".into()));
    let mut stream = Delta::open(&mesh).await;
    stream.subscribe(&["default"], &[]).await;
    let quiet = tokio::time::timeout(crate::common::QUIET, stream.responses.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    mesh.identity.send_replace(ready);
    assert_eq!(stream.next().await.0.len(), 1);
}
