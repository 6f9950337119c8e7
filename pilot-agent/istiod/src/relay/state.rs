//! What istiod has sent, what Envoy wants of it, and which answers are owed: no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ithildin_proto::pb::{
    envoy::config::core::v3::{Node, TypedExtensionConfig},
    google::protobuf::Any,
};
use ithildin_xds::{
    ResourceKind, TypeUrl,
    ads::{Errand, Want},
    subscription::{Catalog, Incoming, Interest, Receipt, Resource, Update, Verdict, Version},
};
use prost::Name;
use tokio::time::Instant;
use tracing::warn;

use super::{
    decode::{self, endpoints_of},
    pending::{Converted, Job, Pending},
    version::distinct,
    wasm::RemoteFilter,
};

/// For how long a new Envoy may take to ask for what the one before had: until then it is kept.
const LINGER: Duration = Duration::from_secs(60);
/// Types that one Envoy may ask for; Envoy has about ten.
const MAX_TYPES: usize = 32;

/// The state of all types.
#[derive(Debug, Default)]
pub(super) struct State {
    node: Option<Node>,
    types: BTreeMap<TypeUrl, Type>,
    /// In the order in which a new stream asks for them.
    order: Vec<TypeUrl>,
    /// Counts streams to istiod: what was received on one is not answered on another.
    epoch: u64,
    errands: Vec<Errand>,
    linger_until: Option<Instant>,
    /// An Envoy is expected that has not come yet.
    ahead: bool,
    /// Whether Wasm modules are fetched here; else Envoy does it, if it can.
    fetches: bool,
}

/// One type.
#[derive(Debug, Default)]
pub(super) struct Type {
    pub(super) catalog: Catalog,
    /// Names of which istiod says that there is no such resource.
    absent: BTreeSet<String>,
    /// Whether istiod has ever answered.
    received: bool,
    interest: Interest,
    /// What the Envoy before wanted.
    lingering: BTreeSet<String>,
    /// The newest response that nobody has judged.
    waiting: Option<Ticket>,
    /// The newest response of this stream at all.
    newest: Option<Ticket>,
    /// Whether that was answered.
    judged: bool,
    /// What we refused of the newest response ourselves.
    own: Verdict,
    /// Endpoints of clusters that have changed since they were last sent down.
    pub(super) rewarm: BTreeSet<String>,
    /// What cannot be handed on yet. The response that brought it has no answer before.
    pending: Pending,
}

/// A response of istiod that wants an answer.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    epoch: u64,
    receipt: Receipt,
}

impl State {
    pub(super) fn new(fetches: bool) -> Self {
        Self {
            fetches,
            ..Self::default()
        }
    }

    /// A stream to istiod begins.
    pub(super) fn begin(&mut self) {
        self.epoch += 1;
        self.errands.clear();
        for one in self.types.values_mut() {
            one.waiting = None;
            one.newest = None;
        }
    }

    pub(super) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Asks for what every Envoy asks for, on behalf of one that starts; for endpoints once there are clusters.
    pub(super) fn expect(&mut self, node: Node) {
        self.node = Some(node);
        self.ahead = true;
        for kind in [ResourceKind::Cluster, ResourceKind::Listener] {
            self.want(&TypeUrl::from(kind), &Interest::everything());
        }
    }

    /// Another Envoy, or the same one anew: what it has and wants is not known.
    pub(super) fn register(&mut self, now: Instant) {
        self.linger_until = Some(now + LINGER);
        self.ahead = false;
        for one in self.types.values_mut() {
            one.lingering.extend(one.interest.names().iter().cloned());
            one.rewarm.clear();
            // The Envoy before may have gone with the answer.
            if !one.judged {
                one.waiting.clone_from(&one.newest);
            }
        }
    }

    /// Who asks. If istiod could take it for another proxy, the stream to istiod begins anew.
    pub(super) fn introduce(&mut self, node: &Node) {
        let before = self.node.replace(node.clone());
        if before.is_some_and(|before| !is_same_proxy(&before, node)) {
            self.errands.push(Errand::Restart);
        }
    }

    /// Envoy wants this now. Returns whether the type can be had.
    pub(super) fn want(&mut self, url: &TypeUrl, interest: &Interest) -> bool {
        if !self.types.contains_key(url) {
            if self.types.len() >= MAX_TYPES {
                return false;
            }
            let at = self.order.partition_point(|other| rank(other) <= rank(url));
            self.order.insert(at, url.clone());
        }
        let one = self.types.entry(url.clone()).or_default();
        one.interest = interest.clone();
        one.evict();
        true
    }

