//! Secrets that are wrong, from an SDS server to a running `ithildin-proxy`.

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
            },
            extensions::transport_sockets::tls::v3::{
                CertificateValidationContext, GenericSecret, PrivateKeyProvider, Secret,
                SpiffeCertValidatorConfig, TlsCertificate, TlsSessionTicketKeys, secret::Type,
                spiffe_cert_validator_config::TrustDomain,
            },
        },
        google::protobuf::Any,
    },
};
use ithildin_tests::{
    Authority, DataPlane, Load,
    authority::Files,
    eventually,
    external::{DOMAIN, External, NGINX, WORKLOAD},
    sds::ScriptedSds,
};

use crate::{Case, case, finish, wait_for_words};

#[test]
fn from_an_sds_server() {
    let mut scene = External::start(DataPlane::Builtin);
    let authority = Authority::start(&format!("trust_domains: [{{name: {DOMAIN}}}]\n"));
    let bundle = authority.bundle(DOMAIN);
    let svid = authority.mint(DOMAIN, WORKLOAD, "1h");
    let sds = ScriptedSds::start(&scene.socket());
    let trust = format!("spiffe://{DOMAIN}");
    sds.serve(
        WORKLOAD,
        &secret(WORKLOAD, Type::TlsCertificate(good(&svid))),
    );
    sds.serve(
        &trust,
        &secret(&trust, Type::ValidationContext(roots(&bundle))),
    );
    let _upstream = scene.upstream(&authority.mint(DOMAIN, NGINX, "1h"), &bundle);
    eventually("the page arrives", || scene.get("/").expect_status(200));
    let load = Load::start(&scene.net, "127.0.0.1:3001", "127.0.0.1:3001", "/who");
    load.wait_beyond(0);
    let cases = cases(&authority, &svid, &bundle);
    let mut untold = Vec::new();
    for Case { name, bad, told } in &cases {
        let before = scene.proxy.log().len();
        let refusals = sds.refusals().len();
        sds.serve_any(&bad.0, bad.1.clone());
        untold.extend(wait_for_words(name, told, before, || scene.proxy.log()));
        // The server is told in the same words, if the secret alone shows the mistake.
        if *name == OF_THE_OTHER_KIND {
            continue;
        }
        let refused = || sds.refusals()[refusals..].join("\n");
        untold.extend(wait_for_words(name, told, 0, refused));
        load.wait_beyond(load.sent());
    }
    let renewed = authority.mint(DOMAIN, WORKLOAD, "1h");
    let before = scene.proxy.log().len();
    sds.serve(
        WORKLOAD,
        &secret(WORKLOAD, Type::TlsCertificate(good(&renewed))),
    );
    let words = ["secret updated".to_owned(), WORKLOAD.to_owned()];
    untold.extend(wait_for_words("mended", &words, before, || {
        scene.proxy.log()
    }));
    finish(load, cases.len(), &untold, "secrets");
    assert!(scene.proxy.is_running());
    let log = scene.proxy.log();
    assert!(
        !log.contains("panicked") && !log.contains("PRIVATE KEY"),
        "{log}"
    );
}

fn secret(name: &str, kind: Type) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    }
}

fn inline(text: impl Into<String>) -> Option<DataSource> {
    Some(source(Specifier::InlineString(text.into())))
}

fn source(specifier: Specifier) -> DataSource {
    DataSource {
        specifier: Some(specifier),
        ..DataSource::default()
    }
}

fn good(files: &Files) -> TlsCertificate {
    let read = |path| std::fs::read_to_string(path).expect("the authority has written it");
    TlsCertificate {
        certificate_chain: inline(read(&files.chain)),
        private_key: inline(read(&files.key)),
        ..TlsCertificate::default()
    }
}

fn roots(bundle: &str) -> CertificateValidationContext {
    CertificateValidationContext {
        trusted_ca: inline(bundle),
        ..CertificateValidationContext::default()
    }
}

/// In order by itself, and refused only where it is used.
const OF_THE_OTHER_KIND: &str = "a certificate for roots";

/// Under which name, and what.
type Served = (String, Any);

fn cases(authority: &Authority, svid: &Files, bundle: &str) -> Vec<Case<Served>> {
    let other = authority.mint(DOMAIN, WORKLOAD, "1h");
    let mut cases = certificates(svid, &other);
    cases.extend(contexts(svid, bundle));
    cases
}

