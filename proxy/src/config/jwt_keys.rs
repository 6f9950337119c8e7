//! The keys of a provider's tokens: those of the configuration, and those that are fetched.
//!
//! Invariants: what was fetched is one for all workers; there is one fetch at a time, and who waits for it
//! hears of its end, however it ends.

use std::{
    sync::{
        Arc, Weak,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use ithildin_jwt::KeySet;
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub enum JwtKeys {
    Local(Arc<KeySet>),
    Remote(Arc<RemoteKeys>),
}

/// Where keys are fetched, and how long they last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySource {
    pub cluster: Arc<str>,
    pub authority: Bytes,
    /// And query.
    pub path: Bytes,
    /// `None`: as long as it takes.
    pub timeout: Option<Duration>,
    pub lifetime: Duration,
    /// They are fetched before anybody asks for them, and anew before they are old (`async_fetch`). While
    /// somebody does so, the last ones count until there are others.
    pub ahead: Option<Ahead>,
}

/// When keys are fetched anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ahead {
    pub after_success: Duration,
    pub after_failure: Duration,
}

#[derive(Debug)]
pub struct RemoteKeys {
    pub source: KeySource,
    current: ArcSwapOption<Fetched>,
    is_fetching: AtomicBool,
    is_followed: AtomicBool,
    /// What the last fetch brought.
    ended: watch::Sender<Option<Arc<KeySet>>>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
}

impl RemoteKeys {
    pub fn new(source: KeySource) -> Self {
        Self {
            source,
            current: ArcSwapOption::default(),
            is_fetching: AtomicBool::new(false),
            is_followed: AtomicBool::new(false),
            ended: watch::Sender::new(None),
        }
    }

    /// The keys, if there are any that count.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let current = self.current.load();
        let current = current.as_ref()?;
        let lasts = self.is_followed.load(Acquire) || current.at.elapsed() < self.source.lifetime;
        lasts.then(|| Arc::clone(&current.keys))
    }

    /// Tells of the end of each fetch from now on.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<KeySet>>> {
        self.ended.subscribe()
    }

    /// The right to fetch; `None` while somebody else does.
    pub fn begin(self: &Arc<Self>) -> Option<Fetching> {
        let was_fetching = self.is_fetching.swap(true, AcqRel);
        (!was_fetching).then(|| Fetching {
            of: Arc::clone(self),
            keys: None,
        })
    }

    /// The right to fetch ahead of everybody; `None` while somebody else has it, or nobody is to.
    pub fn follow(self: &Arc<Self>) -> Option<Following> {
        let ahead = self.source.ahead?;
        let was_followed = self.is_followed.swap(true, AcqRel);
        (!was_followed).then(|| Following {
            of: Arc::downgrade(self),
            ahead,
        })
    }
}

/// The right to fetch. The fetch ends when it is dropped, by default without keys.
#[derive(Debug)]
pub struct Fetching {
    of: Arc<RemoteKeys>,
    keys: Option<Arc<KeySet>>,
}

impl Fetching {
    pub fn source(&self) -> &KeySource {
        &self.of.source
    }

    pub fn succeed(mut self, keys: Arc<KeySet>) {
        let at = Instant::now();
        self.keys = Some(Arc::clone(&keys));
        self.of.current.store(Some(Fetched { keys, at }.into()));
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        // Who finds that nobody fetches must not wait for this end: the right is given back first.
        self.of.is_fetching.store(false, Release);
        self.of.ended.send_replace(self.keys.take());
    }
}

/// The right to fetch ahead of everybody. Once it is dropped, as where a fetch panics, keys grow old like
/// others, and another may have it.
#[derive(Debug)]
pub struct Following {
    /// Keys that nobody uses are not kept.
    of: Weak<RemoteKeys>,
    pub ahead: Ahead,
}

impl Following {
    /// `None`: nobody uses them any more.
    pub fn keys(&self) -> Option<Arc<RemoteKeys>> {
        self.of.upgrade()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(keys) = self.of.upgrade() {
            keys.is_followed.store(false, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(lifetime: Duration, ahead: Option<Ahead>) -> Arc<RemoteKeys> {
        Arc::new(RemoteKeys::new(KeySource {
            cluster: "c".into(),
            authority: Bytes::new(),
            path: Bytes::new(),
            timeout: None,
            lifetime,
            ahead,
        }))
    }

    fn keys() -> Arc<KeySet> {
        let keys = KeySet::parse(br#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#);
        Arc::new(keys.expect("it is a key"))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn one_fetches_and_all_hear_of_the_end() {
        let remote = remote(HOUR, None);
        let first = remote.begin().expect("nobody fetches");
        let mut waits = remote.watch();
        assert!(remote.begin().is_none());
        assert!(!waits.has_changed().expect("it lives"));
        drop(first);
        assert!(waits.has_changed().expect("it lives") && waits.borrow_and_update().is_none());
        assert!(remote.current().is_none());
        let second = remote.begin().expect("nobody fetches");
        second.succeed(keys());
        assert!(waits.has_changed().expect("it lives") && waits.borrow().is_some());
        assert!(remote.current().is_some() && remote.begin().is_some());
    }

    #[test]
    fn keys_grow_old_unless_they_are_fetched_ahead() {
        let soon = Duration::from_secs(1);
        let ahead = Ahead {
            after_success: soon,
            after_failure: soon,
        };
        for (ahead, lasts) in [(None, false), (Some(ahead), true)] {
            let remote = remote(Duration::ZERO, ahead);
            let following = remote.follow();
            remote.begin().expect("nobody fetches").succeed(keys());
            assert_eq!(remote.current().is_some(), lasts);
            // A fetch that fails takes nothing away.
            drop(remote.begin());
            assert_eq!(remote.current().is_some(), lasts);
            // Who no longer follows leaves nothing that counts for ever.
            drop(following);
            assert!(remote.current().is_none());
        }
    }

    #[test]
    fn one_follows_and_another_may_once_it_has_stopped() {
        let soon = Duration::from_secs(1);
        let ahead = Ahead {
            after_success: soon,
            after_failure: soon,
        };
        let remote = remote(HOUR, Some(ahead));
        let first = remote.follow().expect("nobody follows");
        assert!(remote.follow().is_none());
        drop(first);
        let second = remote.follow().expect("nobody follows any more");
        assert!(second.keys().is_some() && remote.follow().is_none());
        drop(remote);
        assert!(second.keys().is_none(), "who follows keeps nothing");
    }
}
