//! `testdata` was made by another implementation (pyca/cryptography): `tokens.txt` has a name and a
//! token a line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

const KEYS: &str = include_str!("../testdata/keys.json");
const TOKENS: &str = include_str!("../testdata/tokens.txt");

fn keys() -> KeySet {
    KeySet::parse(KEYS.as_bytes()).unwrap()
}

fn token(name: &str) -> &'static str {
    let mut lines = TOKENS.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(it, _)| *it == name).unwrap().1
}

fn verify(token: &str) -> Result<(), JwtError> {
    keys().verify(&Token::parse(token)?)
}

/// A token with a signature that is one for nobody.
fn unsigned(header: &str, payload: &str) -> String {
    let [header, payload] = [header, payload].map(|it| URL_SAFE_NO_PAD.encode(it));
    format!("{header}.{payload}.AAAA")
}

#[test]
fn each_algorithm_is_verified() {
    for name in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
        "HS256", "HS384", "HS512", "no-kid",
    ] {
        assert_eq!(verify(token(name)), Ok(()), "{name}");
    }
}

#[test]
fn what_others_signed_is_refused() {
    for (name, error) in [
        ("other-kid", JwtError::NoKey),
        ("rsa-pem-as-secret", JwtError::VerificationFail),
        ("rsa-der-as-secret", JwtError::VerificationFail),
        ("hmac-called-rs256", JwtError::VerificationFail),
        ("es256-by-rsa-kid", JwtError::VerificationFail),
        ("es384-on-p256", JwtError::VerificationFail),
        ("other-rsa", JwtError::VerificationFail),
        ("crit", JwtError::VerificationFail),
    ] {
        assert_eq!(verify(token(name)), Err(error), "{name}");
    }
}