fn certificates(svid: &Files, other: &Files) -> Vec<Case<Served>> {
    let served = |resource: Any| (WORKLOAD.to_owned(), resource);
    let kind = |kind: Type| served(pack(&secret(WORKLOAD, kind)));
    let with = |change: &dyn Fn(&mut TlsCertificate)| {
        let mut certificate = good(svid);
        change(&mut certificate);
        kind(Type::TlsCertificate(certificate))
    };
    vec![
        case(
            "no chain",
            with(&|c| c.certificate_chain = None),
            &[WORKLOAD, "certificate_chain: is required"],
        ),
        case(
            "an empty chain",
            with(&|c| c.certificate_chain = inline("")),
            &[WORKLOAD, "certificate_chain has no certificate"],
        ),
        case(
            "a chain of rubbish",
            with(&|c| c.certificate_chain = inline("rubbish")),
            &[WORKLOAD, "certificate_chain has no certificate"],
        ),
        case(
            "a chain of broken PEM",
            with(&|c| {
                c.certificate_chain =
                    inline("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
            }),
            &[WORKLOAD, "certificate_chain is malformed"],
        ),
        case(
            "a chain without a file",
            with(&|c| {
                c.certificate_chain = Some(source(Specifier::Filename("/no/such/file".into())))
            }),
            &[WORKLOAD, "cannot read"],
        ),
        case(
            "no key",
            with(&|c| c.private_key = None),
            &[WORKLOAD, "private_key: is required"],
        ),
        case(
            "a key of rubbish",
            with(&|c| c.private_key = inline("rubbish")),
            &[WORKLOAD, "private_key is malformed"],
        ),
        case(
            "the key of another",
            with(&|c| c.private_key = good(other).private_key),
            &[
                WORKLOAD,
                "the private key does not belong to the certificate",
            ],
        ),
        case(
            "a key of the environment",
            with(&|c| {
                c.private_key = Some(source(Specifier::EnvironmentVariable("NO_SUCH_KEY".into())))
            }),
            &[WORKLOAD, "is not set"],
        ),
        case(
            "a password",
            with(&|c| c.password = inline("secret")),
            &[WORKLOAD, "password: is not supported"],
        ),
        case(
            "PKCS#12",
            with(&|c| c.pkcs12 = inline("x")),
            &[WORKLOAD, "pkcs12: is not supported"],
        ),
        case(
            "a key provider",
            with(&|c| c.private_key_provider = Some(PrivateKeyProvider::default())),
            &[WORKLOAD, "private_key_provider: is not supported"],
        ),
        case(
            "ticket keys",
            kind(Type::SessionTicketKeys(TlsSessionTicketKeys::default())),
            &[
                WORKLOAD,
                "is neither a tls_certificate nor a validation_context",
            ],
        ),
        case(
            "a generic secret",
            kind(Type::GenericSecret(GenericSecret::default())),
            &[
                WORKLOAD,
                "is neither a tls_certificate nor a validation_context",
            ],
        ),
        case(
            "a validation context for a certificate",
            kind(Type::ValidationContext(
                CertificateValidationContext::default(),
            )),
            &[WORKLOAD, "it trusts nobody"],
        ),
        case(
            "nothing",
            served(pack(&Secret {
                name: WORKLOAD.to_owned(),
                r#type: None,
            })),
            &["neither a certificate nor a validation context"],
        ),
        case("a cluster", served(pack(&Cluster::default())), &["Cluster"]),
        case(
            "no protobuf",
            served(Any {
                value: vec![0xff; 40],
                ..pack(&Secret::default())
            }),
            &["Secret"],
        ),
    ]
}

fn contexts(svid: &Files, bundle: &str) -> Vec<Case<Served>> {
    let name = format!("spiffe://{DOMAIN}");
    let kind = |kind: Type| (name.clone(), pack(&secret(&name, kind)));
    let context = |context| kind(Type::ValidationContext(context));
    let spiffe = |trust_domains| {
        let config = SpiffeCertValidatorConfig {
            trust_domains,
            ..SpiffeCertValidatorConfig::default()
        };
        context(CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: "envoy.tls.cert_validator.spiffe".into(),
                typed_config: Some(pack(&config)),
            }),
            ..CertificateValidationContext::default()
        })
    };
    let domain = |name: &str, bundle: &str| TrustDomain {
        name: name.to_owned(),
        trust_bundle: inline(bundle),
        ..TrustDomain::default()
    };
    vec![
        case(
            "roots of rubbish",
            context(roots("rubbish")),
            &[&name, "trusted_ca has no certificate"],
        ),
        case(
            "an empty root",
            context(roots("")),
            &[&name, "trusted_ca has no certificate"],
        ),
        case(
            "roots of broken PEM",
            context(roots(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            )),
            &[&name, "trusted_ca is malformed"],
        ),
        case(
            "a CRL of rubbish",
            context(CertificateValidationContext {
                crl: inline("rubbish"),
                ..roots(bundle)
            }),
            &[&name, "crl is malformed: there is no CRL in it"],
        ),
        case(
            OF_THE_OTHER_KIND,
            kind(Type::TlsCertificate(good(svid))),
            &[&name],
        ),
        case("no trust domain", spiffe(vec![]), &[&name]),
        case(
            "a trust domain twice",
            spiffe(vec![domain(DOMAIN, bundle), domain(DOMAIN, bundle)]),
            &[&name],
        ),
        case(
            "a trust domain without a name",
            spiffe(vec![domain("", bundle)]),
            &[&name],
        ),
        case(
            "a trust domain that is none",
            spiffe(vec![domain("A b", bundle)]),
            &[&name],
        ),
        case(
            "a bundle of rubbish",
            spiffe(vec![domain(DOMAIN, "rubbish")]),
            &[&name],
        ),
        case(
            "an unknown validator",
            context(CertificateValidationContext {
                custom_validator_config: Some(TypedExtensionConfig {
                    name: "x".into(),
                    typed_config: Some(pack(&Cluster::default())),
                }),
                ..CertificateValidationContext::default()
            }),
            &[&name],
        ),
    ]
}
