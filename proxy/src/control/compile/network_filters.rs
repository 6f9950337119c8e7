//! Network filters: access control and Istio's, then the one that ends the chain.

use std::sync::Arc;

use ithildin_proto::{
    istio::{metadata_exchange::MetadataExchange, stats::PluginConfig},
    pb::{
        envoy::{
            config::listener::v3::{Filter, filter},
            extensions::filters::network::{
                ext_authz::v3::ExtAuthz, http_connection_manager::v3::HttpConnectionManager,
                mongo_proxy::v3::MongoProxy, rbac::v3::Rbac as NetworkRbac,
                sni_cluster::v3::SniCluster,
                sni_dynamic_forward_proxy::v3::FilterConfig as SniForward, tcp_proxy::v3::TcpProxy,
            },
        },
        google::protobuf::Any,
    },
};

use super::{Compiler, ListenerParts, ext_authz, forward, http, rbac, tcp, telemetry};
use crate::{
    config::listener::{AccessFilter, Terminal},
    control::{
        any,
        report::{At, no_effect, refuse},
    },
    istio::{PeerExchange, Telemetry},
};

/// A whole chain.
pub(super) struct Filters {
    pub(super) access: Vec<AccessFilter>,
    pub(super) sni_cluster: bool,
    pub(super) sni_forward: Option<u16>,
    pub(super) peer_exchange: Option<Arc<PeerExchange>>,
    pub(super) telemetry: Option<Arc<Telemetry>>,
    pub(super) terminal: Terminal,
}

/// What comes before the end of a chain.
#[derive(Default)]
struct Before {
    access: Vec<AccessFilter>,
    sni_cluster: bool,
    sni_forward: Option<u16>,
    peer_exchange: Option<Arc<PeerExchange>>,
    telemetry: Option<Arc<Telemetry>>,
}

/// Compiles the whole chain.
pub(super) fn filters(
    filters: &[Filter],
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Filters> {
    let Some(last) = filters.len().checked_sub(1) else {
        at.field("filters").error("is empty");
        return None;
    };
    let mut end = None;
    let mut before = Before::default();
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
        let Some(config) = any::resolve(config, &at.field("typed_config")) else {
            continue;
        };
        if any::is::<HttpConnectionManager>(&config) || any::is::<TcpProxy>(&config) {
            if i != last {
                at.error("must be the last filter");
            }
            end = Some(terminal(
                &config,
                compiler,
                parts,
                &at.field("typed_config"),
            ));
        } else {
            passing(&config, &mut before, compiler, parts, &at);
        }
    }
    let Some(terminal) = end else {
        at.field("filters").error(
            "the last filter must be envoy.filters.network.http_connection_manager or \
             envoy.filters.network.tcp_proxy",
        );
        return None;
    };
    Some(Filters {
        access: before.access,
        sni_cluster: before.sni_cluster,
        sni_forward: before.sni_forward,
        peer_exchange: before.peer_exchange,
        telemetry: before.telemetry,
        terminal: terminal?,
    })
}

fn terminal(
    config: &Any,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Terminal> {
    if any::is::<HttpConnectionManager>(config) {
        let config = any::read(config, at)?;
        let manager = http::manager(&config, compiler, parts, at)?;
        Some(Terminal::Http(Arc::new(manager)))
    } else {
        let config = any::read(config, at)?;
        let proxy = tcp::proxy(&config, compiler, at)?;
        Some(Terminal::Tcp(Arc::new(proxy)))
    }
}

/// A filter that lets the bytes pass.
fn passing(
    config: &Any,
    before: &mut Before,
    compiler: &mut Compiler,
    parts: &ListenerParts,
    at: &At<'_>,
) {
    let inner = at.field("typed_config");
    if any::is::<NetworkRbac>(config) {
        let config = any::read(config, &inner);
        let filter = config.and_then(|config| rbac::network(&config, &inner));
        before.access.extend(filter.map(AccessFilter::Rbac));
    } else if any::is::<ExtAuthz>(config) {
        let config = any::read(config, &inner);
        let filter = config.and_then(|it| ext_authz::network(&it, &compiler.stats, &inner));
        before.access.extend(filter.map(AccessFilter::ExtAuthz));
    } else if any::is::<SniCluster>(config) {
        // It has no fields.
        before.sni_cluster = true;
    } else if any::is::<SniForward>(config) {
        let config = any::read(config, &inner);
        before.sni_forward = config.and_then(|config| forward::sni_filter(&config, &inner));
    } else if any::is::<MetadataExchange>(config) {
        let config = any::read(config, &inner);
        before.peer_exchange = config.and_then(|config| peer_exchange(&config, compiler, &inner));
    } else if any::is::<PluginConfig>(config) {
        let config: Option<PluginConfig> = any::read(config, &inner);
        before.telemetry = config
            .and_then(|config| telemetry::telemetry(&config, parts.inbound, compiler, &inner));
    } else if any::is::<MongoProxy>(config) {
        let config = any::read(config, &inner);
        if let Some(config) = config {
            mongo(&config, &inner);
        }
    } else {
        any::unsupported(config, at);
    }
}

/// It counts operations and lets them pass, before each port that Istio takes for MongoDB's by its name.
fn mongo(config: &MongoProxy, at: &At<'_>) {
    let MongoProxy {
        stat_prefix,
        access_log,
        delay,
        emit_dynamic_metadata,
        commands,
        max_bson_depth,
    } = config;
    no_effect!(stat_prefix, access_log, commands, max_bson_depth);
    refuse!(at; delay, emit_dynamic_metadata);
    at.warn("operations of MongoDB are not counted");
}

/// `istio.metadata_exchange`, of a filter chain or of a cluster.
pub(super) fn peer_exchange(
    config: &MetadataExchange,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Arc<PeerExchange>> {
    let MetadataExchange {
        protocol,
        enable_discovery,
        additional_labels,
    } = config;
    // Needs a bootstrap extension that only ambient meshes have.
    no_effect!(enable_discovery);
    if protocol.is_empty() {
        at.field("protocol").error("is empty");
        return None;
    }
    let node = &compiler.node;
    Some(Arc::new(PeerExchange::new(
        node,
        protocol,
        additional_labels,
    )))
}
