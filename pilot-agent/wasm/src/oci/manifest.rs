//! What an image is made of.
//!
//! Source: OCI image specification 1.1, Docker's "Image Manifest V 2, Schema 2", and the specification of
//! Wasm images with its two variants, `compat` and `oci`.

use serde_json::Value;

use crate::{FetchError, folder::is_checksum};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What we can read, for registries.
pub(crate) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.index.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const WASM_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
/// The platform of images for several: a module has none, and Istio's agent takes this one.
const PLATFORM: (&str, &str) = ("linux", "amd64");

/// What a registry says of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// The digest, in hexadecimal, of the manifest for one platform.
    Index(String),
    Image(Layer),
}

/// What holds the module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// In hexadecimal.
    pub(crate) digest: String,
    pub(crate) form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The module itself.
    Module,
    /// `plugin.wasm` in a compressed archive.
    Archive,
}

impl Manifest {
    /// # Errors
    /// When there is no module in what it describes.
    pub(crate) fn parse(body: &[u8], media_type: &str) -> Result<Self, FetchError> {
        let wrong = |reason: &str| FetchError::Manifest(reason.to_owned());
        let json: Value = serde_json::from_slice(body)
            .map_err(|error| FetchError::Manifest(error.to_string()))?;
        let own = json["mediaType"].as_str().unwrap_or(media_type);
        let own = own.split(';').next().unwrap_or_default().trim();
        match own {
            DOCKER_LIST | OCI_INDEX => index(&json).map(Self::Index),
            DOCKER_MANIFEST | OCI_MANIFEST => image(&json, own == DOCKER_MANIFEST).map(Self::Image),
            // Registries that say nothing better.
            _ if json["manifests"].is_array() => index(&json).map(Self::Index),
            _ if json["layers"].is_array() => image(&json, false).map(Self::Image),
            _ => Err(wrong("neither an image nor an index of images")),
        }
    }
}

fn index(json: &Value) -> Result<String, FetchError> {
    let (os, architecture) = PLATFORM;
    let manifests = json["manifests"].as_array().map_or(&[][..], Vec::as_slice);
    let is_ours = |it: &&Value| {
        let platform = &it["platform"];
        platform["os"] == os && platform["architecture"] == architecture
    };
    let any = |it: &&Value| it["platform"].is_null();
    let found = manifests.iter().find(is_ours);
    let found = found.or_else(|| manifests.iter().find(any));
    let found = found.ok_or_else(|| {
        FetchError::Manifest(format!("the index has no image for {os}/{architecture}"))
    })?;
    digest(found)
}

/// A Docker image and the `compat` variant have the module in their last layer, the `oci` variant in the one
/// with its type.
fn image(json: &Value, is_docker: bool) -> Result<Layer, FetchError> {
    let layers = json["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let kind = |layer: &Value| layer["mediaType"].as_str().unwrap_or_default().to_owned();
    let expected = if is_docker { DOCKER_LAYER } else { OCI_LAYER };
    if let Some(last) = layers.last().filter(|last| kind(last) == expected) {
        return Ok(Layer {
            digest: digest(last)?,
            form: Form::Archive,
        });
    }
    let module = layers.iter().find(|layer| kind(layer) == WASM_LAYER);
    if let Some(layer) = module.filter(|_| !is_docker) {
        return Ok(Layer {
            digest: digest(layer)?,
            form: Form::Module,
        });
    }
    let kinds: Vec<_> = layers.iter().map(kind).collect();
    Err(FetchError::Manifest(format!(
        "no layer with a Wasm module, but {kinds:?}"
    )))
}

fn digest(descriptor: &Value) -> Result<String, FetchError> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").filter(|it| is_checksum(it));
    let wrong = || FetchError::Manifest(format!("the digest {digest:?} is not sha256"));
    hex.map(ToOwned::to_owned).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: &Value, media_type: &str) -> Result<Manifest, String> {
        let parsed = Manifest::parse(json.to_string().as_bytes(), media_type);
        parsed.map_err(|error| error.to_string())
    }

    fn layer(kind: &str, digit: &str) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", digit.repeat(64)), "size": 1})
    }

    #[test]
    fn the_layer_with_the_module() {
        let config = "application/vnd.module.wasm.config.v1+json";
        for (media_type, layers, digit, form) in [
            (
                DOCKER_MANIFEST,
                vec![layer("x", "1"), layer(DOCKER_LAYER, "2")],
                "2",
                Form::Archive,
            ),
            (
                OCI_MANIFEST,
                vec![layer(OCI_LAYER, "1"), layer(OCI_LAYER, "2")],
                "2",
                Form::Archive,
            ),
            (
                OCI_MANIFEST,
                vec![layer(WASM_LAYER, "1"), layer(config, "2")],
                "1",
                Form::Module,
            ),
            (
                "text/plain",
                vec![layer(OCI_LAYER, "3")],
                "3",
                Form::Archive,
            ),
        ] {
            let expected = Layer {
                digest: digit.repeat(64),
                form,
            };
            let found = parse(&json!({"layers": layers}), media_type);
            assert_eq!(found, Ok(Manifest::Image(expected)), "{media_type}");
        }
        for (media_type, layers) in [
            (DOCKER_MANIFEST, vec![]),
            (DOCKER_MANIFEST, vec![layer(OCI_LAYER, "1")]),
            (DOCKER_MANIFEST, vec![layer(WASM_LAYER, "1")]),
            (OCI_MANIFEST, vec![layer(OCI_LAYER, "1"), layer("x", "2")]),
            (OCI_MANIFEST, vec![layer(OCI_LAYER, "../..")]),
        ] {
            let found = parse(&json!({"layers": layers}), media_type);
            assert!(found.is_err(), "{layers:?}");
        }
    }

    #[test]
    fn the_image_of_an_index() {
        let entry = |os: &str, architecture: &str, digit: &str| {
            json!({"digest": format!("sha256:{}", digit.repeat(64)),
                   "platform": {"os": os, "architecture": architecture}})
        };
        let both =
            json!({"manifests": [entry("linux", "arm64", "1"), entry("linux", "amd64", "2")]});
        assert_eq!(parse(&both, OCI_INDEX), Ok(Manifest::Index("2".repeat(64))));
        let plain = json!({"manifests": [{"digest": format!("sha256:{}", "3".repeat(64))}]});
        assert_eq!(
            parse(&plain, DOCKER_LIST),
            Ok(Manifest::Index("3".repeat(64)))
        );
        let other = json!({"manifests": [entry("linux", "arm64", "1")]});
        let error = parse(&other, OCI_INDEX).unwrap_err();
        assert!(error.contains("linux/amd64"), "{error}");
        for broken in [json!({}), json!([]), json!(1), json!({"manifests": {}})] {
            assert!(parse(&broken, "").is_err(), "{broken}");
        }
    }
}
