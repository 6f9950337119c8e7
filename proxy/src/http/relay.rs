//! What every try has, over either protocol: the request on its way up, and the answer on its way down
//! beside it.

use std::pin::pin;

use super::{
    body::{PumpError, Sink, Source, pump},
    client::{Client, Response},
    exchange::{Broken, Exchange},
    failure::cut_off,
    meter::Meter,
    race::Beside,
    timeouts::Clock,
};

/// How it went with a request's body.
pub(super) type Sent = Result<(), PumpError>;

/// Sends a request's body, and notes when all of it is out.
pub(super) async fn send(
    source: &mut Source<'_, '_>,
    up: &mut Sink<'_, '_>,
    clock: &Clock,
    meter: &Meter<'_>,
) -> Sent {
    meter.request_is_sending();
    let sent = pump(source, up, |part| {
        clock.progress();
        meter.request_part(part);
    })
    .await;
    clock.request_sent();
    meter.request_is_sent();
    sent
}

/// Whether the client is why a request stopped: no answer matters then. An upstream that takes no more of
/// it may have answered yet.
pub(super) fn client_failed(sent: &Sent) -> bool {
    matches!(sent, Err(PumpError::Source(_)))
}

/// Whether all of a request is out.
pub(super) fn is_sent<F: Future<Output = Sent>>(sending: &Beside<'_, F>) -> bool {
    matches!(sending.output(), Some(Ok(())))
}

impl Exchange<'_> {
    /// Passes an answer on, whose head has come, beside what is left of the request.
    pub(super) async fn pass_on<F: Future<Output = Sent>>(
        &mut self,
        answer: Response,
        mut body: Source<'_, '_>,
        sending: &mut Beside<'_, F>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
    ) -> Result<(), Broken> {
        let response = self.finish_beside(answer, &mut body, sending).await?;
        let closing = !is_sent(sending) || self.filters.drains;
        let meter = self.meter;
        meter.response_is_sending();
        let down = client.respond(response, closing).await;
        let mut down = down.map_err(|_| Broken::Client)?;
        let relay = pin!(pump(&mut body, &mut down, |part| {
            clock.progress();
            meter.response_part(part);
        }));
        match sending.with(relay, client_failed).await {
            None | Some(Err(PumpError::Sink(_))) => Err(Broken::Client),
            Some(Err(PumpError::Source(error))) => {
                let (flags, details) = cut_off(&error);
                Err(Broken::Midway(flags, details))
            }
            Some(Ok(())) => {
                meter.response_is_received();
                meter.response_is_sent();
                Ok(())
            }
        }
    }

    /// Scripts may wait for the whole response, and the upstream for the whole request.
    async fn finish_beside<F: Future<Output = Sent>>(
        &mut self,
        answer: Response,
        body: &mut Source<'_, '_>,
        sending: &mut Beside<'_, F>,
    ) -> Result<Response, Broken> {
        let response = match self.context.manager.has_scripts() {
            false => self.finish_head(answer, body).await,
            true => {
                let finish = pin!(self.finish_head(answer, body));
                let finished = sending.with(finish, client_failed).await;
                finished.ok_or(Broken::Client)?
            }
        };
        response.map_err(Broken::BadRequest)
    }
}
