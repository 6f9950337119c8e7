//! How a registry is shown who asks: its challenge, and what a pull secret holds for it.
//!
//! Source: RFC 9110 section 11, the distribution project's token authentication, Docker's `config.json`.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Uri, header::WWW_AUTHENTICATE};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Reference;
use crate::{
    FetchError,
    client::{bare, host_port, is_near},
};

/// Names that clouds give their metadata.
const METADATA: [&str; 2] = ["metadata.google.internal", "metadata.goog"];
/// Under which Docker keeps the secret of its own registry.
const DOCKER_HUB: &str = "docker.io";

/// What a secret says of one registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Anonymous,
    /// `user:password`.
    Basic(Zeroizing<String>),
    /// A token for the registry itself.
    Bearer(Zeroizing<String>),
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// A token of somebody else: the URL to get it from.
    Bearer(Uri),
}

impl Credentials {
    /// What the text of a `config.json` has for the registry.
    ///
    /// # Errors
    /// When it is none, or has a form that we lack.
    pub(crate) fn of(config: &str, image: &Reference) -> Result<Self, FetchError> {
        let json: Value =
            serde_json::from_str(config).map_err(|_| FetchError::Secret("it is no JSON"))?;
        let wrong = FetchError::Secret("it is not of the form of Docker's config.json");
        let Some(object) = json.as_object() else {
            return Err(wrong);
        };
        let empty = serde_json::Map::new();
        let auths = match object.get("auths") {
            None => &empty,
            Some(auths) => auths.as_object().ok_or(wrong)?,
        };
        let is_it = |key: &str| is_for(key, image);
        let Some((_, found)) = auths.iter().find(|(key, _)| is_it(key)) else {
            return Ok(Self::Anonymous);
        };
        let text = |name: &str| found[name].as_str().filter(|text| !text.is_empty());
        if let Some(token) = text("registrytoken") {
            return Ok(Self::Bearer(Zeroizing::new(token.to_owned())));
        }
        if text("identitytoken").is_some() {
            return Err(FetchError::Secret(
                "identity tokens are not supported; give a user name and a password",
            ));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Self::Basic(Zeroizing::new(format!("{user}:{password}"))));
        }
        let Some(encoded) = text("auth") else {
            return Ok(Self::Anonymous);
        };
        let broken = || FetchError::Secret("auth is not user:password in base64");
        let decoded = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| broken())?);
        let pair = str::from_utf8(&decoded).map_err(|_| broken())?;
        match pair.contains(':') {
            true => Ok(Self::Basic(Zeroizing::new(pair.to_owned()))),
            false => Err(broken()),
        }
    }

    /// The header that shows them.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Anonymous => None,
            Self::Basic(pair) => secret(&format!("Basic {}", STANDARD.encode(pair.as_bytes()))),
            Self::Bearer(token) => secret(&format!("Bearer {}", token.as_str())),
        }
    }
}

/// A header's value that no log shows.
pub(crate) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a key of `auths` means the registry: a host, or a URL of it.
fn is_for(key: &str, image: &Reference) -> bool {
    let host = key.trim_start_matches("https://");
    let host = host.trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    host == image.registry || (image.is_docker_hub() && host == DOCKER_HUB)
}

impl Challenge {
    /// What the registry of `image` asks for in a response with status 401.
    ///
    /// # Errors
    /// When it is nothing that we can do, or nothing that we will: a registry must not choose whom on this
    /// host or its network we talk to.
    pub(crate) fn of(headers: &HeaderMap, image: &Reference) -> Result<Self, FetchError> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let scheme = |value: &&&str, name: &str| {
            let word = value.split(' ').next().unwrap_or_default();
            word.eq_ignore_ascii_case(name)
        };
        if let Some(bearer) = values.iter().find(|value| scheme(value, "Bearer")) {
            return bearer_url(bearer, image).map(Self::Bearer);
        }
        match values.iter().any(|value| scheme(&value, "Basic")) {
            true => Ok(Self::Basic),
            false => Err(FetchError::Challenge("neither Basic nor Bearer")),
        }
    }
}

fn bearer_url(value: &str, image: &Reference) -> Result<Uri, FetchError> {
    let parameters = parameters(value);
    let get = |name: &str| {
        let mut found = parameters.iter();
        let found = found.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    };
    let realm = get("realm").ok_or(FetchError::Challenge("no realm"))?;
    let realm: Uri = realm
        .parse()
        .map_err(|_| FetchError::Challenge("the realm is no URL"))?;
    check_realm(&realm, image)?;
    let default = format!("repository:{}:pull", image.repository);
    let mut url = realm.to_string();
    let mut separator = if realm.query().is_some() { '&' } else { '?' };
    for (name, value) in [
        ("service", get("service")),
        ("scope", Some(get("scope").unwrap_or(&default))),
    ] {
        if let Some(value) = value {
            url.push(separator);
            url.push_str(name);
            url.push('=');
            url.push_str(&escaped(value));
            separator = '&';
        }
    }
    url.parse()
        .map_err(|_| FetchError::Challenge("the realm is no URL"))
}

