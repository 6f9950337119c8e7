//! `/listeners`.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};

use super::AdminState;

/// `name::address`, one a line.
pub(super) fn text(state: &AdminState) -> String {
    let mut text = String::new();
    for (name, addresses) in active(state) {
        for address in addresses {
            text.push_str(&format!("{name}::{address}\n"));
        }
    }
    text
}

pub(super) fn json(state: &AdminState) -> Value {
    let statuses: Vec<_> = active(state)
        .iter()
        .filter_map(|(name, addresses)| {
            let (first, rest) = addresses.split_first()?;
            let mut status = json!({"name": &**name, "local_address": socket(first)});
            if !rest.is_empty() {
                let rest: Vec<_> = rest.iter().map(socket).collect();
                status["additional_local_addresses"] = rest.into();
            }
            Some(status)
        })
        .collect();
    json!({ "listener_statuses": statuses })
}

/// Listeners that take connections, from their own sockets or from others that hand off to them, and their
/// addresses.
fn active(state: &AdminState) -> Vec<(Arc<str>, Vec<SocketAddr>)> {
    let report = state.listeners.borrow().clone();
    let snapshot = state.published.current.load();
    let configured = |name: &str| {
        let mut all = snapshot.listeners.iter();
        let found = all.find(|listener| &*listener.name == name);
        found.map_or_else(Vec::new, |listener| listener.addresses.clone())
    };
    let listeners = report.listeners.iter().filter_map(|listener| {
        let addresses = match listener.bound.as_deref().ok()? {
            [] => configured(&listener.name),
            bound => bound.to_vec(),
        };
        Some((Arc::clone(&listener.name), addresses))
    });
    listeners.collect()
}

pub(super) fn socket(address: &SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
