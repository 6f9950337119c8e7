//! Envoy's `Secret` messages, whose private parts are overwritten when they go.

use std::{fmt, ops::Deref};

use ithildin_proto::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use zeroize::Zeroize;

/// A [`Secret`] that does not outlive its last owner in freed memory, and is not printed.
#[derive(Clone, PartialEq)]
pub struct SecretMessage(Secret);

impl From<Secret> for SecretMessage {
    fn from(secret: Secret) -> Self {
        Self(secret)
    }
}

impl Deref for SecretMessage {
    type Target = Secret;

    fn deref(&self) -> &Secret {
        &self.0
    }
}

impl fmt::Debug for SecretMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretMessage").field(&self.0.name).finish()
    }
}

impl Drop for SecretMessage {
    fn drop(&mut self) {
        match &mut self.0.r#type {
            Some(secret::Type::TlsCertificate(certificate)) => {
                certificate.private_key.as_mut().map(wipe);
                certificate.password.as_mut().map(wipe);
            }
            Some(secret::Type::SessionTicketKeys(keys)) => keys.keys.iter_mut().for_each(wipe),
            Some(secret::Type::GenericSecret(generic)) => {
                generic.secret.as_mut().map(wipe);
                generic.secrets.values_mut().for_each(wipe);
            }
            Some(secret::Type::ValidationContext(_)) | None => {}
        }
    }
}

fn wipe(source: &mut DataSource) {
    match &mut source.specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes.zeroize(),
        Some(Specifier::InlineString(text)) => text.zeroize(),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;

    use super::*;

    fn source(specifier: Specifier) -> DataSource {
        DataSource {
            specifier: Some(specifier),
            ..Default::default()
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let certificate = TlsCertificate {
            private_key: Some(source(Specifier::InlineString("the key".into()))),
            ..Default::default()
        };
        let message = SecretMessage::from(Secret {
            name: "default".into(),
            r#type: Some(secret::Type::TlsCertificate(certificate)),
        });
        assert_eq!(format!("{message:?}"), "SecretMessage(\"default\")");
    }

    #[test]
    fn a_source_is_emptied() {
        for specifier in [
            Specifier::InlineBytes(b"the key".to_vec()),
            Specifier::InlineString("the key".into()),
        ] {
            let mut source = source(specifier);
            wipe(&mut source);
            match source.specifier.unwrap() {
                Specifier::InlineBytes(bytes) => assert!(bytes.is_empty()),
                Specifier::InlineString(text) => assert!(text.is_empty()),
                other => panic!("{other:?}"),
            }
        }
    }
}