    pub(super) fn linger_until(&self) -> Option<Instant> {
        self.linger_until
    }

    /// What the Envoy before wanted, and this one does not, goes.
    pub(super) fn end_lingering(&mut self, now: Instant) {
        if self.linger_until.is_some_and(|until| until <= now) {
            self.linger_until = None;
            for one in self.types.values_mut() {
                one.lingering.clear();
                one.evict();
            }
        }
    }

    pub(super) fn wanted(&self) -> Vec<Want> {
        let types = self
            .order
            .iter()
            .filter_map(|url| self.types.get_key_value(url));
        types
            .map(|(url, one)| Want::Resources(url.clone(), one.wanted()))
            .collect()
    }

    pub(super) fn errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    pub(super) fn get_mut(&mut self, url: &TypeUrl) -> Option<&mut Type> {
        self.types.get_mut(url)
    }

    /// Takes a response of istiod. It is judged when Envoy has judged it. Returns what we refuse of it
    /// ourselves.
    pub(super) fn take(&mut self, update: Update) -> Option<String> {
        let epoch = self.epoch;
        let one = self.types.get_mut(&update.url)?;
        let ticket = Ticket {
            epoch,
            // What it brought is held already, and an answer that comes late must not undo newer ones.
            receipt: Receipt {
                versions: BTreeMap::new(),
                removed: Vec::new(),
                ..update.receipt
            },
        };
        one.waiting = Some(ticket.clone());
        one.newest = Some(ticket);
        one.judged = false;
        one.received = true;
        one.own = Verdict::default();
        let mut changed = BTreeSet::new();
        if update.full {
            let named: BTreeSet<_> = update.resources.iter().map(|r| r.name.as_str()).collect();
            one.catalog.retain(|name, _| named.contains(name.as_str()));
            one.pending.retain(|name| named.contains(name));
        }
        for incoming in update.resources {
            changed.extend(one.put(&update.url, incoming, self.fetches));
        }
        for name in update.removed {
            one.pending.remove(&name);
            one.catalog.remove(&name);
            one.absent.insert(name);
        }
        one.evict();
        let refusal = one.own.reason();
        if self.ahead && update.url.kind() == Some(ResourceKind::Cluster) {
            let clusters = one.catalog.values();
            let names = clusters.filter_map(|cluster| endpoints_of(&cluster.body));
            let endpoints = Interest::of(names);
            self.want(&TypeUrl::from(ResourceKind::Endpoints), &endpoints);
        }
        self.renew(changed);
        refusal
    }

    /// Modules to be fetched, apart from the stream.
    pub(super) fn jobs(&mut self) -> Vec<Job> {
        let types = self.types.values_mut();
        types.flat_map(|one| one.pending.jobs()).collect()
    }

    /// A filter can be handed on.
    pub(super) fn converted(&mut self, converted: Converted) {
        let url = TypeUrl::new(&TypedExtensionConfig::type_url());
        if let Some(one) = self.types.get_mut(&url)
            && let Some(version) = one.pending.end(&converted)
        {
            one.hold(converted.name, version, converted.body);
        }
    }

    fn renew(&mut self, names: BTreeSet<String>) {
        let url = TypeUrl::from(ResourceKind::Endpoints);
        if names.is_empty() {
            return;
        }
        if let Some(endpoints) = self.types.get_mut(&url) {
            endpoints.rewarm.extend(names.iter().cloned());
            self.errands.push(Errand::Renew(url, names));
        }
    }

    /// Accepts responses of types that this Envoy has not asked for: nobody else will judge what is kept
    /// for the one before. Returns whether there were any.
    pub(super) fn accept_unasked(&mut self, asked: impl Fn(&TypeUrl) -> bool) -> bool {
        let types = self.types.iter_mut();
        let unasked = types.filter(|(url, one)| one.is_waiting() && !asked(url));
        let tickets: Vec<_> = unasked
            .map(|(url, one)| (url.clone(), one.take_ticket()))
            .collect();
        for (url, ticket) in &tickets {
            self.judge(url, ticket.clone(), None);
        }
        !tickets.is_empty()
    }

