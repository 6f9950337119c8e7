use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;

#[test]
fn addresses() {
    for (text, host, port) in [
        (
            "istiod.istio-system.svc:15012",
            "istiod.istio-system.svc",
            15012,
        ),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:15012", "::1", 15012),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!((address.host.as_str(), address.port), (host, port));
        assert_eq!(address.to_string(), text);
    }
    for bad in [
        "",
        "istiod",
        ":15012",
        "istiod:",
        "istiod:0",
        "::1:15012",
        "[::1:1",
        "a b:1",
        "a:x",
    ] {
        let error = bad.parse::<Address>().unwrap_err().to_string();
        assert_eq!(error, format!("{bad:?} is not of the form host:port"));
    }
}

#[test]
fn the_name_that_istiod_must_bear() {
    for (address, san, expected) in [
        (
            "istiod.istio-system.svc:15012",
            "",
            "istiod.istio-system.svc",
        ),
        ("localhost:15012", "", "istiod.istio-system.svc"),
        ("my.localhost.test:15012", "", "istiod.istio-system.svc"),
        ("istiod-canary.mesh:15012", "", "istiod-canary.mesh"),
        ("localhost:15012", "other.test", "other.test"),
        ("10.0.0.1:15012", "", "10.0.0.1"),
    ] {
        let name = server_name(&address.parse().unwrap(), san).unwrap();
        assert_eq!(name.to_str(), expected, "{address} {san:?}");
    }
    let address = "istiod:15012".parse().unwrap();
    let error = server_name(&address, "not a name").unwrap_err().to_string();
    assert_eq!(error, "\"not a name\" is no DNS name and no IP address");
}

fn endpoint(transport: Transport, port: u16, headers: CallHeaders) -> Endpoint {
    Endpoint::new(options(transport, port, headers))
}

fn options(transport: Transport, port: u16, headers: CallHeaders) -> Options {
    Options {
        address: Address {
            host: "127.0.0.1".into(),
            port,
        },
        transport,
        headers,
        keepalive: DEFAULT_KEEPALIVE,
        keepalive_timeout: DEFAULT_KEEPALIVE_TIMEOUT,
    }
}

fn tls(name: &str, roots: &Path, client: ClientCertificate) -> Transport {
    Transport::Tls(Tls {
        server_name: ServerName::try_from(name.to_owned()).unwrap(),
        roots: Roots::File(roots.to_path_buf()),
        client,
    })
}

#[test]
fn each_call_reads_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("istio-token");
    let extra = [("Tenant", "a"), ("Tenant", "b")];
    let headers = CallHeaders::new(Some(token.clone()), "Kubernetes", extra).unwrap();
    let with_tls = endpoint(
        tls("istiod", folder.path(), ClientCertificate::None),
        1,
        headers.clone(),
    );
    let sent = |endpoint: &Endpoint| {
        let request = endpoint.request(()).unwrap();
        let token = request.metadata().get("authorization").cloned();
        token.map(|token| token.to_str().unwrap().to_owned())
    };
    assert_eq!(sent(&with_tls), None, "there is no file yet");
    fs::write(&token, "first\n").unwrap();
    assert_eq!(sent(&with_tls).as_deref(), Some("Bearer first"));
    fs::write(&token, "second").unwrap();
    assert_eq!(sent(&with_tls).as_deref(), Some("Bearer second"));
    let plain = |host: &str| {
        let mut options = options(Transport::Plaintext, 1, headers.clone());
        options.address.host = host.to_owned();
        Endpoint::new(options)
    };
    for (host, travels) in [
        ("127.0.0.1", true),
        ("::1", true),
        ("localhost", true),
        ("10.0.0.1", false),
        ("istiod.istio-system.svc", false),
        ("localhost.example.org", false),
    ] {
        let sent = sent(&plain(host)).is_some();
        assert_eq!(sent, travels, "in the clear to {host}");
    }
    let plain = plain("istiod");
    let request = plain.request(()).unwrap();
    assert_eq!(request.metadata().get("clusterid").unwrap(), "Kubernetes");
    let tenants: Vec<_> = request.metadata().get_all("tenant").iter().collect();
    assert_eq!(tenants, ["a", "b"]);

    fs::write(&token, "two\nlines").unwrap();
    let error = with_tls.request(()).unwrap_err().to_string();
    assert!(
        error.contains("istio-token") && error.contains("one line"),
        "{error}"
    );
    fs::remove_file(&token).unwrap();
    fs::create_dir(&token).unwrap();
    let error = with_tls.request(()).unwrap_err().to_string();
    assert!(error.contains("istio-token"), "{error}");
    // A pipe would be waited for, and a device read, for ever.
    fs::remove_dir(&token).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &token).unwrap();
    let error = with_tls.request(()).unwrap_err().to_string();
    assert!(error.contains("is not a regular file"), "{error}");
    let error = CallHeaders::new(None, "", [("a b", "x")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"a b\""), "{error}");
}

