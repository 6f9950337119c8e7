//! The question in plain HTTP: the head of the request, to a server that answers 200 if it may pass.

use std::time::Instant;

use bytes::Bytes;
use http::HeaderName;
use ithildin_http1::Known;

use super::{
    Question,
    grpc::{self, PARTIAL_BODY},
};
use crate::{
    config::ext_authz::{CheckPath, ExtAuthz, HttpService},
    http::{
        ask::{AskError, ask},
        call::{Answer, CallError},
        exchange::Exchange,
        headers::Headers,
        request::{BodyLength, Protocol, Request},
    },
};

impl Exchange<'_> {
    pub(super) async fn ask_plainly(
        &self,
        filter: &ExtAuthz,
        service: &HttpService,
        question: &Question,
        ahead: &[u8],
    ) -> Result<Answer, AskError> {
        // There is no path, and the server would take it for a tunnel.
        if self.request.is_connect() {
            return Err(AskError::Call(CallError::Request));
        }
        let part = grpc::part(question, ahead);
        let mut headers = self.told(filter);
        if let Some((_, is_partial)) = &part {
            let name = HeaderName::from_static(PARTIAL_BODY);
            headers.append(name, is_partial.to_string().into());
        }
        self.mutate_question(&service.headers_to_add, &mut headers);
        let body: Bytes = part.map_or_else(Bytes::new, |(part, _)| part.into());
        let request = Request {
            method: self.request.method.clone(),
            scheme: Some("http"),
            authority: self.request.authority.clone(),
            path: match &service.path {
                CheckPath::Prefix(prefix) => {
                    [prefix.as_bytes(), &self.request.path].concat().into()
                }
                CheckPath::Override(path) => path.clone(),
            },
            headers,
            // Even an empty one has its length said.
            body: BodyLength::Known(body.len() as u64),
            upgrade: None,
            protocol: Protocol::Http11,
            metadata: None,
        };
        let worker = self.context.worker;
        let asked = Instant::now();
        let answer = ask(worker, &service.cluster, service.timeout, &request, &body);
        let mut answer = answer.await?;
        // As of any upstream: the client of a denial may see it.
        let time = asked.elapsed().as_millis().to_string();
        let name = "x-envoy-upstream-service-time";
        answer.headers.set(Known::XEnvoy, name, time);
        Ok(answer)
    }

    /// What the server is told besides method, authority and path.
    fn told(&self, filter: &ExtAuthz) -> Headers {
        let allowed = filter.allowed_headers.as_ref();
        let wanted = |name: &str| {
            let always = name == "authorization";
            (always || allowed.is_some_and(|it| it.admit(name)))
                && !filter.disallowed_headers.admit(name)
        };
        let mut headers = Headers::default();
        let mut told: Vec<_> = grpc::headers(&self.request, wanted).into_iter().collect();
        told.sort_unstable();
        for (name, value) in told {
            // Without the pseudo headers: they are said in other places.
            if let Ok(name) = HeaderName::try_from(name) {
                headers.append(name, value.into());
            }
        }
        headers.strip_connection();
        headers
    }
}
