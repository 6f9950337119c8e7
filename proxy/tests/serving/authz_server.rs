//! Authorization services that do as the request says in `x-say`, in both forms.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use ithildin_proto::{
    from_value,
    pb::{
        envoy::service::{
            auth::v3::{
                AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
                attribute_context::Peer,
                authorization_server::{Authorization, AuthorizationServer},
                check_response::HttpResponse,
            },
            discovery::v3::DiscoveryResponse,
        },
        google::{protobuf::Any, rpc},
    },
    unpack,
};
use prost::Message;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{read_head, server};

/// Longer than any limit in the files.
const HANG: Duration = Duration::from_secs(5);

/// gRPC's code of a denial.
const PERMISSION_DENIED: i32 = 7;

/// A service of gRPC. `x-say` is one of `answers`, which are JSON, or `dump` (a denial that tells what was
/// asked), `hang`, `fail` or `large`; without it the first of them is the answer.
pub(crate) async fn grpc(answers: Vec<&str>) -> SocketAddr {
    let service = Service {
        usual: answers[0].to_owned(),
        answers: parse(answers),
    };
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("it is the test's own");
    let address = incoming.local_addr().expect("it is the test's own");
    let service = AuthorizationServer::new(service);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// All at once: to read one message takes as long as to read many.
fn parse(answers: Vec<&str>) -> HashMap<String, CheckResponse> {
    let typed = |answer: &&str| {
        let mut answer: serde_json::Value = serde_json::from_str(answer).expect("it is JSON");
        answer["@type"] = "type.googleapis.com/envoy.service.auth.v3.CheckResponse".into();
        answer
    };
    let list: Vec<_> = answers.iter().map(typed).collect();
    let list = serde_json::json!({ "resources": list });
    let list: DiscoveryResponse = from_value(list).expect("they are answers");
    let read = |any: &Any| unpack(any).expect("it is an answer");
    let answers = answers.into_iter().map(str::to_owned);
    answers.zip(list.resources.iter().map(read)).collect()
}

struct Service {
    usual: String,
    answers: HashMap<String, CheckResponse>,
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let asked = request.into_inner().attributes.unwrap_or_default();
        let http = asked.request.as_ref().and_then(|it| it.http.as_ref());
        let said = http.and_then(|it| it.headers.get("x-say"));
        let answer = match said.unwrap_or(&self.usual).as_str() {
            "dump" => denial(dump(&asked)),
            "large" => denial("x".repeat(3 << 20)),
            "hang" => {
                tokio::time::sleep(HANG).await;
                return Err(Status::internal("as asked"));
            }
            "fail" => return Err(Status::internal("as asked")),
            said => self.answers[said].clone(),
        };
        Ok(Response::new(answer))
    }
}

fn denial(body: String) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status {
            code: PERMISSION_DENIED,
            ..rpc::Status::default()
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            body,
            ..DeniedHttpResponse::default()
        })),
        ..CheckResponse::default()
    }
}

/// In lines, without what differs from one request to the next.
fn dump(asked: &AttributeContext) -> String {
    let mut lines = Vec::new();
    for (name, peer) in [
        ("source", &asked.source),
        ("destination", &asked.destination),
    ] {
        let Some(Peer {
            address,
            service,
            labels,
            principal,
            certificate,
        }) = peer
        else {
            continue;
        };
        let address = format!("{address:?}");
        let (_, address) = address.split_once("address: \"").unwrap_or_default();
        let address = address.split('"').next().unwrap_or_default();
        lines.push(format!(
            "{name} {address} {service:?} {labels:?} {principal:?} {certificate:?}"
        ));
    }
    let request = asked.request.clone().unwrap_or_default();
    lines.push(format!("time {}", request.time.is_some()));
    let http = request.http.unwrap_or_default();
    lines.push(format!(
        "http {} {} {} {} {:?} {:?} {} {} {:?} {:?} {}",
        http.method,
        http.path,
        http.host,
        http.scheme,
        http.query,
        http.fragment,
        http.size,
        http.protocol,
        http.body,
        http.raw_body,
        http.id.is_empty(),
    ));
    let told = |map: &HashMap<String, String>, what: &str| {
        let lines = map
            .iter()
            .map(|(name, value)| format!("{what} {name}={value:?}"));
        lines.collect::<Vec<_>>()
    };
    lines.extend(told(&http.headers, "header"));
    lines.extend(told(&asked.context_extensions, "context"));
    lines.push(format!(
        "sni {:?}",
        asked.tls_session.as_ref().map(|it| &it.sni)
    ));
    lines.sort();
    lines.join("\r\n")
}

/// What the request of an encoded question says.
pub(crate) fn said(question: &[u8]) -> String {
    let question = CheckRequest::decode(question).expect("it is a question");
    let asked = question.attributes.and_then(|it| it.request);
    let http = asked.and_then(|it| it.http).unwrap_or_default();
    http.headers.get("x-say").cloned().unwrap_or_default()
}

/// A service of plain HTTP. `x-say` is the answer: its status, headers and, after an empty one, body, with
/// `~` between; `dump`, `hang`, `close`, `garbage` or `large`. Without it all may pass.
pub(crate) fn plain() -> SocketAddr {
    server(|mut stream| while answer(&mut stream).is_some() {})
}

fn answer(stream: &mut std::net::TcpStream) -> Option<()> {
    let head = read_head(stream);
    if head.is_empty() {
        return None;
    }
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    };
    let length = field("content-length").map_or(0, |it| it.parse().expect("it is a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let answer = match field("x-say").unwrap_or("200") {
        "hang" => {
            std::thread::sleep(HANG);
            return None;
        }
        "close" => return None,
        "garbage" => "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".into(),
        "large" => {
            let body = "x".repeat(3 << 20);
            format!(
                "HTTP/1.1 403 X\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        }
        "dump" => {
            // What Envoy adds for upstreams that are Envoys.
            let lines = head.lines().filter(|it| {
                !it.starts_with("x-envoy-internal") && !it.starts_with("x-envoy-expected")
            });
            let told = lines.collect::<Vec<_>>().join("\r\n");
            let body = format!("{told}\r\n{}", String::from_utf8_lossy(&body));
            format!(
                "HTTP/1.1 403 X\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        }
        say => {
            let (head, body) = say.split_once("~~").unwrap_or((say, ""));
            let mut lines = head.split('~');
            let status = lines.next().unwrap_or_default();
            let fields: String = lines.map(|line| format!("{line}\r\n")).collect();
            let length = body.len();
            format!("HTTP/1.1 {status} X\r\n{fields}content-length: {length}\r\n\r\n{body}")
        }
    };
    stream.write_all(answer.as_bytes()).ok()
}
