//! The time limits of one forwarded request.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ithildin_http1::Known;

use super::{
    exchange::Context,
    failure::LocalReply,
    request::{BodyLength, Request},
};
use crate::{access_log::ResponseFlags, config::route::Forward, io::Deadline};

/// Which limit is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Response,
    Idle,
    Duration,
    Request,
}

impl Expired {
    pub(super) fn flags(self) -> ResponseFlags {
        match self {
            Self::Response => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            Self::Idle => ResponseFlags::STREAM_IDLE_TIMEOUT,
            Self::Duration | Self::Request => ResponseFlags::NONE,
        }
    }
}

/// The limits of one forwarded request, all of its tries together, and of one try.
pub(super) struct Clock {
    started: Instant,
    /// Begins when the request is there: from then on the upstream is waited for.
    response: Limit,
    /// Begins anew with each part of a body.
    idle: Limit,
    duration: Limit,
    /// Ends when the request is there.
    request: Limit,
    per_try: Limit,
    is_complete: Cell<bool>,
    /// The protocol that the request asks for has no end that we know.
    is_upgrade: bool,
}

type Limit = Option<(Deadline, Duration)>;

impl Clock {
    /// For a request whose head began to arrive at `started`.
    pub(super) fn new(
        context: &Context<'_>,
        forward: &Forward,
        request: &Request,
        started: Instant,
    ) -> Self {
        let limit =
            |limit: Option<Duration>| limit.map(|limit| (context.worker.timers.deadline(), limit));
        let idle = match forward.idle_timeout {
            Some(Duration::ZERO) => None,
            Some(limit) => Some(limit),
            None => context.manager.timeouts.stream_idle,
        };
        let is_upgrade = request.asks_for_tunnel();
        let has_body = request.body != BodyLength::Empty;
        let is_complete = !has_body && !is_upgrade;
        let arrival = context.manager.timeouts.request.filter(|_| has_body);
        let per_try = forward.retry.as_ref().and_then(|it| it.per_try_timeout);
        let clock = Self {
            started,
            response: limit(response_limit(forward, request)),
            idle: limit(idle),
            duration: limit(duration_limit(
                forward,
                request,
                context.manager.timeouts.max_stream_duration,
            )),
            request: limit(arrival),
            per_try: limit(per_try),
            is_complete: Cell::new(is_complete),
            is_upgrade,
        };
        let elapsed = started.elapsed();
        for (deadline, limit) in clock.duration.iter().chain(&clock.request) {
            deadline.arm(limit.saturating_sub(elapsed));
        }
        if is_complete {
            arm(&clock.response);
        }
        clock.progress();
        clock
    }

    /// The whole request is on its way: from now on the upstream is waited for.
    pub(super) fn request_sent(&self) {
        if self.is_upgrade {
            return;
        }
        if !self.is_complete.replace(true) {
            arm(&self.response);
            disarm(&self.request);
        }
        arm(&self.per_try);
    }

    /// Whether the request is there, whole.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    /// The try brought a response: whatever follows, it is not given up for another.
    pub(super) fn response_begins(&self) {
        disarm(&self.request);
        disarm(&self.per_try);
    }

    /// A part of a body moved.
    pub(super) fn progress(&self) {
        arm(&self.idle);
    }

    /// What the upstream is told of the time that is left (`x-envoy-expected-rq-timeout-ms`).
    pub(super) fn expected(&self, attempt: u32) -> Option<Duration> {
        let whole = self.response.as_ref().map(|(_, limit)| match attempt {
            0 | 1 => *limit,
            // Envoy never says 0, which would mean that there is no limit.
            _ => limit
                .saturating_sub(self.started.elapsed())
                .max(Duration::from_millis(1)),
        });
        let per_try = self.per_try.as_ref().map(|(_, limit)| *limit);
        whole.into_iter().chain(per_try).min()
    }

    /// The answer to a client whose time is over.
    pub(super) fn reply(&self, expired: Expired) -> LocalReply {
        let is_complete = self.is_complete.get();
        match expired {
            Expired::Response => LocalReply::timeout(),
            Expired::Idle => LocalReply::idle_timeout(is_complete),
            Expired::Duration => LocalReply::max_duration(is_complete),
            Expired::Request => LocalReply::request_timeout(),
        }
    }

