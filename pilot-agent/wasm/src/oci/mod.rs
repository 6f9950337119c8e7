//! A module in an image of a registry: as much of OCI's distribution specification as that takes.

mod auth;
mod manifest;
mod reference;

use std::path::Path;

use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Limited};
use ithildin_sys::file::read_regular;
use serde_json::Value;
use tokio::task::spawn_blocking;

use self::{
    auth::{Challenge, Credentials, may_have_secrets, secret},
    manifest::{Form, Layer, Manifest},
};
use crate::{
    FetchError, Options, Request,
    client::{self, Answer, is_near},
    error::verify,
    file::{Saved, save, sha256},
    unpack,
};

pub(crate) use reference::Reference;

/// The largest manifest that registries must take (OCI distribution specification, "Pushing Manifests").
const MAX_MANIFEST: usize = 4 << 20;
/// The largest answer with a token.
const MAX_TOKEN: usize = 64 << 10;
const DOCKER_CONFIG: &str = "config.json";
/// As large as a Secret of Kubernetes may be.
const MAX_DOCKER_CONFIG: usize = 1 << 20;

/// An image whose manifest is known.
pub(crate) struct Image<'a> {
    session: Session<'a>,
    checksum: String,
    layer: Layer,
}

impl<'a> Image<'a> {
    /// Asks the registry for the manifest, which must have the digest that is expected, if any.
    pub(crate) async fn find(
        options: &'a Options,
        image: &'a Reference,
        request: &Request,
        expected: Option<&str>,
    ) -> Result<Self, FetchError> {
        let mut session = Session::open(options, image, request)?;
        let name = image.manifest();
        let (mut digest, mut manifest) = session.manifest(&name, image.digest()).await?;
        let outer = digest.clone();
        if let Manifest::Index(inner) = manifest {
            let name = format!("sha256:{inner}");
            (digest, manifest) = session.manifest(&name, Some(&inner)).await?;
        }
        let Manifest::Image(layer) = manifest else {
            return Err(FetchError::Manifest("an index in an index".into()));
        };
        // Either may be meant where an image is for several platforms.
        let checksum = match expected {
            Some(expected) if expected == outer || expected == digest => expected.to_owned(),
            Some(expected) => {
                return Err(FetchError::Checksum {
                    found: digest,
                    expected: expected.to_owned(),
                });
            }
            None => digest,
        };
        Ok(Self {
            session,
            checksum,
            layer,
        })
    }

    /// Of the manifest, in hexadecimal.
    pub(crate) fn checksum(&self) -> &str {
        &self.checksum
    }

    /// The module, in a file in `folder`.
    pub(crate) async fn fetch(mut self, folder: &Path) -> Result<Saved, FetchError> {
        let limit = self.session.options.max_bytes;
        let Layer { digest, form } = self.layer;
        let path = format!("blobs/sha256:{digest}");
        let answer = self.session.get(&path, None).await?.ok()?;
        let saved = Box::pin(save(answer, folder, limit)).await?;
        verify(&saved.sha256, &digest)?;
        let folder = folder.to_path_buf();
        let module = spawn_blocking(move || match form {
            Form::Archive => unpack::plugin(&saved, &folder, limit),
            Form::Module => unpack::check(&saved).map(|()| saved),
        });
        module.await.map_err(|_| FetchError::Interrupted)?
    }
}

/// One registry, and what we have shown it.
struct Session<'a> {
    options: &'a Options,
    image: &'a Reference,
    credentials: Credentials,
    authorization: Option<HeaderValue>,
    /// `None` until it is known.
    scheme: Option<&'static str>,
}

impl<'a> Session<'a> {
    fn open(
        options: &'a Options,
        image: &'a Reference,
        request: &Request,
    ) -> Result<Self, FetchError> {
        let credentials = match (&request.pull_secret, &options.docker_config) {
            (Some(secret), _) => Credentials::of(secret, image)?,
            (None, Some(folder)) => {
                let path = folder.join(DOCKER_CONFIG);
                let config = read_regular(&path, MAX_DOCKER_CONFIG);
                let config = config.map_err(|source| FetchError::File { path, source })?;
                Credentials::of(&String::from_utf8_lossy(&config), image)?
            }
            (None, None) => Credentials::Anonymous,
        };
        Ok(Self {
            options,
            image,
            // A token is shown at once, a password when it is asked for.
            authorization: match &credentials {
                Credentials::Bearer(_) => credentials.header(),
                _ => None,
            },
            credentials,
            scheme: None,
        })
    }

