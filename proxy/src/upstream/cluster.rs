//! One cluster in one worker: its load balancing and the pools of its hosts.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

use super::{
    FailureKind, Home, HttpLease, LbRequest, RetryPermit, TcpLease,
    balance::Balancer,
    connect::{self, Connected},
    failure::UpstreamFailure,
    hosts::Host,
    key::{PoolKey, Protocol, Wanted},
    limits::{PendingPermit, RequestPermit},
    named::{self, NamedHosts},
    pool::{HostPools, Usage},
};
use crate::{
    config::{
        Cluster, Map,
        cluster::{ClusterKind, EndpointAddress, EndpointSet},
        forward::{Forward, NamedHost},
    },
    outlier::Outcome,
    stats::ClusterBlock,
};

/// A cluster as this worker sees it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) cluster: Arc<Cluster>,
    pub(super) home: Home,
}

impl Context {
    pub(super) fn stats(&self) -> &ClusterBlock {
        self.cluster.stats.worker(self.home.worker)
    }
}

/// The pools of one cluster.
#[derive(Debug)]
pub(super) struct ClusterPools {
    context: Rc<Context>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// The set that `balancer` was made from.
    set: Arc<EndpointSet>,
    /// And those of our own cluster, where they count.
    local: Option<Arc<EndpointSet>>,
    balancer: Balancer,
    /// Pools by address: they outlive endpoint sets.
    hosts: Map<EndpointAddress, Rc<HostPools>>,
    /// Hosts of an ORIGINAL_DST cluster, made as they are asked for.
    original: Map<SocketAddr, Rc<Host>>,
    /// And those of one that leads where requests say.
    named: NamedHosts,
}

