//! All live connections of one worker, and under which trust each was let in.
//!
//! Invariants: a connection is listed from accept or connect until its stream is dropped; once its
//! peer would be refused, or the identity that we showed is withdrawn, it is closed shortly after
//! the next [`TRUST_CHECK`], and the reason is logged and counted.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ithildin_tls::Peer;
use tokio::sync::Notify;

use super::{Authority, CloseReason, Live, LogLimit, Trust};
use crate::{
    config::{Cluster, FilterChain, Listener},
    stats::Gauge,
};

/// How often changes of trust are looked for. A check costs one load for each distinct context.
pub const TRUST_CHECK: Duration = Duration::from_millis(100);

/// Checks between two looks at expiry: SVIDs expire by the second.
const EXPIRY_EVERY: u32 = 10;

/// Chains verified before other tasks get their turn: about 2 ms of work.
const VERIFY_BATCH: usize = 16;

/// The list.
#[derive(Debug)]
pub struct Registry {
    worker: usize,
    /// Downstream connections; read by the control runtime.
    active: Arc<Gauge>,
    table: RefCell<Table>,
    /// A first trust context is there.
    authorised: Notify,
    log: LogLimit,
}

/// Where a connection comes from or goes to.
#[derive(Clone, Debug)]
pub enum Origin {
    Downstream {
        listener: Arc<Listener>,
        /// `None` until it is found.
        chain: Option<Arc<FilterChain>>,
    },
    Upstream(Arc<Cluster>),
}

/// A connection's place on the list; dropping it leaves.
#[derive(Debug)]
pub struct Registration {
    registry: Rc<Registry>,
    slot: usize,
    live: Rc<Live>,
}

