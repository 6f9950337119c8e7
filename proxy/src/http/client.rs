//! The downstream side of one request: where its response goes, in either protocol.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::StatusCode;
use ithildin_http1::{Framing, Version, encode};

use super::{
    body::{Sink, Source},
    headers::Headers,
    names,
    request::{BodyLength, Protocol},
    tunnel::End,
    wire::Wire,
};
use crate::config::http::HeaderFormat;

/// A response head on its way to the client.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Headers,
    pub(super) body: BodyLength,
    /// The upstream's `Upgrade`.
    pub(super) protocol: Option<Bytes>,
    /// After this head nothing of HTTP follows.
    pub(super) switch: Option<Switch>,
}

/// What a connection, or an HTTP/2 stream, changes to.
#[derive(Debug)]
pub(super) enum Switch {
    /// Bytes for whom CONNECT named.
    Tunnel,
    /// What `Upgrade` names.
    Protocol(Bytes),
}

/// Who asked.
pub(super) enum Client<'c, 'w> {
    Wire {
        wire: &'c Wire<'w>,
        protocol: Protocol,
        /// Whether the connection may carry another request.
        keep_alive: bool,
        head_request: bool,
        /// Whether it gets trailers, as the configuration says: whatever it said in `TE`, as in Envoy.
        trailers: bool,
        /// Whether the request has no body, so that the client says nothing while it is answered.
        watched: bool,
        /// Whether the end of the connection is what ends the response.
        closes: bool,
        /// Of an interim head that was given up halfway: it must end before anything else.
        unsent: Bytes,
        format: HeaderFormat,
    },
    Http2 {
        respond: SendResponse<Bytes>,
        head_request: bool,
        /// What comes of a client that asked for a tunnel.
        tunnel: Option<RecvStream>,
    },
}

impl<'c, 'w> Client<'c, 'w> {
    /// Sends a 1xx head other than 101.
    pub(super) async fn interim(&mut self, status: u16, headers: Headers) -> io::Result<()> {
        match self {
            Self::Wire {
                wire,
                protocol,
                unsent,
                format,
                ..
            } => {
                if *protocol == Protocol::Http10 {
                    return Ok(());
                }
                let mut head = BytesMut::with_capacity(64);
                encode::status_line(&mut head, Version::Http11, status);
                put_fields(&mut head, &headers);
                encode::end_of_head(&mut head);
                names::format(&mut head, &headers, *format);
                *unsent = [&unsent[..], &head].concat().into();
                wire.write(std::slice::from_mut(unsent)).await
            }
            // A client that speaks HTTP/2 sends its body without waiting.
            Self::Http2 { .. } => Ok(()),
        }
    }

    /// Starts the response; its body goes into the sink.
    pub(super) async fn respond(
        &mut self,
        response: Response,
        closing: bool,
    ) -> io::Result<Sink<'c, 'w>> {
        match self {
            Self::Wire {
                wire,
                protocol,
                keep_alive,
                head_request,
                trailers,
                watched,
                closes,
                unsent,
                format,
            } => {
                let framing = downstream_framing(response.body, *protocol, &response);
                *keep_alive &= !closing && framing != Framing::Close && !wire.is_draining();
                let no_body = *head_request || is_without_body(response.status);
                let unsent = std::mem::take(unsent);
                let mut head = response_head(&response, framing, no_body, *keep_alive, *protocol);
                names::format(&mut head, &response.headers, *format);
                let mut head = head.freeze();
                if !unsent.is_empty() {
                    head = [&unsent[..], &head].concat().into();
                }
                if no_body || framing == Framing::None {
                    wire.write(&mut [head]).await?;
                    return Ok(Sink::Done);
                }
                *closes = framing == Framing::Close;
                Ok(Sink::Wire {
                    wire,
                    framing,
                    head,
                    trailers: *trailers,
                    watched: *watched || !closing,
                })
            }
            Self::Http2 {
                respond,
                head_request,
                ..
            } => {
                let no_body = *head_request || is_without_body(response.status);
                let end =
                    (no_body || response.body == BodyLength::Empty) && response.switch.is_none();
                let mut head = http::Response::new(());
                *head.status_mut() =
                    StatusCode::from_u16(response.status).map_err(io::Error::other)?;
                let mut headers = response.headers;
                if let BodyLength::Known(length) = response.body
                    && response.status != 204
                {
                    headers.push(
                        ithildin_http1::Known::ContentLength,
                        "content-length",
                        length.to_string(),
                    );
                }
                *head.headers_mut() = headers.into_map();
                let stream = respond.send_response(head, end).map_err(io::Error::other)?;
                Ok(if end { Sink::Done } else { Sink::Http2(stream) })
            }
        }
    }

    /// The status that tells the client of a change of protocol (RFC 8441, section 5).
    pub(super) fn switching_status(&self) -> u16 {
        match self {
            Self::Wire { .. } => 101,
            Self::Http2 { .. } => 200,
        }
    }

