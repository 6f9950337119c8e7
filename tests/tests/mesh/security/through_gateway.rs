//! Tokens and policies at an ingress gateway behind a trusted proxy.

use ithildin_tests::{Mesh, Net, eventually, mesh::SLEEP, tokens::Signer};
use serde_json::json;

use super::{
    OUTSIDE, answered, bearer, claims, eventually_answered, policy, tokens::authentication,
};

const GATEWAY: &str = "http://10.0.4.10:8080";
const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gateway, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
";

pub(super) fn all(mesh: &Mesh, signer: &Signer) {
    let outside = mesh.host(OUTSIDE);
    denied(mesh, &outside);
    tokens(mesh, &outside, signer);
    routes(mesh, &outside, signer);
    policy(mesh, "");
    let open = [("http://web/get", &[][..], 200)];
    eventually_answered(mesh, SLEEP.name, "no policy", &open);
}

/// A path of the gateway, the Host header, another header, and the status.
type Row<'a> = (&'a str, &'a str, &'a str, u16);

#[track_caller]
fn eventually_through(what: &str, outside: &Net, rows: &[Row<'_>]) {
    eventually(what, || {
        rows.iter().try_for_each(|(path, host, header, status)| {
            let url = format!("{GATEWAY}{path}");
            let host = format!("host: {host}");
            answered(outside, &[(&url, &["-H", &host, "-H", header], *status)])
        })
    });
}

/// By host in any spelling, and by the address that the trusted proxy has seen.
fn denied(mesh: &Mesh, outside: &Net) {
    let rules = "  action: DENY
  rules:
  - to: [{operation: {hosts: [deny.web.com, \"*.suffix.web.com\", \"web.web.*\"]}}]
  - to:
    - operation: {hosts: [internal.web.com]}
    - operation: {paths: [/private]}
  - from: [{source: {remoteIpBlocks: [172.17.72.46, 192.168.4.0/23]}}]
    to: [{operation: {hosts: [remote.web.com]}}]
  - from: [{source: {notRemoteIpBlocks: [172.23.240.0/22]}}]
    to: [{operation: {hosts: [not-remote.web.com]}}]
  - to: [{operation: {hosts: [attribute.web.com]}}]
    when: [{key: remote.ip, values: [10.242.5.7, 10.124.99.0/24]}]
  - from: [{source: {ipBlocks: [10.0.4.60]}}]
    to: [{operation: {hosts: [direct.web.com]}}]
  - from: [{source: {ipBlocks: [172.16.0.1]}}]
    to: [{operation: {hosts: [forwarded.web.com]}}]
";
    policy(mesh, &format!("{POLICY}{rules}"));
    let by = "x-forwarded-for: 172.16.0.1";
    eventually_through(
        "denied at the gateway",
        outside,
        &[
            ("/", "deny.web.com", by, 403),
            ("/", "DENY.web.COM", by, 403),
            ("/", "Deny.Web.Com", by, 403),
            ("/", "deny.suffix.web.com", by, 403),
            ("/", "DENY.SUFFIX.WEB.COM", by, 403),
            ("/", "web.web.net", by, 403),
            ("/", "Web.Web.Net", by, 403),
            ("/", "www.web.com", by, 200),
            ("/private", "www.web.com", by, 403),
            ("/public", "www.web.com", by, 200),
            ("/", "internal.web.com", by, 403),
            ("/private", "internal.web.com", by, 403),
            ("/", "remote.web.com", "x-forwarded-for: 172.17.72.46", 403),
            ("/", "remote.web.com", "x-forwarded-for: 192.168.5.233", 403),
            ("/", "remote.web.com", "x-forwarded-for: 10.4.5.6", 200),
            // What stands before the proxy's word is the client's own.
            (
                "/",
                "remote.web.com",
                "x-forwarded-for: 172.17.72.46, 10.4.5.6",
                200,
            ),
            ("/", "not-remote.web.com", "x-forwarded-for: 10.2.3.4", 403),
            (
                "/",
                "not-remote.web.com",
                "x-forwarded-for: 172.23.242.188",
                200,
            ),
            ("/", "attribute.web.com", "x-forwarded-for: 10.242.5.7", 403),
            (
                "/",
                "attribute.web.com",
                "x-forwarded-for: 10.124.99.10",
                403,
            ),
            ("/", "attribute.web.com", "x-forwarded-for: 10.4.5.6", 200),
            ("/", "direct.web.com", by, 403),
            ("/", "forwarded.web.com", by, 200),
        ],
    );
}

/// A RequestAuthentication of the root namespace holds for gateways and sidecars.
fn tokens(mesh: &Mesh, outside: &Net, signer: &Signer) {
    let tokens = authentication(
        signer,
        "istio-system",
        "",
        &["issuer: issuer-1.test", "issuer: issuer-2.test"],
    );
    let rules = "  rules:
  - to: [{operation: {hosts: [example.web.com]}}]
    from: [{source: {requestPrincipals: [issuer-1.test/sub-1]}}]
  - to: [{operation: {hosts: [any.web.com]}}]
    from: [{source: {requestPrincipals: [\"*\"]}}]
  - to: [{operation: {paths: [/healthz]}}]
";
    policy(mesh, &format!("{tokens}{POLICY}{rules}"));
    let (first, second) = (bearer(signer, claims(1)), bearer(signer, claims(2)));
    let mut old = claims(1);
    old["exp"] = 1_562_182_722.into();
    let old = bearer(signer, old);
    let none = "accept: */*";
    eventually_through(
        "tokens at the gateway",
        outside,
        &[
            ("/healthz", "example.web.com", none, 200),
            ("/", "example.web.com", none, 403),
            ("/", "example.web.com", &first, 200),
            ("/", "example.web.com", &second, 403),
            ("/", "example.web.com", &old, 401),
            ("/", "any.web.com", &first, 200),
            ("/", "any.web.com", &second, 200),
            ("/", "any.web.com", none, 403),
            ("/", "other.web.com", &first, 403),
        ],
    );
    let rows = [
        ("http://web/get", &["-H", &*old][..], 401),
        ("http://web/get", &[], 200),
    ];
    eventually_answered(mesh, SLEEP.name, "tokens in the mesh", &rows);
}

/// Routes by claims, and by headers that were made of them.
fn routes(mesh: &Mesh, outside: &Net, signer: &Signer) {
    let rule = "issuer: issuer-1.test, outputClaimToHeaders: [
        {header: x-jwt-nested, claim: nested.nested-2.key2}, {header: x-jwt-wrong, claim: wrong}]";
    policy(mesh, &authentication(signer, "istio-system", "", &[rule]));
    let with = |mut claims: serde_json::Value| {
        claims["iss"] = "issuer-1.test".into();
        bearer(signer, claims)
    };
    let first = with(json!({
        "sub": "sub-1", "groups": ["group-1", "group-2"], "https://example.test/role": "admin",
        "nested": {"key1": "value-a", "nested-2": {"key2": "value-c"}},
    }));
    let other = with(json!({"sub": "sub-3", "nested": {"key1": "value-b"}}));
    let old = with(json!({"sub": "sub-1", "exp": 1, "nested": {"key1": "value-a"}}));
    let none = "accept: */*";
    let forged = "x-jwt-nested: value-c";
    let host = "claims.web.com";
    eventually_through(
        "routes by claims",
        outside,
        &[
            ("/nested", host, &first, 200),
            ("/nested", host, &other, 404),
            ("/nested", host, none, 404),
            (
                "/nested",
                host,
                "request.auth.claims.nested.key1: value-a",
                404,
            ),
            (
                "/nested",
                host,
                "@request.auth.claims.nested.key1: value-a",
                404,
            ),
            ("/nested", host, &old, 401),
            ("/brackets", host, &first, 200),
            ("/brackets", host, &other, 404),
            ("/name-of-a-url", host, &first, 200),
            ("/name-of-a-url", host, &other, 404),
            ("/list", host, &first, 200),
            ("/list", host, &other, 404),
            ("/both", host, &first, 200),
            ("/both", host, &other, 404),
            ("/without", host, &first, 404),
            ("/without", host, &other, 200),
            ("/copied", host, &first, 200),
            ("/copied", host, &other, 404),
            // Who has no token is not looked at.
            ("/copied", host, forged, 200),
        ],
    );
    let forged = [
        "-H",
        "host: claims.web.com",
        "-H",
        "x-jwt-wrong: forged",
        "-H",
        &first,
    ];
    let answer = ithildin_tests::curl::get(outside, &format!("{GATEWAY}/forged"), &forged);
    assert_eq!(answer.status, 404, "{answer:?}");
}
