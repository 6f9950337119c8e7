//! Images of registries.

use std::sync::Arc;

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Lab, request,
    stand_in::{MODULE, Reply, StandIn, gzip, tar},
};
use crate::{PullPolicy, Request, file::sha256};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const WASM_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

fn layer() -> Vec<u8> {
    gzip(&tar(&[("README", b"x"), ("./plugin.wasm", MODULE)]))
}

fn image(registry: &StandIn, name: &str) -> Request {
    request(&format!("oci://{}/{name}", registry.address))
}

#[tokio::test]
async fn images_of_all_forms() {
    let (lab, registry) = (Lab::new(), StandIn::start().await);
    let archive = layer();
    let oci = registry.push("a/oci", "1", OCI_MANIFEST, &[(OCI_LAYER, &archive)]);
    registry.push("docker", "1", DOCKER_MANIFEST, &[(DOCKER_LAYER, &archive)]);
    let config = "application/vnd.module.wasm.config.v1+json";
    registry.push(
        "module",
        "1",
        OCI_MANIFEST,
        &[(config, b"{}"), (WASM_LAYER, MODULE)],
    );
    let entry = json!({"digest": format!("sha256:{oci}"), "platform": {"os": "linux", "architecture": "amd64"}});
    let index = registry.push_manifest("a/oci", "multi", OCI_INDEX, &json!({"manifests": [entry]}));
    let modules = lab.modules();
    for name in ["a/oci:1", "docker:1", "module:1", "a/oci:multi"] {
        let module = modules.get(&image(&registry, name)).await.unwrap();
        assert_eq!(std::fs::read(module.path()).unwrap(), MODULE, "{name}");
    }
    // Named after the image without its tag, and after its manifest: both tags are one file.
    let module = modules.get(&image(&registry, "a/oci:multi")).await.unwrap();
    let name = sha256(format!("oci://{}/a/oci", registry.address).as_bytes());
    assert_eq!(
        module.path(),
        lab.folder.path().join(name).join(format!("{oci}.wasm"))
    );
    let blob = format!("/v2/a/oci/blobs/sha256:{}", sha256(&archive));
    assert_eq!(registry.count(&blob), 1);
    // By either digest.
    for digest in [oci, index] {
        let request = image(&registry, &format!("a/oci@sha256:{digest}"));
        modules.get(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_tag_is_asked_for_again_as_the_policy_says() {
    let (lab, registry) = (Lab::new(), StandIn::start().await);
    let archive = layer();
    for tag in ["1", "latest"] {
        registry.push("a", tag, OCI_MANIFEST, &[(OCI_LAYER, &archive)]);
    }
    let modules = lab.modules();
    for (tag, policy, asked) in [
        ("1", PullPolicy::Unspecified, 1),
        ("1", PullPolicy::Always, 2),
        ("latest", PullPolicy::Unspecified, 2),
        ("latest", PullPolicy::IfNotPresent, 1),
    ] {
        let path = format!("/v2/a/manifests/{tag}");
        let before = registry.count(&path);
        for version in ["1", "2"] {
            let mut request = image(&registry, &format!("a:{tag}"));
            request.policy = policy;
            request.resource = format!("{tag} {policy:?}");
            request.resource_version = version.into();
            modules.get(&request).await.unwrap();
        }
        // What was there before counts for those that take any version.
        let expected = if before > 0 && asked == 1 { 0 } else { asked };
        assert_eq!(registry.count(&path) - before, expected, "{tag} {policy:?}");
    }
    let blob = format!("/v2/a/blobs/sha256:{}", sha256(&archive));
    assert_eq!(
        registry.count(&blob),
        1,
        "the manifest was the same each time"
    );
}

#[tokio::test]
async fn an_image_that_is_not_what_it_should_be() {
    let (lab, registry) = (Lab::new(), StandIn::start().await);
    let none = gzip(&tar(&[("other.wasm", MODULE)]));
    registry.push("none", "1", OCI_MANIFEST, &[(OCI_LAYER, &none)]);
    let text = gzip(&tar(&[("plugin.wasm", b"text")]));
    registry.push("text", "1", OCI_MANIFEST, &[(OCI_LAYER, &text)]);
    registry.push("plain", "1", OCI_MANIFEST, &[(OCI_LAYER, MODULE)]);
    let forged = layer();
    registry.push("forged", "1", OCI_MANIFEST, &[(OCI_LAYER, &forged)]);
    let blob = format!("/v2/forged/blobs/sha256:{}", sha256(&forged));
    registry.reply(&blob, Reply::ok(&none));
    registry.reply("/v2/json/manifests/1", Reply::ok(b"<html>"));
    registry.reply("/v2/large/manifests/1", Reply::ok(&vec![b' '; 5 << 20]));
    for (name, reason) in [
        ("none:1", "the archive has no plugin.wasm"),
        ("text:1", "not a Wasm module"),
        ("plain:1", "the archive: "),
        ("forged:1", "the checksum is "),
        ("json:1", "the image's manifest: "),
        ("large:1", "larger than 4194304 bytes"),
        ("gone:1", "status 404"),
    ] {
        let error = lab.refused(&image(&registry, name)).await;
        assert!(error.contains(reason), "{name}: {error}");
    }
    // A manifest that is not the one of its digest, and one that is not the checksum's.
    let digest = "b".repeat(64);
    let body = json!({"layers": []}).to_string();
    let path = format!("/v2/pinned/manifests/sha256:{digest}");
    registry.reply(&path, Reply::ok(body.as_bytes()));
    let pinned = image(&registry, &format!("pinned@sha256:{digest}"));
    let error = lab.refused(&pinned).await;
    assert!(error.contains(&format!("not {digest}")), "{error}");
    let mut summed = image(&registry, "none:1");
    summed.checksum = Some(digest.clone());
    let error = lab.refused(&summed).await;
    assert!(error.contains(&format!("not {digest}")), "{error}");
}

/// A registry that wants a token of its own realm, which wants a user's password.
async fn guarded() -> StandIn {
    let realm = Arc::new(std::sync::OnceLock::new());
    let known = Arc::clone(&realm);
    let registry = StandIn::judging(move |head| {
        let shown = |value: &str| head.contains(&format!("authorization: {value}\r\n"));
        // u:p
        if head.starts_with("GET /token") {
            return match shown("Basic dTpw") {
                true => Some(Reply::ok(br#"{"token": "t0ken"}"#)),
                false => Some(Reply::status(401)),
            };
        }
        if shown("Bearer t0ken") {
            return None;
        }
        let realm: &String = known.get().unwrap();
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"r\",scope=\"repository:a:pull\"");
        Some(Reply::Whole(
            401,
            vec![("www-authenticate", challenge)],
            Vec::new(),
        ))
    })
    .await;
    realm.set(registry.url("/token")).unwrap();
    registry
}

fn secret(registry: &StandIn, auth: &str) -> Option<Zeroizing<String>> {
    let auths = json!({registry.address.to_string(): {"auth": auth}});
    Some(Zeroizing::new(json!({"auths": auths}).to_string()))
}

#[tokio::test]
async fn a_pull_secret_gets_a_token() {
    let (lab, registry) = (Lab::new(), guarded().await);
    let other = StandIn::start().await;
    let archive = layer();
    registry.push("a", "1", OCI_MANIFEST, &[(OCI_LAYER, &archive)]);
    let blob = format!("/v2/a/blobs/sha256:{}", sha256(&archive));
    other.reply("/storage?signed", Reply::ok(&archive));
    registry.reply(&blob, Reply::redirect(&other.url("/storage?signed")));
    let mut request = image(&registry, "a:1");
    request.pull_secret = secret(&registry, "dTpw");
    let module = lab.modules().get(&request).await.unwrap();
    assert_eq!(std::fs::read(module.path()).unwrap(), MODULE);
    let asked = registry.heard("/token");
    assert!(
        asked[0].starts_with("GET /token?service=r&scope=repository:a:pull "),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 1, "one token serves for all of it");
    let stored = other.heard("/storage");
    assert!(!stored[0].contains("authorization"), "{stored:?}");
}

#[tokio::test]
async fn a_wrong_secret_is_told_and_not_shown() {
    let (lab, registry) = (Lab::new(), guarded().await);
    registry.push("a", "1", OCI_MANIFEST, &[(OCI_LAYER, &layer())]);
    let mut request = image(&registry, "a:1");
    // u:x
    for wrong in [None, secret(&registry, "dTp4")] {
        request.pull_secret = wrong;
        let error = lab.refused(&request).await;
        assert!(error.contains("/token: status 401"), "{error}");
        assert!(!error.contains("dTp4"), "{error}");
    }
    for (text, reason) in [("null", "Docker's config.json"), ("s3cret", "no JSON")] {
        request.pull_secret = Some(Zeroizing::new(text.into()));
        let error = lab.refused(&request).await;
        assert!(
            error.contains(reason) && !error.contains("s3cret"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_secret_in_dockers_folder_and_a_basic_challenge() {
    let registry = StandIn::judging(|head| {
        let challenge = vec![("www-authenticate", "Basic realm=\"r\"".to_owned())];
        let shown = head.contains("authorization: Basic dTpw\r\n");
        (!shown).then(|| Reply::Whole(401, challenge, Vec::new()))
    })
    .await;
    registry.push("a", "1", OCI_MANIFEST, &[(OCI_LAYER, &layer())]);
    let mut lab = Lab::new();
    let error = lab.refused(&image(&registry, "a:1")).await;
    assert!(error.contains("status 401"), "{error}");
    let docker = tempfile::tempdir().unwrap();
    let config = secret(&registry, "dTpw").unwrap();
    std::fs::write(docker.path().join("config.json"), config.as_bytes()).unwrap();
    lab.options.docker_config = Some(docker.path().to_path_buf());
    lab.modules().get(&image(&registry, "a:1")).await.unwrap();
}

#[tokio::test]
async fn a_registry_may_not_choose_whom_we_talk_to() {
    for realm in [
        "http://169.254.169.254/t",
        "http://localhost/t",
        "file:///t",
    ] {
        let registry = StandIn::judging(move |_| {
            let challenge = format!("Bearer realm=\"{realm}\"");
            Some(Reply::Whole(
                401,
                vec![("www-authenticate", challenge)],
                Vec::new(),
            ))
        })
        .await;
        let error = Lab::new().refused(&image(&registry, "a:1")).await;
        let told = error.contains("the realm is") || error.contains("never asked");
        assert!(told, "{realm}: {error}");
    }
}

#[tokio::test]
async fn a_registry_with_a_certificate_that_nobody_knows() {
    let (mut lab, registry) = (Lab::new(), StandIn::with_tls().await);
    registry.push("a", "1", OCI_MANIFEST, &[(OCI_LAYER, &layer())]);
    assert!(lab.modules().get(&image(&registry, "a:1")).await.is_err());
    lab.options.insecure.insert(registry.address.to_string());
    lab.modules().get(&image(&registry, "a:1")).await.unwrap();
}

#[tokio::test]
async fn a_pipe_for_a_docker_configuration_holds_nobody_up() {
    let (mut lab, registry) = (Lab::new(), StandIn::start().await);
    registry.push("a", "1", OCI_MANIFEST, &[(OCI_LAYER, &layer())]);
    let docker = tempfile::tempdir().unwrap();
    let pipe = docker.path().join("config.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    lab.options.docker_config = Some(docker.path().to_path_buf());
    let error = lab.refused(&image(&registry, "a:1")).await;
    assert!(error.contains("is not a regular file"), "{error}");
}
