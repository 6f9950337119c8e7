//! Other implementations as peers: rustls by its own driver, OpenSSL, curl.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output, Stdio},
};

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::KeyPair;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::testing::Ca;

async fn tcp() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A client certificate that web tools can use: an SVID with a DNS name besides.
fn named(ca: &Ca, id: &str) -> (rustls::pki_types::CertificateDer<'static>, KeyPair) {
    let mut params = svid_params(id);
    let name = rcgen::SanType::DnsName("localhost".try_into().unwrap());
    params.subject_alt_names.push(name);
    ca.sign(&params)
}

/// OpenSSL's server prints the name that it is asked for, and its transcript must be ours. One
/// group that we do not offer first makes it ask again for a key share.
#[tokio::test]
async fn openssl_gets_names_that_are_no_dns_names() {
    const NAME: &str = "spiffe://example.org/my-sni";
    let ca = spiffe_root("example.org");
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = named(&ca, "spiffe://example.org/openssl");
    let write = |name: &str, label: &str, der: &[u8]| {
        let text = BASE64_STANDARD.encode(der);
        let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
        std::fs::write(folder.path().join(name), pem).unwrap();
    };
    write("cert.pem", "CERTIFICATE", &certificate);
    write("key.pem", "PRIVATE KEY", &key.serialize_der());
    for group in ["X25519", "P-384"] {
        let port = ithildin_sys::port::unused().unwrap();
        let mut server = Command::new("openssl")
            .args(["s_server", "-tls1_3", "-trace", "-groups", group, "-accept"])
            .arg(port.to_string())
            .args(["-cert", "cert.pem", "-key", "key.pem", "-naccept", "1"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let io = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(io) => break io,
                Err(_) => assert!(server.try_wait().unwrap().is_none(), "openssl ended"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let trust = validation(bundles(&[("example.org", &ca)]));
        let ours = client_params(ca.svid("spiffe://example.org/us"), trust);
        let ours = ClientContext::new(ours).unwrap();
        let mut stream = bounded(ours.connect(io, Some(NAME), None)).await.unwrap();
        assert_eq!(stream.version(), "TLSv1.3");
        stream.write_all(b"over it goes\n").await.unwrap();
        stream.shutdown().await.unwrap();
        // It ends when it has read all, and at once when it has no input.
        let _ = bounded(stream.read(&mut [0; 1])).await;
        drop(server.stdin.take());
        let output = server.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("over it goes"), "{group}: {text}");
        // It prints sixteen bytes a line.
        for part in ["spiffe://e", "xample.org/my-s"] {
            assert!(text.contains(part), "{group}: {text}");
        }
    }
}

#[tokio::test]
async fn such_names_take_tls_13() {
    let ca = spiffe_root("example.org");
    let trust = validation(bundles(&[("example.org", &ca)]));
    let mut params = client_params(ca.svid("spiffe://example.org/us"), trust);
    params.versions.1 = TlsVersion::Tls12;
    let ours = ClientContext::new(params).unwrap();
    let (_a, b) = duplex(PIPE);
    let error = ours.connect(b, Some("a/b"), None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "tls protocol error: the SNI \"a/b\" is not a DNS name, which takes TLS 1.3"
    );
}

#[tokio::test]
async fn rustls_as_server_and_as_client() {
    let ca = spiffe_root("example.org");
    let trust = || validation(bundles(&[("example.org", &ca)]));
    let (der, key) = named(&ca, "spiffe://example.org/rustls");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = provider::default_provider();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.clone(),
        provider.clone(),
    );
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![der.clone()], key.clone_key())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der], key)
        .unwrap();

    let ours = client_params(ca.svid("spiffe://example.org/us"), trust());
    let ours = ClientContext::new(ours).unwrap();
    let (a, b) = duplex(PIPE);
    let (theirs, ours) = tokio::join!(
        TlsAcceptor::from(Arc::new(server)).accept(a),
        ours.connect(b, Some("localhost"), None)
    );
    echo(ours.unwrap(), theirs.unwrap()).await;

    let mut params = server_params(Arc::new(localhost(&ca)), trust());
    params.alpn.clear();
    let ours = ServerContext::new(params).unwrap();
    let (a, b) = duplex(PIPE);
    let (ours, theirs) = tokio::join!(
        accept(a, &ours),
        TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), b)
    );
    let ours = ours.unwrap();
    let id = ours.peer().unwrap().id.clone().unwrap();
    assert_eq!(id.as_str(), "spiffe://example.org/rustls");
    echo(ours, theirs.unwrap()).await;
}

fn localhost(ca: &Ca) -> Identity {
    let (der, key) = named(ca, "spiffe://example.org/us");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Identity::from_der(vec![der], key).unwrap()
}

async fn echo<A, B>(mut a: A, mut b: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let text = vec![9; 100_000];
    let mut received = Vec::new();
    bounded(async {
        tokio::join!(
            async {
                a.write_all(&text).await.unwrap();
                a.shutdown().await.unwrap();
            },
            async {
                b.read_to_end(&mut received).await.unwrap();
            }
        )
    })
    .await;
    assert!(received == text);
    b.write_all(b"done").await.unwrap();
    b.shutdown().await.unwrap();
    let mut text = String::new();
    bounded(a.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "done");
}

fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg(if program == "curl" {
            "--version"
        } else {
            "version"
        })
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: this machine has no {program}");
    }
    found
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    let base64 = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).collect();
    let body = lines.join(&b'\n');
    let body = String::from_utf8(body).unwrap();
    let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    std::fs::write(path, pem).unwrap();
}

/// `ca.pem`, and `{name}.pem` with `{name}.key` for each identity.
fn folder(
    ca: &Ca,
    identities: &[(&str, &rustls::pki_types::CertificateDer<'_>, &KeyPair)],
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_pem(&folder.path().join("ca.pem"), "CERTIFICATE", &ca.der);
    for (name, der, key) in identities {
        write_pem(
            &folder.path().join(format!("{name}.pem")),
            "CERTIFICATE",
            der,
        );
        let path = folder.path().join(format!("{name}.key"));
        write_pem(&path, "PRIVATE KEY", &key.serialize_der());
    }
    folder
}

async fn run(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    bounded(running).await.unwrap()
}

/// Answers one connection as an HTTP server that names its peer.
async fn serve_once(listener: TcpListener, context: ServerContext) -> Result<(), HandshakeError> {
    let (socket, _) = listener.accept().await?;
    let mut stream = accept(socket, &context).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let peer = stream.peer().and_then(|peer| peer.id.clone());
    let body = peer.map_or("nobody".to_owned(), |id| id.to_string());
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn curl_and_openssl_as_clients() {
    let (own, other) = (spiffe_root("example.org"), spiffe_root("domain.test"));
    let (good, good_key) = own.sign(&svid_params("spiffe://example.org/tool"));
    let (bad, bad_key) = other.sign(&svid_params("spiffe://example.org/tool"));
    let folder = folder(&own, &[("good", &good, &good_key), ("bad", &bad, &bad_key)]);
    let context = || {
        let trust = validation(bundles(&[("example.org", &own)]));
        let mut params = server_params(Arc::new(localhost(&own)), trust);
        params.alpn = vec![b"http/1.1".to_vec()];
        ServerContext::new(params).unwrap()
    };
    let path = |name: &str| folder.path().join(name).display().to_string();
    for version in ["1.2", "1.3"] {
        for (name, expected) in [("good", "spiffe://example.org/tool"), ("bad", "")] {
            if has("curl") {
                let (listener, port) = tcp().await;
                let mut curl = Command::new("curl");
                curl.args(["-s", "--max-time", "20", "--noproxy", "*"])
                    .args([&format!("--tlsv{version}"), "--tls-max", version])
                    .args(["--cacert", &path("ca.pem")])
                    .args([
                        "--cert",
                        &path(&format!("{name}.pem")),
                        "--key",
                        &path(&format!("{name}.key")),
                    ])
                    .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
                    .arg(format!("https://localhost:{port}/"));
                let (served, output) = tokio::join!(serve_once(listener, context()), run(curl));
                assert_eq!(
                    output.stdout,
                    expected.as_bytes(),
                    "curl {version} {name}: {served:?}"
                );
                assert_eq!(served.is_ok(), name == "good");
            }
            if has("openssl") {
                let (listener, port) = tcp().await;
                let mut openssl = Command::new("sh");
                // The pause keeps its input open until it has the answer.
                let script = format!(
                    "printf 'GET / HTTP/1.1\\r\\n\\r\\n' | openssl s_client -quiet -no_ign_eof -ign_eof \
                     -connect 127.0.0.1:{port} -servername localhost -tls{} \
                     -CAfile {} -cert {} -key {} -verify_return_error -alpn http/1.1",
                    version.replace('.', "_"),
                    path("ca.pem"),
                    path(&format!("{name}.pem")),
                    path(&format!("{name}.key")),
                );
                openssl.args(["-c", &script]).stdin(Stdio::null());
                let (served, output) = tokio::join!(serve_once(listener, context()), run(openssl));
                let answer = String::from_utf8_lossy(&output.stdout).into_owned();
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(
                    served.is_ok(),
                    name == "good",
                    "openssl {version} {name}: {served:?} {error}"
                );
                assert_eq!(
                    answer.contains("200 OK"),
                    name == "good",
                    "{answer} {error}"
                );
                if name == "bad" {
                    assert!(
                        error.contains("unknown ca"),
                        "the alert is not seen: {error}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn openssl_as_server() {
    if !has("openssl") {
        return;
    }
    let ca = spiffe_root("example.org");
    let (der, key) = ca.sign(&svid_params("spiffe://example.org/openssl"));
    let folder = folder(&ca, &[("server", &der, &key)]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let port = ithildin_sys::port::unused().unwrap();
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-rev", "-naccept", "1", version])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", &path("server.pem"), "-key", &path("server.key")])
            .args([
                "-CAfile",
                &path("ca.pem"),
                "-Verify",
                "2",
                "-verify_return_error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Killed(server);
        let socket = bounded(async {
            loop {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                    Ok(socket) => return socket,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
        let trust = validation(bundles(&[("example.org", &ca)]));
        let client = ClientContext::new(client_params(ca.svid("spiffe://example.org/us"), trust));
        let mut stream = client.unwrap().connect(socket, None, None).await.unwrap();
        let id = stream.peer().unwrap().id.clone().unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/openssl");
        // It sends each line back in reverse.
        stream.write_all(b"abc\n").await.unwrap();
        let mut answer = [0; 4];
        bounded(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"cba\n");
        drop(server);
    }
}

/// Ends the process when the test does, however it does.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
