//! The configuration files of SPIRE's server and agent, with the shortest intervals that make sense.

use std::path::Path;

use super::{Plan, Upstream};

/// `server.conf` for a server on `port`; `above` is the port and the agent's socket of the one that it
/// is nested in, `disk` the folder of the root on disk.
pub(super) fn server(
    plan: &Plan,
    dir: &Path,
    port: u16,
    disk: &Path,
    above: Option<(u16, &Path)>,
) -> String {
    let (trust_domain, key, dir) = (plan.trust_domain, plan.ca_key_type, dir.display());
    let upstream = match (&plan.upstream, above) {
        (Upstream::Disk, _) => format!(
            r#"UpstreamAuthority "disk" {{ plugin_data {{ cert_file_path = "{root}/root.pem" key_file_path = "{root}/root.key" }} }}"#,
            root = disk.display()
        ),
        (_, Some((port, socket))) => format!(
            r#"UpstreamAuthority "spire" {{ plugin_data {{ server_address = "127.0.0.1" server_port = "{port}" workload_api_socket = "{}" }} }}"#,
            socket.display()
        ),
        _ => String::new(),
    };
    format!(
        r#"
server {{
  trust_domain = "{trust_domain}"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{dir}/api.sock"
  data_dir = "{dir}/data"
  ca_key_type = "{key}"
  ca_ttl = "10m"
  default_x509_svid_ttl = "90s"
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/data/db" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  {upstream}
}}
"#
    )
}

/// `agent.conf` for an agent of the server on `port`, whose Workload API is at `socket`.
pub(super) fn agent(plan: &Plan, dir: &Path, port: u16, socket: &Path) -> String {
    let (trust_domain, dir, socket) = (plan.trust_domain, dir.display(), socket.display());
    format!(
        r#"
agent {{
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  data_dir = "{dir}/agent-data"
  socket_path = "{socket}"
  admin_socket_path = "{dir}/admin/admin.sock"
  trust_bundle_path = "{dir}/bootstrap.pem"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
    )
}
