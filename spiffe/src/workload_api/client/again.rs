//! When to try again after a stream was lost.

use std::{fs, io, os::unix::fs::MetadataExt, time::Duration};

use tokio::time::{Instant, sleep};

use crate::workload_api::WorkloadEndpoint;

/// The wait before the second attempt; it doubles with each further one.
pub(super) const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest wait: the standard's reference client waits no longer either.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(30);
/// The longest wait while there is no identity for us: a new registration should show soon.
pub(super) const NO_IDENTITY_MAX_DELAY: Duration = Duration::from_secs(5);
/// The longest wait while nobody listens and we have nothing yet: connecting in vain costs nobody.
pub(super) const NOT_LISTENING_MAX_DELAY: Duration = Duration::from_secs(1);
/// The wait after an answer that says that trying again is of no use. A socket that is replaced ends
/// it: a new server may think otherwise.
pub(super) const HOPELESS_DELAY: Duration = Duration::from_secs(300);
/// How often to look whether the socket file is new.
const SOCKET_POLL: Duration = Duration::from_millis(200);

/// What tells one socket file from its successor; `None` while there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketFile {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl SocketFile {
    pub(super) fn of(endpoint: &WorkloadEndpoint) -> Option<Self> {
        let WorkloadEndpoint::Unix(path) = endpoint else {
            return None;
        };
        let metadata: io::Result<fs::Metadata> = fs::metadata(path);
        let metadata = metadata.ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Waits for `delay`, or until the endpoint's socket file is another than `tried`.
pub(super) async fn wait(endpoint: &WorkloadEndpoint, tried: Option<SocketFile>, delay: Duration) {
    let end = Instant::now() + delay;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(SOCKET_POLL)).await;
        let current = SocketFile::of(endpoint);
        if current.is_some() && current != tried {
            return;
        }
    }
}
