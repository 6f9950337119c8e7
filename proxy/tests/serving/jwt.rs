//! Tokens: the same requests to this proxy and to a real Envoy, and what is counted. What this proxy
//! refuses on purpose though Envoy takes it (another spelling of a token, a key of another kind) is
//! in `ithildin-jwt`.

use std::{path::PathBuf, time::SystemTime};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKey, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ithildin_proxy::stats::Value as Stat;
use serde_json::{Value, json};

use crate::{
    like_envoy::{Case, compare, origin},
    support::{Bench, exchange},
};

#[tokio::test]
async fn tokens_are_judged_like_envoys() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED tokens_are_judged_like_envoys: ENVOY_BIN is not set");
        return;
    };
    let issuers = Issuers::new();
    compare(&binary, &issuers.yaml(), &issuers.cases()).await;
}

#[tokio::test]
async fn tokens_are_counted() {
    let issuers = Issuers::new();
    let bench = Bench::start(&issuers.yaml()).await;
    let token = issuers.a(json!({}));
    for (listener, path, fields) in [
        ("plain", "/a", format!("Authorization: Bearer {token}\r\n")),
        ("plain", "/a", String::new()),
        ("plain", "/none", String::new()),
        ("plain", "/istio", "Authorization: Bearer x.y.z\r\n".into()),
        ("quiet", "/", String::new()),
    ] {
        exchange(bench.address(listener), &get(path, &fields)).await;
    }
    let preflight = "Origin: o\r\nAccess-Control-Request-Method: PUT\r\n";
    let preflight = get("/a", preflight).replacen("GET", "OPTIONS", 1);
    exchange(bench.address("plain"), &preflight).await;
    bench.lines(6).await;
    let metrics = bench.proxy.stats().metrics(false);
    for (name, expected) in [
        ("http.plain.jwt_authn.allowed", 3),
        ("http.plain.jwt_authn.denied", 2),
        ("http.plain.jwt_authn.cors_preflight_bypassed", 1),
        ("http.plain.jwt_authn.jwt_cache_miss", 2),
        ("http.plain.jwt_authn.jwks_fetch_failed", 0),
        ("http.quiet.jwt_authn.own.allowed", 0),
        ("http.quiet.jwt_authn.own.denied", 1),
    ] {
        let found = metrics.iter().find(|metric| metric.name == name);
        let expected = Some(&Stat::Counter(expected));
        assert_eq!(found.map(|it| &it.value), expected, "{name}");
    }
}

/// A token that is read one way here and another way there is taken by nobody.
#[tokio::test]
async fn ambiguous_tokens_are_refused() {
    let issuers = Issuers::new();
    let bench = Bench::start(&issuers.yaml()).await;
    let good = issuers.a(json!({}));
    let parts: Vec<_> = good.split('.').collect();
    for fields in [
        format!("X-Raw: {good}=\r\n"),
        format!("X-Raw: {good}.\r\n"),
        format!("X-Raw: {}..{}.{}\r\n", parts[0], parts[1], parts[2]),
        format!("X-Raw: {good}\r\nX-Raw: {good}\r\n"),
        format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n"),
        format!("X-Raw: {}\r\n", issuers.a(json!({"exp": 0}))),
        format!("X-Raw: {}.\r\n", "a".repeat(50_000)),
    ] {
        let answer = exchange(bench.address("plain"), &get("/a", &fields)).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{fields}{answer}");
    }
    // A claim that would end its header is no header.
    let token = issuers.a(json!({"sub": "a\r\nx-evil: 1"}));
    let fields = format!("X-Raw: {token}\r\nX-Sub: of-the-client\r\n");
    let answer = exchange(bench.address("plain"), &get("/a", &fields)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("x-evil") && !answer.contains("of-the-client"));
}

/// The holders of keys: a has one of RSA and one of P-256, b has one of RSA.
struct Issuers {
    a: RsaKey,
    a_curve: EcdsaKeyPair,
    b: RsaKey,
    now: u64,
}

