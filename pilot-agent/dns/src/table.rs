//! The table of names: what istiod sent, compiled once per push into something that only lookups read.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::Name;
use ithildin_proto::nds::{NameTable, name_table::NameInfo};
use serde_json::{Map, Value, json};
use tracing::debug;

use crate::name::{self, Key};

/// The registry whose services have short names.
const KUBERNETES: &str = "Kubernetes";
const ANY_LABEL: &[u8] = b"\x01*";

/// Where the workload is: which short names it may use, and what its resolver appends to names.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub namespace: String,
    /// The domain of the workload's node, as `default.svc.cluster.local`. Empty: no short names.
    pub domain: String,
    /// The first `search` domain of the workload's resolver.
    pub search: Option<String>,
}

/// Names and their addresses.
///
/// A host is found under its own name; one of Kubernetes in the workload's domain also as `service`
/// in the workload's namespace, `service.namespace`, `service.namespace.svc` and its further names.
/// A name's own entry goes before such a variant of another; of several variants that of the first
/// host by its name stays. An address has the full names of the hosts that have it.
#[derive(Debug)]
pub struct Table {
    hosts: Hosts,
    /// By what follows `*.`.
    wildcards: Hosts,
    search: Option<Key>,
    /// That and the domains above it.
    searched: Vec<Key>,
    /// Addresses and full names, in order.
    reverse: Box<[(IpAddr, Box<[u8]>)]>,
    source: Arc<NameTable>,
}

type Hosts = HashMap<Box<[u8]>, Arc<Addresses>, foldhash::fast::RandomState>;

/// The addresses of a host; one at least.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Box<[Ipv4Addr]>,
    pub(crate) v6: Box<[Ipv6Addr]>,
}

/// What is known of a name.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) addresses: &'a Addresses,
    /// The name that has the addresses, if it is not the one that was asked for.
    pub(crate) alias: Option<Name>,
}

impl Table {
    /// Compiles `source` for a workload at `place`. Hosts without a name or an address of the right
    /// form are left out: their names are for others to answer.
    pub fn new(source: Arc<NameTable>, place: &Place) -> Self {
        let mut table = Self {
            hosts: Hosts::default(),
            wildcards: Hosts::default(),
            search: place.search.as_deref().and_then(Key::of_host),
            searched: place.search.iter().flat_map(|it| searched(it)).collect(),
            reverse: Box::default(),
            source: Arc::clone(&source),
        };
        let domain = domain(place);
        let (mut variants, mut reverse) = (Vec::new(), Vec::new());
        // Where several hosts have one variant, always the same one gets it.
        let hosts: BTreeMap<_, _> = source.table.iter().collect();
        for (host, info) in hosts {
            let (Some(key), Some(addresses)) = (Key::of_host(host), Addresses::parse(info)) else {
                debug!(host, ips = ?info.ips, "a host without a usable name and address is left out");
                continue;
            };
            if !key.bytes().starts_with(ANY_LABEL) {
                reverse.extend(addresses.all().map(|ip| (ip, key.bytes().into())));
            }
            let addresses = Arc::new(addresses);
            for variant in self::variants(&key, info, place, domain.as_ref()) {
                variants.push((variant, Arc::clone(&addresses)));
            }
            table.insert(&key, addresses);
        }
        for (key, addresses) in variants {
            let hosts = &mut table.hosts;
            hosts.entry(key.bytes().into()).or_insert(addresses);
        }
        reverse.sort_unstable();
        reverse.dedup();
        table.reverse = reverse.into();
        table
    }

    fn insert(&mut self, key: &Key, addresses: Arc<Addresses>) {
        match key.bytes().strip_prefix(ANY_LABEL) {
            Some(parent) if !parent.is_empty() => {
                self.wildcards.insert(parent.into(), Arc::clone(&addresses));
            }
            _ => {}
        }
        self.hosts.insert(key.bytes().into(), addresses);
    }

