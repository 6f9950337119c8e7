//! Headers that the environment adds to calls of the control plane.

use std::collections::BTreeMap;

use anyhow::bail;

use super::env::Env;

/// The variables that begin with `prefix`: the rest of the name is the header's, in lower case.
///
/// # Errors
/// A name or value that gRPC cannot send. The value may be a secret, so it is not told.
pub(super) fn with_prefix(env: &Env, prefix: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    for (rest, value) in env.with_prefix(prefix) {
        let name = rest.to_ascii_lowercase();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(legal) {
            bail!("{prefix}{rest}: {name:?} is not the name of a gRPC header");
        }
        if name.ends_with("-bin") || name.starts_with("grpc-") {
            bail!("{prefix}{rest}: gRPC keeps names such as {name:?} for itself");
        }
        if !value.chars().all(|c| (' '..='~').contains(&c)) {
            bail!("{prefix}{rest}: the value has characters that a header cannot have");
        }
        headers.insert(name, value.to_owned());
    }
    Ok(headers)
}
