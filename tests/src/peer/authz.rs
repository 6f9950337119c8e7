//! An authorization service in both forms, with the rules of Istio's sample: a request passes with
//! `x-ext-authz: allow`, a connection without requests if its client is `.../sa/sleep`. What it was told comes
//! back in `x-ext-authz-check-received`.

use std::net::SocketAddr;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ithildin_proto::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
    },
    google::rpc,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// What lets a request pass.
const ASKED: &str = "x-ext-authz";
/// Whose connections pass.
const FRIEND: &str = "/sa/sleep";
const RESULT: &str = "x-ext-authz-check-result";
const RECEIVED: &str = "x-ext-authz-check-received";
const REFUSAL: &str =
    "denied by ext_authz for not found header `x-ext-authz: allow` in the request";

/// gRPC's code of a denial.
const PERMISSION_DENIED: i32 = 7;

/// Serves both until one ends.
pub async fn run(grpc: SocketAddr, http: SocketAddr) -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind(grpc)?;
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Service));
    tokio::select! {
        ended = server.serve_with_incoming(incoming) => Ok(ended?),
        ended = plain(http) => ended,
    }
}

struct Service;

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let asked = request.into_inner().attributes.unwrap_or_default();
        Ok(Response::new(match passes(&asked) {
            true => CheckResponse {
                status: Some(rpc::Status::default()),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: told("allowed", &asked),
                    ..OkHttpResponse::default()
                })),
                ..CheckResponse::default()
            },
            false => CheckResponse {
                status: Some(rpc::Status {
                    code: PERMISSION_DENIED,
                    ..rpc::Status::default()
                }),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                    headers: told("denied", &asked),
                    body: REFUSAL.into(),
                    ..DeniedHttpResponse::default()
                })),
                ..CheckResponse::default()
            },
        }))
    }
}

fn passes(asked: &AttributeContext) -> bool {
    let http = asked.request.as_ref().and_then(|it| it.http.as_ref());
    match http {
        Some(http) => http.headers.get(ASKED).is_some_and(|it| it == "allow"),
        None => {
            let source = asked.source.as_ref();
            source.is_some_and(|it| it.principal.ends_with(FRIEND))
        }
    }
}

fn told(result: &str, asked: &AttributeContext) -> Vec<HeaderValueOption> {
    let source = asked.source.clone().unwrap_or_default().principal;
    let destination = asked.destination.clone().unwrap_or_default().principal;
    let http = asked.request.clone().unwrap_or_default().http;
    let path = http.unwrap_or_default().path;
    let received = format!("{source} {destination} {path}");
    let header = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    };
    vec![header(RESULT, result), header(RECEIVED, &received)]
}

async fn plain(on: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(on).await?;
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    loop {
        let (stream, _) = listener.accept().await?;
        let server = server.clone();
        tokio::spawn(async move {
            let serve =
                service_fn(async |request| Ok::<_, std::convert::Infallible>(judge(&request)));
            // A client may go away at any time.
            let _ = server.serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

fn judge<B>(request: &http::Request<B>) -> http::Response<String> {
    let headers = request.headers();
    let field = |name: &str| {
        let value = headers.get(name).and_then(|it| it.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let passes = field(ASKED) == "allow";
    let (status, result) = if passes {
        (200, "allowed")
    } else {
        (403, "denied")
    };
    let received = format!(
        "{} {} {}",
        request.uri(),
        field("x-ext-authz-additional-header-new"),
        field("x-ext-authz-additional-header-override"),
    );
    let answer = http::Response::builder()
        .status(status)
        .header(RESULT, result)
        .header(RECEIVED, received);
    let body = if passes {
        String::new()
    } else {
        REFUSAL.into()
    };
    answer.body(body).unwrap_or_default()
}
