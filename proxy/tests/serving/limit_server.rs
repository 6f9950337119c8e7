//! A service that limits rates as the request says in `x-say`, which its descriptors tell under `say`.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use ithildin_proto::{
    from_value,
    pb::{
        envoy::service::{
            discovery::v3::DiscoveryResponse,
            ratelimit::v3::{
                RateLimitRequest, RateLimitResponse,
                rate_limit_response::Code,
                rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
            },
        },
        google::protobuf::Any,
    },
    unpack,
};
use prost::Message;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Longer than any limit in the files.
const HANG: Duration = Duration::from_secs(5);

/// `x-say` is one of `answers`, which are JSON, or `dump` (a refusal that tells what was asked), `hang`,
/// `fail` or `large`; without it the request may pass.
pub(crate) async fn start(answers: Vec<&str>) -> SocketAddr {
    let service = Service {
        answers: parse(answers),
    };
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("it is the test's own");
    let address = incoming.local_addr().expect("it is the test's own");
    let service = RateLimitServiceServer::new(service);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// All at once: to read one message takes as long as to read many.
fn parse(answers: Vec<&str>) -> HashMap<String, RateLimitResponse> {
    let typed = |answer: &&str| {
        let mut answer: serde_json::Value = serde_json::from_str(answer).expect("it is JSON");
        answer["@type"] = "type.googleapis.com/envoy.service.ratelimit.v3.RateLimitResponse".into();
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
    answers: HashMap<String, RateLimitResponse>,
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let answer = match say(request.get_ref()) {
            "" => answer(Code::Ok, String::new()),
            "dump" => answer(Code::OverLimit, dump(&request)),
            "large" => answer(Code::OverLimit, "x".repeat(3 << 20)),
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

fn say(asked: &RateLimitRequest) -> &str {
    let entries = asked.descriptors.iter().flat_map(|it| &it.entries);
    let mut said = entries.filter(|it| it.key == "say");
    said.next_back().map_or("", |it| it.value.as_str())
}

/// What the request of an encoded question says.
pub(crate) fn said(question: &[u8]) -> String {
    say(&RateLimitRequest::decode(question).expect("it is a question")).to_owned()
}

fn answer(code: Code, body: String) -> RateLimitResponse {
    RateLimitResponse {
        overall_code: code.into(),
        raw_body: body.into(),
        ..RateLimitResponse::default()
    }
}

/// In lines, in the order of what was asked.
fn dump(request: &Request<RateLimitRequest>) -> String {
    let asked = request.get_ref();
    let mut lines = Vec::new();
    for name in ["grpc-timeout", "te", "content-type"] {
        lines.push(format!("{name}={:?}", request.metadata().get(name)));
    }
    lines.push(format!(
        "domain {} hits {}",
        asked.domain, asked.hits_addend
    ));
    for (i, descriptor) in asked.descriptors.iter().enumerate() {
        let entries = descriptor.entries.iter().filter(|it| it.key != "say");
        let entries: Vec<_> = entries
            .map(|entry| format!("{}={:?}", entry.key, entry.value))
            .collect();
        let (limit, hits) = (&descriptor.limit, descriptor.hits_addend);
        lines.push(format!(
            "descriptor {i} {} {limit:?} {hits:?} {}",
            entries.join(" "),
            descriptor.is_negative_hits
        ));
    }
    lines.join("\r\n")
}