    /// Asks for a manifest, whose digest is returned with it.
    async fn manifest(
        &mut self,
        name: &str,
        expected: Option<&str>,
    ) -> Result<(String, Manifest), FetchError> {
        let path = format!("manifests/{name}");
        let answer = self.get(&path, Some(manifest::ACCEPT)).await?.ok()?;
        let kind = answer.headers.get(CONTENT_TYPE).cloned();
        let body = whole(answer, MAX_MANIFEST).await?;
        let digest = sha256(&body);
        if let Some(expected) = expected {
            verify(&digest, expected)?;
        }
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
        let manifest = Manifest::parse(&body, kind.unwrap_or_default())?;
        Ok((digest, manifest))
    }

    /// Asks for something of the repository, and shows who we are if the registry wants to know.
    async fn get(
        &mut self,
        path: &str,
        accept: Option<&'static str>,
    ) -> Result<Answer, FetchError> {
        let answer = self.ask(path, accept).await?;
        if answer.status != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok(answer);
        }
        let challenge = Challenge::of(&answer.headers, self.image)?;
        drop(answer);
        self.authorization = match challenge {
            Challenge::Basic => self.credentials.header(),
            Challenge::Bearer(url) => Some(self.token(url).await?),
        };
        self.ask(path, accept).await
    }

    async fn ask(
        &mut self,
        path: &str,
        accept: Option<&'static str>,
    ) -> Result<Answer, FetchError> {
        let Some(scheme) = self.scheme else {
            return self.ask_first(path, accept).await;
        };
        let Reference {
            registry,
            repository,
            ..
        } = self.image;
        let url = format!("{scheme}://{registry}/v2/{repository}/{path}");
        let uri: Uri = url.parse().map_err(|_| FetchError::Url(url))?;
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Box::pin(client::get(self.options, uri, headers)).await
    }

    /// With TLS, or without where that may be.
    async fn ask_first(
        &mut self,
        path: &str,
        accept: Option<&'static str>,
    ) -> Result<Answer, FetchError> {
        self.scheme = Some("https");
        let error = match Box::pin(self.ask(path, accept)).await {
            Err(error @ (FetchError::Tls { .. } | FetchError::Connect { .. })) => error,
            answered => return answered,
        };
        let registry = &self.image.registry;
        if speaks_plaintext(self.options, registry) {
            self.scheme = Some("http");
            return Box::pin(self.ask(path, accept)).await;
        }
        match error {
            FetchError::Tls { ref source, .. } if !is_about_certificate(source) => {
                Err(FetchError::Plaintext {
                    registry: registry.clone(),
                    source: Box::new(error),
                })
            }
            error => Err(error),
        }
    }

    /// Gets a token from the realm of a challenge.
    async fn token(&self, url: Uri) -> Result<HeaderValue, FetchError> {
        let mut headers = HeaderMap::new();
        let plaintext = |host: &str| speaks_plaintext(self.options, host);
        if let Some(shown) = self.credentials.header() {
            if !may_have_secrets(&url, plaintext) {
                return Err(FetchError::Challenge(
                    "the realm is without TLS, and would be sent the pull secret",
                ));
            }
            headers.insert(AUTHORIZATION, shown);
        }
        let answer = Box::pin(client::get(self.options, url, headers))
            .await?
            .ok()?;
        let body = whole(answer, MAX_TOKEN).await?;
        let wrong = FetchError::Challenge("the realm's answer has no token");
        let Ok(json) = serde_json::from_slice::<Value>(&body) else {
            return Err(wrong);
        };
        let token = json["token"].as_str().or(json["access_token"].as_str());
        let header = token.and_then(|token| secret(&format!("Bearer {token}")));
        header.ok_or(wrong)
    }
}

/// As with Docker: hosts that are named, this one, and those at private addresses that a name spells out.
fn speaks_plaintext(options: &Options, registry: &str) -> bool {
    let authority = registry.parse::<http::uri::Authority>();
    let host = authority
        .as_ref()
        .map_or(registry, |authority| authority.host());
    options.is_insecure(registry) || is_near(host) || host.ends_with(".local")
}

/// Whether the other side spoke TLS well.
fn is_about_certificate(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

async fn whole(answer: Answer, limit: usize) -> Result<Vec<u8>, FetchError> {
    let collected = Limited::new(answer.body, limit).collect().await;
    match collected {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => FetchError::Broken(*error),
            Err(_) => FetchError::TooLarge(limit as u64),
        }),
    }
}