#[test]
fn a_changed_token_is_refused() {
    for name in ["RS256", "PS256", "ES256", "EdDSA", "HS256"] {
        let parts: Vec<_> = token(name).split('.').collect();
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iss":"issuer","sub":"admin"}"#);
        let changed = [parts[0], &payload, parts[2]].join(".");
        let error = Err(JwtError::VerificationFail);
        assert_eq!(verify(&changed), error, "{name}");
        let short = token(name).strip_suffix(|_| true).unwrap();
        assert!(verify(short).is_err(), "{name}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let good = token("RS256");
    let parts: Vec<_> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    // The last character of 256 bytes has four bits that say nothing.
    let (rest, last) = signature.split_at(signature.len() - 1);
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = ALPHABET.find(last).unwrap();
    let stray = format!("{rest}{}", &ALPHABET[at + 1..][..1]);
    for (token, error) in [
        (format!("{header}.{payload}"), JwtError::BadFormat),
        (format!("{good}."), JwtError::BadFormat),
        (
            format!("{header}..{payload}.{signature}"),
            JwtError::BadFormat,
        ),
        (format!("{good}.{signature}"), JwtError::BadFormat),
        (format!("{header}.{payload}."), JwtError::BadFormat),
        (String::new(), JwtError::BadFormat),
        (
            format!("{header}=.{payload}.{signature}"),
            JwtError::HeaderBadBase64,
        ),
        (
            format!("{header}.{payload}+.{signature}"),
            JwtError::PayloadBadBase64,
        ),
        (format!("{good}=="), JwtError::SignatureBadBase64),
        (
            format!("{header}.{payload}.{stray}"),
            JwtError::SignatureBadBase64,
        ),
        (
            format!("{header}.{payload}. {signature}"),
            JwtError::SignatureBadBase64,
        ),
    ] {
        assert_eq!(verify(&token), Err(error), "{token}");
    }
}

#[test]
fn headers_and_claims_have_their_kinds() {
    const HEADER: &str = r#"{"alg":"RS256"}"#;
    for (header, payload, error) in [
        (r#"{"alg":"none"}"#, "{}", JwtError::HeaderNotImplementedAlg),
        (r#"{"alg":"None"}"#, "{}", JwtError::HeaderNotImplementedAlg),
        (
            r#"{"alg":"rs256"}"#,
            "{}",
            JwtError::HeaderNotImplementedAlg,
        ),
        (r#"{"alg":5}"#, "{}", JwtError::HeaderBadAlg),
        ("{}", "{}", JwtError::HeaderBadAlg),
        ("[]", "{}", JwtError::HeaderBadJson),
        (
            r#"{"alg":"RS256","alg":"HS256"}"#,
            "{}",
            JwtError::HeaderBadJson,
        ),
        (r#"{"alg":"RS256","kid":5}"#, "{}", JwtError::HeaderBadKid),
        (HEADER, "[1]", JwtError::PayloadBadJson),
        (HEADER, "{} x", JwtError::PayloadBadJson),
        (HEADER, "{'iss':'a'}", JwtError::PayloadBadJson),
        (HEADER, r#"{"sub":"a","sub":"b"}"#, JwtError::PayloadBadJson),
        (HEADER, r#"{"a":{"b":1,"b":2}}"#, JwtError::PayloadBadJson),
        (HEADER, "\"\\ud800\"", JwtError::PayloadBadJson),
        (HEADER, r#"{"iss":5}"#, JwtError::IssNotString),
        (HEADER, r#"{"sub":null}"#, JwtError::SubNotString),
        (HEADER, r#"{"iat":"1"}"#, JwtError::IatNotInteger),
        (HEADER, r#"{"iat":-1}"#, JwtError::IatOutOfRange),
        (HEADER, r#"{"nbf":[]}"#, JwtError::NbfNotInteger),
        (HEADER, r#"{"nbf":1e30}"#, JwtError::NbfOutOfRange),
        (HEADER, r#"{"exp":null}"#, JwtError::ExpNotInteger),
        (
            HEADER,
            r#"{"exp":18446744073709551615}"#,
            JwtError::ExpOutOfRange,
        ),
        (HEADER, r#"{"jti":{}}"#, JwtError::JtiNotString),
        (HEADER, r#"{"aud":["a",5]}"#, JwtError::AudNotString),
    ] {
        let token = unsigned(header, payload);
        let found = Token::parse(&token).map(drop);
        assert_eq!(found, Err(error), "{header} {payload}");
    }
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep = unsigned(HEADER, &deep);
    assert_eq!(Token::parse(&deep).map(drop), Err(JwtError::PayloadBadJson));
}

#[test]
fn tokens_have_their_time() {
    let check = |payload: &str, now| {
        let text = unsigned(r#"{"alg":"RS256"}"#, payload);
        Token::parse(&text).unwrap().is_timely(now, 60)
    };
    assert_eq!(check("{}", 0), Ok(()));
    assert_eq!(check(r#"{"exp":1000}"#, 1060), Ok(()));
    assert_eq!(check(r#"{"exp":1000.9}"#, 1061), Err(JwtError::Expired));
    assert_eq!(check(r#"{"exp":0}"#, 1000), Err(JwtError::Expired));
    assert_eq!(check(r#"{"exp":18446744073709549568}"#, 1000), Ok(()));
    assert_eq!(check(r#"{"nbf":1060}"#, 1000), Ok(()));
    assert_eq!(check(r#"{"nbf":1061}"#, 1000), Err(JwtError::NotYetValid));
    assert_eq!(check(r#"{"nbf":1061}"#, u64::MAX), Ok(()));
}

#[test]
fn keys_verify_what_they_are_for() {
    let set: Value = serde_json::from_str(KEYS).unwrap();
    let with = |index: usize, fields: Value| {
        let mut key = set["keys"][index].as_object().unwrap().clone();
        key.extend(fields.as_object().unwrap().clone());
        serde_json::json!({ "keys": [key] }).to_string()
    };
    let parse = |text: &str| KeySet::parse(text.as_bytes());
    let token = Token::parse(token("RS256")).unwrap();
    let of_other_algorithm = parse(&with(0, serde_json::json!({"alg": "RS384"}))).unwrap();
    assert_eq!(of_other_algorithm.verify(&token), Err(JwtError::NoKey));
    let padded = format!("{}==", set["keys"][0]["n"].as_str().unwrap());
    let padded = parse(&with(0, serde_json::json!({"n": padded, "use": "sig"}))).unwrap();
    assert_eq!(padded.verify(&token), Ok(()));
    for (index, fields) in [
        (0, serde_json::json!({"use": "enc"})),
        (0, serde_json::json!({"key_ops": ["encrypt"]})),
        (0, serde_json::json!({"alg": "ES256"})),
        (0, serde_json::json!({"alg": "none"})),
        (0, serde_json::json!({"kty": "EC"})),
        (0, serde_json::json!({"kty": 5})),
        (0, serde_json::json!({"kid": 5})),
        (0, serde_json::json!({"n": "!"})),
        (0, serde_json::json!({"n": "AQAB"})),
        (0, serde_json::json!({"e": ""})),
        (1, serde_json::json!({"crv": "P-384"})),
        (1, serde_json::json!({"x": set["keys"][1]["y"]})),
        (1, serde_json::json!({"alg": "ES384"})),
        (4, serde_json::json!({"crv": "X25519"})),
        (4, serde_json::json!({"x": "AAAA"})),
        (5, serde_json::json!({"k": ""})),
        (5, serde_json::json!({"alg": "RS256"})),
    ] {
        let found = parse(&with(index, fields.clone()));
        let is_refused = matches!(&found, Err(JwksError::NoneUsable(reason)) if !reason.is_empty());
        assert!(is_refused, "{fields}: {found:?}");
    }
    for text in ["", "[]", "{", r#"{"keys":[],"keys":[]}"#] {
        assert_eq!(parse(text).unwrap_err(), JwksError::NotJson);
    }
    for text in ["{}", r#"{"keys":{}}"#] {
        assert_eq!(parse(text).unwrap_err(), JwksError::NoKeys);
    }
    let mixed = format!(r#"{{"keys":[{{"kty":"new"}},{}]}}"#, set["keys"][0]);
    let mixed = parse(&mixed).unwrap();
    assert_eq!(mixed.left_out().len(), 1);
    assert_eq!(mixed.verify(&token), Ok(()));
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?}", keys());
    let set: Value = serde_json::from_str(KEYS).unwrap();
    assert!(!printed.contains(set["keys"][5]["k"].as_str().unwrap()));
}

proptest! {
    #[test]
    fn nothing_panics(
        text in "[A-Za-z0-9_.=-]{0,80}|\\PC{0,40}",
        header in "\\PC{0,60}|\\{\"alg\":\"RS256\",\"kid\":\"rsa\"\\}",
        payload in "\\PC{0,60}|\\{\"exp\":[0-9.e-]{1,12}\\}",
    ) {
        let _ = verify(&text);
        let _ = verify(&unsigned(&header, &payload));
        let _ = KeySet::parse(payload.as_bytes());
    }
}
