//! RequestAuthentications on the sidecar of a service, and policies by what tokens claim.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ithildin_tests::{Mesh, eventually, mesh::SLEEP, tokens::Signer};
use serde_json::{Value, json};

use super::{STRANGER, authorization, bearer, claims, policy as policy_of, with_policy};

const WEB: &str = "http://web/get";
/// Only for whom the policy names.
const FIRST_SUBJECT: &str = "
  rules:
  - from: [{source: {requestPrincipals: [issuer-1.test/sub-1]}}]
    to: [{operation: {methods: [GET]}}]";

pub(super) fn all(mesh: &Mesh, signer: &Signer) {
    verified(mesh, signer);
    passed_on(mesh, signer);
    required(mesh, signer);
    audiences(mesh, signer);
    places(mesh, signer);
    unverifiable(mesh, signer);
    fetched(mesh, signer);
    by_claims(mesh, signer);
}

/// A RequestAuthentication of web with these rules, each of which has our keys.
pub(super) fn authentication(
    signer: &Signer,
    namespace: &str,
    selector: &str,
    rules: &[&str],
) -> String {
    let keys = signer.jwks();
    let rules: String = rules
        .iter()
        .map(|rule| format!("  - {{jwks: '{keys}', {rule}}}\n"))
        .collect();
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: {namespace}}}
spec:
  {selector}
  jwtRules:
{rules}---
"
    )
}

fn of_web(signer: &Signer, rules: &[&str]) -> String {
    authentication(
        signer,
        "default",
        "selector: {matchLabels: {app: web}}",
        rules,
    )
}

fn expired(issuer: u8) -> Value {
    let mut claims = claims(issuer);
    claims["exp"] = 1_562_182_722.into();
    claims
}

/// The request as web saw it, with the header.
#[track_caller]
fn seen(mesh: &Mesh, header: &str) -> Value {
    let answer = mesh.curl(SLEEP.name, WEB, &["-H", header]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.echoed()["headers"].take()
}

fn payload(token: &str) -> &str {
    token.split('.').nth(1).unwrap_or_default()
}

/// Who has a token must have a valid one; who has none is let through. What it claims goes on in headers.
fn verified(mesh: &Mesh, signer: &Signer) {
    let (first, second) = (bearer(signer, claims(1)), bearer(signer, claims(2)));
    let (old, unknown) = (bearer(signer, expired(1)), bearer(signer, claims(3)));
    let forged = bearer(&Signer::new(), claims(1));
    let not_yet = json!({"iss": "issuer-1.test", "nbf": ithildin_tests::tokens::IN_2099 - 10});
    let not_yet = bearer(signer, not_yet);
    let preflight = [
        "-X",
        "OPTIONS",
        "-H",
        "access-control-request-method: POST",
        "-H",
        &old,
    ];
    let whole_preflight = [&preflight[..], &["-H", "origin: https://elsewhere.test"]].concat();
    with_policy(
        mesh,
        "tokens",
        &of_web(
            signer,
            &[
                "issuer: issuer-1.test, outputPayloadToHeader: x-payload, outputClaimToHeaders: [
                    {header: x-jwt-iss, claim: iss}, {header: x-jwt-iat, claim: iat},
                    {header: x-jwt-nested, claim: nested.nested-2.key2}]",
                "issuer: issuer-2.test, outputPayloadToHeader: x-payload",
            ],
        ),
        &[
            (WEB, &["-H", &first], 200),
            (WEB, &["-H", &second], 200),
            (WEB, &["-H", &old], 401),
            (WEB, &["-H", &unknown], 401),
            (WEB, &["-H", &forged], 401),
            (WEB, &["-H", &not_yet], 401),
            (WEB, &["-H", "authorization: Bearer not.a.token"], 401),
            (WEB, &["-H", "authorization: Basic abc"], 200),
            (WEB, &[], 200),
            // A browser asks without a token whether it may ask.
            (WEB, &whole_preflight, 200),
            (WEB, &preflight, 401),
        ],
    );
    let headers = seen(mesh, &first);
    assert_eq!(headers["x-payload"], payload(&first), "{headers}");
    assert_eq!(headers["x-jwt-iss"], "issuer-1.test");
    assert_eq!(headers["x-jwt-iat"], "1562182722");
    assert!(headers["authorization"].is_null(), "{headers}");
    assert_eq!(seen(mesh, &second)["x-payload"], payload(&second));
    let mut nested = claims(1);
    nested["nested"] = json!({"nested-2": {"key2": "value-c"}});
    assert_eq!(
        seen(mesh, &bearer(signer, nested))["x-jwt-nested"],
        "value-c"
    );
    // Nobody else says what a token claims.
    let forged = [
        "-H",
        &first,
        "-H",
        "x-jwt-nested: forged",
        "-H",
        "x-jwt-iss: forged",
    ];
    let answer = mesh.curl(SLEEP.name, WEB, &forged);
    let headers = &answer.echoed()["headers"];
    assert_eq!(headers["x-jwt-iss"], "issuer-1.test", "{headers}");
    assert!(headers["x-jwt-nested"].is_null(), "{headers}");
    let answer = mesh.curl(SLEEP.name, WEB, &["-H", &old]);
    assert_eq!(answer.body, "Jwt is expired");
    let told = answer.header("www-authenticate").unwrap_or_default();
    assert!(told.contains("error=\"invalid_token\""), "{answer:?}");
}

