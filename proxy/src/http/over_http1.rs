//! A request over an HTTP/1 upstream connection.

use std::{future::poll_fn, pin::pin};

use bytes::{Bytes, BytesMut};
use ithildin_http1::{Framing, Limits, Progress, ResponseHead, encode, parse_response};

use super::{
    body::{Sink, Source},
    client::{Client, Response, put_fields},
    exchange::{Broken, Exchange},
    failure::{LocalReply, client_broke},
    headers::Headers,
    meter::WireCount,
    names,
    race::Beside,
    relay,
    request::{BodyLength, Protocol, Request},
    retry::Budget,
    timeouts::Clock,
    tunnel::End,
    wire::Wire,
};
use crate::{config::http::HeaderFormat, upstream::Http1Lease};

/// Interim responses taken for one request; more are a mistake or an attack.
const MAX_INTERIM: usize = 16;

/// What came of one request. `reusable`: the connection can be used again.
enum Spoken {
    Done {
        reusable: bool,
    },
    /// See [`Broken::Refused`].
    Refused {
        reusable: bool,
    },
}

impl Exchange<'_> {
    pub(super) async fn over_http1(
        &mut self,
        mut lease: Http1Lease,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        retries: &mut Budget<'_>,
    ) -> Result<(), Broken> {
        self.outcome.endpoint = Some(lease.endpoint().clone());
        self.outcome.upstream = lease.link().cloned();
        self.outcome.upstream_protocol = Some(Protocol::Http11);
        // Who closes without a word may still have done what it was asked for.
        let stale_possible = lease.reused && is_idempotent(&self.request.method);
        let format = lease.header_format();
        let read_ahead = std::mem::take(&mut lease.leftover);
        let wire = Wire::new(&mut lease.stream, read_ahead, &self.context.worker.buffers);
        let count = WireCount {
            meter: self.meter,
            wire: &wire,
        };
        let spoken = self
            .speak(
                &wire,
                source,
                client,
                clock,
                (stale_possible, format),
                retries,
            )
            .await;
        drop(count);
        let spoken = spoken?;
        wire.release_buffer();
        lease.leftover = wire.into_read_ahead();
        match spoken {
            Spoken::Done { reusable: true } | Spoken::Refused { reusable: true } => {
                lease.give_back();
            }
            Spoken::Done { reusable: false } => lease.close(),
            // The connection ends in the middle of a response.
            Spoken::Refused { reusable: false } => drop(lease),
        }
        match spoken {
            Spoken::Done { .. } => Ok(()),
            Spoken::Refused { .. } => Err(Broken::Refused),
        }
    }

    async fn speak(
        &mut self,
        wire: &Wire<'_>,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        (stale_possible, format): (bool, HeaderFormat),
        retries: &mut Budget<'_>,
    ) -> Result<Spoken, Broken> {
        let framing = self.request.body.framing();
        let head = request_head(&self.request, framing, format);
        self.meter.request_head_is_written(&head);
        let mut up = Sink::Wire {
            wire,
            framing,
            head,
            trailers: true,
            // Its answer may come before our whole request is there.
            watched: false,
        };
        let mut send = pin!(relay::send(source, &mut up, clock, self.meter));
        let mut send = Beside::new(send.as_mut());

        let answered = self.answered(wire, client, clock, (stale_possible, format));
        let Answered {
            answer,
            framing,
            keep_alive,
            switches,
        } = send
            .with(pin!(answered), relay::client_failed)
            .await
            .ok_or_else(|| client_broke(send.output()))??;
        if self.refuses(&answer, retries) {
            let reusable = keep_alive && framing == Framing::None && relay::is_sent(&send);
            return Ok(Spoken::Refused { reusable });
        }
        if !keep_alive {
            self.count_close_notify(retries.cluster());
        }
        clock.response_begins();
        if switches {
            self.enter_tunnel(answer, End::Wire(wire), client, clock)
                .await?;
            return Ok(Spoken::Done { reusable: false });
        }
        if answer.status == 101 {
            return Err(broken(LocalReply::upstream_protocol_error()));
        }
        let body = Source::wire(wire, framing, true);
        self.pass_on(answer, body, &mut send, client, clock).await?;
        let reusable = keep_alive && relay::is_sent(&send);
        Ok(Spoken::Done { reusable })
    }

    /// The final response head; interim ones are passed on.
    async fn answered(
        &self,
        wire: &Wire<'_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        (stale_possible, format): (bool, HeaderFormat),
    ) -> Result<Answered, Broken> {
        let mut interims = 0;
        let mut answered = false;
        let mut progress = Progress::default();
        let method = &self.request.method;
        loop {
            let parsed = wire.with_buffer(|buffer| {
                answered |= !buffer.is_empty();
                parse_response(buffer, limits(format), method, &mut progress)
            });
            match parsed {
                Ok(Some(head)) if head.is_interim() => {
                    interims += 1;
                    if interims > MAX_INTERIM {
                        return Err(broken(LocalReply::upstream_protocol_error()));
                    }
                    let headers = Headers::from_http1(&head.fields, format);
                    self.interim(head.status, headers, client).await?;
                }
                Ok(Some(head)) => {
                    self.meter.response_head_is_read(&head.fields);
                    return Ok(Answered::new(&head, &self.request, format));
                }
                Ok(None) => match self.fill_or_client_gone(wire, client, clock).await? {
                    Ok(n) if n > 0 => {}
                    end => {
                        return Err(Broken::BeforeResponse {
                            reply: LocalReply::upstream_closed(end.as_ref().err()),
                            stale: stale_possible && !answered,
                        });
                    }
                },
                Err(_) => return Err(broken(LocalReply::upstream_protocol_error())),
            }
        }
    }

    async fn fill_or_client_gone(
        &self,
        wire: &Wire<'_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<std::io::Result<usize>, Broken> {
        let mut gone = pin!(poll_fn(|cx| self.poll_client_gone(cx, client, clock)));
        Beside::new(gone.as_mut())
            .with(pin!(wire.fill()), |()| true)
            .await
            .ok_or(Broken::Client)
    }
}