/// A realm is at the registry itself, or elsewhere in the world.
fn check_realm(realm: &Uri, image: &Reference) -> Result<(), FetchError> {
    if !matches!(realm.scheme_str(), Some("http" | "https")) {
        return Err(FetchError::Challenge("the realm is neither http nor https"));
    }
    let host = realm.host().unwrap_or_default();
    if METADATA.contains(&host.trim_end_matches('.')) {
        return Err(FetchError::Challenge(
            "the realm is where a cloud keeps its metadata",
        ));
    }
    let registry = image.registry.parse::<http::uri::Authority>();
    let own = registry.is_ok_and(|registry| bare(registry.host()) == bare(host));
    match is_near(host) && !own {
        true => Err(FetchError::Challenge(
            "the realm is at a private address that is not the registry's",
        )),
        false => Ok(()),
    }
}

/// Whether credentials may go to the realm: by TLS, or to a host that need not speak it.
pub(crate) fn may_have_secrets(realm: &Uri, speaks_plaintext: impl Fn(&str) -> bool) -> bool {
    realm.scheme_str() == Some("https") || speaks_plaintext(&host_port(realm))
}

/// `name="value"` and `name=value` after the scheme.
fn parameters(value: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = value.split_once(' ').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_owned();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = after;
    }
    found
}

/// Percent-encoded, but for what RFC 3986 leaves as it is, and what scopes are made of.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            true => escaped.push(byte.into()),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn challenge(value: &str, of: &str) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, value.parse().unwrap());
        Challenge::of(&headers, &image(of)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_got_where_the_challenge_says() {
        let found = challenge(
            r#"Bearer realm="https://auth.test/token",service="r.test",scope="repository:a/b:pull""#,
            "r.test/a/b",
        );
        let url = "https://auth.test/token?service=r.test&scope=repository:a/b:pull";
        assert_eq!(found, Ok(Challenge::Bearer(url.parse().unwrap())));
        let found = challenge(
            r#"bearer realm="https://r.test/t?a=b", service="x y&z""#,
            "r.test/a",
        );
        let url = "https://r.test/t?a=b&service=x%20y%26z&scope=repository:a:pull";
        assert_eq!(found, Ok(Challenge::Bearer(url.parse().unwrap())));
        assert_eq!(challenge("Basic realm=x", "r.test/a"), Ok(Challenge::Basic));
        let own = challenge(r#"Bearer realm="http://10.0.0.1:81/t""#, "10.0.0.1:80/a");
        assert!(own.is_ok(), "{own:?}");
    }

    #[test]
    fn a_realm_on_this_host_or_at_a_cloud_is_refused() {
        for value in [
            r#"Bearer realm="http://127.0.0.1/t""#,
            r#"Bearer realm="http://localhost/t""#,
            r#"Bearer realm="http://[::1]/t""#,
            r#"Bearer realm="http://[::ffff:10.0.0.1]/t""#,
            r#"Bearer realm="http://10.0.0.1/t""#,
            r#"Bearer realm="http://metadata.google.internal/t""#,
            r#"Bearer realm="file:///etc/passwd""#,
            r#"Bearer realm="/t""#,
            "Bearer service=x",
            "Bearer",
            "Digest realm=x",
            "",
        ] {
            assert!(challenge(value, "r.test/a").is_err(), "{value}");
        }
    }

    #[test]
    fn secrets_are_of_one_registry() {
        let shown = |config: &str, of: &str| {
            let found = Credentials::of(config, &image(of)).map_err(|error| error.to_string());
            found.map(|found| found.header().map(|it| it.to_str().unwrap().to_owned()))
        };
        // u:p
        let encoded = r#"{"auths": {"https://r.test/v2/": {"auth": "dTpw"}}}"#;
        assert_eq!(shown(encoded, "r.test/a"), Ok(Some("Basic dTpw".into())));
        assert_eq!(shown(encoded, "r.test:5000/a"), Ok(None));
        assert_eq!(shown(encoded, "evil.r.test/a"), Ok(None));
        let plain = r#"{"auths": {"r.test:5000": {"username": "u", "password": "p"}}}"#;
        assert_eq!(shown(plain, "r.test:5000/a"), Ok(Some("Basic dTpw".into())));
        let hub = r#"{"auths": {"https://index.docker.io/v1/": {"registrytoken": "t"}}}"#;
        assert_eq!(shown(hub, "istio/a"), Ok(Some("Bearer t".into())));
        assert_eq!(shown("{}", "r.test/a"), Ok(None));
        for broken in [
            "",
            "null",
            "[]",
            r#"{"auths": []}"#,
            r#"{"auths": {"r.test": {"auth": "%"}}}"#,
            r#"{"auths": {"r.test": {"auth": "dQ=="}}}"#,
            r#"{"auths": {"r.test": {"identitytoken": "x"}}}"#,
        ] {
            assert!(shown(broken, "r.test/a").is_err(), "{broken}");
        }
    }
}