fn passed_on(mesh: &Mesh, signer: &Signer) {
    let first = bearer(signer, claims(1));
    let rule =
        "issuer: issuer-1.test, forwardOriginalToken: true, outputPayloadToHeader: x-payload";
    with_policy(
        mesh,
        "the token goes on",
        &of_web(signer, &[rule]),
        &[
            (WEB, &["-H", &first], 200),
            (WEB, &["-H", &bearer(signer, claims(2))], 401),
        ],
    );
    let headers = seen(mesh, &first);
    let sent = format!(
        "authorization: {}",
        headers["authorization"].as_str().unwrap_or_default()
    );
    assert_eq!(sent, first);
    assert_eq!(headers["x-payload"], payload(&first));
}

fn required(mesh: &Mesh, signer: &Signer) {
    let tokens = of_web(signer, &["issuer: issuer-1.test"]);
    let (first, old) = (bearer(signer, claims(1)), bearer(signer, expired(1)));
    with_policy(
        mesh,
        "a token is required",
        &(tokens + &authorization(FIRST_SUBJECT)),
        &[
            (WEB, &["-H", &first], 200),
            (WEB, &["-H", &old], 401),
            (WEB, &[], 403),
        ],
    );
}

/// Rules of several resources for one workload are all asked.
fn audiences(mesh: &Mesh, signer: &Signer) {
    let first = [
        "issuer: issuer-1.test, audiences: [foo]",
        "issuer: issuer-2.test, audiences: [bar]",
    ];
    let other =
        of_web(signer, &["issuer: issuer-2.test"]).replace("name: tokens", "name: more-tokens");
    let with = |audience: Value| {
        let mut claims = claims(1);
        claims["aud"] = audience;
        bearer(signer, claims)
    };
    with_policy(
        mesh,
        "audiences",
        &(of_web(signer, &first) + &other),
        &[
            (WEB, &["-H", &bearer(signer, claims(1))], 403),
            (WEB, &["-H", &with(json!("foo"))], 200),
            (WEB, &["-H", &with(json!(["bar", "foo"]))], 200),
            (WEB, &["-H", &with(json!("bar"))], 403),
            (WEB, &["-H", &bearer(signer, claims(2))], 200),
        ],
    );
}

