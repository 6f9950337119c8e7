//! `/server_info`.

use ithildin_proto::{Printer, pb::envoy::config::core::v3::Node};
use serde_json::{Value, json};

use super::{AdminState, pages};

pub(super) fn server_info(state: &AdminState) -> Value {
    let uptime = format!("{}s", state.started.elapsed().as_secs());
    let bootstrap = state.bootstrap.read();
    json!({
        "version": concat!("ithildin/", env!("CARGO_PKG_VERSION")),
        "state": pages::server_state(state),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": {
            "base_id": "0",
            "concurrency": state.stats.workers(),
            "service_cluster": state.bootstrap.node_cluster,
            "service_node": state.bootstrap.node_id,
            "drain_time": format!("{}s", state.drain_time.as_secs()),
            "mode": "Serve",
            "disable_hot_restart": true,
            "restart_epoch": 0,
            "drain_strategy": "Immediate",
        },
        "node": node(bootstrap.node.unwrap_or_default()),
    })
}

fn node(node: Node) -> Value {
    let mut node = Printer::new().json(&node);
    node["user_agent_name"] = "ithildin".into();
    node
}
