//! The published `spiffe` crate, an independent client, with our server.

use std::time::Duration;

use spiffe::{TrustDomain, X509Source};
use tempfile::tempdir;
use tokio::time::{sleep, timeout};

use crate::support::{PATIENCE, Serving, WEB, authority, td};

#[tokio::test]
async fn the_published_client_gets_identities_rotations_and_federated_bundles() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let _serving = Serving::start(&authority, &path);
    let builder = X509Source::builder().endpoint(format!("unix://{}", path.display()));
    let source = timeout(PATIENCE, builder.build()).await.unwrap().unwrap();
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id().to_string(), WEB);
    let foreign = TrustDomain::new("example.org").unwrap();
    let bundles = source.bundle_set().unwrap();
    assert!(
        bundles.get(&foreign).is_some(),
        "the federated bundle is there"
    );

    authority.rotate_leaf("domain.test", None).unwrap();
    authority
        .unfederate(&td("domain.test"), &td("example.org"))
        .unwrap();
    let changed = async {
        loop {
            let rotated = source
                .svid()
                .is_ok_and(|now| now.cert_chain() != first.cert_chain());
            let dropped = source
                .bundle_set()
                .is_ok_and(|now| now.get(&foreign).is_none());
            if rotated && dropped {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, changed)
        .await
        .expect("the rotation arrives");
}
