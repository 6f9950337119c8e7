//! The part of a request's body that a filter asks for: it is read ahead, and sent on later.

use ithildin_http1::{Known, ParseError};

use super::Verdict;
use crate::{
    access_log::ResponseFlags,
    config::ext_authz::CheckBody,
    http::{
        body::{Ahead, BodyError, Source},
        client::Client,
        exchange::Exchange,
        failure::LocalReply,
        headers::Headers,
        wire::WireError,
    },
};

impl Exchange<'_> {
    /// Reads ahead what the filter is to get of the body. `false`: there is no memory for it. An error
    /// is what becomes of the request without it.
    pub(super) async fn hold_body(
        &mut self,
        body: CheckBody,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<bool, Verdict> {
        let context = self.context;
        source.hold(context.worker.asked.none());
        self.invite_body(client).await?;
        let limit = context.manager.timeouts.request;
        let left = limit.map(|limit| limit.saturating_sub(self.meter.started.elapsed()));
        let read = Box::pin(self.read_ahead(body, source));
        let read = context.worker.timers.timeout(left, read).await;
        read.unwrap_or_else(|| {
            context.stats.downstream_rq_timeout.inc();
            Err(Verdict::Reply(LocalReply::request_timeout()))
        })
    }

    /// A client that waits for leave to send its body gets it from us: the upstream is not asked yet.
    async fn invite_body(&mut self, client: &mut Client<'_, '_>) -> Result<(), Verdict> {
        let headers = &mut self.request.headers;
        let waits = headers.known(Known::Expect);
        if waits.is_some_and(|it| it.eq_ignore_ascii_case(b"100-continue")) {
            headers.remove_known(Known::Expect);
            let invited = client.interim(100, Headers::default()).await;
            invited.map_err(|_| Verdict::Gone)?;
        }
        Ok(())
    }

    async fn read_ahead(
        &self,
        body: CheckBody,
        source: &mut Source<'_, '_>,
    ) -> Result<bool, Verdict> {
        let context = self.context;
        let idle = context.manager.timeouts.stream_idle;
        loop {
            let part = context.worker.timers.timeout(idle, source.read_ahead());
            match part.await {
                Some(Ok(Ahead::More)) => {}
                Some(Ok(Ahead::Whole)) => return Ok(true),
                Some(Ok(Ahead::NoRoom)) => return Ok(false),
                Some(Err(error)) => return Err(broken(&error)),
                None => {
                    context.stats.downstream_rq_idle_timeout.inc();
                    return Err(Verdict::Reply(LocalReply::idle_timeout(false)));
                }
            }
            let read = source.ahead().len();
            if body.allow_partial && read >= body.max_bytes {
                return Ok(true);
            }
            if read > body.max_bytes {
                context.stats.downstream_rq_too_large.inc();
                return Err(Verdict::Reply(too_large()));
            }
        }
    }
}

fn too_large() -> LocalReply {
    let none = ResponseFlags::NONE;
    LocalReply::new(413, "Payload Too Large", none, "request_payload_too_large")
}

/// The client is gone, or sent something that is no body.
fn broken(error: &BodyError) -> Verdict {
    match error {
        BodyError::Wire(WireError::Protocol(error)) if *error != ParseError::Truncated => {
            Verdict::Reply(LocalReply::refused(*error))
        }
        _ => Verdict::Gone,
    }
}
