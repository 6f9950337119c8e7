//! After CONNECT, or a change of protocol: bytes both ways until both sides end. Either side is a
//! whole HTTP/1 or TCP connection, or the bodies of one HTTP/2 stream.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use super::{
    body::{Part, PumpError, Sink, Source, pump},
    client::{Client, Response, Switch},
    exchange::{Broken, Exchange},
    meter::Meter,
    timeouts::Clock,
    wire::Wire,
};
use crate::{tcp::pump::Pump, worker::Worker};

/// The most that is buffered for one direction, in bytes.
const LIMIT: usize = 256 * 1024;

/// One side of a tunnel.
pub(super) enum End<'a, 'w> {
    Wire(&'a Wire<'w>),
    Bodies(Source<'a, 'w>, Sink<'a, 'w>),
}

impl<'a, 'w> End<'a, 'w> {
    fn split(self) -> (Source<'a, 'w>, Sink<'a, 'w>) {
        match self {
            Self::Wire(wire) => (Source::raw(wire), Sink::Raw(wire)),
            Self::Bodies(source, sink) => (source, sink),
        }
    }

    /// The connection behind it, if it is one's own.
    fn wire(&self) -> Option<&'a Wire<'w>> {
        match self {
            Self::Wire(wire) => Some(wire),
            Self::Bodies(..) => None,
        }
    }
}

impl Exchange<'_> {
    /// Tells the client that it has what it asked for, and passes bytes both ways until both sides
    /// end.
    pub(super) async fn enter_tunnel(
        &mut self,
        mut answer: Response,
        server: End<'_, '_>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<(), Broken> {
        clock.response_begins();
        answer.switch = Some(match &self.request.upgrade {
            Some(protocol) => Switch::Protocol(answer.protocol.take().unwrap_or(protocol.clone())),
            None => Switch::Tunnel,
        });
        if self.request.upgrade.is_some() {
            answer.status = client.switching_status();
        }
        let response = self.finish_head(answer, &mut Source::Empty).await;
        let response = response.map_err(Broken::BadRequest)?;
        let client = client.enter(response).await.map_err(|_| Broken::Client)?;
        run(self.context.worker, client, server, clock, self.meter).await;
        self.meter.response_is_sent();
        Ok(())
    }
}

async fn run(
    worker: &Rc<Worker>,
    client: End<'_, '_>,
    server: End<'_, '_>,
    clock: &Clock,
    meter: &Meter<'_>,
) {
    match (client, server) {
        (End::Wire(client), End::Wire(server)) => {
            run_wires(worker, client, server, clock, meter).await;
        }
        (client, server) => {
            let wires = (client.wire(), server.wire());
            if !Box::pin(run_bodies(client, server, clock, meter)).await {
                // What ends in an error must not look whole at the other side.
                wires.0.inspect(|wire| wire.reset());
                wires.1.inspect(|wire| wire.reset());
            }
        }
    }
}

/// Whether both sides ended as they should.
async fn run_bodies(
    client: End<'_, '_>,
    server: End<'_, '_>,
    clock: &Clock,
    meter: &Meter<'_>,
) -> bool {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let length = |part: &Part| {
        clock.progress();
        match part {
            Part::Data(data) => data.len() as u64,
            Part::End(_) => 0,
        }
    };
    let mut up = pin!(pump(&mut from_client, &mut to_server, |part| {
        meter.tunnelled(length(part), 0);
    }));
    let mut down = pin!(pump(&mut from_server, &mut to_client, |part| {
        meter.tunnelled(0, length(part));
    }));
    let (mut sent, mut received) = (None, None);
    poll_fn(|cx| {
        if sent.is_none()
            && let Poll::Ready(result) = up.as_mut().poll(cx)
        {
            sent = Some(result);
        }
        if received.is_none()
            && let Poll::Ready(result) = down.as_mut().poll(cx)
        {
            received = Some(result);
        }
        // Who takes no more may still have sent something; its end comes behind that.
        let broken = |it: &Option<_>| matches!(it, Some(Err(PumpError::Source(_))));
        match (&sent, &received) {
            (Some(sent), Some(received)) => Poll::Ready(sent.is_ok() && received.is_ok()),
            (sent, received) if broken(sent) || broken(received) => Poll::Ready(false),
            _ => Poll::Pending,
        }
    })
    .await
}

async fn run_wires(
    worker: &Rc<Worker>,
    client: &Wire<'_>,
    server: &Wire<'_>,
    clock: &Clock,
    meter: &Meter<'_>,
) {
    let mut up = Pump::new(client.with_buffer(std::mem::take), LIMIT);
    let mut down = Pump::new(server.with_buffer(std::mem::take), LIMIT);
    poll_fn(|cx| {
        let mut client = client.borrow();
        let mut server = server.borrow();
        let before = (up.passed, down.passed);
        let sent = up.poll(cx, &worker.buffers, &mut client, &mut server);
        let received = down.poll(cx, &worker.buffers, &mut server, &mut client);
        let moved = (up.passed - before.0, down.passed - before.1);
        if moved != (0, 0) {
            clock.progress();
            meter.tunnelled(moved.0, moved.1);
        }
        match (sent, received) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}