    /// `future`, unless a limit is over first.
    ///
    /// It comes pinned: one that is handed over as it is takes its room twice.
    pub(super) async fn limit<F: Future>(
        &self,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, Expired> {
        poll_fn(|cx| {
            // What has no time at all is not begun: deadlines are too coarse for it.
            if matches!(self.duration, Some((_, Duration::ZERO))) {
                return Poll::Ready(Err(Expired::Duration));
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let limits = [
                (&self.response, Expired::Response),
                (&self.idle, Expired::Idle),
                (&self.duration, Expired::Duration),
                (&self.request, Expired::Request),
            ];
            for (limit, expired) in limits {
                if is_over(limit, cx) {
                    return Poll::Ready(Err(expired));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// One try, unless its own limit is over first: `None`.
    pub(super) async fn limit_try<F: Future>(&self, mut future: Pin<&mut F>) -> Option<F::Output> {
        let output = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if is_over(&self.per_try, cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        disarm(&self.per_try);
        output
    }
}

fn arm(limit: &Limit) {
    if let Some((deadline, limit)) = limit {
        deadline.arm(*limit);
    }
}

fn disarm(limit: &Limit) {
    if let Some((deadline, _)) = limit {
        deadline.disarm();
    }
}

fn is_over(limit: &Limit, cx: &TaskContext<'_>) -> bool {
    let Some((deadline, _)) = limit else {
        return false;
    };
    deadline.poll_expired(cx).is_ready()
}

/// How long the stream may live: what a gRPC client asks for counts where the route says so.
fn duration_limit(
    forward: &Forward,
    request: &Request,
    default: Option<Duration>,
) -> Option<Duration> {
    let own = match forward.max_stream_duration {
        Some(Duration::ZERO) => None,
        Some(limit) => Some(limit),
        None => default,
    };
    let Some(most) = forward.grpc_timeout_max else {
        return own;
    };
    match grpc_timeout(request) {
        Some(asked) if most.is_zero() => Some(asked),
        Some(asked) => Some(asked.min(most)),
        None => own,
    }
}

/// How long the upstream may take. `max_grpc_timeout`, which is deprecated, takes the place of
/// `timeout` for gRPC, and no limit is what a client gets that asks for none.
fn response_limit(forward: &Forward, request: &Request) -> Option<Duration> {
    let Some(most) = forward.max_grpc_timeout.filter(|_| request.is_grpc()) else {
        return forward.timeout;
    };
    let asked = grpc_timeout(request).filter(|asked| !asked.is_zero());
    let most = Some(most).filter(|most| !most.is_zero());
    asked.into_iter().chain(most).min()
}

/// Tells the upstream of a gRPC request the limit that holds, in place of what the client asked for.
pub(super) fn tell_grpc_timeout(forward: &Forward, request: &mut Request) {
    let told = match (forward.grpc_timeout_max, forward.max_grpc_timeout) {
        (None, None) => return,
        _ if !request.is_grpc() => return,
        (Some(_), _) => grpc_timeout(request).and_then(|_| duration_limit(forward, request, None)),
        (None, Some(_)) => response_limit(forward, request),
    };
    if let Some(limit) = told {
        let (known, name) = (Known::Other, GRPC_TIMEOUT);
        request.headers.set(known, name, format_grpc_timeout(limit));
    }
}

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// At most eight digits and a unit, as the gRPC protocol has it.
fn grpc_timeout(request: &Request) -> Option<Duration> {
    let value: &Bytes = request.headers.get(GRPC_TIMEOUT)?;
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn format_grpc_timeout(limit: Duration) -> String {
    /// The first number with more digits than the protocol allows.
    const TOO_LARGE: u128 = 100_000_000;
    let millis = limit.as_millis();
    if millis < TOO_LARGE {
        return format!("{millis}m");
    }
    let seconds = millis / 1000;
    if seconds < TOO_LARGE {
        return format!("{seconds}S");
    }
    format!("{}M", (seconds / 60).min(TOO_LARGE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_eight_digits() {
        for (limit, text) in [
            (Duration::from_millis(250), "250m"),
            (Duration::from_secs(99_999), "99999000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
        ] {
            assert_eq!(format_grpc_timeout(limit), text);
        }
    }
}