impl Registry {
    /// For the worker of this index; `active` counts its downstream connections.
    pub fn new(worker: usize, active: Arc<Gauge>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            active,
            table: RefCell::default(),
            authorised: Notify::new(),
            log: LogLimit::default(),
        })
    }

    /// Lists a connection.
    pub fn register(self: &Rc<Self>, origin: Origin) -> Registration {
        if matches!(origin, Origin::Downstream { .. }) {
            self.active.inc();
        }
        let live = Live::new();
        let slot = self.table.borrow_mut().insert(Entry {
            live: Rc::clone(&live),
            origin,
            authority: None,
        });
        Registration {
            registry: Rc::clone(self),
            slot,
            live,
        }
    }

    /// Asks the downstream connections that `which` names to finish, and returns them.
    pub fn drain(
        &self,
        which: impl Fn(&Listener, Option<&Arc<FilterChain>>) -> bool,
    ) -> Vec<Rc<Live>> {
        let table = self.table.borrow();
        let named = |entry: &&Entry| match &entry.origin {
            Origin::Downstream { listener, chain } => which(listener, chain.as_ref()),
            Origin::Upstream(_) => false,
        };
        let drained = table.entries.iter().flatten().filter(named);
        let drained: Vec<_> = drained.map(|entry| Rc::clone(&entry.live)).collect();
        drained.iter().for_each(|live| live.drain());
        drained
    }

    /// Downstream connections.
    pub fn active(&self) -> i64 {
        self.active.get()
    }

    /// Closes all connections.
    pub fn close_all(&self, reason: &CloseReason) {
        for entry in self.table.borrow().entries.iter().flatten() {
            entry.live.close(reason.clone());
        }
    }

    /// Re-authorises live connections, for ever. Runs as one task of the worker.
    pub async fn watch_trust(&self) {
        let mut round = 0u32;
        loop {
            if self.table.borrow().contexts.is_empty() {
                self.authorised.notified().await;
            }
            tokio::time::sleep(TRUST_CHECK).await;
            round = round.wrapping_add(1);
            let expiry = round.is_multiple_of(EXPIRY_EVERY);
            self.check_trust(SystemTime::now(), expiry).await;
        }
    }

    /// One check: what changed is judged anew, and with `expiry` what ran out.
    async fn check_trust(&self, now: SystemTime, expiry: bool) {
        let suspects = self.table.borrow_mut().suspects(now, expiry);
        for batch in suspects.chunks(VERIFY_BATCH) {
            for suspect in batch {
                match suspect.authority.judge(now) {
                    Ok(peer) => self.table.borrow_mut().renew(suspect, peer),
                    Err(reason) => self.close(suspect, reason),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn close(&self, suspect: &Suspect, reason: CloseReason) {
        suspect.origin.count_closed(self.worker);
        if let Some(suppressed) = self.log.admit() {
            suspect.log(&reason, suppressed);
        }
        suspect.live.close(reason);
    }
}

impl Registration {
    /// The cell through which the connection is drained or closed.
    pub fn live(&self) -> &Rc<Live> {
        &self.live
    }

    /// Another listener has taken the connection over: from here on that one's removal drains it.
    pub fn handed_to(&self, other: &Arc<Listener>) {
        if let Some(entry) = self.registry.table.borrow_mut().entry(self.slot)
            && let Origin::Downstream { listener, .. } = &mut entry.origin
        {
            *listener = Arc::clone(other);
        }
    }

    /// The filter chain is found: from here on its removal drains the connection.
    pub fn matched(&self, found: &Arc<FilterChain>) {
        if let Some(entry) = self.registry.table.borrow_mut().entry(self.slot)
            && let Origin::Downstream { chain, .. } = &mut entry.origin
        {
            *chain = Some(Arc::clone(found));
        }
    }

    /// The handshake is done: from here on `authority` must hold. If trust changed meanwhile, it is
    /// judged anew at once.
    pub fn authorise(&self, authority: Authority) {
        let table = &mut *self.registry.table.borrow_mut();
        let Some(entry) = table.entry(self.slot) else {
            return;
        };
        let trust = authority.trust.clone();
        let suspect = Suspect {
            slot: self.slot,
            live: Rc::clone(&self.live),
            origin: entry.origin.clone(),
            authority: authority.clone(),
        };
        entry.authority = Some(authority);
        table.enter(trust);
        self.registry.authorised.notify_one();
        if !suspect.authority.is_stale() {
            return;
        }
        match suspect.authority.judge(SystemTime::now()) {
            Ok(peer) => table.renew(&suspect, peer),
            Err(reason) => self.registry.close(&suspect, reason),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let table = &mut *self.registry.table.borrow_mut();
        let Some(entry) = table.remove(self.slot) else {
            return;
        };
        if matches!(entry.origin, Origin::Downstream { .. }) {
            self.registry.active.dec();
        }
        if let Some(authority) = &entry.authority {
            table.leave(&authority.trust);
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    contexts: Vec<TrustContext>,
}

#[derive(Debug)]
struct Entry {
    live: Rc<Live>,
    origin: Origin,
    authority: Option<Authority>,
}

/// A trust that some connection was let in under, and its state at the last check.
#[derive(Debug)]
struct TrustContext {
    trust: Trust,
    epochs: (u64, u64),
    connections: usize,
}

impl Table {
    fn insert(&mut self, entry: Entry) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[slot] = Some(entry);
        slot
    }

    fn entry(&mut self, slot: usize) -> Option<&mut Entry> {
        self.entries.get_mut(slot).and_then(Option::as_mut)
    }

    fn remove(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(slot).and_then(Option::take)?;
        self.free.push(slot);
        Some(entry)
    }

    /// Counts a connection under its trust.
    fn enter(&mut self, trust: Trust) {
        match self
            .contexts
            .iter_mut()
            .find(|known| known.trust.same(&trust))
        {
            Some(context) => context.connections += 1,
            None => self.contexts.push(TrustContext {
                epochs: trust.epochs(),
                trust,
                connections: 1,
            }),
        }
    }

    fn leave(&mut self, trust: &Trust) {
        let mut contexts = self.contexts.iter();
        let Some(index) = contexts.position(|known| known.trust.same(trust)) else {
            return;
        };
        self.contexts[index].connections -= 1;
        if self.contexts[index].connections == 0 {
            self.contexts.swap_remove(index);
        }
    }

    /// The connections whose trust changed since the last check, or whose peer's certificate ran
    /// out.
    fn suspects(&mut self, now: SystemTime, expiry: bool) -> Vec<Suspect> {
        let mut changed: Vec<Trust> = Vec::new();
        for context in &mut self.contexts {
            let epochs = context.trust.epochs();
            if context.epochs != epochs {
                context.epochs = epochs;
                changed.push(context.trust.clone());
            }
        }
        if changed.is_empty() && !expiry {
            return Vec::new();
        }
        let suspect = |(slot, entry): (usize, &Option<Entry>)| {
            let entry = entry.as_ref()?;
            let authority = entry.authority.as_ref()?;
            let suspicious = changed.iter().any(|trust| trust.same(&authority.trust))
                || (expiry && authority.is_over(now));
            (suspicious && entry.live.close_reason().is_none()).then(|| Suspect {
                slot,
                live: Rc::clone(&entry.live),
                origin: entry.origin.clone(),
                authority: authority.clone(),
            })
        };
        self.entries
            .iter()
            .enumerate()
            .filter_map(suspect)
            .collect()
    }

    /// The connection is judged: until when that stands, `peer` says. It may have gone meanwhile,
    /// and another one have its slot.
    fn renew(&mut self, suspect: &Suspect, peer: Option<Arc<Peer>>) {
        if let Some(entry) = self.entry(suspect.slot)
            && Rc::ptr_eq(&entry.live, &suspect.live)
            && let Some(authority) = &mut entry.authority
        {
            authority.peer = peer;
        }
    }
}

impl Origin {
    fn count_closed(&self, worker: usize) {
        match self {
            Self::Downstream { listener, .. } => {
                let stats = listener.stats.worker(worker);
                stats.downstream_cx_reauthorization_closed.inc();
            }
            Self::Upstream(cluster) => {
                let stats = cluster.stats.worker(worker);
                stats.upstream_cx_reauthorization_closed.inc();
            }
        }
    }
}

/// A connection to be judged anew, held outside the table while that goes on.
struct Suspect {
    slot: usize,
    live: Rc<Live>,
    origin: Origin,
    authority: Authority,
}

impl Suspect {
    fn log(&self, reason: &CloseReason, suppressed: u64) {
        let (side, name) = match &self.origin {
            Origin::Downstream { listener, .. } => ("downstream", &listener.name),
            Origin::Upstream(cluster) => ("upstream", &cluster.name),
        };
        let refusal = match reason {
            CloseReason::Refused(refusal) => Some(refusal),
            _ => None,
        };
        let peer = self.authority.peer.as_ref();
        tracing::warn!(
            side,
            name = %name,
            peer = peer.and_then(|peer| peer.id.as_ref()).map(tracing::field::display),
            bundle = refusal.and_then(|it| it.bundle.as_ref()).map(tracing::field::display),
            rule = refusal.map(|refusal| refusal.rule),
            suppressed,
            "closed a live connection: {reason}",
        );
    }
}