type Ca = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(ca: &Issuer<'_, KeyPair>, name: &str) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key)
}

/// A TLS server that demands a certificate of `ca`, as the name says, and writes a byte.
async fn server(ca: &Ca, name: &str, demand: bool) -> u16 {
    let (_, key) = issue(ca, name);
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, ca).unwrap().der().clone();
    let builder = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap();
    let builder = match demand {
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(ca.der().to_vec())).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(Arc::new(roots))
                    .build()
                    .unwrap(),
            )
        }
        false => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = builder.with_single_cert(vec![leaf], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await;
            }
        }
    });
    port
}

/// Whether a connection comes about, and the server takes it.
async fn reach(endpoint: &Endpoint) -> Result<(), String> {
    let mut stream = endpoint
        .connect()
        .await
        .map_err(|error| error.to_string())?;
    let read = stream.read_u8().await.map_err(|error| error.to_string())?;
    assert_eq!(read, b'x');
    Ok(())
}

#[tokio::test]
async fn a_wrong_name_is_refused_and_both_names_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    let ca = authority();
    fs::write(&root, ca.pem()).unwrap();
    let port = server(&ca, "impostor.test", false).await;
    let wrong = endpoint(
        tls("istiod.test", &root, ClientCertificate::None),
        port,
        CallHeaders::default(),
    );
    let error = reach(&wrong).await.unwrap_err();
    assert!(
        error.contains("istiod.test") && error.contains("impostor.test"),
        "{error}"
    );
    let right = endpoint(
        tls("impostor.test", &root, ClientCertificate::None),
        port,
        CallHeaders::default(),
    );
    reach(&right).await.unwrap();
}

#[tokio::test]
async fn a_new_root_counts_from_the_next_connection_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    let (old, new) = (authority(), authority());
    let port = server(&new, "istiod.test", false).await;
    let endpoint = endpoint(
        tls("istiod.test", &root, ClientCertificate::None),
        port,
        CallHeaders::default(),
    );
    let error = reach(&endpoint).await.unwrap_err();
    assert!(error.contains("root.pem"), "{error}");
    fs::write(&root, old.pem()).unwrap();
    let error = reach(&endpoint).await.unwrap_err();
    assert!(
        error.contains("invalid peer certificate") && error.contains("root.pem"),
        "{error}"
    );
    fs::write(&root, "not PEM").unwrap();
    let error = reach(&endpoint).await.unwrap_err();
    assert!(error.contains("root.pem"), "{error}");
    fs::write(&root, new.pem()).unwrap();
    reach(&endpoint).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_while_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ca = authority();
    fs::write(path("root.pem"), ca.pem()).unwrap();
    let files = ClientFiles {
        certificate: path("cert-chain.pem"),
        key: path("key.pem"),
    };
    let port = server(&ca, "istiod.test", true).await;
    let transport = tls(
        "istiod.test",
        &path("root.pem"),
        ClientCertificate::Files(files),
    );
    let endpoint = endpoint(transport, port, CallHeaders::default());
    // Without one the connection is made all the same; here the server asks for it.
    assert!(reach(&endpoint).await.is_err());
    let (certificate, key) = issue(&ca, "client.test");
    fs::write(path("cert-chain.pem"), certificate).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    reach(&endpoint).await.unwrap();
}
