//! Server names that are no DNS names, such as SPIFFE IDs.
//!
//! Envoy sends any text as SNI, and Istio lets operators choose one; rustls has DNS names alone. So
//! rustls gets a stand-in of the same length, and the real name takes its place in the ClientHello:
//! on the wire, and in what the transcript's hash is made of, so that both sides hash the same.
//!
//! Invariants: TLS 1.3 alone, where nothing else is computed from the ClientHello's bytes; nothing
//! is resumed, since a binder would be; certificates are judged by the real name.

use std::sync::{Arc, LazyLock};

use foldhash::{HashMap, HashMapExt};
use parking_lot::Mutex;
use rustls::{
    CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{CryptoProvider, hash},
    pki_types::{DnsName, ServerName},
};

/// The longest name that rustls' stand-in can have (RFC 1035, section 3.1).
const LONGEST: usize = 253;

/// Distinct names that a process may use. Each costs some hundred bytes for ever, since rustls wants
/// hash functions that live so long; names come from configurations, a few in all.
const MOST_NAMES: usize = 1024;

/// A name, and what stands in for it inside rustls.
#[derive(Debug)]
pub(crate) struct OpaqueName {
    stand_in: ServerName<'static>,
    /// The `server_name` extension with the stand-in, and the one that is sent.
    inside: Vec<u8>,
    outside: Vec<u8>,
    suites: Vec<SupportedCipherSuite>,
}

impl OpaqueName {
    /// `None` for a name that cannot be sent: too long, empty, or one too many.
    pub(crate) fn get(name: &str, provider: &CryptoProvider) -> Option<Arc<Self>> {
        static NAMES: LazyLock<Mutex<HashMap<Box<str>, Arc<OpaqueName>>>> =
            LazyLock::new(|| Mutex::new(HashMap::new()));
        let mut names = NAMES.lock();
        if let Some(known) = names.get(name) {
            return Some(Arc::clone(known));
        }
        if names.len() >= MOST_NAMES {
            return None;
        }
        let opaque = Arc::new(Self::new(name, provider)?);
        names.insert(name.into(), Arc::clone(&opaque));
        Some(opaque)
    }

    fn new(name: &str, provider: &CryptoProvider) -> Option<Self> {
        if name.len() > LONGEST || name.contains('\0') {
            return None;
        }
        let stand_in = stand_in(name.len());
        let (inside, outside) = (extension(&stand_in)?, extension(name)?);
        let stand_in = DnsName::try_from(stand_in).ok()?;
        let replaced = |inner| Replaced {
            inner,
            inside: inside.clone(),
            outside: outside.clone(),
        };
        let suites = provider.cipher_suites.iter();
        let suites = suites.filter_map(|suite| Some(with_hash(suite.tls13()?, replaced)));
        Some(Self {
            stand_in: ServerName::DnsName(stand_in),
            suites: suites.collect(),
            inside,
            outside,
        })
    }

    /// What rustls is to be told.
    pub(crate) fn stand_in(&self) -> ServerName<'static> {
        self.stand_in.clone()
    }

    /// `provider` with suites that hash the name that is sent. All of TLS 1.3, as always.
    pub(crate) fn provider(&self, provider: &CryptoProvider) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.suites.clone(),
            ..provider.clone()
        }
    }

    /// Puts the name in its place in bytes that rustls wants to send.
    pub(crate) fn put_into(&self, bytes: &mut [u8]) {
        put(bytes, &self.inside, &self.outside);
    }
}

/// A DNS name of this length.
fn stand_in(length: usize) -> String {
    /// Labels have 63 bytes at most (RFC 1035, section 2.3.4).
    const LABEL: usize = 50;
    let dot = |index: usize| index % LABEL == LABEL - 1 && index + 1 < length;
    (0..length)
        .map(|index| if dot(index) { '.' } else { 'x' })
        .collect()
}

/// The extension as it stands in a ClientHello (RFC 6066, section 3); `None` if there is no name.
fn extension(name: &str) -> Option<Vec<u8>> {
    let length = u16::try_from(name.len())
        .ok()
        .filter(|length| *length > 0)?;
    let mut bytes = vec![0, 0];
    bytes.extend((length + 5).to_be_bytes());
    bytes.extend((length + 3).to_be_bytes());
    bytes.push(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend(name.as_bytes());
    Some(bytes)
}

/// Replaces the one place where `inside` stands; both have one length.
fn put(bytes: &mut [u8], inside: &[u8], outside: &[u8]) {
    let place = bytes.windows(inside.len()).position(|it| it == inside);
    if let Some(place) = place {
        bytes[place..place + outside.len()].copy_from_slice(outside);
    }
}

fn with_hash(
    suite: &'static Tls13CipherSuite,
    replaced: impl FnOnce(&'static dyn hash::Hash) -> Replaced,
) -> SupportedCipherSuite {
    let hash_provider = Box::leak(Box::new(replaced(suite.common.hash_provider)));
    let suite = Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: None,
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
}

/// A hash function of transcripts: what it is given holds the stand-in, what it hashes the name.
struct Replaced {
    inner: &'static dyn hash::Hash,
    inside: Vec<u8>,
    outside: Vec<u8>,
}

impl hash::Hash for Replaced {
    fn start(&self) -> Box<dyn hash::Context> {
        Box::new(Transcript {
            inner: self.inner.start(),
            inside: self.inside.clone(),
            outside: self.outside.clone(),
        })
    }

    fn hash(&self, data: &[u8]) -> hash::Output {
        self.inner.hash(data)
    }

    fn output_len(&self) -> usize {
        self.inner.output_len()
    }

    fn algorithm(&self) -> hash::HashAlgorithm {
        self.inner.algorithm()
    }
}

struct Transcript {
    inner: Box<dyn hash::Context>,
    inside: Vec<u8>,
    outside: Vec<u8>,
}

impl hash::Context for Transcript {
    fn fork_finish(&self) -> hash::Output {
        self.inner.fork_finish()
    }

    fn fork(&self) -> Box<dyn hash::Context> {
        Box::new(Self {
            inner: self.inner.fork(),
            inside: self.inside.clone(),
            outside: self.outside.clone(),
        })
    }

    fn finish(self: Box<Self>) -> hash::Output {
        self.inner.finish()
    }

    /// rustls hands over whole messages, so that the extension is never split.
    fn update(&mut self, data: &[u8]) {
        let mut replaced = data.to_vec();
        put(&mut replaced, &self.inside, &self.outside);
        self.inner.update(&replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_a_name_of_the_same_length() {
        for length in 1..=LONGEST {
            let name = stand_in(length);
            assert_eq!(name.len(), length);
            DnsName::try_from(name).unwrap();
        }
    }

    #[test]
    fn names_that_cannot_be_sent_are_refused() {
        let provider = crate::provider::default_provider();
        let long = "/".repeat(LONGEST + 1);
        for name in ["", "a\0b", &long] {
            assert!(OpaqueName::get(name, provider).is_none(), "{name}");
        }
        assert!(OpaqueName::get(&long[1..], provider).is_some());
    }
}
