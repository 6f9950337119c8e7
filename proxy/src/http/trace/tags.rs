//! What a span tells of its request: the tags that Envoy gives it, and those that the configuration adds.

use std::borrow::Cow;

use crate::{
    access_log::{Entry, Headers, Protocol, ResponseFlags, UpstreamHost},
    config::{Cluster, custom_tag::CustomTag, route::Route, trace::Tracing},
    http::{call::Answer, log, request::is_grpc},
};

pub(super) const STATUS_CODE: &str = "http.status_code";
pub(super) const GRPC_STATUS_CODE: &str = "grpc.status_code";

/// Tags by their names, each once.
#[derive(Debug, Default)]
pub(super) struct Tags<'t>(Vec<(Cow<'t, str>, Cow<'t, str>)>);

/// Where tags come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) tracing: &'t Tracing,
    pub(super) route: Option<&'t Route>,
    pub(super) cluster: Option<&'t Cluster>,
    pub(super) entry: &'t Entry<'t>,
}

/// What a try is known by beside its request.
pub(super) struct Try<'t> {
    /// How many there were before it.
    pub(super) retry: u32,
    pub(super) protocol: Option<Protocol>,
    pub(super) status: Option<u16>,
    pub(super) flags: ResponseFlags,
    /// The head and the end of its response.
    pub(super) answer: [&'t dyn Headers; 2],
}

impl<'t> Tags<'t> {
    /// Of a request as a whole.
    pub(super) fn of_request(source: &Source<'t>) -> Self {
        let entry = source.entry;
        let mut tags = Self::default();
        let node = &source.tracing.node;
        let zone = node.locality().map_or("", |locality| &*locality.zone);
        tags.set("node_id", &*node.id);
        tags.set("zone", zone);
        if let Some(headers) = entry.request_headers {
            tags.of_head(source, headers);
        }
        tags.set("request_size", entry.bytes.received.to_string());
        tags.set("response_size", entry.bytes.sent.to_string());
        tags.common(source.cluster, entry.response_code, entry.flags);
        tags.custom(source);
        let answer = [entry.response_headers, entry.response_trailers];
        tags.of_grpc_response(answer.into_iter().flatten());
        tags
    }

    /// Of one try.
    pub(super) fn of_try(source: &Source<'t>, attempt: &Try<'t>) -> Self {
        let mut tags = Self::default();
        if attempt.retry > 0 {
            tags.set("retry.count", attempt.retry.to_string());
        }
        tags.set("http.protocol", protocol(attempt.protocol));
        if let Some(host) = source.entry.upstream.host {
            tags.of_host(host);
        }
        tags.of_grpc_response(attempt.answer.into_iter());
        tags.common(source.cluster, attempt.status, attempt.flags);
        tags.custom(source);
        tags
    }

    /// Of a copy, and who answered it.
    pub(super) fn of_copy(cluster: &'t Cluster, answer: Option<&Answer>) -> Self {
        let mut tags = Self::default();
        let from = answer.and_then(|answer| answer.from.as_ref());
        let told = from.map(|(_, told)| log::protocol(*told));
        tags.set("http.protocol", protocol(told));
        if let Some((endpoint, _)) = from {
            tags.of_host(log::host(endpoint));
        }
        let status = answer.map(|answer| answer.status);
        tags.common(Some(cluster), status, ResponseFlags::NONE);
        tags
    }

    /// The upstream broke a try off.
    pub(super) fn is_broken(&mut self, reason: &'static str) {
        self.set("error", "true");
        self.set("error.reason", reason);
    }

