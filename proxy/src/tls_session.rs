//! A TLS session as logs and headers tell of it.

use std::{cell::OnceCell, fmt::Write, sync::Arc};

use ithildin_spiffe::x509::claims_spiffe;
use ithildin_tls::{
    Identity, Peer, TlsStream,
    certificate::{Description, describe},
    is_plain,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// What is known of an established session, for as long as its connection lives.
#[derive(Debug)]
pub struct TlsSession {
    /// The negotiated protocol.
    pub alpn: Option<Box<[u8]>>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// Its number in IANA's registry.
    pub cipher_number: Option<u16>,
    pub resumed: bool,
    /// The verified peer, where it presented a certificate.
    pub peer: Option<Arc<Peer>>,
    /// What we showed the peer.
    pub identity: Option<Arc<Identity>>,
    /// Of most sessions nothing is asked.
    texts: OnceCell<Box<Texts>>,
}

#[derive(Debug, Default)]
struct Texts {
    peer: OnceCell<Option<CertificateText>>,
    own: OnceCell<Option<CertificateText>>,
}

/// A leaf certificate, as text.
#[derive(Debug)]
pub struct CertificateText {
    pub description: Description,
    /// URI SANs, joined by commas; empty without one. Fit for a line of a log: a control character is
    /// `_` here and in the next.
    pub uri_sans: String,
    /// DNS SANs, joined by commas.
    pub dns_sans: String,
    /// SHA-256 of the leaf, in lower-case hex.
    pub fingerprint: String,
}

impl TlsSession {
    pub fn of<S: AsyncRead + AsyncWrite + Unpin>(stream: &TlsStream<S>) -> Self {
        Self {
            alpn: stream.alpn().map(Box::from),
            version: stream.version(),
            cipher: stream.cipher(),
            cipher_number: stream.cipher_number(),
            resumed: stream.resumed(),
            peer: stream.peer().cloned(),
            identity: stream.identity().cloned(),
            texts: OnceCell::new(),
        }
    }

    /// The peer's leaf; read when it is first asked for.
    pub fn peer_text(&self) -> Option<&CertificateText> {
        let read = || {
            let peer = self.peer.as_ref()?;
            CertificateText::of(peer.chain.first()?, &peer.fingerprint())
        };
        let texts = self.texts.get_or_init(Box::default);
        texts.peer.get_or_init(read).as_ref()
    }

    /// The names that policies know the peer by, in the order in which Envoy looks at them: URI SANs,
    /// DNS SANs, the subject. A SPIFFE ID counts only where trust stands behind it; and what stands
    /// beside one must not look like another, since its CA, of a federated domain perhaps, vouches for
    /// the ID alone.
    pub fn peer_names(&self) -> impl Iterator<Item = &str> {
        let verified = self.peer.as_ref().and_then(|peer| peer.id.as_ref());
        let described = self.peer_text().map(|text| &text.description);
        described.into_iter().flat_map(move |it| {
            let uris = it.uri_sans.iter();
            let uris = uris.filter(move |uri| verified.is_some() || !claims_spiffe(uri));
            let dns = it.dns_sans.iter().filter(|name| is_plain(name));
            let is_shown = verified.is_none() || !it.subject.contains('/');
            let subject = is_shown.then_some(&it.subject);
            uris.chain(dns).chain(subject).map(String::as_str)
        })
    }

    /// Our own leaf; read when it is first asked for.
    pub fn own_text(&self) -> Option<&CertificateText> {
        let read = || CertificateText::of(self.identity.as_ref()?.chain().first()?, &[]);
        let texts = self.texts.get_or_init(Box::default);
        texts.own.get_or_init(read).as_ref()
    }
}

impl CertificateText {
    fn of(der: &[u8], fingerprint: &[u8]) -> Option<Self> {
        let description = describe(der)?;
        Some(Self {
            uri_sans: description
                .uri_sans
                .join(",")
                .replace(char::is_control, "_"),
            dns_sans: description
                .dns_sans
                .join(",")
                .replace(char::is_control, "_"),
            fingerprint: hex(fingerprint),
            description,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
