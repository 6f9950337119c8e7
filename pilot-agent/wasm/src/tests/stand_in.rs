//! An HTTP server in place of a site or a registry.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use flate2::{Compression, write::GzEncoder};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::io::Write;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// The smallest module.
pub(super) const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// What it answers to a path.
#[derive(Clone)]
pub(super) enum Reply {
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Less than it promises.
    Cut(Vec<u8>),
    /// A head, and nothing after it.
    Stall,
}

impl Reply {
    pub(super) fn ok(body: &[u8]) -> Self {
        Self::Whole(200, Vec::new(), body.to_vec())
    }

    pub(super) fn status(status: u16) -> Self {
        Self::Whole(status, Vec::new(), Vec::new())
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self::Whole(302, vec![("location", to.to_owned())], Vec::new())
    }
}

type Answer = dyn Fn(&str) -> Option<Reply> + Send + Sync;

/// It ends when it is dropped.
pub(super) struct StandIn {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    task: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    pub(super) async fn start() -> Self {
        Self::with(None, |_| None).await
    }

    /// Whose certificate nobody knows.
    pub(super) async fn with_tls() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self::with(Some(TlsAcceptor::from(Arc::new(config))), |_| None).await
    }

    /// `judge` sees the head of each request first.
    pub(super) async fn judging(
        judge: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::with(None, judge).await
    }

    async fn with(
        tls: Option<TlsAcceptor>,
        judge: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let replies = Arc::new(Mutex::new(HashMap::new()));
        let judge: Arc<Answer> = Arc::new(judge);
        let shared = (Arc::clone(&heard), Arc::clone(&replies));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, replies) = shared.clone();
                let (tls, judge) = (tls.clone(), Arc::clone(&judge));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &heard, &replies, &*judge).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &heard, &replies, &*judge).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            heard,
            replies,
            task,
        }
    }

    pub(super) fn reply(&self, path: &str, reply: Reply) {
        self.replies.lock().insert(path.to_owned(), reply);
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often a path was asked for.
    pub(super) fn count(&self, path: &str) -> usize {
        let begin = format!("GET {path} ");
        let heard = self.heard.lock();
        heard.iter().filter(|head| head.starts_with(&begin)).count()
    }

    /// Heads of requests whose path begins so.
    pub(super) fn heard(&self, path: &str) -> Vec<String> {
        let begin = format!("GET {path}");
        let heard = self.heard.lock();
        let heard = heard.iter().filter(|head| head.starts_with(&begin));
        heard.cloned().collect()
    }

    /// Lays an image into the registry that this is.
    pub(super) fn push(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        layers: &[(&str, &[u8])],
    ) -> String {
        let descriptors: Vec<_> = layers
            .iter()
            .map(|(kind, body)| {
                let digest = crate::file::sha256(body);
                let path = format!("/v2/{repository}/blobs/sha256:{digest}");
                self.reply(&path, Reply::ok(body));
                serde_json::json!({
                    "mediaType": kind, "size": body.len(), "digest": format!("sha256:{digest}"),
                })
            })
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "layers": descriptors});
        self.push_manifest(repository, tag, kind, &manifest)
    }

    pub(super) fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        manifest: &serde_json::Value,
    ) -> String {
        let body = manifest.to_string().into_bytes();
        let digest = crate::file::sha256(&body);
        let head = vec![("content-type", kind.to_owned())];
        let reply = Reply::Whole(200, head, body);
        self.reply(&format!("/v2/{repository}/manifests/{tag}"), reply.clone());
        self.reply(
            &format!("/v2/{repository}/manifests/sha256:{digest}"),
            reply,
        );
        digest
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heard: &Mutex<Vec<String>>,
    replies: &Mutex<HashMap<String, Reply>>,
    judge: &Answer,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            // TLS, of which a server without it says this much.
            Ok(0x16) if head.is_empty() => {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
                return;
            }
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let judged = judge(&head);
    heard.lock().push(head);
    let known = replies.lock().get(&path).cloned();
    let reply = judged.or(known).unwrap_or(Reply::status(404));
    let (status, fields, body, length) = match reply {
        Reply::Whole(status, fields, body) => {
            let length = body.len();
            (status, fields, body, length)
        }
        Reply::Cut(body) => {
            let length = body.len() + 1;
            (200, Vec::new(), body, length)
        }
        Reply::Stall => (200, Vec::new(), Vec::new(), 8),
    };
    let mut text =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let stalls = body.is_empty() && length > 0;
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.flush().await;
    if stalls {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive of these files; a name that ends with a slash is a folder.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, body) in files {
        let mut head = [0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        head[148..156].fill(b' ');
        head[156] = if name.ends_with('/') { b'5' } else { b'0' };
        head[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(head);
        archive.extend(*body);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