    /// Sends the head after which nothing of HTTP follows.
    pub(super) async fn enter(&mut self, response: Response) -> io::Result<End<'c, 'w>> {
        if let Self::Wire { keep_alive, .. } = self {
            *keep_alive = false;
        }
        let sink = self.respond(response, false).await?;
        Ok(match self {
            Self::Wire { wire, .. } => End::Wire(wire),
            Self::Http2 { tunnel, .. } => {
                End::Bodies(tunnel.take().map_or(Source::Empty, Source::http2), sink)
            }
        })
    }

    /// Whether the client went away while it waits.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Wire { wire, .. } => wire.poll_closed(cx),
            Self::Http2 { respond, .. } => respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// Gives up a response that cannot be finished.
    pub(super) fn abort(&mut self) {
        match self {
            Self::Wire {
                wire,
                keep_alive,
                closes,
                ..
            } => {
                *keep_alive = false;
                // An orderly end would make a part look whole.
                if *closes {
                    wire.reset();
                }
            }
            Self::Http2 { respond, .. } => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }
}

/// Whatever a filter made of its body.
fn is_without_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn downstream_framing(body: BodyLength, protocol: Protocol, response: &Response) -> Framing {
    match body {
        _ if response.switch.is_some() => Framing::None,
        // HTTP/1.0 knows no chunks: the end of the connection ends the body.
        BodyLength::Unknown if protocol == Protocol::Http10 => Framing::Close,
        body => body.framing(),
    }
}

fn response_head(
    response: &Response,
    framing: Framing,
    no_body: bool,
    keep_alive: bool,
    protocol: Protocol,
) -> BytesMut {
    let mut head = BytesMut::with_capacity(512);
    let version = match protocol {
        Protocol::Http10 => Version::Http10,
        Protocol::Http11 | Protocol::Http2 => Version::Http11,
    };
    encode::status_line(&mut head, version, response.status);
    put_fields(&mut head, &response.headers);
    if let Some(switch) = &response.switch {
        if let Switch::Protocol(protocol) = switch {
            encode::field(&mut head, b"connection", b"upgrade");
            encode::field(&mut head, b"upgrade", protocol);
        }
    } else {
        match framing {
            // No body, but the client waits for one unless it is told its length.
            Framing::None if !no_body && response.status >= 200 => {
                encode::field(&mut head, b"content-length", b"0");
            }
            Framing::Length(_) | Framing::Chunked if response.status != 204 => {
                encode::framing(&mut head, framing);
            }
            _ => {}
        }
        if !keep_alive {
            encode::field(&mut head, b"connection", b"close");
        } else if protocol == Protocol::Http10 {
            encode::field(&mut head, b"connection", b"keep-alive");
        }
    }
    encode::end_of_head(&mut head);
    head
}

pub(super) fn put_fields(head: &mut BytesMut, headers: &Headers) {
    for field in headers.iter() {
        encode::field(head, field.name.as_bytes(), &field.value);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use ithildin_http1::Known;
    use tokio::{io::AsyncReadExt, net::UnixStream};

    use super::*;
    use crate::{
        io::{BufferPool, Origin, Registry, Socket, Stream},
        testing,
    };

    /// More than the buffers of a socket hold.
    const LARGE: usize = 4 << 20;

    #[tokio::test]
    async fn an_interim_head_that_is_given_up_ends_before_the_answer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let registration = Registry::new(0, Arc::default()).register(Origin::Downstream {
            listener: Arc::new(testing::tcp_listener("l", "c")),
            chain: None,
        });
        let mut stream = Stream::plain(Socket::Unix(ours), registration);
        let buffers = BufferPool::default();
        let wire = Wire::new(&mut stream, BytesMut::new(), &buffers);
        let mut client = Client::Wire {
            wire: &wire,
            protocol: Protocol::Http11,
            keep_alive: true,
            head_request: false,
            trailers: false,
            watched: false,
            closes: false,
            unsent: Bytes::new(),
            format: HeaderFormat::Lower,
        };
        let mut hints = Headers::default();
        hints.push(Known::Other, "x-large", "a".repeat(LARGE));
        let hints = client.interim(103, hints);
        let given_up = tokio::time::timeout(Duration::from_millis(50), hints).await;
        assert!(given_up.is_err(), "the client reads nothing");
        let answer = Response {
            status: 504,
            headers: Headers::default(),
            body: BodyLength::Empty,
            protocol: None,
            switch: None,
        };
        let mut told = Vec::new();
        let read = async {
            while !told.ends_with(b"connection: close\r\n\r\n") {
                assert!(theirs.read_buf(&mut told).await.unwrap() > 0);
            }
        };
        let (answered, ()) = tokio::join!(client.respond(answer, true), read);
        assert!(answered.is_ok());
        let told = String::from_utf8(told).unwrap();
        let (hints, answer) = told.split_once("\r\n\r\n").unwrap();
        assert!(hints.starts_with("HTTP/1.1 103 ") && hints.len() > LARGE);
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    }
}