    /// We did.
    pub(super) fn is_cancelled(&mut self) {
        self.set("canceled", "true");
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == key)?;
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    fn set(&mut self, key: impl Into<Cow<'t, str>>, value: impl Into<Cow<'t, str>>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    fn of_head(&mut self, source: &Source<'t>, headers: &'t dyn Headers) {
        let entry = source.entry;
        let header = |name| headers.get(name).map(String::from_utf8_lossy);
        if let Some(id) = header("x-request-id") {
            self.set("guid:x-request-id", id);
        }
        self.set("http.url", url(source, headers));
        self.set("http.method", text(entry.method));
        let or_dash = |value: Option<Cow<'t, str>>| value.unwrap_or("-".into());
        let cluster = header("x-envoy-downstream-service-cluster");
        self.set("downstream_cluster", or_dash(cluster));
        self.set("user_agent", or_dash(header("user-agent")));
        self.set("http.protocol", protocol(entry.protocol));
        if let Some(peer) = entry.downstream.direct_remote {
            self.set("peer.address", peer.ip().to_string());
        }
        if let Some(id) = header("x-client-trace-id") {
            self.set("guid:x-client-trace-id", id);
        }
        if headers.get("content-type").is_some_and(is_grpc) {
            self.set("grpc.path", text(entry.path));
            self.set("grpc.authority", text(entry.authority));
            self.set("grpc.content_type", or_dash(header("content-type")));
            if let Some(timeout) = header("grpc-timeout") {
                self.set("grpc.timeout", timeout);
            }
        }
    }

    /// What tells of a request, a try and a copy.
    fn common(&mut self, cluster: Option<&'t Cluster>, status: Option<u16>, flags: ResponseFlags) {
        self.set("component", "proxy");
        if let Some(cluster) = cluster {
            self.set("upstream_cluster", &*cluster.name);
            self.set("upstream_cluster.name", &*cluster.stat_name);
        }
        let status = status.unwrap_or(0);
        self.set(STATUS_CODE, status.to_string());
        let flags: Vec<_> = flags.codes().collect();
        self.set(
            "response_flags",
            match flags.is_empty() {
                true => "-".to_owned(),
                false => flags.join(","),
            },
        );
        if status == 0 || (500..600).contains(&status) {
            self.set("error", "true");
        }
    }

    fn of_host(&mut self, host: UpstreamHost<'_>) {
        let address = match host {
            UpstreamHost::Socket(address) => address.to_string(),
            UpstreamHost::Pipe(path) => path.display().to_string(),
        };
        self.set("upstream_address", address.clone());
        self.set("peer.address", address);
    }

    /// Of the head and the end of a response.
    fn of_grpc_response(&mut self, answer: impl Iterator<Item = &'t dyn Headers>) {
        for headers in answer {
            let value = |name| headers.get(name).map(String::from_utf8_lossy);
            let Some(status) = value("grpc-status") else {
                continue;
            };
            if status.parse().is_ok_and(is_grpc_error) {
                self.set("error", "true");
            }
            self.set(GRPC_STATUS_CODE, status);
            if let Some(message) = value("grpc-message") {
                self.set("grpc.message", message);
            }
        }
    }

    /// Those of the route go before those of the connection manager.
    fn custom(&mut self, source: &Source<'t>) {
        let of_route = source.route.and_then(|route| route.tracing.as_ref());
        let of_route = of_route.map_or(&[][..], |tracing| &tracing.tags);
        let of_manager = source.tracing.tags.iter();
        let own = |tag: &&CustomTag| of_route.iter().all(|it| it.name != tag.name);
        for tag in of_manager.filter(own).chain(of_route) {
            if let Some(value) = tag.text(source.entry, source.route) {
                self.set(&*tag.name, value);
            }
        }
    }
}

/// What the client asked for, as far as is known.
fn url(source: &Source<'_>, headers: &dyn Headers) -> String {
    let original = headers.get("x-envoy-original-path");
    let path = original.or(source.entry.path).unwrap_or_default();
    let length = path.len().min(source.tracing.max_path_length);
    let scheme = text(headers.get("x-forwarded-proto"));
    let host = text(source.entry.authority);
    format!(
        "{scheme}://{host}{}",
        String::from_utf8_lossy(&path[..length])
    )
}

fn text(value: Option<&[u8]>) -> Cow<'_, str> {
    String::from_utf8_lossy(value.unwrap_or_default())
}

fn protocol(protocol: Option<Protocol>) -> &'static str {
    protocol.map_or("-", Protocol::as_str)
}

/// Codes that tell of the server, and not of its client. Source: Envoy, `addGrpcResponseTags`.
fn is_grpc_error(code: u32) -> bool {
    matches!(code, 2 | 4 | 8 | 12 | 13 | 14 | 15)
}
