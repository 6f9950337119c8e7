//! What became of the configuration that was served, for readiness and admin pages.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::ResourceKind;

/// The peers' word on what they were sent. With several streams the last one to speak counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdsStatus {
    /// Open streams.
    pub streams: usize,
    pub kinds: BTreeMap<ResourceKind, KindStatus>,
}

/// One type of resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindStatus {
    pub responses: u64,
    /// Whether a response has ever been accepted.
    pub accepted: bool,
    /// The peer's reason, if it refused the newest response.
    pub refusal: Option<String>,
    /// Refusals so far.
    pub refusals: u64,
}

impl AdsStatus {
    /// Whether a peer runs on listeners and clusters that we sent.
    pub fn is_serving(&self) -> bool {
        let accepted = |kind| self.kinds.get(&kind).is_some_and(|kind| kind.accepted);
        accepted(ResourceKind::Cluster) && accepted(ResourceKind::Listener)
    }
}

/// The writing end, shared by all streams.
#[derive(Clone, Debug, Default)]
pub struct Recorder(watch::Sender<AdsStatus>);

impl Recorder {
    pub fn new() -> Self {
        Self(watch::Sender::new(AdsStatus::default()))
    }

    pub fn subscribe(&self) -> watch::Receiver<AdsStatus> {
        self.0.subscribe()
    }

    /// Counts a stream for as long as the guard lives.
    pub fn stream(&self) -> StreamGuard {
        self.0.send_modify(|status| status.streams += 1);
        StreamGuard(self.clone())
    }

    /// A response of `kind` leaves.
    pub fn sent(&self, kind: ResourceKind) {
        self.kind(kind, |status| status.responses += 1);
    }

    /// The newest one is accepted.
    pub fn accepted(&self, kind: ResourceKind) {
        self.kind(kind, |status| {
            status.accepted = true;
            status.refusal = None;
        });
    }

    /// The newest one is refused.
    pub fn refused(&self, kind: ResourceKind, reason: String) {
        self.kind(kind, |status| {
            status.refusal = Some(reason);
            status.refusals += 1;
        });
    }

    fn kind(&self, kind: ResourceKind, change: impl FnOnce(&mut KindStatus)) {
        self.0
            .send_modify(|status| change(status.kinds.entry(kind).or_default()));
    }
}

/// A stream that is open.
#[derive(Debug)]
pub struct StreamGuard(Recorder);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|status| status.streams -= 1);
    }
}
