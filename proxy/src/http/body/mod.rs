//! Bodies on the move: from either protocol to either protocol, one part at a time.
//!
//! Invariant: the next part is asked for only when the one before is written, so that a slow
//! reader slows its writer down and nothing piles up between.

mod held;
mod sink;
mod source;

use std::{future::poll_fn, io, pin::pin, task::Poll};

use bytes::Bytes;
use ithildin_http1::Known;

pub(super) use self::{held::Ahead, sink::Sink, source::Source};
use super::{headers::Headers, wire::WireError};

/// One part of a body.
pub(super) enum Part {
    Data(Bytes),
    End(Headers),
}

/// Why a body stops in the middle.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// Which side broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum PumpError {
    #[error("the sender: {0}")]
    Source(BodyError),
    #[error("the receiver: {0}")]
    Sink(io::Error),
}

/// Moves a whole body. `progress` is told of each part before it is passed on.
pub(super) async fn pump(
    source: &mut Source<'_, '_>,
    sink: &mut Sink<'_, '_>,
    progress: impl Fn(&Part),
) -> Result<(), PumpError> {
    loop {
        let part = next_or_flush(source, sink).await?;
        progress(&part);
        match part {
            Part::Data(data) if data.is_empty() => {}
            Part::Data(data) => {
                // A chunked body may still have trailers after its last data.
                let last = source.is_ended();
                sink.data(data, last).await.map_err(PumpError::Sink)?;
                source.passed().map_err(PumpError::Source)?;
                if last {
                    return Ok(());
                }
            }
            Part::End(mut trailers) => {
                trailers.strip_forwarding();
                return sink.end(trailers).await.map_err(PumpError::Sink);
            }
        }
    }
}

/// A head goes out with the first part, unless that keeps it waiting.
async fn next_or_flush(
    source: &mut Source<'_, '_>,
    sink: &mut Sink<'_, '_>,
) -> Result<Part, PumpError> {
    {
        let mut next = pin!(source.next());
        let first = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        if let Poll::Ready(part) = first {
            return part.map_err(PumpError::Source);
        }
    }
    sink.flush().await.map_err(PumpError::Sink)?;
    let mut next = pin!(source.next());
    poll_fn(|cx| {
        if let Poll::Ready(part) = next.as_mut().poll(cx) {
            return Poll::Ready(part.map_err(PumpError::Source));
        }
        let gone = || PumpError::Sink(io::ErrorKind::ConnectionAborted.into());
        sink.poll_gone(cx).map(|()| Err(gone()))
    })
    .await
}

impl Headers {
    /// Takes away what tells of a client, which only we may say, and only in a head.
    fn strip_forwarding(&mut self) {
        self.retain(|field| {
            !matches!(
                Known::of(&field.name.as_bytes().to_ascii_lowercase()),
                Known::XForwardedClientCert
                    | Known::XForwardedFor
                    | Known::XForwardedHost
                    | Known::XForwardedPort
                    | Known::XForwardedProto
                    | Known::XEnvoy
                    | Known::Te
            )
        });
    }
}
