//! One certificate: a request, the call, and the check of the answer.

use std::{error::Error, time::Duration};

use ithildin_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use ithildin_spiffe::{Answers, IdError};
use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};
use tonic::{Status, transport::Channel};

use super::{
    answer::{self, AnswerError, Issued},
    pb::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    request::{Request, RequestError},
    source::CaOptions,
};
use crate::dial::{CallError, Endpoint};

/// How long the CA may take: signing is quick, but an external signer may wait for an approval.
const SIGN_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer: a chain and a few dozen roots.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The key of the request's metadata that names a signer.
const CERT_SIGNER: &str = "CertSigner";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("POD_NAMESPACE and SERVICE_ACCOUNT make no SPIFFE ID: it {0}")]
    Identity(#[from] IdError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the key was not made: {0}")]
    Interrupted(#[from] JoinError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no answer within {SIGN_TIMEOUT:?}")]
    Silent,
    #[error("{}", describe(.0))]
    Status(Box<Status>),
    #[error("the answer is refused: {0}")]
    Answer(#[from] AnswerError),
}

/// The CA, as it is called.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    channel: Channel,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let channel = endpoint.channel();
        Self { endpoint, channel }
    }

    /// Where it is, for logs.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for one certificate. After a failure the next call connects anew, with roots and client
    /// certificates as their files then are.
    pub(super) async fn sign(&mut self, options: &CaOptions) -> Result<Issued, SignError> {
        let signed = self.try_sign(options).await;
        if matches!(signed, Err(SignError::Status(_) | SignError::Silent)) {
            self.channel = self.endpoint.channel();
        }
        signed
    }

    async fn try_sign(&self, options: &CaOptions) -> Result<Issued, SignError> {
        let (id, kind) = (options.expected.id()?, options.key);
        let Request { key, csr } = spawn_blocking(move || Request::new(&id, kind)).await??;
        let message = IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(options.ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: options.signer.as_deref().map(metadata),
        };
        let mut client = IstioCertificateServiceClient::new(Answers::of(self.channel.clone()))
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let call = client.create_certificate(self.endpoint.request(message)?);
        let answered = timeout(SIGN_TIMEOUT, call).await;
        let response = answered
            .map_err(|_| SignError::Silent)?
            .map_err(|status| SignError::Status(Box::new(status)))?;
        let chain = response.into_inner().cert_chain;
        let now = std::time::SystemTime::now();
        Ok(answer::check(&chain, key, &options.expected, now)?)
    }
}

fn metadata(signer: &str) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(signer.to_owned())),
    };
    Struct {
        fields: [(CERT_SIGNER.to_owned(), value)].into(),
    }
}

/// The peer's own words, or why there was no peer: tonic hides the cause of a lost connection.
fn describe(status: &Status) -> String {
    let mut cause = status.source();
    if cause.is_none() {
        return format!("the CA answered {:?}: {}", status.code(), status.message());
    }
    let mut text = String::new();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    format!("cannot reach the CA: {text}")
}
