//! Which listener has which address: no two may have one.
//!
//! Source: Envoy, which refuses the second one whether or not they bind; port 0 is any port.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use super::report::{ConfigError, ConfigErrors};
use crate::config::Listener;

/// The addresses of some listeners, with their names.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<SocketAddr, Arc<str>>);

impl Addresses {
    pub(super) fn of<'a>(listeners: impl Iterator<Item = &'a Listener>) -> Self {
        let mut addresses = Self::default();
        listeners.for_each(|listener| addresses.add(listener));
        addresses
    }

    /// Takes the addresses of `listener`, unless another listener has one of them.
    pub(super) fn claim(&mut self, listener: &Listener, path: &str) -> Result<(), ConfigErrors> {
        let taken = fixed(listener).filter_map(|address| {
            let owner = self.0.get(&address)?;
            let name = &listener.name;
            (owner != name).then(|| ConfigError {
                path: format!("{path}.address"),
                message: format!("{address} is the address of listener {owner:?} already"),
            })
        });
        let errors: Vec<_> = taken.collect();
        if !errors.is_empty() {
            return Err(ConfigErrors(errors.into()));
        }
        self.add(listener);
        Ok(())
    }

    fn add(&mut self, listener: &Listener) {
        for address in fixed(listener) {
            self.0.insert(address, Arc::clone(&listener.name));
        }
    }
}

fn fixed(listener: &Listener) -> impl Iterator<Item = SocketAddr> {
    let any = |address: &&SocketAddr| listener.bind_to_port && address.port() == 0;
    listener
        .addresses
        .iter()
        .filter(move |it| !any(it))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn listener(name: &str, address: &str, binds: bool) -> Listener {
        let mut listener = testing::tcp_listener(name, "c");
        listener.addresses = vec![address.parse().unwrap()];
        listener.bind_to_port = binds;
        listener
    }

    #[test]
    fn an_address_has_one_listener() {
        let first = listener("first", "10.0.0.1:80", true);
        let mut addresses = Addresses::of([&first].into_iter());
        for (name, address, binds, expected) in [
            ("first", "10.0.0.1:80", true, None),
            ("other", "10.0.0.1:81", true, None),
            ("every", "0.0.0.0:80", true, None),
            ("any", "127.0.0.1:0", true, None),
            ("any too", "127.0.0.1:0", true, None),
            (
                "second",
                "10.0.0.1:80",
                false,
                Some("l.address: 10.0.0.1:80 is the address of listener \"first\" already"),
            ),
        ] {
            let claimed = addresses.claim(&listener(name, address, binds), "l");
            let error = claimed.err().map(|errors| errors.to_string());
            assert_eq!(error.as_deref(), expected, "{name}");
        }
    }
}