impl ClusterPools {
    pub(super) fn new(home: &Home, cluster: &Arc<Cluster>) -> Rc<Self> {
        let set = cluster.endpoints.load_full();
        let local = local(cluster);
        let mut hosts = Map::default();
        let balancer = balancer(cluster, &set, local.as_deref(), &mut hosts);
        Rc::new(Self {
            context: Rc::new(Context {
                cluster: Arc::clone(cluster),
                home: home.clone(),
            }),
            state: RefCell::new(State {
                set,
                local,
                balancer,
                hosts,
                original: Map::default(),
                named: NamedHosts::default(),
            }),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.context.cluster.name
    }

    pub(super) async fn http(&self, request: &LbRequest<'_>) -> Result<HttpLease, UpstreamFailure> {
        let host = self.host(request).await?;
        let (pool, protocol) = {
            let wanted = Wanted::http(&self.context.cluster, &host.endpoint, request);
            let pool = host.pools.pool(&self.context, &wanted, request);
            (pool, wanted.protocol())
        };
        match protocol {
            Protocol::Http1 | Protocol::Tcp => pool.http1(&host).await.map(HttpLease::Http1),
            Protocol::Http2 => pool.http2(&host).await.map(HttpLease::Http2),
            Protocol::Auto => pool.auto(&host).await,
        }
    }

    pub(super) async fn tcp(&self, request: &LbRequest<'_>) -> Result<TcpLease, UpstreamFailure> {
        let host = self.host(request).await?;
        let key = Wanted::tcp(&self.context.cluster, &host.endpoint, request).to_key();
        let pending = PendingPermit::admit(&self.context)?;
        let opened = self.open_tcp(&host, &key).await;
        pending.end(&opened);
        let connected = opened?;
        let request = RequestPermit::without_limit(&self.context, &host);
        Ok(TcpLease::new(connected, request, &self.context.cluster))
    }

    async fn open_tcp(&self, host: &Rc<Host>, key: &PoolKey) -> Result<Connected, UpstreamFailure> {
        if !super::limits::admits_connection(&self.context, false) {
            return Err(FailureKind::Overflow.into());
        }
        let usage = Rc::new(Usage::default());
        let connected = Box::pin(connect::connect(&self.context, host, key, &usage)).await;
        let outcome = match connected {
            Ok(_) => Outcome::Opened,
            Err(_) => Outcome::Failed,
        };
        let Context { cluster, home } = &*self.context;
        cluster.record(&host.endpoint, home.worker, outcome);
        connected
    }

    pub(super) fn retry(&self) -> Option<RetryPermit> {
        RetryPermit::admit(&self.context)
    }

    /// Closes what is idle for too long, closed by its peer, or superseded.
    pub(super) fn reap(&self) {
        self.refresh();
        let mut state = self.state.borrow_mut();
        for pools in state.hosts.values() {
            pools.reap();
        }
        state.original.retain(|_, host| {
            host.pools.reap();
            !host.pools.is_empty()
        });
        if let Some(forward) = &self.context.cluster.forward {
            state.named.reap(forward);
        }
    }

    /// Closes what is idle now, and the rest when it becomes idle.
    pub(super) fn close(&self) {
        let state = self.state.borrow();
        for pools in state.hosts.values() {
            pools.close();
        }
        for host in state.original.values() {
            host.pools.close();
        }
        state.named.close();
    }

    async fn host(&self, request: &LbRequest<'_>) -> Result<Rc<Host>, UpstreamFailure> {
        match (&self.context.cluster.forward, request.named) {
            (Some(forward), Some(asked)) => {
                let known = self.state.borrow_mut().named.get(asked, &self.context);
                match known {
                    Some(known) => known,
                    // Boxed: few requests wait.
                    None => Box::pin(self.resolve(forward, asked)).await,
                }
            }
            _ => self.choose(request),
        }
    }

    /// A host whose addresses are not known yet.
    async fn resolve(
        &self,
        forward: &Forward,
        asked: NamedHost<'_>,
    ) -> Result<Rc<Host>, UpstreamFailure> {
        named::check(asked.name)?;
        let _pending = self
            .state
            .borrow()
            .named
            .admit(forward)
            .ok_or(FailureKind::TooManyNames)?;
        let known = self.state.borrow().named.known(asked.name);
        let known = match known {
            Some(known) => known,
            None => named::ask(forward, asked.name).await?,
        };
        let limit = Some(forward.query_timeout);
        let resolved = named::resolved(known.clone());
        // Late answers are for those who ask then.
        let _ = self.context.home.timers.timeout(limit, resolved).await;
        let named = &mut self.state.borrow_mut().named;
        named.insert(asked.name, known);
        let late = || Err(named::unresolved(&"no answer in time".into()));
        named.get(asked, &self.context).unwrap_or_else(late)
    }

    fn choose(&self, request: &LbRequest<'_>) -> Result<Rc<Host>, UpstreamFailure> {
        let chosen = if self.context.cluster.kind == ClusterKind::OriginalDst {
            let address = request.original_destination;
            address.map(|mut address| {
                if let Some(port) = self.context.cluster.original_dst.port {
                    address.set_port(port);
                }
                self.original(address)
            })
        } else {
            self.refresh();
            let state = &mut *self.state.borrow_mut();
            state.balancer.choose(&self.context, request)
        };
        chosen.ok_or_else(|| {
            self.context.stats().upstream_cx_none_healthy.inc();
            FailureKind::NoHealthyUpstream.into()
        })
    }

    /// Takes a new endpoint set into use, if there is one.
    fn refresh(&self) {
        let cluster = &*self.context.cluster;
        let current = cluster.endpoints.load();
        let state = &mut *self.state.borrow_mut();
        if Arc::ptr_eq(&state.set, &current) && is_current(cluster, state.local.as_ref()) {
            return;
        }
        state.set = Arc::clone(&current);
        state.local = local(cluster);
        let mut hosts = std::mem::take(&mut state.hosts);
        let local = state.local.as_deref();
        state.balancer = balancer(cluster, &current, local, &mut hosts);
        for host in state.balancer.hosts() {
            let address = &host.endpoint.address;
            state.hosts.insert(address.clone(), Rc::clone(&host.pools));
            hosts.remove(address);
        }
        for gone in hosts.values() {
            gone.close();
        }
    }

    fn original(&self, address: SocketAddr) -> Rc<Host> {
        let mut state = self.state.borrow_mut();
        let host = state.original.entry(address).or_insert_with(|| {
            let hostname = address.to_string();
            Rc::new(Host::asked_for(
                address,
                Box::default(),
                &hostname,
                &self.context,
            ))
        });
        Rc::clone(host)
    }
}

/// The endpoints of our own cluster, where `cluster` goes by their localities.
fn local(cluster: &Cluster) -> Option<Arc<EndpointSet>> {
    let zone_aware = cluster.zone_aware.as_ref()?;
    Some(zone_aware.local.endpoints.load_full())
}

fn is_current(cluster: &Cluster, known: Option<&Arc<EndpointSet>>) -> bool {
    match (&cluster.zone_aware, known) {
        (Some(zone_aware), Some(known)) => Arc::ptr_eq(&zone_aware.local.endpoints.load(), known),
        (None, None) => true,
        _ => false,
    }
}

/// The balancer of a set. Pools of known addresses are kept, others are added to `hosts`.
fn balancer(
    cluster: &Cluster,
    set: &EndpointSet,
    local: Option<&EndpointSet>,
    hosts: &mut Map<EndpointAddress, Rc<HostPools>>,
) -> Balancer {
    for endpoint in set.priorities.iter().flatten() {
        hosts.entry(endpoint.address.clone()).or_default();
    }
    Balancer::new(cluster, set, local, |endpoint| {
        hosts.get(&endpoint.address).cloned().unwrap_or_default()
    })
}
