//! `/server_info`.

use serde_json::{Value, json};

use super::{AdminState, pages};

pub(super) fn server_info(state: &AdminState) -> Value {
    let uptime = format!("{}s", state.started.elapsed().as_secs());
    let node = state.bootstrap.node.as_ref();
    json!({
        "version": concat!("ithildin/", env!("CARGO_PKG_VERSION")),
        "state": pages::server_state(state),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": {"concurrency": state.stats.workers(), "mode": "Serve"},
        "node": {
            "id": node.map_or("", |node| &node.id),
            "cluster": node.map_or("", |node| &node.cluster),
            "user_agent_name": "ithildin",
        },
    })
}
