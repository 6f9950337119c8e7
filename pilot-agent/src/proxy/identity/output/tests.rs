use std::{os::unix::fs::PermissionsExt, sync::Arc, time::Instant};

use ithildin_spiffe::{
    Caller, IdentityState, Provider, SpiffeId, TrustDomain, X509Svid,
    authority::{Authority, AuthorityConfig, TrustDomainConfig, WorkloadConfig},
    x509::{PemPair, certificates_from_pem},
};
use ithildin_xds::{SdsOptions, SecretFeeds};

use super::*;

/// Longer than anything takes that works.
const LIMIT: Duration = Duration::from_secs(20);

fn authority() -> Authority {
    let domain = |name: &str| TrustDomain::parse(name).unwrap();
    let mut own = TrustDomainConfig::new(domain("domain.test"));
    let id = SpiffeId::parse("spiffe://domain.test/web").unwrap();
    own.workloads.push(WorkloadConfig::new(id));
    Authority::start(AuthorityConfig {
        trust_domains: vec![own, TrustDomainConfig::new(domain("other.test"))],
        federation: vec![(domain("domain.test"), domain("other.test"))],
    })
    .unwrap()
}

fn follow(authority: &Authority, folder: &Path, in_kubernetes: bool) {
    let provider = authority.agent("domain.test").unwrap();
    let identity = provider.identities(&Caller::default());
    let secrets = LocalSecrets::new(identity, SdsOptions::default(), SecretFeeds::default());
    tokio::spawn(Output::new(folder, in_kubernetes).follow(secrets));
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn svid(authority: &Authority) -> Arc<X509Svid> {
    let provider = authority.agent("domain.test").unwrap();
    let state = provider.identities(&Caller::default()).borrow().clone();
    match state {
        IdentityState::Ready(snapshot) => Arc::clone(&snapshot.svids[0]),
        other => panic!("{other:?}"),
    }
}

fn holds(folder: &Path, svid: &X509Svid) -> bool {
    let chain = fs::read(folder.join(CHAIN)).unwrap_or_default();
    certificates_from_pem(&chain).is_ok_and(|chain| chain == svid.chain)
}

/// istio#53118: nobody subscribes to anything here.
#[tokio::test]
async fn files_follow_each_rotation_though_nobody_subscribes() {
    for (in_kubernetes, mode) in [(false, 0o600), (true, 0o644)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made/by/us");
        let authority = authority();
        follow(&authority, &folder, in_kubernetes);
        for rotation in 0..3 {
            let now = svid(&authority);
            until("the certificate is written", || holds(&folder, &now)).await;
            let read = |name| fs::read(folder.join(name)).unwrap();
            PemPair::check(&read(CHAIN), &read(KEY)).unwrap();
            until("the roots are written", || folder.join(ROOTS).exists()).await;
            let roots = certificates_from_pem(&read(ROOTS)).unwrap();
            let own = TrustDomain::parse("domain.test").unwrap();
            assert_eq!(
                roots,
                authority.bundle(&own).unwrap().roots,
                "ours, and no other's"
            );
            for name in [KEY, CHAIN, ROOTS] {
                let permissions = fs::metadata(folder.join(name)).unwrap().permissions();
                assert_eq!(permissions.mode() & 0o777, mode, "{name} {rotation}");
            }
            assert_eq!(
                fs::read_dir(&folder).unwrap().count(),
                3,
                "nothing else is left"
            );
            authority.rotate_leaf("domain.test", None).unwrap();
        }
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    // A file where the folder should be: nothing can be written, whoever we are.
    fs::write(&folder, "in the way").unwrap();
    let authority = authority();
    follow(&authority, &folder, false);
    sleep(Duration::from_millis(100)).await;
    fs::remove_file(&folder).unwrap();
    let now = svid(&authority);
    until("it is written after all", || holds(&folder, &now)).await;
}

#[test]
fn a_file_is_replaced_whole_and_only_if_it_differs() {
    let dir = tempfile::tempdir().unwrap();
    let output = Output::new(dir.path(), false);
    let path = dir.path().join(CHAIN);
    assert!(output.replace(&path, b"one").unwrap());
    assert!(!output.replace(&path, b"one").unwrap());
    // A reader that has the old file open keeps it whole.
    let mut old = fs::File::open(&path).unwrap();
    fs::write(dir.path().join("cert-chain.pem.new"), "left behind").unwrap();
    assert!(output.replace(&path, b"two").unwrap());
    let mut text = String::new();
    io::Read::read_to_string(&mut old, &mut text).unwrap();
    assert_eq!(
        (text.as_str(), fs::read(&path).unwrap()),
        ("one", b"two".to_vec())
    );
    // What hostile hands put in the way of the new file is not written through.
    let target = dir.path().join("target");
    fs::write(&target, "untouched").unwrap();
    std::os::unix::fs::symlink(&target, dir.path().join("cert-chain.pem.new")).unwrap();
    assert!(output.replace(&path, b"three").unwrap());
    assert_eq!(fs::read(&target).unwrap(), b"untouched");
}

/// In a Pod the workload shares the folder: a file without end would take all memory, and a pipe all
/// time.
#[test]
fn what_the_workload_puts_there_is_replaced_and_not_read_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let output = Output::new(dir.path(), true);
    let path = dir.path().join(CHAIN);
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(output.replace(&path, b"one").unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    assert!(output.replace(&path, b"two").unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"two");
    fs::write(&path, b"two and more").unwrap();
    assert!(output.replace(&path, b"two").unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"two");
}