    /// What is known of `name`: as it stands, as a host with the search domain behind it, or by the
    /// longest wildcard, again with or without the search domain. That one is not looked for behind hosts
    /// that end with it.
    pub(crate) fn lookup(&self, name: &Name) -> Option<Found<'_>> {
        let key = Key::new(name);
        if let Some(addresses) = self.hosts.get(key.bytes()) {
            return Some(Found {
                addresses,
                alias: None,
            });
        }
        let searched = self.search.as_ref();
        let searched = searched.and_then(|search| key.directly_below(search));
        if let Some(host) = searched
            && let Some(addresses) = self.hosts.get(host)
        {
            let alias = name::name(host);
            return alias.map(|alias| Found {
                addresses,
                alias: Some(alias),
            });
        }
        if self.wildcards.is_empty() {
            return None;
        }
        let appended = searched.map_or(0, |host| key.bytes().len() - host.len());
        key.parents()
            .find_map(|parent| self.wildcard(parent, appended))
    }

    /// The full names of the hosts that have the address that `name` asks for, as in
    /// `1.2.0.192.in-addr.arpa`.
    pub(crate) fn names_of(&self, name: &Name) -> Vec<Name> {
        let Ok(net) = name.parse_arpa_name() else {
            return Vec::new();
        };
        if net.prefix_len() != net.max_prefix_len() {
            return Vec::new();
        }
        let address = net.addr();
        let begin = self.reverse.partition_point(|(ip, _)| *ip < address);
        let from = self.reverse.get(begin..).unwrap_or_default().iter();
        from.take_while(|(ip, _)| *ip == address)
            .filter_map(|(_, key)| name::name(key))
            .collect()
    }

    /// Whether this is a host with a domain behind it that it ends with already: the search domain, or one
    /// that the cluster searches next. Resolvers append them to full names too; nobody has such a name, and
    /// who is told so at once soon asks for the host as it is.
    pub(crate) fn is_nobodys(&self, name: &Name) -> bool {
        let key = Key::new(name);
        self.searched.iter().any(|domain| {
            let host = key.below(domain);
            let host = host.filter(|_| key.directly_below(domain).is_none());
            host.is_some_and(|host| self.hosts.contains_key(host))
        })
    }

    /// The wildcard above, of which the last `appended` bytes may be the search domain.
    fn wildcard(&self, parent: &[u8], appended: usize) -> Option<Found<'_>> {
        if let Some(addresses) = self.wildcards.get(parent) {
            return Some(Found {
                addresses,
                alias: None,
            });
        }
        let parent = parent.get(..parent.len().checked_sub(appended)?)?;
        let addresses = self.wildcards.get(parent)?;
        // As Istio's agent has it, the wildcard itself is the name that has the addresses.
        let labels = [&b"*"[..]].into_iter().chain(name::labels(parent));
        let alias = Name::from_labels(labels).ok()?;
        Some(Found {
            addresses,
            alias: Some(alias),
        })
    }

    /// What istiod sent, in protobuf's JSON form.
    pub fn dump(&self) -> Value {
        let entry = |(host, info): (&String, &NameInfo)| (host.clone(), dump(info));
        match self.source.table.is_empty() {
            true => json!({}),
            false => json!({ "table": self.source.table.iter().map(entry).collect::<Map<_, _>>() }),
        }
    }
}

impl Addresses {
    fn parse(info: &NameInfo) -> Option<Self> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for ip in info.ips.iter().filter_map(|ip| ip.parse().ok()) {
            match ip {
                IpAddr::V4(ip) => v4.push(ip),
                IpAddr::V6(ip) => v6.push(ip),
            }
        }
        let some = !v4.is_empty() || !v6.is_empty();
        some.then(|| Self {
            v4: v4.into(),
            v6: v6.into(),
        })
    }

    fn all(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().copied().map(IpAddr::V6))
    }
}

/// The search domain and those above it, as a cluster's resolvers have them: `ns.svc.cluster.local`,
/// `svc.cluster.local` and `cluster.local`.
fn searched(search: &str) -> impl Iterator<Item = Key> {
    let domains = iter::successors(Some(search), |domain| Some(domain.split_once('.')?.1));
    let domains = domains.filter(|domain| domain.contains('.'));
    domains.filter_map(Key::of_host)
}

/// The domain that services of the workload's cluster are in, as `svc.cluster.local`.
fn domain(place: &Place) -> Option<Key> {
    let after = place.domain.strip_prefix(&place.namespace);
    let domain = after.and_then(|after| after.strip_prefix('.'));
    Key::of_host(domain.unwrap_or(&place.domain))
}

/// The other names of a host of Kubernetes. One of another cluster's domain has none: there would be
/// no telling whose `service.namespace` is meant.
fn variants(host: &Key, info: &NameInfo, place: &Place, domain: Option<&Key>) -> Vec<Key> {
    let Some(domain) = domain.filter(|domain| host.below(domain).is_some()) else {
        return Vec::new();
    };
    if info.registry != KUBERNETES || info.shortname.is_empty() {
        return Vec::new();
    }
    let qualified = format!("{}.{}", info.shortname, info.namespace);
    let mut names = Vec::new();
    if let Some(first) = name::labels(domain.bytes()).next() {
        names.push(format!("{qualified}.{}", String::from_utf8_lossy(first)));
    }
    names.push(qualified);
    if info.namespace == place.namespace {
        names.push(info.shortname.clone());
    }
    #[allow(deprecated, reason = "istiod sends them for services of a cluster set")]
    names.extend(info.alt_hosts.iter().cloned());
    names.iter().filter_map(|name| Key::of_host(name)).collect()
}

fn dump(info: &NameInfo) -> Value {
    let mut fields = Map::new();
    if !info.ips.is_empty() {
        fields.insert("ips".into(), json!(info.ips));
    }
    let texts = [
        ("registry", &info.registry),
        ("shortname", &info.shortname),
        ("namespace", &info.namespace),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        fields.insert(name.into(), json!(text));
    }
    #[allow(deprecated, reason = "a dump shows all that was sent")]
    if !info.alt_hosts.is_empty() {
        fields.insert("altHosts".into(), json!(info.alt_hosts));
    }
    fields.into()
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
