//! The listeners of a snapshot, and which of them a redirected connection is handed to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    sync::Arc,
};

use super::{Listener, Map};

/// All listeners in the order of the configuration, bound or not.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    all: Vec<Arc<Listener>>,
    by_address: Map<SocketAddr, usize>,
}

impl Listeners {
    /// The listener for connections whose original destination this is: the one at that very
    /// address, or the one at every address of that family and the same port. Source: Envoy,
    /// `use_original_dst`.
    pub fn at(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let every: IpAddr = match destination {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let exact = SocketAddr::new(destination.ip(), destination.port());
        let found = self.by_address.get(&exact).or_else(|| {
            let every = SocketAddr::new(every, destination.port());
            self.by_address.get(&every)
        });
        self.all.get(*found?)
    }
}

impl From<Vec<Arc<Listener>>> for Listeners {
    fn from(all: Vec<Arc<Listener>>) -> Self {
        let mut by_address = Map::default();
        for (index, listener) in all.iter().enumerate() {
            for address in &listener.addresses {
                by_address.entry(*address).or_insert(index);
            }
        }
        Self { all, by_address }
    }
}

impl Deref for Listeners {
    type Target = [Arc<Listener>];

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Listeners {
    type Item = &'a Arc<Listener>;
    type IntoIter = std::slice::Iter<'a, Arc<Listener>>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_destination_finds_its_listener_by_envoys_rules() {
        let listeners: Vec<_> = [
            ("vip", "10.0.0.1:80"),
            ("all", "0.0.0.0:80"),
            ("all6", "[::]:80"),
            ("vip6", "[fd00::1]:80"),
            ("later", "10.0.0.1:80"),
            ("other", "10.0.0.1:81"),
        ]
        .into_iter()
        .map(|(name, address)| {
            let mut listener = testing::tcp_listener(name, "c");
            listener.addresses = vec![address.parse().unwrap()];
            Arc::new(listener)
        })
        .collect();
        let listeners = Listeners::from(listeners);
        for (destination, expected) in [
            ("10.0.0.1:80", Some("vip")),
            ("10.0.0.2:80", Some("all")),
            ("[fd00::1]:80", Some("vip6")),
            ("[fd00::2]:80", Some("all6")),
            ("10.0.0.1:81", Some("other")),
            ("10.0.0.2:81", None),
            ("[fd00::1]:81", None),
        ] {
            let found = listeners.at(destination.parse().unwrap());
            assert_eq!(found.map(|it| &*it.name), expected, "{destination}");
        }
    }
}
