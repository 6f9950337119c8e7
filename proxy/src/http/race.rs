//! Two things at once on one task: a body on its way up, a response on its way down.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// A future that is polled beside others until it is done, and its output.
pub(super) struct Beside<'f, F: Future> {
    future: Pin<&'f mut F>,
    output: Option<F::Output>,
}

impl<'f, F: Future> Beside<'f, F> {
    pub(super) fn new(future: Pin<&'f mut F>) -> Self {
        Self {
            future,
            output: None,
        }
    }

    pub(super) fn output(&self) -> Option<&F::Output> {
        self.output.as_ref()
    }

    /// Drives both until `main` is done, or `stop` says that the output of this one ends it all.
    /// `None`: stopped.
    ///
    /// Both come pinned: a future that is handed over as it is takes its room twice.
    pub(super) async fn with<M: Future>(
        &mut self,
        mut main: Pin<&mut M>,
        stop: impl Fn(&F::Output) -> bool,
    ) -> Option<M::Output> {
        poll_fn(|cx| {
            if self.output.is_none()
                && let Poll::Ready(output) = self.future.as_mut().poll(cx)
            {
                self.output = Some(output);
            }
            if self.output.as_ref().is_some_and(&stop) {
                return Poll::Ready(None);
            }
            main.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