    /// The answer to a response: Envoy's, and ours.
    pub(super) fn judge(&mut self, url: &TypeUrl, ticket: Option<Ticket>, refusal: Option<String>) {
        let Some(one) = self.types.get_mut(url) else {
            return;
        };
        // A refusal of what was accepted before is told too, by the nonce that istiod knows last.
        let told = refusal.as_ref().and(one.newest.clone());
        let Some(ticket) = ticket.or(told).filter(|ticket| ticket.epoch == self.epoch) else {
            return;
        };
        let newest = one.newest.as_ref();
        one.judged |= newest.is_some_and(|newest| newest.receipt.nonce == ticket.receipt.nonce);
        let verdict = Verdict {
            whole: refusal,
            ..one.own.clone()
        };
        self.errands
            .push(Errand::Judge(url.clone(), ticket.receipt, verdict));
    }
}

impl Type {
    /// Keeps a resource, unless it can be of no use, or not yet. Returns the endpoints that a changed
    /// cluster wants anew.
    fn put(&mut self, url: &TypeUrl, incoming: Incoming, fetches: bool) -> Option<String> {
        let name = incoming.name;
        let Some(body) = incoming.body else {
            self.own
                .refused
                .insert(name, "the resource is empty".to_owned());
            return None;
        };
        let old = self.catalog.get(&name);
        let same = old.is_some_and(|old| old.body.value == body.value);
        let checked = match same {
            true => Ok(()),
            false => decode::check(url, &body),
        };
        let filter = checked.and_then(|()| match fetches {
            true => RemoteFilter::of(&body),
            false => Ok(None),
        });
        match filter {
            Err(reason) => {
                warn!(name, reason, "a resource of istiod cannot be decoded");
                self.own.refused.insert(name, reason);
                None
            }
            Ok(Some(filter)) => {
                self.absent.remove(&name);
                self.pending.add(name, incoming.version, body, filter);
                None
            }
            Ok(None) => {
                self.pending.remove(&name);
                self.hold(name, incoming.version, body)
            }
        }
    }

    /// Keeps what Envoy can have.
    fn hold(&mut self, name: String, version: Version, body: Any) -> Option<String> {
        self.absent.remove(&name);
        let old = self.catalog.get(&name);
        let same = old.is_some_and(|old| old.body.value == body.value);
        let is_cluster = ResourceKind::from_url(&body.type_url) == Some(ResourceKind::Cluster);
        let changed = old.is_some() && !same && is_cluster;
        let endpoints = changed.then(|| endpoints_of(&body)).flatten();
        let version = match old {
            Some(old) if !same => distinct(version, &old.version),
            _ => version,
        };
        if !same || old.is_none_or(|old| old.version != version) {
            self.catalog
                .insert(name, Arc::new(Resource { version, body }));
        }
        endpoints
    }

    /// Whether it is known what there is: before that, nothing is said of what there is not.
    pub(super) fn is_known(&self) -> bool {
        self.received
    }

    /// Names of which istiod has said nothing yet.
    pub(super) fn undecided(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let unknown =
            |name: &&String| !self.catalog.contains_key(*name) && !self.absent.contains(*name);
        names.iter().filter(unknown).cloned().collect()
    }

    /// The response that nobody has judged: whoever takes it must judge it.
    pub(super) fn take_ticket(&mut self) -> Option<Ticket> {
        self.waiting.take_if(|_| self.pending.is_empty())
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some() && self.pending.is_empty()
    }

    fn wanted(&self) -> Interest {
        if self.lingering.is_empty() {
            return self.interest.clone();
        }
        let wildcard = self.interest.is_wildcard().then_some("*");
        let names = self.interest.names().union(&self.lingering);
        Interest::of(names.map(String::as_str).chain(wildcard))
    }

    /// Nobody wants it: it goes.
    fn evict(&mut self) {
        let wanted = |name: &str| self.interest.contains(name) || self.lingering.contains(name);
        self.catalog.retain(|name, _| wanted(name));
        self.pending.retain(wanted);
        let (interest, lingering) = (&self.interest, &self.lingering);
        self.absent
            .retain(|name| interest.names().contains(name) || lingering.contains(name));
    }
}

/// What is referred to goes before what refers to it.
pub(super) fn rank(url: &TypeUrl) -> usize {
    let order = ResourceKind::AGGREGATED;
    let kind = url.kind();
    let place = kind.and_then(|kind| order.iter().position(|other| *other == kind));
    place.unwrap_or(order.len())
}

/// Whether istiod sends both the same. What it does not read is Envoy's version and abilities, which only
/// Envoy itself tells.
fn is_same_proxy(one: &Node, other: &Node) -> bool {
    let locality = |node: &Node| node.locality.clone().unwrap_or_default();
    one.id == other.id
        && one.cluster == other.cluster
        && one.metadata == other.metadata
        && locality(one) == locality(other)
}
