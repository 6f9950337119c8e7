//! The time limits of one forwarded request.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use super::{exchange::Context, failure::LocalReply};
use crate::access_log::ResponseFlags;
use crate::{config::route::Forward, io::Deadline};

/// Which limit is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    Response,
    Idle,
}

impl Expired {
    pub(super) fn reply(self) -> LocalReply {
        match self {
            Self::Response => LocalReply::timeout(),
            Self::Idle => LocalReply::idle_timeout(),
        }
    }

    pub(super) fn flags(self) -> ResponseFlags {
        match self {
            Self::Response => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            Self::Idle => ResponseFlags::STREAM_IDLE_TIMEOUT,
        }
    }
}

/// The route's timeout, which starts when the request is sent, and the idle timeout, which starts
/// anew with each part of a body.
pub(super) struct Clock {
    response: Option<(Deadline, Duration)>,
    idle: Option<(Deadline, Duration)>,
    sent: Cell<bool>,
}

impl Clock {
    pub(super) fn new(context: &Context<'_>, forward: &Forward) -> Self {
        let armed =
            |limit: Option<Duration>| limit.map(|limit| (context.worker.timers.deadline(), limit));
        let idle = forward
            .idle_timeout
            .or(context.manager.timeouts.stream_idle);
        let clock = Self {
            response: armed(forward.timeout),
            idle: armed(idle),
            sent: Cell::new(false),
        };
        clock.progress();
        clock
    }

    /// The whole request is on its way: from now on the upstream is waited for.
    pub(super) fn request_sent(&self) {
        if let Some((deadline, limit)) = &self.response
            && !self.sent.replace(true)
        {
            deadline.arm(*limit);
        }
    }

    /// A part of a body moved.
    pub(super) fn progress(&self) {
        if let Some((deadline, limit)) = &self.idle {
            deadline.arm(*limit);
        }
    }

    /// `future`, unless a limit is over first.
    pub(super) async fn limit<F: Future>(&self, future: F) -> Result<F::Output, Expired> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let limits = [
                (&self.response, Expired::Response),
                (&self.idle, Expired::Idle),
            ];
            for (limit, expired) in limits {
                if let Some((deadline, _)) = limit
                    && deadline.poll_expired(cx).is_ready()
                {
                    return Poll::Ready(Err(expired));
                }
            }
            Poll::Pending
        })
        .await
    }
}
