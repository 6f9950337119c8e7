//! The name of an image: `registry/repository:tag@digest`.

use crate::{FetchError, client::bare, folder::is_checksum};

/// Where images without a registry are.
const DOCKER_HUB: &str = "index.docker.io";
const DOCKER_HUB_NAMES: [&str; 2] = ["docker.io", DOCKER_HUB];
/// What Docker Hub's own images belong to.
const LIBRARY: &str = "library/";
const LATEST: &str = "latest";
/// Both of OCI's distribution specification.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
const SHA256: &str = "sha256:";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, and port if it has one.
    pub(crate) registry: String,
    pub(crate) repository: String,
    tag: String,
    /// In hexadecimal.
    digest: Option<String>,
}

impl Reference {
    /// # Errors
    /// When it is no name of an image, or one by another digest than SHA-256.
    pub(crate) fn parse(text: &str) -> Result<Self, FetchError> {
        let wrong = |reason| FetchError::Reference(text.to_owned(), reason);
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.strip_prefix(SHA256).filter(|it| is_checksum(it));
                let digest =
                    digest.ok_or_else(|| wrong("its digest is not sha256 in hexadecimal"))?;
                (name, Some(digest.to_owned()))
            }
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest)
            }
            _ => (DOCKER_HUB, name),
        };
        let (repository, tag) = rest.split_once(':').unwrap_or((rest, LATEST));
        let is_hub = DOCKER_HUB_NAMES.contains(&registry);
        let registry = if is_hub { DOCKER_HUB } else { registry };
        let prefix = if is_hub && !repository.contains('/') {
            LIBRARY
        } else {
            ""
        };
        let host = registry.parse::<http::uri::Authority>();
        if !host.is_ok_and(|host| !bare(host.host()).is_empty()) {
            return Err(wrong("its registry is no host"));
        }
        if !is_repository(repository) {
            return Err(wrong(
                "its repository is no path of small letters and digits",
            ));
        }
        if !is_tag(tag) {
            return Err(wrong("its tag"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: format!("{prefix}{repository}"),
            tag: tag.to_owned(),
            digest,
        })
    }

    /// Without tag and digest.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// SHA-256 in hexadecimal.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a registry is asked for.
    pub(crate) fn manifest(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{SHA256}{digest}"),
            None => self.tag.clone(),
        }
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.registry == DOCKER_HUB
    }
}

fn is_repository(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let part = |part: &str| {
        part.starts_with(|it: char| it.is_ascii_alphanumeric()) && part.bytes().all(allowed)
    };
    text.len() <= MAX_REPOSITORY && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TAG).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        let digest = "a".repeat(64);
        let pinned = format!("r.test/a@sha256:{digest}");
        let both = format!("r.test:5000/a/b:1@sha256:{digest}");
        for (text, name, manifest) in [
            ("r.test/a/b:v1.0", "r.test/a/b", "v1.0".to_owned()),
            ("localhost:5000/a", "localhost:5000/a", "latest".into()),
            ("[::1]:5000/a:x", "[::1]:5000/a", "x".into()),
            ("docker.io/istio/a:1", "index.docker.io/istio/a", "1".into()),
            ("istio/a", "index.docker.io/istio/a", "latest".into()),
            ("a", "index.docker.io/library/a", "latest".into()),
            (&pinned, "r.test/a", format!("sha256:{digest}")),
            (&both, "r.test:5000/a/b", format!("sha256:{digest}")),
        ] {
            let parsed = Reference::parse(text).unwrap();
            assert_eq!(
                (parsed.name().as_str(), parsed.manifest()),
                (name, manifest),
                "{text}"
            );
        }
        for text in [
            "",
            "r.test/",
            "r.test/../a",
            "r.test/a/",
            "r.test//a",
            "r.test/A",
            "r.test/a b",
            "r.test/a?x",
            "r.test/a:",
            "r.test/a:x/y",
            "r.test/a@sha256:1",
            "r.test/a@sha512:1",
            "user:word@r.test/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
