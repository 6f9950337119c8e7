//! What an ADS client knows of the listeners in force: the routes that they name, and their addresses.
//!
//! A listener is decoded for this once, when it is accepted: it may have thousands of filters.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use ithildin_proto::{
    pb::envoy::{
        config::{
            core::v3::{Address, address, socket_address::PortSpecifier},
            listener::v3::{Listener, filter},
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
    },
    unpack,
};

use crate::NameMap;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    all: BTreeMap<String, Known>,
    /// Whose each address is.
    owners: HashMap<SocketAddr, String>,
}

#[derive(Debug)]
struct Known {
    /// The route configurations that it names.
    routes: Vec<String>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    pub(super) fn routes(&self) -> impl Iterator<Item = &str> {
        self.all
            .values()
            .flat_map(|known| known.routes.iter().map(String::as_str))
    }

    /// Whether no other listener has an address of this one: Envoy refuses the second one.
    pub(super) fn check(&self, listener: &Listener) -> Result<(), String> {
        for address in addresses_of(listener) {
            let owner = self.owners.get(&address);
            if let Some(owner) = owner.filter(|owner| **owner != listener.name) {
                return Err(format!(
                    "listener {:?}.address: {address} is the address of listener {owner:?} already",
                    listener.name
                ));
            }
        }
        Ok(())
    }

    /// This one, which passed [`check`](Self::check), is in force, instead of any before of its name.
    pub(super) fn put(&mut self, listener: &Listener) {
        let name = &listener.name;
        let known = Known {
            routes: routes_of(listener),
            addresses: addresses_of(listener).collect(),
        };
        // There may be thousands of others, which are not looked at.
        for address in self.all.get(name).iter().flat_map(|old| &old.addresses) {
            self.owners.remove(address);
        }
        let addresses = known.addresses.iter();
        self.owners
            .extend(addresses.map(|address| (*address, name.clone())));
        self.all.insert(name.clone(), known);
    }

    /// Keeps those of `in_force`, which has no other than these.
    pub(super) fn retain<T>(&mut self, in_force: &NameMap<T>) {
        // Most updates take no listener away.
        if self.all.len() == in_force.len() {
            return;
        }
        let owners = &mut self.owners;
        self.all.retain(|name, known| {
            let stays = in_force.contains_key(name);
            if !stays {
                known.addresses.iter().for_each(|address| {
                    owners.remove(address);
                });
            }
            stays
        });
    }
}

/// The route configurations that a listener's HTTP connection managers name.
fn routes_of(listener: &Listener) -> Vec<String> {
    let chains = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return None;
            };
            match unpack::<HttpConnectionManager>(any).ok()?.route_specifier? {
                RouteSpecifier::Rds(rds) => Some(rds.route_config_name),
                _ => None,
            }
        })
        .collect()
}

/// Those that one listener alone can have: a port that the system chooses is any.
fn addresses_of(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    let binds = listener.bind_to_port.as_ref().is_none_or(|it| it.value);
    let more = listener.additional_addresses.iter();
    let all = more
        .map(|more| more.address.as_ref())
        .chain([listener.address.as_ref()]);
    let fixed = move |address: &SocketAddr| !binds || address.port() != 0;
    all.filter_map(|address| parse(address?)).filter(fixed)
}

fn parse(address: &Address) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(address)) = &address.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = &address.port_specifier else {
        return None;
    };
    let ip: IpAddr = address.address.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(*port).ok()?))
}
