//! A gateway's `credentialName`: a secret that istiod sends over the aggregated stream.

use std::time::{Duration, Instant};

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::{
            core::v3::{
                AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, TransportSocket,
                config_source::ConfigSourceSpecifier, data_source::Specifier,
                transport_socket::ConfigType,
            },
            listener::v3::Listener,
        },
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret, TlsCertificate,
            secret::Type,
        },
    },
};
use ithildin_tests::{
    DataPlane,
    curl::{self, Answer},
    eventually,
    pki::{Ca, Svid},
    replay::{self, recording},
};

use crate::{
    has,
    scene::{Plan, ROUTER, Scene},
};

const CREDENTIAL: &str = "kubernetes://bookinfo-cred";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const LISTENER: &str = "0.0.0.0_8080";
const HOST: &str = "bookinfo.example.org";
/// `initial_fetch_timeout` where it is not set, as in what istiod sends for secrets of this sort.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn serve_and_rotate_on_builtin() {
    serve_and_rotate("secrets::serve_and_rotate_on_builtin", DataPlane::Builtin);
}

#[test]
fn serve_and_rotate_on_envoy() {
    serve_and_rotate("secrets::serve_and_rotate_on_envoy", DataPlane::Envoy);
}

#[test]
fn a_missing_one_holds_up_nothing_on_builtin() {
    missing("secrets::a_missing_one_on_builtin", DataPlane::Builtin);
}

#[test]
fn a_missing_one_holds_up_nothing_on_envoy() {
    missing("secrets::a_missing_one_on_envoy", DataPlane::Envoy);
}

#[test]
fn without_an_answer_the_listener_goes_live_after_15_s_on_builtin() {
    unanswered("secrets::without_an_answer_on_builtin", DataPlane::Builtin);
}

#[test]
fn without_an_answer_the_listener_goes_live_after_15_s_on_envoy() {
    unanswered("secrets::without_an_answer_on_envoy", DataPlane::Envoy);
}

/// The recorded gateway with a certificate of the operator's instead of the workload's.
fn answers() -> Vec<replay::Answer> {
    let mut answers = recording::node("stock/delta-router");
    let listener = recording::find(&answers, "Listener", LISTENER);
    let listener = listener.edited::<Listener>("credential/1", |listener| {
        let chain = &mut listener.filter_chains[0];
        let source = ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
            resource_api_version: ApiVersion::V3.into(),
            ..Default::default()
        };
        let context = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                alpn_protocols: vec!["h2".into(), "http/1.1".into()],
                tls_certificate_sds_secret_configs: vec![SdsSecretConfig {
                    name: CREDENTIAL.to_owned(),
                    sds_config: Some(source),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        chain.transport_socket = Some(TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&context))),
        });
    });
    for answer in &mut answers {
        for recorded in answer.iter_mut() {
            if recorded.name == LISTENER {
                *recorded = listener.clone();
            }
        }
    }
    answers
}

/// What istiod makes of a Kubernetes secret of type TLS.
fn secret(leaf: &Svid) -> replay::Recorded {
    let inline = |text: String| DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..Default::default()
    };
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(leaf.certificate.pem())),
        private_key: Some(inline(leaf.key.serialize_pem())),
        ..Default::default()
    };
    let secret = Secret {
        name: CREDENTIAL.to_owned(),
        r#type: Some(Type::TlsCertificate(certificate)),
    };
    replay::Recorded {
        name: CREDENTIAL.to_owned(),
        version: "secret".to_owned(),
        body: pack(&secret),
    }
}

fn start(test: &str, plane: DataPlane, secrets: &[replay::Recorded]) -> Option<Scene> {
    if !has(test, plane) {
        return None;
    }
    let mut answers = answers();
    answers.push(secrets.to_vec());
    let mut scene = Scene::start(Plan::new(ROUTER, plane), &answers);
    scene.wait_ready();
    Some(scene)
}

/// A request of anybody's, who trusts `ca` alone.
fn visit(scene: &Scene, ca: &Ca) -> Answer {
    let file = scene.net.dir().join("ca.pem");
    std::fs::write(&file, &ca.pem).expect("the scratch folder is writable");
    let file = file.display().to_string();
    let resolve = format!("{HOST}:8080:127.0.1.20");
    let url = format!("https://{HOST}:8080/productpage");
    let arguments = ["--no-insecure", "--cacert", &file, "--resolve", &resolve];
    curl::get(&scene.net, &url, &arguments)
}

fn serve_and_rotate(test: &str, plane: DataPlane) {
    let (first, second) = (Ca::new("first.test"), Ca::new("second.test"));
    let secret_of = |ca: &Ca| secret(&ca.server(HOST));
    let Some(scene) = start(test, plane, &[secret_of(&first)]) else {
        return;
    };
    eventually("the certificate is served", || {
        visit(&scene, &first).expect_status(200)
    });
    let other = visit(&scene, &second);
    assert_ne!(other.exit, 0, "curl looks at the certificate: {other:?}");

    scene.istiod.push(&vec![secret_of(&second)]);
    eventually("the new certificate is served", || {
        visit(&scene, &second).expect_status(200)
    });
    let heard = scene.istiod.heard();
    let asked = heard.iter().any(|heard| heard.names == [CREDENTIAL]);
    assert!(asked, "it came over the aggregated stream");

    // As in Envoy: a secret may be deleted only to be made anew.
    scene.istiod.remove(SECRET, CREDENTIAL);
    eventually("it is answered", || scene.istiod.settled(&["Secret"]));
    let kept = visit(&scene, &second);
    assert_eq!(kept.status, 200, "what was there is kept: {kept:?}");
}

/// istiod says that there is none: the listener is live, and only handshakes fail.
fn missing(test: &str, plane: DataPlane) {
    let started = Instant::now();
    let Some(scene) = start(test, plane, &[]) else {
        return;
    };
    let took = started.elapsed();
    println!("{test}: ready after {took:?}");
    fails_and_recovers(&scene);
}

fn unanswered(test: &str, plane: DataPlane) {
    if !has(test, plane) {
        return;
    }
    let mut scene = Scene::start(Plan::new(ROUTER, plane), &answers());
    scene.istiod.mute("Secret", true);
    let started = Instant::now();
    scene.wait_ready();
    let took = started.elapsed();
    println!("{test}: ready after {took:?}");
    eventually("the listener is there", || {
        let answer = visit(&scene, &Ca::new("first.test"));
        // 7: nobody listens.
        if answer.exit == 7 {
            Err(answer)
        } else {
            Ok(())
        }
    });
    let took = started.elapsed();
    println!("{test}: live after {took:?}");
    assert!(took > FETCH_TIMEOUT - Duration::from_secs(2), "{took:?}");
    scene.istiod.mute("Secret", false);
    fails_and_recovers(&scene);
}

/// Until the secret comes, handshakes fail, and then they do not.
fn fails_and_recovers(scene: &Scene) {
    let ca = Ca::new("first.test");
    let none = visit(scene, &ca);
    assert!(none.exit == 35 && none.status == 0, "{none:?}");
    scene.istiod.push(&vec![secret(&ca.server(HOST))]);
    eventually("the secret has come", || {
        visit(scene, &ca).expect_status(200)
    });
}
