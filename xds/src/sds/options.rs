//! What an operator may set about the names and the shape of secrets.

use std::{collections::BTreeSet, convert::Infallible, path::PathBuf, time::Duration};

use ithildin_spiffe::{SvidSelector, TrustDomain};

use crate::watch_paths;

/// SPIRE's and Istio's name of the default certificate.
pub const DEFAULT_SVID: &str = "default";
/// SPIRE's and Istio's name of the validation context.
pub const DEFAULT_BUNDLE: &str = "ROOTCA";
/// SPIRE's name of the validation context with all trust domains.
pub const ALL_BUNDLES: &str = "ALL";
/// Our name of the validation context that also lets in peers of the trust domains of
/// [`SdsOptions::federated`], for inbound listeners whose SAN rules know only the mesh's own.
pub const FEDERATED_BUNDLE: &str = "ROOTCA-federated";
/// As a name, it disables the name (as in SPIRE's `sds` settings).
pub const DISABLED: &str = "null";

/// How secrets are named and shaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdsOptions {
    pub names: SecretNames,
    /// Which of several SVIDs the default certificate is.
    pub svid: SvidSelector,
    /// Serve a plain `trusted_ca` with the own bundle instead of Envoy's SPIFFE validator. A node's
    /// metadata overrides it in either direction.
    pub disable_spiffe_cert_validation: bool,
    /// Serve every root of every trust domain in one `trusted_ca`, so that each vouches for all, as
    /// stock Istio has it. For meshes that need one domain's roots to sign another's workloads.
    pub pool_roots: bool,
    /// The trust domains whose peers [`FEDERATED_BUNDLE`] lets in beside those that the configuration
    /// names, each for as long as there is a bundle for it.
    pub federated: BTreeSet<TrustDomain>,
    pub files: FileOptions,
}

/// How secrets are read from files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Files that change together do so within this time.
    pub settle: Duration,
    /// CRLs for the roots of files, where the file exists.
    pub crl: Option<PathBuf>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            settle: watch_paths::SETTLE,
            crl: None,
        }
    }
}

/// The names that are not SPIFFE IDs (SPIRE's `default_svid_name` and so on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretNames {
    pub default_svid: SecretName,
    pub default_bundle: SecretName,
    pub all_bundles: SecretName,
}

impl Default for SecretNames {
    fn default() -> Self {
        let name = |text: &str| SecretName(Some(text.into()));
        Self {
            default_svid: name(DEFAULT_SVID),
            default_bundle: name(DEFAULT_BUNDLE),
            all_bundles: name(ALL_BUNDLES),
        }
    }
}

/// A name, or none if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName(Option<String>);

impl SecretName {
    /// `null` and the empty text disable the name.
    pub fn new(text: &str) -> Self {
        Self(Some(text.to_owned()).filter(|text| !text.is_empty() && text != DISABLED))
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.as_deref() == Some(name)
    }
}

impl std::str::FromStr for SecretName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::new(text))
    }
}
