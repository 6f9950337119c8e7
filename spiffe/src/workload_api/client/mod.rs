//! The client half: single calls, and sources that follow a stream for ever.

mod again;
mod decode;
mod follow;
mod source;

#[cfg(test)]
mod tests;

use std::time::Duration;

use ithildin_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, ValidateJwtsvidRequest,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub use decode::MessageError;
pub use source::{BundleSource, BundleState, SourceOptions, WorkloadApiSource};

use super::{MAX_MESSAGE_BYTES, SECURITY_HEADER, SECURITY_HEADER_VALUE, WorkloadEndpoint};
use crate::{
    Answers, SpiffeId,
    jwt::{JwtBundles, JwtError, JwtSvid},
};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a peer that stopped. SPIRE's gRPC server ends connections that ping more often
/// than each 5 minutes, so a stalled stream is found earlier by its overdue renewal.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(310);
/// How long a ping may stay unanswered.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a single call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the Workload API answered {}: {}", .0.code(), .0.message())]
    Status(#[from] Status),
    #[error("malformed answer: {0}")]
    Message(#[from] MessageError),
    #[error("svids[{index}].svid: {source}")]
    Jwt { index: usize, source: JwtError },
}

/// One connection to a Workload API. It reconnects by itself; clones share it.
#[derive(Clone, Debug)]
pub struct WorkloadApiClient {
    inner: SpiffeWorkloadApiClient<InterceptedService<Answers, SecurityHeader>>,
}

impl WorkloadApiClient {
    /// Connects now.
    pub async fn connect(endpoint: &WorkloadEndpoint) -> Result<Self, tonic::transport::Error> {
        let channel = transport(endpoint, KEEP_ALIVE_INTERVAL)?.connect().await?;
        Ok(Self::over(channel))
    }

    async fn connect_with(
        endpoint: &WorkloadEndpoint,
        keep_alive: Duration,
    ) -> Result<Self, tonic::transport::Error> {
        Ok(Self::over(
            transport(endpoint, keep_alive)?.connect().await?,
        ))
    }

    fn over(channel: Channel) -> Self {
        let inner = SpiffeWorkloadApiClient::with_interceptor(Answers::of(channel), SecurityHeader)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { inner }
    }

    /// `FetchX509SVID`, as it comes.
    pub async fn x509_svids(&mut self) -> Result<Streaming<X509svidResponse>, Status> {
        Ok(self
            .inner
            .fetch_x509svid(X509svidRequest {})
            .await?
            .into_inner())
    }

    /// `FetchX509Bundles`, as it comes.
    pub async fn x509_bundles(&mut self) -> Result<Streaming<X509BundlesResponse>, Status> {
        let request = X509BundlesRequest {};
        Ok(self.inner.fetch_x509_bundles(request).await?.into_inner())
    }

    /// `FetchJWTBundles`, as it comes.
    pub async fn jwt_bundles(&mut self) -> Result<Streaming<JwtBundlesResponse>, Status> {
        let request = JwtBundlesRequest {};
        Ok(self.inner.fetch_jwt_bundles(request).await?.into_inner())
    }

    /// The first message of `FetchJWTBundles`, read.
    pub async fn fetch_jwt_bundles(&mut self) -> Result<JwtBundles, CallError> {
        let mut stream = self.jwt_bundles().await?;
        let message = stream
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("the stream ended without a message"))?;
        Ok(decode::jwt_bundles(&message)?)
    }

    /// JWT-SVIDs for `audience`: of all identities, or of `id` alone.
    pub async fn fetch_jwt_svids(
        &mut self,
        audience: &[String],
        id: Option<&SpiffeId>,
    ) -> Result<Vec<JwtSvid>, CallError> {
        let request = JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: id.map(SpiffeId::to_string).unwrap_or_default(),
        };
        let response = self.inner.fetch_jwtsvid(request).await?.into_inner();
        decode::jwt_svids(response)
    }

    /// Has the Workload API check `token`; the answer is the SPIFFE ID of its subject.
    pub async fn validate_jwt_svid(
        &mut self,
        audience: &str,
        token: &str,
    ) -> Result<SpiffeId, CallError> {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        let response = self.inner.validate_jwtsvid(request).await?.into_inner();
        Ok(decode::spiffe_id("spiffe_id", &response.spiffe_id)?)
    }
}

fn transport(
    endpoint: &WorkloadEndpoint,
    keep_alive: Duration,
) -> Result<Endpoint, tonic::transport::Error> {
    let uri = match endpoint {
        WorkloadEndpoint::Unix(path) => format!("unix://{}", path.display()),
        WorkloadEndpoint::Tcp(address) => format!("http://{address}"),
    };
    Ok(Endpoint::from_shared(uri)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(keep_alive)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT.min(keep_alive))
        .keep_alive_while_idle(true))
}

/// Adds [`SECURITY_HEADER`] to each call.
#[derive(Clone, Copy, Debug)]
struct SecurityHeader;

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(
            SECURITY_HEADER,
            MetadataValue::from_static(SECURITY_HEADER_VALUE),
        );
        Ok(request)
    }
}
