//! `TlsCertificate`: our own chain and key.

use ithildin_proto::pb::envoy::{
    config::core::v3::DataSource, extensions::transport_sockets::tls::v3::TlsCertificate,
};
use ithildin_tls::Identity;

use crate::control::{
    data_source,
    report::{At, refuse},
};

pub(in crate::control) fn identity(certificate: &TlsCertificate, at: &At<'_>) -> Option<Identity> {
    let TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = certificate;
    refuse!(
        at;
        pkcs12, watched_directory, private_key_provider, password,
        signed_certificate_timestamp, tls_params,
    );
    if ocsp_staple.is_some() {
        at.field("ocsp_staple")
            .warn("is not supported; clients are shown the certificate alone");
    }
    let chain = required("certificate_chain", certificate_chain, at);
    let key = required("private_key", private_key, at);
    at.check(Identity::from_pem(&chain?, &key?))
}

fn required(name: &str, source: &Option<DataSource>, at: &At<'_>) -> Option<Vec<u8>> {
    let at = at.field(name);
    match source {
        Some(source) => data_source::read(source, &at),
        None => {
            at.error("is required");
            None
        }
    }
}
