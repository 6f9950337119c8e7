//! `/server_info`.

use serde_json::{Value, json};

use super::{AdminState, pages};

pub(super) fn server_info(state: &AdminState) -> Value {
    let uptime = format!("{}s", state.started.elapsed().as_secs());
    json!({
        "version": concat!("ithildin/", env!("CARGO_PKG_VERSION")),
        "state": pages::server_state(state),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": {"concurrency": state.stats.workers(), "mode": "Serve"},
        "node": {
            "id": state.bootstrap.node_id,
            "cluster": state.bootstrap.node_cluster,
            "user_agent_name": "ithildin",
        },
    })
}
