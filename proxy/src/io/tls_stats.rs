//! Handshakes under Envoy's counters.

use ithildin_tls::{HandshakeError, TlsStream};

use super::Socket;
use crate::stats::TlsBlock;

/// Counts a handshake that succeeded.
pub fn count_handshake(stats: &TlsBlock, session: &TlsStream<Socket>) {
    stats.handshake.inc();
    if session.resumed() {
        stats.session_reused.inc();
    }
    if session.peer().is_none() {
        stats.no_certificate.inc();
    }
    stats.ciphers.inc(session.cipher());
    stats.curves.inc(session.group());
    stats.versions.inc(session.version());
}

/// Counts one that failed.
pub fn count_failure(stats: &TlsBlock, error: &HandshakeError) {
    if let HandshakeError::Refused(refusal) = error {
        match refusal.counter {
            "fail_verify_san" => stats.fail_verify_san.inc(),
            "fail_verify_cert_hash" => stats.fail_verify_cert_hash.inc(),
            "fail_verify_no_cert" => stats.fail_verify_no_cert.inc(),
            _ => stats.fail_verify_error.inc(),
        }
    }
    stats.connection_error.inc();
}
