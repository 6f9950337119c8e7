//! Files that are not what they should be.

use std::{fs, path::PathBuf};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::secret;
use ithildin_xds::{
    FileIdentity, SecretState,
    sds::{ExtraRoots, FileOptions, certificate_pem, roots_pem},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::watch;

use crate::common::{LIMIT, QUIET};

/// A folder with an identity in it, which is followed.
struct Folder {
    dir: tempfile::TempDir,
    extra: watch::Sender<ExtraRoots>,
}

impl Folder {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            extra: watch::Sender::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The certificate and the trust.
    fn follow(&self) -> (watch::Receiver<SecretState>, watch::Receiver<SecretState>) {
        let identity = FileIdentity {
            certificate: Some((self.path("chain"), self.path("key"))),
            roots: Some(self.path("roots")),
        };
        let options = FileOptions {
            crl: Some(self.path("crl")),
            ..FileOptions::default()
        };
        let feeds = identity.follow(&options, self.extra.subscribe());
        let feed = |name| feeds.get(name).unwrap();
        (feed("default"), feed("ROOTCA"))
    }
}

/// A self-signed certificate of no SPIFFE ID, and its key: any PKI will do.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

async fn until(
    states: &mut watch::Receiver<SecretState>,
    wanted: impl FnMut(&SecretState) -> bool,
) -> SecretState {
    let state = tokio::time::timeout(LIMIT, states.wait_for(wanted)).await;
    state.expect("the state comes").unwrap().clone()
}

fn shows(chain: &str) -> impl Fn(&SecretState) -> bool {
    move |state| match state {
        SecretState::Ready(secret) => {
            certificate_pem(secret).is_some_and(|(pem, _)| pem == chain.as_bytes())
        }
        _ => false,
    }
}

fn trusts(count: usize) -> impl Fn(&SecretState) -> bool {
    move |state| match state {
        SecretState::Ready(secret) => roots_pem(secret).is_some_and(|pem| {
            String::from_utf8(pem)
                .unwrap()
                .matches("BEGIN CERTIFICATE")
                .count()
                == count
        }),
        _ => false,
    }
}

#[tokio::test]
async fn a_certificate_is_served_with_its_own_key_and_no_other() {
    let folder = Folder::new();
    let ((chain, key), (second_chain, second_key)) = (pair(), pair());
    let (mut certificate, _) = folder.follow();
    let waits = |part: &'static str| move |state: &SecretState| matches!(state, SecretState::Pending(text) if text.contains(part));
    until(&mut certificate, waits("chain")).await;
    let mut late = {
        folder.write("chain", &chain);
        folder.write("key", &second_key);
        folder.follow().0
    };
    until(&mut late, waits("does not belong to the first certificate")).await;
    folder.write("key", &key);
    until(&mut late, shows(&chain)).await;
    until(&mut certificate, shows(&chain)).await;

    // Half of a rotation, in whichever half, changes nothing.
    for (name, text) in [
        ("chain", second_chain.as_str()),
        ("chain", &second_chain[..second_chain.len() / 2]),
        ("chain", "garbage"),
        ("chain", ""),
        ("key", &second_key[..second_key.len() / 2]),
        ("key", ""),
    ] {
        folder.write("chain", &chain);
        folder.write("key", &key);
        folder.write(name, text);
        tokio::time::sleep(QUIET).await;
        assert!(
            shows(&chain)(&certificate.borrow_and_update()),
            "{name} {text:?}"
        );
    }
    fs::remove_file(folder.path("key")).unwrap();
    folder.write("chain", &second_chain);
    folder.write("key", &second_key);
    until(&mut certificate, shows(&second_chain)).await;
}

/// The forms that openssl and Go write.
#[tokio::test]
async fn keys_come_in_several_forms() {
    const FORMS: [(&str, &[&str]); 3] = [
        (
            "EC PRIVATE KEY",
            &["ecparam", "-name", "prime256v1", "-genkey", "-out"],
        ),
        ("RSA PRIVATE KEY", &["genrsa", "-traditional", "-out"]),
        ("PRIVATE KEY", &["genpkey", "-algorithm", "ED25519", "-out"]),
    ];
    for (label, arguments) in FORMS {
        let folder = Folder::new();
        let openssl = |arguments: &[&str]| {
            let mut command = std::process::Command::new("openssl");
            let done = command
                .current_dir(folder.dir.path())
                .args(arguments)
                .output();
            let done = done.expect("openssl is installed");
            assert!(done.status.success(), "{done:?}");
        };
        openssl(&[arguments, &["key"]].concat());
        openssl(&[
            "req", "-x509", "-new", "-key", "key", "-subj", "/CN=x", "-out", "chain",
        ]);
        let key = fs::read_to_string(folder.path("key")).unwrap();
        assert!(key.contains(&format!("BEGIN {label}")), "{key}");
        // Both in one file, with words around them and the line ends of another system.
        let chain = fs::read_to_string(folder.path("chain")).unwrap();
        let both = format!("subject=/CN=x\n{key}\nissuer=/CN=x\n{chain}").replace('\n', "\r\n");
        folder.write("chain", &both);
        folder.write("key", &both);
        let (mut certificate, _) = folder.follow();
        until(&mut certificate, shows(&both)).await;
    }
}

#[tokio::test]
async fn one_odd_root_does_not_take_the_others_along_and_a_cut_file_is_not_taken() {
    let folder = Folder::new();
    let ((one, _), (two, _)) = (pair(), pair());
    let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    folder.write("roots", &format!("{one}{odd}{two}"));
    let (_, mut trust) = folder.follow();
    until(&mut trust, trusts(2)).await;
    for broken in [
        odd,
        "",
        "no PEM",
        &format!("{one}{}", &two[..two.len() / 2]),
    ] {
        folder.write("roots", broken);
        tokio::time::sleep(QUIET).await;
        assert!(trusts(2)(&trust.borrow_and_update()), "{broken:?}");
    }
    folder.write("roots", &one);
    until(&mut trust, trusts(1)).await;
}

#[tokio::test]
async fn the_meshs_roots_and_revocations_are_added() {
    let folder = Folder::new();
    let ((one, _), (two, _)) = (pair(), pair());
    folder.write("roots", &one);
    let (_, mut trust) = folder.follow();
    until(&mut trust, trusts(1)).await;
    let der = ithildin_spiffe::x509::certificates_from_pem(two.as_bytes()).unwrap();
    folder.extra.send_replace(der.into());
    until(&mut trust, trusts(2)).await;

    let issuer = rcgen::CertifiedIssuer::self_signed(
        {
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
            params
        },
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let now = time::OffsetDateTime::now_utc();
    let list = rcgen::CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::hours(1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let has_crl = |wanted: bool| {
        move |state: &SecretState| match state {
            SecretState::Ready(secret) => match &secret.r#type {
                Some(secret::Type::ValidationContext(context)) => context.crl.is_some() == wanted,
                _ => false,
            },
            _ => false,
        }
    };
    assert!(has_crl(false)(&trust.borrow()));
    folder.write("crl", &list.signed_by(&issuer).unwrap().pem().unwrap());
    until(&mut trust, has_crl(true)).await;
    // What is broken leaves what was read.
    folder.write(
        "crl",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    );
    tokio::time::sleep(QUIET).await;
    assert!(has_crl(true)(&trust.borrow_and_update()));
    fs::remove_file(folder.path("crl")).unwrap();
    until(&mut trust, has_crl(false)).await;
}

/// istio#59912.
#[tokio::test]
async fn no_rotation_is_missed() {
    let folder = Folder::new();
    let (mut chain, key) = pair();
    folder.write("chain", &chain);
    folder.write("key", &key);
    let (mut certificate, _) = folder.follow();
    for _ in 0..5 {
        until(&mut certificate, shows(&chain)).await;
        let (next, key) = pair();
        folder.write("key.tmp", &key);
        folder.write("chain.tmp", &next);
        fs::rename(folder.path("key.tmp"), folder.path("key")).unwrap();
        fs::rename(folder.path("chain.tmp"), folder.path("chain")).unwrap();
        chain = next;
    }
    until(&mut certificate, shows(&chain)).await;
}

/// Whoever can write to the folder can lead us anywhere, but not make us wait, or read without end.
#[tokio::test]
async fn links_that_lead_elsewhere_are_survived() {
    let folder = Folder::new();
    let (chain, key) = pair();
    folder.write("chain", &chain);
    folder.write("key", &key);
    folder.write("huge", &"x".repeat(5 << 20));
    let fifo = folder.path("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let (mut certificate, _) = folder.follow();
    until(&mut certificate, shows(&chain)).await;
    for target in ["/dev/zero", "/", "/nowhere", "chain", "fifo", "huge"] {
        fs::remove_file(folder.path("chain")).unwrap();
        std::os::unix::fs::symlink(target, folder.path("chain")).unwrap();
        tokio::time::sleep(QUIET).await;
        assert!(shows(&chain)(&certificate.borrow_and_update()), "{target}");
    }
    fs::remove_file(folder.path("chain")).unwrap();
    let (chain, key) = pair();
    folder.write("key", &key);
    folder.write("chain", &chain);
    until(&mut certificate, shows(&chain)).await;
}
