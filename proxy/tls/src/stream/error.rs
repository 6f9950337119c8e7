//! Why a connection failed.

use std::io;

use rustls::{AlertDescription, Error};

use crate::Refusal;

/// Why a handshake failed, or a connection after it: then it comes inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The peer refused us; the text names its alert.
    #[error("the peer sent the alert {0}")]
    Alert(String),
    /// We have no identity or no trust material.
    #[error("{0}")]
    NotReady(String),
    #[error("tls protocol error: {0}")]
    Protocol(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Alert(alert_name(alert)),
            Error::NoCertificatesPresented => Refusal::no_certificate().into(),
            error => Self::Protocol(error.to_string()),
        }
    }
}

/// So that the reader of a stream can find the reason again with [`io::Error::downcast`].
impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// The alert as RFC 8446 writes it: `certificate_unknown`.
fn alert_name(alert: AlertDescription) -> String {
    if alert == AlertDescription::UnknownCA {
        return "unknown_ca".to_owned();
    }
    let mut name = String::new();
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
