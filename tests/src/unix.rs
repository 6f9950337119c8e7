//! Connections of a Unix socket as tonic takes them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use tokio::net::{UnixListener, UnixStream};

pub(crate) struct UnixIncoming(pub(crate) UnixListener);

impl Stream for UnixIncoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = self.0.poll_accept(context);
        accepted.map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}
