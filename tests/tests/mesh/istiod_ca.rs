//! Identities from istiod's own CA, where there is no SPIRE.

use std::{fs, path::Path, time::SystemTime};

use ithildin_spiffe::{
    X509Svid,
    x509::{PemPair, certificates_from_pem, key_from_pem},
};
use ithildin_tests::{
    Istiod, Lan, Net, Process, clusters, eventually,
    istiod::{ADDRESS, Dialect, HOST},
    mesh::TRUST_DOMAIN,
    process::binary,
};
use rustix::process::geteuid;

const OBJECTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: sleep, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: sleep-0, namespace: default, labels: {app: sleep}}
spec: {serviceAccountName: sleep, containers: [{name: app, image: app}]}
status: {podIP: 10.0.4.1}
"#;

/// What the kubelet mounts, and an agent that finds no SPIRE there.
fn agent(net: &Net, istiod: &Istiod, key: &[(&str, &str)]) -> Process {
    let root = net.subdir("pod");
    for (path, text) in [
        (
            "var/run/secrets/tokens/istio-token",
            istiod.token("default", "sleep", "sleep-0"),
        ),
        (
            "var/run/secrets/istio/root-cert.pem",
            istiod.roots("default"),
        ),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it is below the root"))
            .and_then(|()| fs::write(path, text))
            .expect("the scratch folder is writable");
    }
    // Entering the namespace leads to its root folder.
    let mut command = net.command("sh");
    command
        .args(["-c", "cd \"$0\" && exec \"$@\""])
        .arg(&root)
        .arg(binary("pilot-agent"))
        .args(["proxy", "sidecar", "--dataPlane", "builtin"])
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .env("POD_NAME", "sleep-0")
        .env("POD_NAMESPACE", "default")
        .env("SERVICE_ACCOUNT", "sleep")
        .env("INSTANCE_IP", "10.0.4.1")
        .env("TRUST_DOMAIN", TRUST_DOMAIN)
        .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
        .env("OUTPUT_CERTS", root.join("out"))
        .env("SECRET_TTL", "20s")
        .envs(key.iter().copied());
    net.spawn("agent", command)
}

/// The certificate in the folder; a file after the other is written.
fn held(folder: &Path) -> Result<X509Svid, String> {
    let read = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let (chain, key) = (read("cert-chain.pem")?, read("key.pem")?);
    PemPair::check(&chain, &key).map_err(|error| error.to_string())?;
    let chain = certificates_from_pem(&chain).map_err(|error| error.to_string())?;
    let key = key_from_pem(&key).map_err(|error| error.to_string())?;
    X509Svid::new(chain, key, None).map_err(|error| error.to_string())
}

/// A certificate of twenty seconds is renewed after ten, though nobody asks for a secret; and an istiod
/// that dies and returns is asked again.
#[test]
fn istiod_signs_and_renews() {
    let test = "istiod_signs_and_renews";
    if !geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return;
    }
    let lan = Lan::new();
    let files = [clusters::data("mesh/mesh.yaml")];
    let Some(mut istiod) = Istiod::start(test, &lan, &files, Dialect::Istio) else {
        return;
    };
    istiod.apply("sleep.yaml", OBJECTS);
    for key in [
        &[("ECC_SIGNATURE_ALGORITHM", "ECDSA"), ("ECC_CURVE", "P384")][..],
        &[],
    ] {
        let net = lan.host(
            [10, 0, 4, 1 + u8::from(key.is_empty())].into(),
            &[&format!("{ADDRESS} {HOST}")],
        );
        let mut agent = agent(&net, &istiod, key);
        let out = net.subdir("pod").join("out");
        let first = eventually("istiod has signed", || {
            assert!(agent.is_running(), "{}", agent.log());
            held(&out)
        });
        assert_eq!(
            first.id.as_str(),
            format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/sleep")
        );
        let roots = eventually("the roots are there, too", || {
            fs::read_to_string(out.join("root-cert.pem")).map_err(|error| error.to_string())
        });
        assert_eq!(
            certificates_from_pem(roots.as_bytes()).unwrap(),
            certificates_from_pem(istiod.roots("default").as_bytes()).unwrap()
        );
        let renewed = |than: &X509Svid| {
            let now = held(&out)?;
            match now.chain != than.chain {
                true => Ok(now),
                false => Err("the same certificate".to_owned()),
            }
        };
        let second = eventually("it is renewed", || renewed(&first));
        assert!(SystemTime::now() < first.not_after, "before its end");
        if key.is_empty() {
            istiod.kill();
            istiod.restart();
            eventually("the new istiod renews it", || renewed(&second));
        }
    }
}
