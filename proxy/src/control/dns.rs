//! Name resolution for STRICT_DNS and LOGICAL_DNS clusters and dynamic forward proxies, off the data path.
//!
//! Invariants: a name that stops resolving keeps its last addresses; each name is asked for by itself, so
//! that one whose servers are silent holds up no other; an answer is of use only for the name that it is of.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    Hosts, ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::Query,
        rr::{Name, RData, Record, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    compile::{DnsSpec, ForwardSpec, LookupFamily},
    forward,
};
use crate::config::forward::Question;

/// The longest that one question may take: three tries of 5 s, and the search domains before and behind, which
/// servers that live refuse at once.
const LONGEST_LOOKUP: Duration = Duration::from_secs(20);

/// Aliases that are followed in one answer; more are a loop.
const MAX_ALIASES: usize = 16;

/// What was found for one name of a cluster.
pub(super) struct Resolved {
    pub(super) cluster: Arc<str>,
    /// Of the cluster that asked: an answer to another one is stale.
    pub(super) generation: u64,
    /// Which of its targets this is.
    pub(super) target: usize,
    /// An error keeps what was there.
    pub(super) addresses: Result<Vec<IpAddr>, Arc<str>>,
    /// When to ask again.
    pub(super) refresh: Duration,
}

/// A name to resolve, and for whom.
pub(super) struct Wanted<'w> {
    pub(super) cluster: &'w Arc<str>,
    pub(super) generation: u64,
    pub(super) target: usize,
    pub(super) host: &'w str,
}

/// All lookups that run or wait for their time.
#[derive(Default)]
pub(super) struct Dns {
    /// Made at the first use: most configurations resolve nothing.
    resolver: Option<Arc<TokioResolver>>,
    lookups: FuturesUnordered<BoxFuture<'static, Resolved>>,
    /// Those of clusters whose requests bring the names; each ends with its cluster.
    forwards: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Dns {
    /// Resolves the name after `delay`.
    pub(super) fn resolve(&mut self, wanted: &Wanted<'_>, how: DnsSpec, delay: Duration) {
        let resolver = self.resolver(&[]);
        let Wanted {
            generation, target, ..
        } = *wanted;
        let (cluster, host) = (Arc::clone(wanted.cluster), wanted.host.to_owned());
        self.lookups.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            let (addresses, refresh) = resolve(&resolver, &host, &how).await;
            Resolved {
                cluster,
                generation,
                target,
                addresses,
                refresh,
            }
        }));
    }

    /// Resolves what requests bring, as they ask for it.
    pub(super) fn serve(&mut self, spec: ForwardSpec, questions: mpsc::Receiver<Question>) {
        let resolver = self.resolver(&spec.dns.servers);
        let serving = forward::serve(resolver, spec, questions);
        self.forwards.push(Box::pin(serving));
    }

    fn resolver(&mut self, servers: &[SocketAddr]) -> Arc<TokioResolver> {
        match servers {
            [] => Arc::clone(self.resolver.get_or_insert_with(system)),
            servers => resolver(servers),
        }
    }

    /// The next name that is resolved; pending while there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Resolved {
        loop {
            tokio::select! {
                Some(resolved) = self.lookups.next() => return resolved,
                Some(()) = self.forwards.next() => {}
                else => std::future::pending::<()>().await,
            }
        }
    }
}

#[cfg(test)]
fn system() -> Arc<TokioResolver> {
    tests::resolver()
}

#[cfg(not(test))]
fn system() -> Arc<TokioResolver> {
    resolver(&[])
}

/// One that asks these name servers, or those of the system if there are none.
pub(super) fn resolver(servers: &[SocketAddr]) -> Arc<TokioResolver> {
    let built = builder(servers).and_then(|mut builder| {
        // The refresh rate decides how old an answer may be.
        builder.options_mut().cache_size = 0;
        builder.build()
    });
    let resolver = built.or_else(|error| {
        tracing::warn!(%error, "no name servers are configured; only /etc/hosts is consulted");
        let provider = TokioRuntimeProvider::default();
        TokioResolver::builder_with_config(ResolverConfig::default(), provider)
            .with_options(ResolverOpts::default())
            .build()
    });
    Arc::new(resolver.expect("a resolver without name servers can be built"))
}

