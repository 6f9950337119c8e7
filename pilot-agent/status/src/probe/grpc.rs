//! The health check of gRPC: `grpc.health.v1.Health/Check`.

use http::{HeaderValue, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::Error;
use crate::client::Connector;

/// An answer is a few bytes.
const MAX_MESSAGE: usize = 4 << 10;
/// `SERVING` of the answer's status.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Check {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Checked {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether `service` at `host`, which may be in brackets, serves.
pub(crate) async fn check(
    connector: &Connector,
    host: &str,
    port: u16,
    service: &str,
    user_agent: Option<&HeaderValue>,
) -> Result<(), Error> {
    let mut endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))?;
    if let Some(user_agent) = user_agent {
        endpoint = endpoint.user_agent(user_agent.clone())?;
    }
    let (connector, host) = (connector.clone(), host.to_owned());
    let dial = service_fn(move |_| {
        let (connector, host) = (connector.clone(), host.clone());
        async move { connector.dial(&host, port).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(dial).await?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await?;
    let request = tonic::Request::new(Check {
        service: service.to_owned(),
    });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<Check, Checked>::default();
    let checked = client.unary(request, path, codec).await;
    match checked.map_err(Box::new)?.into_inner().status {
        SERVING => Ok(()),
        status => Err(Error::NotServing(status)),
    }
}
