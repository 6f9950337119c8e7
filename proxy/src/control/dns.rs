//! Name resolution for STRICT_DNS and LOGICAL_DNS clusters and dynamic forward proxies, off the data path.
//!
//! Invariant: a name that stops resolving keeps its last addresses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    Hosts, ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::Query,
        rr::{Name, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::sync::mpsc;

use super::{
    compile::{DnsSpec, ForwardSpec, LookupFamily},
    forward,
};
use crate::config::forward::Question;

/// What one round of lookups found for one cluster.
pub(super) struct Resolved {
    pub(super) cluster: Arc<str>,
    /// Of the cluster that asked: an answer to another one is stale.
    pub(super) generation: u64,
    /// In the order of the targets. An error keeps what was there.
    pub(super) addresses: Vec<Result<Vec<IpAddr>, Arc<str>>>,
    /// When to ask again.
    pub(super) refresh: Duration,
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
    /// Resolves the names of `spec` after `delay`.
    pub(super) fn resolve(
        &mut self,
        cluster: &Arc<str>,
        generation: u64,
        spec: &DnsSpec,
        delay: Duration,
    ) {
        let resolver = self.resolver(&[]);
        let (cluster, spec) = (Arc::clone(cluster), spec.clone());
        self.lookups.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            let (addresses, refresh) = round(&resolver, &spec).await;
            Resolved {
                cluster,
                generation,
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
            [] => Arc::clone(self.resolver.get_or_insert_with(|| resolver(&[]))),
            servers => resolver(servers),
        }
    }

    /// The next round that is done; pending while there is none. Cancel-safe.
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

type Round = (Vec<Result<Vec<IpAddr>, Arc<str>>>, Duration);

async fn round(resolver: &TokioResolver, spec: &DnsSpec) -> Round {
    let lookups = spec
        .targets
        .iter()
        .map(|target| addresses(resolver, &target.host, spec.family));
    let mut refresh = spec.refresh;
    let mut results = Vec::with_capacity(spec.targets.len());
    for result in join_all(lookups).await {
        results.push(match result {
            Ok((mut addresses, until)) => {
                if spec.respect_ttl
                    && let Some(until) = until
                {
                    let ttl = until.saturating_duration_since(Instant::now());
                    refresh = refresh.min(ttl.max(spec.min_ttl));
                }
                if spec.logical {
                    addresses.truncate(1);
                } else {
                    // Name servers rotate their answers, which is no change.
                    addresses.sort();
                }
                Ok(addresses)
            }
            Err(error) => {
                refresh = spec.failure_refresh;
                Err(error)
            }
        });
    }
    let jitter = spec.jitter.mul_f64(fastrand::f64());
    (results, refresh + jitter)
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
            let (v4, v6) = futures_util::future::join(v4(), v6()).await;
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
    let found = resolver.lookup(host, kind).await;
    let found = found.map_err(|error| Arc::from(format!("cannot resolve {host:?}: {error}")))?;
    let until = found.valid_until();
    Ok((answers(&found), Some(until)))
}

/// What the hosts file says of a name as it is. The resolver itself looks there only for the first name that
/// it tries, and in a Pod (`ndots:5`) that is one with a search domain.
fn from_hosts(hosts: &Hosts, host: &str, kind: RecordType) -> Option<Addresses> {
    let name = Name::from_utf8(host).ok()?;
    let found = hosts.lookup_static_host(&Query::query(name, kind))?;
    Some((answers(&found), None))
}

fn answers(found: &Lookup) -> Vec<IpAddr> {
    let records = found.answers().iter();
    let addresses = records.filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_hosts_file_needs_no_search() {
        let mut hosts = Hosts::default();
        let file = "10.0.1.50 app.example.org app\nfd00::1 six.test\n";
        hosts.read_hosts_conf(file.as_bytes()).unwrap();
        let found = |host, kind| from_hosts(&hosts, host, kind).map(|(addresses, _)| addresses);
        let v4: IpAddr = [10, 0, 1, 50].into();
        for host in ["app.example.org", "App.Example.org.", "app"] {
            assert_eq!(found(host, RecordType::A), Some(vec![v4]), "{host}");
        }
        assert_eq!(
            found("six.test", RecordType::AAAA),
            Some(vec!["fd00::1".parse().unwrap()])
        );
        assert_eq!(found("six.test", RecordType::A), None);
        assert_eq!(
            found("app.example.org.svc.cluster.local", RecordType::A),
            None
        );
        assert_eq!(found("not a name..", RecordType::A), None);
    }
}