fn builder(
    servers: &[SocketAddr],
) -> Result<ResolverBuilder<TokioRuntimeProvider>, hickory_resolver::net::NetError> {
    if servers.is_empty() {
        return TokioResolver::builder_tokio();
    }
    // Search domains are the system's all the same.
    let (system, options) = read_system_conf()?;
    let servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut it| {
            it.port = server.port();
            it
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    let domain = system.domain().cloned();
    let config = ResolverConfig::from_parts(domain, system.search().to_vec(), servers.collect());
    let provider = TokioRuntimeProvider::default();
    Ok(TokioResolver::builder_with_config(config, provider).with_options(options))
}

/// One name, and when to ask for it again.
pub(super) async fn one(
    resolver: &TokioResolver,
    host: &str,
    spec: &DnsSpec,
) -> (Result<Vec<IpAddr>, Arc<str>>, Duration) {
    match addresses(resolver, host, spec.family).await {
        Ok((mut addresses, until)) => {
            addresses.sort();
            let ttl = until.map(|until| until.saturating_duration_since(Instant::now()));
            let refresh = ttl.map_or(spec.refresh, |ttl| ttl.max(spec.min_ttl));
            (Ok(addresses), refresh)
        }
        Err(error) => (Err(error), spec.failure_refresh),
    }
}

async fn resolve(
    resolver: &TokioResolver,
    host: &str,
    how: &DnsSpec,
) -> (Result<Vec<IpAddr>, Arc<str>>, Duration) {
    let mut refresh = how.refresh;
    let addresses = match addresses(resolver, host, how.family).await {
        Ok((mut addresses, until)) => {
            if how.respect_ttl
                && let Some(until) = until
            {
                let ttl = until.saturating_duration_since(Instant::now());
                refresh = refresh.min(ttl.max(how.min_ttl));
            }
            if how.logical {
                addresses.truncate(1);
            } else {
                // Name servers rotate their answers, which is no change.
                addresses.sort();
            }
            Ok(addresses)
        }
        Err(error) => {
            refresh = how.failure_refresh;
            Err(error)
        }
    };
    (addresses, refresh + how.jitter.mul_f64(fastrand::f64()))
}

type Addresses = (Vec<IpAddr>, Option<Instant>);

async fn addresses(
    resolver: &TokioResolver,
    host: &str,
    family: LookupFamily,
) -> Result<Addresses, Arc<str>> {
    if let Ok(ip) = host.parse() {
        return Ok((vec![ip], None));
    }
    let v4 = || lookup(resolver, host, RecordType::A);
    let v6 = || lookup(resolver, host, RecordType::AAAA);
    match family {
        LookupFamily::V4Only => v4().await,
        LookupFamily::V6Only => v6().await,
        LookupFamily::V6Preferred => first(v6().await, v4).await,
        LookupFamily::V4Preferred => first(v4().await, v6).await,
        LookupFamily::All => {
            let (v4, v6) = join(v4(), v6()).await;
            match (v4, v6) {
                (Ok((mut all, until)), Ok((more, more_until))) => {
                    all.extend(more);
                    Ok((all, until.min(more_until)))
                }
                (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
                (Err(error), Err(_)) => Err(error),
            }
        }
    }
}

async fn first<F: Future<Output = Result<Addresses, Arc<str>>>>(
    preferred: Result<Addresses, Arc<str>>,
    other: impl FnOnce() -> F,
) -> Result<Addresses, Arc<str>> {
    match preferred {
        Ok(found) if !found.0.is_empty() => Ok(found),
        _ => other().await,
    }
}

async fn lookup(
    resolver: &TokioResolver,
    host: &str,
    kind: RecordType,
) -> Result<Addresses, Arc<str>> {
    // Read anew: the kubelet rewrites the file.
    let hosts = Hosts::from_system().unwrap_or_default();
    if let Some(found) = from_hosts(&hosts, host, kind) {
        return Ok(found);
    }
    let cannot = |why: String| Arc::from(format!("cannot resolve {host:?}: {why}"));
    // Answers are others' words: what they break in the library must not end this task.
    let found = AssertUnwindSafe(resolver.lookup(host, kind)).catch_unwind();
    let found = timeout(LONGEST_LOOKUP, found).await;
    let found = found.map_err(|_| cannot(format!("no answer in {LONGEST_LOOKUP:?}")))?;
    let found = found.map_err(|_| cannot("the answer cannot be read".into()))?;
    let found = found.map_err(|error| cannot(error.to_string()))?;
    let addresses = answers(host, &found);
    match addresses.is_empty() {
        true => Err(cannot("the answer is of another name".into())),
        false => Ok((addresses, Some(found.valid_until()))),
    }
}

/// What the hosts file says of a name as it is. The resolver itself looks there only for the first name that
/// it tries, and in a Pod (`ndots:5`) that is one with a search domain.
fn from_hosts(hosts: &Hosts, host: &str, kind: RecordType) -> Option<Addresses> {
    let name = Name::from_utf8(host).ok()?;
    let found = hosts.lookup_static_host(&Query::query(name, kind))?;
    let addresses = found.answers().iter().filter_map(address);
    Some((addresses.collect(), None))
}

/// The addresses of `host`, or of what it is an alias of.
fn answers(host: &str, found: &Lookup) -> Vec<IpAddr> {
    let records = found.answers();
    let Ok(host) = Name::from_utf8(host) else {
        return Vec::new();
    };
    let mut owner: Option<&Name> = None;
    for _ in 0..MAX_ALIASES {
        let is_owner = |record: &&Record| match owner {
            None => begins_with(&record.name, &host),
            Some(owner) => record.name == *owner,
        };
        let owned = records.iter().filter(is_owner);
        let addresses: Vec<_> = owned.clone().filter_map(address).collect();
        let alias = owned.clone().find_map(|record| match &record.data {
            RData::CNAME(alias) => Some(&alias.0),
            _ => None,
        });
        match alias {
            Some(alias) if addresses.is_empty() => owner = Some(alias),
            _ => return addresses,
        }
    }
    Vec::new()
}

/// Whether it is this host, or the host with a search domain behind it.
fn begins_with(name: &Name, host: &Name) -> bool {
    let pairs = name.iter().zip(host.iter());
    name.num_labels() >= host.num_labels()
        && pairs.into_iter().all(|(a, b)| a.eq_ignore_ascii_case(b))
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}
