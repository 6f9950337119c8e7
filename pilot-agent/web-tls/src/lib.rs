//! TLS to servers without a SPIFFE ID: those that the operating system vouches for, and those that are
//! asked whoever they are.
//!
//! No client here shows a certificate, and none resumes a session: each connection is judged as a whole.

mod anybody;

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs};

use anybody::Anybody;

/// The operating system has no certificate that it trusts; why, as far as it can be told.
#[derive(Debug, thiserror::Error)]
#[error("the operating system has no usable roots: {0}")]
pub struct NoSystemRoots(String);

/// What the operating system trusts, read anew: it is large, and rarely asked for.
///
/// # Errors
/// When that is nothing.
pub fn system_roots() -> Result<RootCertStore, NoSystemRoots> {
    let native = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(native.certs);
    if added > 0 {
        return Ok(roots);
    }
    let reasons: Vec<_> = native.errors.iter().map(ToString::to_string).collect();
    Err(NoSystemRoots(reasons.join("; ")))
}

/// A client of servers that the operating system vouches for.
///
/// # Errors
/// When it vouches for nobody.
pub fn trusting_the_system() -> Result<ClientConfig, NoSystemRoots> {
    let roots = Arc::new(system_roots()?);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them");
    Ok(whole(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// A client that takes any certificate, also one that no library would parse.
pub fn trusting_anybody() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Anybody::new(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them");
    whole(
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
    )
}

fn whole(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}
