//! A request over a stream of an HTTP/2 upstream connection.

use std::{future::poll_fn, pin::pin};

use h2::client::ResponseFuture;
use http::{Method, Uri, Version};

use super::{
    body::{Sink, Source},
    client::{Client, Response},
    exchange::{Broken, Exchange},
    failure::{LocalReply, client_broke},
    headers::Headers,
    race::Beside,
    relay,
    request::{BodyLength, Protocol, Request},
    retry::Budget,
    timeouts::Clock,
    tunnel::End,
};
use crate::access_log::ResponseFlags;
use crate::upstream::Http2Lease;

impl Exchange<'_> {
    pub(super) async fn over_http2(
        &mut self,
        mut lease: Http2Lease,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        retries: &mut Budget<'_>,
    ) -> Result<(), Broken> {
        self.outcome.endpoint = Some(lease.permit.endpoint().clone());
        self.meter.upstream_wire.set(None);
        self.outcome.upstream = lease.permit.link().cloned();
        self.outcome.upstream_protocol = Some(Protocol::Http2);
        let head = request_head(&self.request, self.context.connection.tls.is_some())?;
        if self.request.asks_for_tunnel() {
            return self
                .tunnel_over_http2(lease, head, client, clock, retries)
                .await;
        }
        let empty = self.request.body == BodyLength::Empty;
        let (response, stream) = lease
            .send
            .send_request(head, empty)
            .map_err(|error| broken(&error))?;
        let mut up = if empty {
            Sink::Done
        } else {
            Sink::Http2(stream)
        };
        let mut send = pin!(relay::send(source, &mut up, clock, self.meter));
        let mut send = Beside::new(send.as_mut());

        let head = self.head_or_client_gone(response, client, clock);
        let head = send
            .with(pin!(head), relay::client_failed)
            .await
            .ok_or_else(|| client_broke(send.output()))??;
        let (head, stream) = head.into_parts();
        let body = length(&head, &stream, self.request.is_head());
        let answer = Response {
            status: head.status.as_u16(),
            headers: Headers::from_map(head.headers),
            body,
            protocol: None,
            switch: None,
        };
        if self.refuses(&answer, retries) {
            return Err(Broken::Refused);
        }
        clock.response_begins();
        let body = Source::http2(stream);
        self.pass_on(answer, body, &mut send, client, clock).await
    }

    /// CONNECT, for a tunnel or for another protocol (RFC 9113, section 8.5; RFC 8441).
    async fn tunnel_over_http2(
        &mut self,
        mut lease: Http2Lease,
        head: http::Request<()>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        retries: &mut Budget<'_>,
    ) -> Result<(), Broken> {
        if self.request.upgrade.is_some() {
            let takes = Self::unless_gone(client, pin!(lease.takes_extended_connect())).await;
            // What was asked for must not become a plain request.
            if !takes.ok_or(Broken::Client)? {
                return Err(Broken::BadRequest(LocalReply::upgrade_failed()));
            }
        }
        let sent = lease.send.send_request(head, false);
        let (response, to_server) = sent.map_err(|error| broken(&error))?;
        let head = self.head_or_client_gone(response, client, clock).await?;
        let (head, stream) = head.into_parts();
        let body = length(&head, &stream, false);
        let answer = Response {
            status: head.status.as_u16(),
            headers: Headers::from_map(head.headers),
            body,
            protocol: None,
            switch: None,
        };
        if self.refuses(&answer, retries) {
            return Err(Broken::Refused);
        }
        let from_server = Source::http2(stream);
        if answer.status == 200 {
            let server = End::Bodies(from_server, Sink::Http2(to_server));
            return self.enter_tunnel(answer, server, client, clock).await;
        }
        clock.response_begins();
        let mut nothing = pin!(std::future::ready(Ok(())));
        let mut sent = Beside::new(nothing.as_mut());
        let passed = self
            .pass_on(answer, from_server, &mut sent, client, clock)
            .await;
        // Not before: without its end, it takes the response along.
        drop(to_server);
        passed
    }

    async fn head_or_client_gone(
        &self,
        response: ResponseFuture,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<http::Response<h2::RecvStream>, Broken> {
        let mut gone = pin!(poll_fn(|cx| self.poll_client_gone(cx, client, clock)));
        Beside::new(gone.as_mut())
            .with(pin!(response), |()| true)
            .await
            .ok_or(Broken::Client)?
            .map_err(|error| broken(&error))
    }
}

pub(super) fn request_head(request: &Request, secure: bool) -> Result<http::Request<()>, Broken> {
    let malformed = || {
        let details = "http2.invalid_request";
        Broken::BadRequest(LocalReply::new(400, "", ResponseFlags::NONE, details))
    };
    let mut uri = Uri::builder();
    if !request.is_connect() {
        let scheme = request
            .scheme
            .unwrap_or(if secure { "https" } else { "http" });
        let path = http::uri::PathAndQuery::from_maybe_shared(request.path.clone());
        uri = uri
            .scheme(scheme)
            .path_and_query(path.map_err(|_| malformed())?);
    }
    let authority = http::uri::Authority::from_maybe_shared(request.authority.clone());
    let uri = uri.authority(authority.map_err(|_| malformed())?).build();
    let mut head = http::Request::new(());
    *head.uri_mut() = uri.map_err(|_| malformed())?;
    *head.method_mut() = match &request.upgrade {
        None => Method::from_bytes(&request.method).map_err(|_| malformed())?,
        Some(protocol) => {
            let protocol = std::str::from_utf8(protocol).map_err(|_| malformed())?;
            head.extensions_mut()
                .insert(h2::ext::Protocol::from(protocol));
            Method::CONNECT
        }
    };
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = request.headers.clone().into_map();
    if let BodyLength::Known(length) = request.body {
        head.headers_mut()
            .insert(http::header::CONTENT_LENGTH, length.into());
    }
    Ok(head)
}

fn length(head: &http::response::Parts, stream: &h2::RecvStream, is_head: bool) -> BodyLength {
    let declared = head
        .headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    // The length is told of a body that does not come.
    let without_body = is_head || head.status == http::StatusCode::NOT_MODIFIED;
    match declared {
        Some(length) if without_body => BodyLength::Known(length),
        Some(length) if length > 0 && !stream.is_end_stream() => BodyLength::Known(length),
        _ if stream.is_end_stream() => BodyLength::Empty,
        _ => BodyLength::Unknown,
    }
}

fn broken(error: &h2::Error) -> Broken {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let reply = match error {
        error if error.is_io() || error.is_go_away() => LocalReply::upstream_closed(error.get_io()),
        error if error.is_reset() => LocalReply::upstream_reset(),
        _ => LocalReply::upstream_protocol_error(),
    };
    // A stream that the peer refused, or never saw before GOAWAY, has had no effect.
    Broken::BeforeResponse {
        reply,
        stale: refused || (error.is_go_away() && error.is_remote()),
    }
}
