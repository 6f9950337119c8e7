//! A service that limits rates: a request one of whose descriptors says `limited` is one too many. What it
//! was told comes back in `x-limits-DOMAIN`, to the client and to the server.

use std::net::SocketAddr;

use ithildin_proto::pb::envoy::{
    config::core::v3::HeaderValue,
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::Code,
        rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
    },
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// What is limited.
const LIMITED: &str = "limited";
const REFUSAL: &str = "one too many";

/// Serves to its end.
pub async fn run(on: SocketAddr) -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind(on)?;
    let service = RateLimitServiceServer::new(Service);
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(server.serve_with_incoming(incoming).await?)
}

struct Service;

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let asked = request.into_inner();
        let received = told(&asked);
        let header = HeaderValue {
            key: format!("x-limits-{}", asked.domain),
            value: received.clone(),
            ..HeaderValue::default()
        };
        let (code, body) = match received.contains(LIMITED) {
            true => (Code::OverLimit, REFUSAL),
            false => (Code::Ok, ""),
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            raw_body: body.into(),
            response_headers_to_add: vec![header.clone()],
            request_headers_to_add: vec![header],
            ..RateLimitResponse::default()
        }))
    }
}

/// `key=value key=value; key=value`.
fn told(asked: &RateLimitRequest) -> String {
    let descriptors = asked.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        let entries = entries.map(|it| format!("{}={}", it.key, it.value));
        entries.collect::<Vec<_>>().join(" ")
    });
    descriptors.collect::<Vec<_>>().join("; ")
}
