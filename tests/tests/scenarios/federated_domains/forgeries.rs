//! Certificates that must not get through the gateway, each wrong in one way.

use ithildin_tests::{DataPlane, Identities, Net, clusters::Server, curl::Answer, eventually};

use crate::support::{assert_refused, certificate};

const FORGER: &str = "spiffe://domain.test/ns/default/sa/forger";
/// Of the gateway's own domain.
const STRANGER: &str = "spiffe://example.org/ns/default/sa/forger";

/// One forgery, signed by domain.test's CA unless it says otherwise.
struct Forgery {
    /// As `authority ctl forge` names it.
    name: &'static str,
    /// Part of the reason in the gateway's log.
    reason: &'static str,
    /// Whether Envoy refuses it, too; if not, its SPIFFE validator is known to let it in.
    envoy: bool,
}

const fn refused(name: &'static str, reason: &'static str) -> Forgery {
    Forgery {
        name,
        reason,
        envoy: true,
    }
}

const fn admitted_by_envoy(name: &'static str, reason: &'static str) -> Forgery {
    Forgery {
        name,
        reason,
        envoy: false,
    }
}

const FORGERIES: [Forgery; 23] = [
    refused(
        "foreign-id",
        "signed by a CA of the trust domain domain.test, which cannot vouch for example.org",
    ),
    refused(
        "unknown-ca",
        "leads to no root in the bundle of domain.test",
    ),
    refused(
        "self-signed",
        "leads to no root in the bundle of domain.test",
    ),
    admitted_by_envoy("two-uri-sans", "has 2 URI SANs; only one can be its name"),
    refused("no-uri-san", "has no URI SAN"),
    refused("no-san", "has no URI SAN"),
    refused("not-spiffe", "does not start with spiffe://"),
    admitted_by_envoy("dot-segment", "has a '.' or '..' segment"),
    refused(
        "no-path",
        "without a path, which names a trust domain and no workload",
    ),
    admitted_by_envoy("trailing-slash", "ends with a slash"),
    admitted_by_envoy("san-not-critical", "its SAN extension is not critical"),
    refused("ca-as-leaf", "is a CA certificate"),
    refused("key-cert-sign", "has the key usage keyCertSign"),
    refused("crl-sign", "has the key usage cRLSign"),
    refused("no-key-usage", "has no key usage extension"),
    admitted_by_envoy(
        "key-usage-not-critical",
        "has a key usage extension that is not critical",
    ),
    refused(
        "no-digital-signature",
        "lacks the key usage digitalSignature",
    ),
    admitted_by_envoy(
        "server-only-eku",
        "has an extended key usage without clientAuth",
    ),
    admitted_by_envoy(
        "client-only-eku",
        "has an extended key usage without serverAuth",
    ),
    admitted_by_envoy("rsa-1024", "RSA"),
    refused("expired", "expired"),
    refused("not-yet-valid", "is valid from"),
    refused("revoked", "revoked"),
];

/// Tries them all, and a genuine certificate before and after.
pub(super) fn all_refused(outside: &Net, server: &Server, identities: &Identities) {
    let genuine = identities.mint("domain.test", FORGER);
    let genuine = || server.knock(outside, "/status/200", certificate(&genuine), &[]);
    assert_eq!(genuine().status, 200);
    let builtin = server.gateway.agent.data_plane == DataPlane::Builtin;
    for Forgery {
        name,
        reason,
        envoy,
    } in FORGERIES
    {
        let id = if name == "foreign-id" {
            STRANGER
        } else {
            FORGER
        };
        let Some(forged) = identities.forge("domain.test", id, name) else {
            continue;
        };
        let knock = || server.knock(outside, "/status/200", certificate(&forged), &[]);
        if name == "revoked" {
            // The CRL has just been published.
            eventually("the CRL has arrived", || {
                let answer = knock();
                if answer.exit == 0 {
                    Err(answer)
                } else {
                    Ok(())
                }
            });
        }
        if builtin {
            refused_with(name, reason, server, knock);
        } else if envoy {
            assert_refused(name, &knock());
        } else {
            let answer = knock();
            assert_eq!(
                answer.status, 200,
                "{name} is refused by Envoy now: {answer:?}"
            );
        }
    }
    assert_eq!(genuine().status, 200, "after all forgeries");
}

/// Refused each time, and told: the log has a limit of lines per second, so it takes another try then.
fn refused_with(name: &str, reason: &str, server: &Server, knock: impl Fn() -> Answer) {
    let before = server.gateway.log().len();
    eventually(&format!("{name} is told with {reason:?}"), || {
        assert_refused(name, &knock());
        let news = server.gateway.log().split_off(before);
        let words = ["downstream tls handshake failed", reason, "rule="];
        let told = |line: &str| words.iter().all(|word| line.contains(word));
        if news.lines().any(told) {
            Ok(())
        } else {
            Err(news)
        }
    });
}
