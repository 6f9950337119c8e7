//! What filters ask of other services: bounded in time, in number and in what an answer may hold.

use std::time::Duration;

use bytes::Bytes;

use super::{
    call::{Answer, CallError, Keep, call},
    request::Request,
};
use crate::worker::Worker;

/// Longest body of an answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Bytes of a question without its body: its head, task and buffers.
const QUESTION: usize = 16 << 10;

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the cluster is not there")]
    NoCluster,
    #[error("too many questions wait for an answer")]
    Overflow,
    #[error("no answer in time")]
    Slow,
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Sends one request to `cluster`. `limit`: `None` is as long as it takes.
pub(super) async fn ask(
    worker: &Worker,
    cluster: &str,
    limit: Option<Duration>,
    request: &Request,
    body: &Bytes,
) -> Result<Answer, AskError> {
    let share = worker.asked.take(QUESTION + body.len());
    let mut share = share.ok_or(AskError::Overflow)?;
    let snapshot = worker.snapshot();
    let cluster = snapshot.clusters.get(cluster).ok_or(AskError::NoCluster)?;
    let keep = Keep::UpTo(MAX_ANSWER, &mut share);
    let answer = Box::pin(call(worker, cluster, request, body, keep));
    let answer = worker.timers.timeout(limit, answer).await;
    Ok(answer.ok_or(AskError::Slow)??)
}
