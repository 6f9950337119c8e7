//! Network filters: access control, then the one that ends the chain.

use std::sync::Arc;

use ithildin_proto::pb::envoy::{
    config::listener::v3::{Filter, filter},
    extensions::filters::network::{
        http_connection_manager::v3::HttpConnectionManager, rbac::v3::Rbac as NetworkRbac,
        sni_cluster::v3::SniCluster, tcp_proxy::v3::TcpProxy,
    },
};

use super::{Compiler, ListenerParts, http, rbac, tcp};
use crate::{
    config::listener::Terminal,
    control::{any, report::At},
    rbac::Rbac,
};

/// The filters of one chain.
pub(super) struct NetworkFilters {
    pub(super) rbac: Vec<Rbac>,
    pub(super) sni_cluster: bool,
    pub(super) terminal: Terminal,
}

/// Compiles the whole chain.
pub(super) fn filters(
    filters: &[Filter],
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<NetworkFilters> {
    let Some(last) = filters.len().checked_sub(1) else {
        at.field("filters").error("is empty");
        return None;
    };
    let mut terminal = None;
    let mut access = Vec::new();
    let mut sni_cluster = false;
    for (i, Filter { name, config_type }) in filters.iter().enumerate() {
        let at = at.index("filters", i);
        let config = match config_type {
            Some(filter::ConfigType::TypedConfig(config)) => config,
            Some(filter::ConfigType::ConfigDiscovery(_)) => {
                at.field("config_discovery").error("is not supported");
                continue;
            }
            None => {
                at.error(format_args!("filter {name:?} has no typed_config"));
                continue;
            }
        };
        if any::is::<NetworkRbac>(config) {
            let at = at.field("typed_config");
            access.extend(any::read(config, &at).and_then(|config| rbac::network(&config, &at)));
            continue;
        }
        if any::is::<SniCluster>(config) {
            // It has no fields.
            sni_cluster = true;
            continue;
        }
        let is_http = any::is::<HttpConnectionManager>(config);
        if !is_http && !any::is::<TcpProxy>(config) {
            any::unsupported(config, &at);
            continue;
        }
        if i != last {
            at.error("must be the last filter");
        }
        let at = at.field("typed_config");
        terminal = if is_http {
            any::read(config, &at)
                .and_then(|config| http::manager(&config, compiler, parts, &at))
                .map(|manager| Terminal::Http(Arc::new(manager)))
        } else {
            any::read(config, &at)
                .and_then(|config| tcp::proxy(&config, compiler, &at))
                .map(|proxy| Terminal::Tcp(Arc::new(proxy)))
        };
    }
    if terminal.is_none() {
        // Errors above say why, except for chains without an end.
        let ends = filters.last().is_some_and(|filter| {
            matches!(
                &filter.config_type,
                Some(filter::ConfigType::TypedConfig(config))
                    if any::is::<HttpConnectionManager>(config) || any::is::<TcpProxy>(config)
            )
        });
        if !ends {
            at.field("filters").error(
                "the last filter must be envoy.filters.network.http_connection_manager or \
                 envoy.filters.network.tcp_proxy",
            );
        }
    }
    Some(NetworkFilters {
        rbac: access,
        sni_cluster,
        terminal: terminal?,
    })
}
