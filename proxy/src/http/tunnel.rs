//! After an upgrade: bytes both ways until both sides end.

use std::{future::poll_fn, rc::Rc, task::Poll};

use super::{meter::Meter, timeouts::Clock, wire::Wire};
use crate::{tcp::pump::Pump, worker::Worker};

/// The most that is buffered for one direction, in bytes.
const LIMIT: usize = 256 * 1024;

pub(super) async fn run(
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