/// A final response head: what is passed on of it, and what the connection goes by.
struct Answered {
    answer: Response,
    framing: Framing,
    keep_alive: bool,
    /// From here on the connection carries what the request asked for.
    switches: bool,
}

impl Answered {
    fn new(head: &ResponseHead, request: &Request, format: HeaderFormat) -> Self {
        Self {
            answer: response(head, &request.method, format),
            framing: head.framing,
            keep_alive: head.keep_alive,
            switches: match &request.upgrade {
                Some(_) => head.is_upgrade(),
                None => request.is_connect() && (200..300).contains(&head.status),
            },
        }
    }
}

/// Methods that may be sent twice (RFC 9110, section 9.2.2).
fn is_idempotent(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
    )
}

fn broken(reply: LocalReply) -> Broken {
    Broken::BeforeResponse {
        reply,
        stale: false,
    }
}

pub(super) fn request_head(request: &Request, framing: Framing, format: HeaderFormat) -> Bytes {
    let mut head = BytesMut::with_capacity(1024);
    let target = if request.is_connect() {
        &request.authority
    } else {
        &request.path
    };
    encode::request_line(&mut head, &request.method, target);
    encode::field(&mut head, b"host", &request.authority);
    put_fields(&mut head, &request.headers);
    encode::framing(&mut head, framing);
    if framing == Framing::None && expects_length(&request.method) {
        encode::field(&mut head, b"content-length", b"0");
    }
    if let Some(upgrade) = &request.upgrade {
        encode::field(&mut head, b"connection", b"upgrade");
        encode::field(&mut head, b"upgrade", upgrade);
    }
    encode::end_of_head(&mut head);
    names::format(&mut head, &request.headers, format);
    head.freeze()
}

/// Methods whose missing body should be said (RFC 9110, section 8.6).
fn expects_length(method: &[u8]) -> bool {
    matches!(method, b"POST" | b"PUT" | b"PATCH" | b"OPTIONS")
}

fn limits(format: HeaderFormat) -> Limits {
    Limits {
        keeps_names: format.keeps_names(),
        ..Limits::default()
    }
}

fn response(head: &ResponseHead, method: &[u8], format: HeaderFormat) -> Response {
    // The length is told of a body that does not come.
    let without_body = method == b"HEAD" || head.status == 304;
    Response {
        status: head.status,
        headers: Headers::from_http1(&head.fields, format),
        body: match (head.framing, head.length) {
            (Framing::None, Some(length)) if without_body => BodyLength::Known(length),
            (framing, _) => BodyLength::of(framing),
        },
        protocol: head
            .is_upgrade()
            .then(|| head.fields.known(ithildin_http1::Known::Upgrade))
            .flatten()
            .map(Bytes::copy_from_slice),
        switch: None,
    }
}