impl Issuers {
    fn new() -> Self {
        let rsa = || RsaKey::generate(KeySize::Rsa2048).expect("there is entropy");
        let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            a: rsa(),
            a_curve: curve.expect("there is entropy"),
            b: rsa(),
            now: now.expect("it is later").as_secs(),
        }
    }

    fn yaml(&self) -> String {
        let point = self.a_curve.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let curve = json!({"kty": "EC", "kid": "curve", "crv": "P-256", "x": x, "y": y});
        let a = json!({"keys": [rsa_key(&self.a, "rsa"), curve, {"kty": "new"}]});
        let b = json!({"keys": [rsa_key(&self.b, "")]});
        include_str!("jwt.yaml")
            .replace("KEYS_A", &a.to_string())
            .replace("KEYS_B", &b.to_string())
            .replace("ORIGIN", &origin().port().to_string())
    }

    /// With these claims; those that are `"gone"` are taken out.
    fn a(&self, claims: Value) -> String {
        sign(
            &self.a,
            json!({"alg": "RS256", "kid": "rsa"}),
            "issuer-a",
            claims,
        )
    }

    fn b(&self, claims: Value) -> String {
        sign(&self.b, json!({"alg": "RS256"}), "issuer-b", claims)
    }

    fn by_curve(&self, header: Value) -> String {
        let signed = unsigned(&header, &payload("issuer-a", json!({})).to_string());
        let random = SystemRandom::new();
        let signature = self.a_curve.sign(&random, signed.as_bytes());
        let signature = signature.expect("the key signs");
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        self.one_token(&mut cases);
        self.claims(&mut cases);
        self.requirements(&mut cases);
        self.places(&mut cases);
        self.judged(&mut cases);
        cases
    }

    /// Whatever one token may be.
    fn one_token(&self, cases: &mut Vec<Case>) {
        let mut add = |path: &str, token: String| {
            cases.push(("plain", get(path, &bearer(&token))));
            cases.push(("quiet", get(path, &bearer(&token))));
        };
        let rsa = |header| sign(&self.a, header, "issuer-a", json!({}));
        for header in [
            json!({"alg": "RS256"}),
            json!({"alg": "RS256", "kid": "nobody"}),
            json!({"alg": "RS256", "kid": 5}),
            json!({"alg": "RS256", "typ": "JWT", "x": [1, {"y": null}]}),
            json!({"alg": "RS384", "kid": "rsa"}),
            json!({"alg": "HS256", "kid": "rsa"}),
            json!({"alg": "none"}),
            json!({"alg": 5}),
            json!({"kid": "rsa"}),
        ] {
            add("/a", rsa(header));
        }
        add("/a", self.by_curve(json!({"alg": "ES256", "kid": "curve"})));
        add("/a", self.by_curve(json!({"alg": "ES256"})));
        add("/a", self.by_curve(json!({"alg": "ES256", "kid": "rsa"})));
        let good = self.a(json!({}));
        let parts: Vec<_> = good.split('.').collect();
        let admin = encode(br#"{"iss":"issuer-a","sub":"admin"}"#);
        add("/a", [parts[0], &admin, parts[2]].join("."));
        for text in [
            "x.y.z",
            "x",
            "..",
            "a.b",
            &format!("{good}.x"),
            "====",
            "=.=.=",
        ] {
            add("/a", text.to_owned());
        }
        let signed = |header: &str, payload: &str| {
            let signed = format!(
                "{}.{}",
                encode(header.as_bytes()),
                encode(payload.as_bytes())
            );
            with_signature(&self.a, &signed)
        };
        const HEADER: &str = r#"{"alg":"RS256"}"#;
        for (header, payload) in [
            ("[1]", "{}"),
            ("{", "{}"),
            (r#"{"alg":"RS256","alg":"RS256"}"#, r#"{"iss":"issuer-a"}"#),
            (HEADER, "[1]"),
            (HEADER, r#"{"iss":"issuer-a"} x"#),
            (HEADER, r#"{"iss":"issuer-a","iss":"issuer-a"}"#),
            (HEADER, r#"{"iss":"issuer-a","exp":18446744073709551615}"#),
            (HEADER, r#"{"iss":"issuer-a","exp":1e30}"#),
        ] {
            add("/a", signed(header, payload));
        }
    }

    fn claims(&self, cases: &mut Vec<Case>) {
        let now = self.now;
        for claims in [
            json!({"exp": now + 1000}),
            json!({"exp": now - 1000}),
            json!({"exp": -5}),
            json!({"exp": "x"}),
            json!({"exp": null}),
            json!({"exp": (now + 1000) as f64 + 0.5}),
            json!({"nbf": now - 1000}),
            json!({"nbf": now + 1000}),
            json!({"nbf": []}),
            json!({"iat": now + 1000}),
            json!({"iat": "x"}),
            json!({"iss": 5}),
            json!({"iss": "gone"}),
            json!({"iss": "other"}),
            json!({"sub": 5}),
            json!({"sub": "gone"}),
            json!({"sub": ""}),
            json!({"jti": 5}),
            json!({"aud": 5}),
            json!({"aud": ["a", 5]}),
            json!({"n": 5, "nest": {"a": "x y"}, "list": ["p", "q"], "flag": true, "scope": "a  b "}),
            // One member to an object: the order that Envoy writes several in is another in each run.
            json!({"n": 5.5, "nest": {"a": {"z": [1, 2]}}, "list": {"p": 1}, "flag": false}),
            json!({"n": -3, "nest": "x", "list": [], "flag": null, "scope": ""}),
            json!({"n": 0.1, "nest": {"a": null}, "list": {}, "flag": "é", "scope": ["x y"]}),
            json!({"n": 1e20, "a.b": {"c": "dotted"}, "scope": 5}),
            json!({"n": 0}),
        ] {
            let token = self.a(claims);
            cases.push(("plain", get("/a", &bearer(&token))));
        }
        for audience in [
            json!("gone"),
            json!("one"),
            json!(["x", "two"]),
            json!("two/"),
            json!("http://one"),
            json!("https://two/"),
            json!("own"),
            json!([]),
            json!(""),
        ] {
            let token = self.b(json!({"aud": audience}));
            for path in ["/b", "/b/own"] {
                cases.push(("plain", get(path, &bearer(&token))));
            }
        }
        for (issuer, path, header) in [
            ("issuer-s", "/subjects", "X-S"),
            ("issuer-e", "/expires", "X-E"),
            ("issuer-l", "/short", "X-L"),
            ("who", "/anybody", "X-N"),
            ("gone", "/anybody", "X-N"),
            ("who", "/missing", "X-N"),
            ("issuer-a", "/missing", "X-N"),
            ("issuer-a", "/missing", "X-S"),
        ] {
            for claims in [
                json!({}),
                json!({"exp": now + 1000}),
                json!({"exp": now + 5000}),
                json!({"exp": now - 1000}),
                json!({"sub": "spiffe://a/b"}),
                json!({"sub": "gone"}),
            ] {
                let token = sign(&self.a, json!({"alg": "RS256"}), issuer, claims);
                cases.push(("plain", get(path, &format!("{header}: {token}\r\n"))));
            }
        }
    }

    /// Each way to require tokens, with each kind of them.
    fn requirements(&self, cases: &mut Vec<Case>) {
        let a = self.a(json!({}));
        let old_a = self.a(json!({"exp": 1}));
        let forged = sign(&self.b, json!({"alg": "RS256"}), "issuer-a", json!({}));
        let b = self.b(json!({"aud": "one"}));
        let old_b = self.b(json!({"aud": "one", "exp": 1}));
        let other_b = self.b(json!({"aud": "other"}));
        let stranger = self.a(json!({"iss": "stranger"}));
        for path in [
            "/istio", "/istio2", "/ab", "/ba", "/all", "/missing", "/failed", "/tried", "/named",
            "/nothing", "/none",
        ] {
            let mut add = |fields: &str| cases.push(("plain", get(path, fields)));
            add("");
            add("X-Payload: of-the-client\r\nX-Sub: of-the-client\r\nX-PADDED: of-the-client\r\n");
            for token in [
                &a, &old_a, &forged, &b, &old_b, &other_b, &stranger, "x.y.z",
            ] {
                add(&bearer(token));
                add(&format!("X-Raw: {token}\r\n"));
                add(&format!("{}X-Raw: {a}\r\n", bearer(token)));
                // Envoy takes the word of one of them: see the filter.
                if path != "/missing" {
                    add(&format!("{}X-Raw: {old_a}\r\n", bearer(token)));
                }
            }
            for route in ["off", "other", "wrong"] {
                let fields = format!("X-Route: {route}\r\nX-Sub: of-the-client\r\n");
                add(&fields);
                add(&format!("{fields}X-Raw: {a}\r\n"));
            }
            let preflight = "Origin: o\r\nAccess-Control-Request-Method: PUT\r\nX-Sub: c\r\n";
            let preflight = get(path, preflight).replacen("GET", "OPTIONS", 1);
            cases.push(("plain", preflight));
        }
    }

    fn places(&self, cases: &mut Vec<Case>) {
        let (a, old) = (self.a(json!({})), self.a(json!({"exp": 1})));
        let encoded = a.replace('.', "%2E");
        let mut add = |path: &str, fields: &str| cases.push(("plain", get(path, fields)));
        for prefix in [
            "Bearer",
            "bearer ",
            "Bearer  ",
            "Basic ",
            "x Bearer ",
            "Bearer ,",
            "",
        ] {
            add("/a", &format!("Authorization: {prefix}{a}\r\n"));
        }
        add("/a", &format!("Authorization: Bearer {a}, more\r\n"));
        add("/a", "Authorization: Bearer\r\n");
        add("/a", "X-Raw:\r\n");
        add("/a", "Cookie: session=\r\n");
        for query in [
            format!("token={a}"),
            format!("a=1&token={a}&b=2"),
            format!("token={encoded}"),
            format!("token={a}&token={old}"),
            format!("token={old}&token={a}"),
            "token=".into(),
            "x=token".into(),
        ] {
            add(&format!("/a?{query}"), "");
        }
        for cookies in [
            format!("x=1; session={a}; y"),
            format!("session=\"{a}\""),
            format!("session={a}; session={old}"),
            format!("session={old}; session={a}"),
            format!("other={a}"),
        ] {
            add("/a", &format!("Cookie: {cookies}\r\n"));
        }
        for (raw, query) in [(&a, &a), (&a, &old), (&old, &a)] {
            let fields = format!("{}X-Raw: {raw}\r\nCookie: session={a}\r\n", bearer(&a));
            add(&format!("/a?token={query}"), &fields);
        }
        add(&format!("/a?{}", "x".repeat(300)), "");
        add("/a", "X-Envoy-Original-Path: /original\r\n");
        let grpc = "Content-Type: application/grpc\r\nContent-Length: 0\r\n";
        let post = |fields: &str| get("/a", &format!("{grpc}{fields}")).replacen("GET", "POST", 1);
        cases.push(("plain", post("")));
        cases.push(("plain", post(&bearer(&old))));
        cases.push(("quiet", post("")));
        cases.push(("plain", get("/a", "").replacen("GET", "HEAD", 1)));
    }

    /// What access control and routes make of tokens.
    fn judged(&self, cases: &mut Vec<Case>) {
        for path in [
            "/principal",
            "/not",
            "/negated",
            "/sourced",
            "/tried",
            "/route",
            "/route/not",
            "/route/only",
            "/elsewhere",
        ] {
            for claims in [
                json!({"sub": "subject"}),
                json!({"sub": "other"}),
                json!({"sub": "gone"}),
                json!({"sub": "gone", "scope": "read write"}),
                json!({"sub": "other", "scope": "reading", "team": "red"}),
            ] {
                cases.push(("judged", get(path, &bearer(&self.a(claims)))));
            }
            cases.push(("judged", get(path, "")));
            cases.push(("judged", get(path, "X-Team: red\r\n")));
            cases.push(("judged", get(path, &bearer("x.y.z"))));
        }
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_key(key: &RsaKey, id: &str) -> Value {
    let public = key.public_key();
    let n = public.modulus().big_endian_without_leading_zero();
    let e = public.exponent().big_endian_without_leading_zero();
    json!({"kty": "RSA", "kid": id, "n": encode(n), "e": encode(e)})
}

fn payload(issuer: &str, claims: Value) -> Value {
    let mut payload = json!({"iss": issuer, "sub": "subject"});
    let fields = payload.as_object_mut().expect("it is an object");
    fields.extend(claims.as_object().expect("claims are an object").clone());
    fields.retain(|_, value| value != "gone");
    payload
}

fn sign(key: &RsaKey, header: Value, issuer: &str, claims: Value) -> String {
    with_signature(
        key,
        &unsigned(&header, &payload(issuer, claims).to_string()),
    )
}

fn unsigned(header: &Value, payload: &str) -> String {
    let header = encode(header.to_string().as_bytes());
    format!("{header}.{}", encode(payload.as_bytes()))
}

fn with_signature(key: &RsaKey, signed: &str) -> String {
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(
        &RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .expect("the key signs");
    format!("{signed}.{}", encode(&signature))
}
