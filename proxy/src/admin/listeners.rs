//! `/listeners`.

use serde_json::{Value, json};

use super::AdminState;

/// `name::address`, one a line.
pub(super) fn text(state: &AdminState) -> String {
    let report = state.listeners.borrow().clone();
    let mut text = String::new();
    for listener in &report.listeners {
        for address in listener.bound.iter().flatten() {
            text.push_str(&format!("{}::{address}\n", listener.name));
        }
    }
    text
}

pub(super) fn json(state: &AdminState) -> Value {
    let report = state.listeners.borrow().clone();
    let statuses: Vec<_> = report
        .listeners
        .iter()
        .filter_map(|listener| {
            let (first, rest) = listener.bound.as_ref().ok()?.split_first()?;
            let mut status = json!({"name": &*listener.name, "local_address": socket(first)});
            if !rest.is_empty() {
                let rest: Vec<_> = rest.iter().map(socket).collect();
                status["additional_local_addresses"] = rest.into();
            }
            Some(status)
        })
        .collect();
    json!({ "listener_statuses": statuses })
}

pub(super) fn socket(address: &std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
