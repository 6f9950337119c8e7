//! Failed handshakes under Envoy's counters.

use ithildin_tls::HandshakeError;

use crate::stats::TlsBlock;

/// Counts one failed handshake.
pub fn count(stats: &TlsBlock, error: &HandshakeError) {
    match error {
        HandshakeError::Refused(refusal) => match refusal.counter {
            "fail_verify_san" => stats.fail_verify_san.inc(),
            "fail_verify_cert_hash" => stats.fail_verify_cert_hash.inc(),
            "fail_verify_no_cert" => stats.fail_verify_no_cert.inc(),
            _ => stats.fail_verify_error.inc(),
        },
        HandshakeError::Alert(_)
        | HandshakeError::NotReady(_)
        | HandshakeError::Protocol(_)
        | HandshakeError::Io(_) => {}
    }
    stats.connection_error.inc();
}