/// Other headers, parameters and cookies than the usual ones.
fn places(mesh: &Mesh, signer: &Signer) {
    let (token, old) = (signer.token(claims(1)), signer.token(expired(1)));
    let rule = "issuer: issuer-1.test, fromParams: [token, secondary_token], fromCookies: [session], fromHeaders: [
        {name: x-jwt-token, prefix: \"Value \"}, {name: auth-token, prefix: \"Token \"}]";
    let with = |query: &str| format!("{WEB}?{query}");
    with_policy(
        mesh,
        "where tokens are looked for",
        &(of_web(signer, &[rule]) + &authorization(FIRST_SUBJECT)),
        &[
            (&with(&format!("token={token}")), &[], 200),
            (&with(&format!("secondary_token={token}")), &[], 200),
            (&with(&format!("token_value={token}")), &[], 403),
            (
                &with(&format!("token={token}&secondary_token={token}")),
                &[],
                200,
            ),
            (
                &with(&format!("token={token}&secondary_token={old}")),
                &[],
                401,
            ),
            (WEB, &["-H", &format!("x-jwt-token: Value {token}")], 200),
            (WEB, &["-H", &format!("auth-token: Token {token}")], 200),
            (
                WEB,
                &["-H", &format!("auth-header-param: Bearer {token}")],
                403,
            ),
            (WEB, &["-H", &format!("authorization: Bearer {token}")], 403),
            (WEB, &["-H", &format!("cookie: a=b; session={token}")], 200),
        ],
    );
}

/// Keys that istiod cannot get verify nothing.
fn unverifiable(mesh: &Mesh, signer: &Signer) {
    let rule = "issuer: issuer-1.test, jwksUri: \"http://127.0.0.1:1/none\"";
    let keys = format!("jwks: '{}', ", signer.jwks());
    with_policy(
        mesh,
        "keys that are not there",
        &of_web(signer, &[rule]).replace(&keys, ""),
        &[
            (WEB, &["-H", &bearer(signer, claims(1))], 401),
            (WEB, &["-H", &bearer(signer, expired(1))], 401),
            (WEB, &[], 200),
        ],
    );
}

/// Keys of a service of the mesh, which the sidecar of web asks itself, once.
fn fetched(mesh: &Mesh, signer: &Signer) {
    let keys = URL_SAFE_NO_PAD.encode(signer.jwks());
    let path = format!("/base64/{keys}");
    let inline = format!("jwks: '{}', ", signer.jwks());
    let policy = |host: &str, path: &str| {
        let rule = format!("issuer: issuer-1.test, jwksUri: \"http://{host}{path}\"");
        of_web(signer, &[&rule]).replace(&inline, "")
    };
    let (good, old) = (bearer(signer, claims(1)), bearer(signer, expired(1)));
    let forged = bearer(&Signer::new(), claims(1));
    let rows = [
        (WEB, &["-H", &*good][..], 200),
        (WEB, &["-H", &old], 401),
        (WEB, &["-H", &forged], 401),
        (WEB, &[], 200),
    ];
    let host = "keys.default.svc.cluster.local:8080";
    with_policy(mesh, "keys that are fetched", &policy(host, &path), &rows);
    let asked = mesh.curl(STRANGER.name, &format!("http://{host}/count{path}"), &[]);
    let times: u32 = asked.body.parse().unwrap_or_default();
    assert!((1..10).contains(&times), "{asked:?}");
    let refused = |mesh: &Mesh| {
        let answer = mesh.curl(SLEEP.name, WEB, &["-H", &good]);
        let told = answer.body == "Jwks remote fetch is failed" && answer.status == 401;
        told.then_some(()).ok_or(answer)
    };
    policy_of(mesh, &policy(host, "/status/503"));
    eventually("keys that are refused", || refused(mesh));
    let answer = mesh.curl(SLEEP.name, WEB, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Each path of a policy wants a claim of its own.
fn by_claims(mesh: &Mesh, signer: &Signer) {
    let tokens = of_web(
        signer,
        &[
            "issuer: issuer-1.test",
            "issuer: issuer-2.test, spaceDelimitedClaims: [custom_scope]",
        ],
    );
    let when = |path: &str, key: &str, values: &str| {
        format!(
            "  - {{to: [{{operation: {{paths: [\"{path}\"]}}}}], when: [{{key: \"request.auth.{key}\", {values}}}]}}\n"
        )
    };
    let rules = [
        "  rules:\n".to_owned(),
        "  - {to: [{operation: {paths: [/one]}}], from: [{source: {requestPrincipals: [issuer-1.test/sub-1]}}]}\n".to_owned(),
        "  - {to: [{operation: {paths: [/any]}}], from: [{source: {requestPrincipals: [\"*\"]}}]}\n".to_owned(),
        "  - {to: [{operation: {paths: [/not-one]}}], from: [{source: {notRequestPrincipals: [issuer-1.test/sub-1]}}]}\n".to_owned(),
        when("/groups", "claims[groups]", "values: [group-2]"),
        when("/scope", "claims[scope]", "values: [append, write]"),
        when("/other-scope", "claims[scope]", "values: [admin]"),
        when("/custom-scope", "claims[custom_scope]", "values: [admin]"),
        when("/nested", "claims[nested][key1]", "values: [value-b]"),
        when("/deeper", "claims[nested][nested-2][key1]", "values: [value-a]"),
        when("/not-there", "claims[nested][non-exist]", "values: [value-c]"),
        when("/principal", "principal", "values: [\"*\"]"),
        when("*/presenter", "presenter", "values: [bar]"),
        when("*/audiences", "audiences", "values: [foo]"),
    ];
    let policy = tokens + &authorization(&rules.concat());
    let with = |issuer: u8, more: Value| {
        let mut claims = claims(issuer);
        let more = more.as_object().cloned().unwrap_or_default();
        for (name, value) in more {
            claims[name] = value;
        }
        bearer(signer, claims)
    };
    let one = with(
        1,
        json!({"groups": ["group-1"], "nested": {"key1": ["value-a", "value-b"], "nested-2": {"key1": "value-a"}}}),
    );
    let two = with(
        2,
        json!({"groups": ["group-1", "group-2"], "nested": {"key1": "value-c"}}),
    );
    let more = with(
        2,
        json!({"scope": "read write", "custom_scope": "admin user", "azp": "bar", "aud": ["foo", "bar"]}),
    );
    let audience = with(1, json!({"aud": "foo"}));
    with_policy(
        mesh,
        "claims",
        &policy,
        &[
            ("http://web/one", &["-H", &one], 200),
            ("http://web/one", &["-H", &two], 403),
            ("http://web/one", &[], 403),
            ("http://web/any", &["-H", &one], 200),
            ("http://web/any", &["-H", &two], 200),
            ("http://web/any", &[], 403),
            ("http://web/not-one", &["-H", &one], 403),
            ("http://web/not-one", &["-H", &two], 200),
            ("http://web/groups", &["-H", &one], 403),
            ("http://web/groups", &["-H", &two], 200),
            ("http://web/groups", &[], 403),
            ("http://web/scope", &["-H", &more], 200),
            ("http://web/scope", &["-H", &one], 403),
            ("http://web/other-scope", &["-H", &more], 403),
            ("http://web/custom-scope", &["-H", &more], 200),
            ("http://web/custom-scope", &["-H", &two], 403),
            ("http://web/nested", &["-H", &one], 200),
            ("http://web/nested", &["-H", &two], 403),
            ("http://web/deeper", &["-H", &one], 200),
            ("http://web/deeper", &["-H", &two], 403),
            ("http://web/not-there", &["-H", &one], 403),
            ("http://web/principal", &["-H", &one], 200),
            ("http://web/principal", &[], 403),
            ("http://web/a/presenter", &["-H", &more], 200),
            ("http://web/a/presenter", &["-H", &one], 403),
            ("http://web/a/audiences", &["-H", &more], 200),
            ("http://web/a/audiences", &["-H", &audience], 200),
            ("http://web/a/audiences", &["-H", &one], 403),
        ],
    );
    let http2 = ["--http2-prior-knowledge", "-H", &one];
    let answer = eventually("over HTTP/2", || {
        mesh.curl(SLEEP.name, "http://web:81/one", &http2)
            .expect_status(200)
    });
    assert_eq!(answer.version, "2");
}
