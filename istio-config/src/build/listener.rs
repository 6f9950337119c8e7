//! Listeners and filter chains.

use std::{net::IpAddr, time::Duration};

use ithildin_proto::{
    pack,
    pb::envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{
                Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
                ListenerFilterChainMatchPredicate, listener_filter,
            },
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
            tls_inspector::v3::TlsInspector,
        },
    },
};

use super::{
    Build, access_log, tls,
    wire::{address, number, on, time},
};

/// First read of the TLS inspector, in bytes: most ClientHellos need more, all need this.
const TLS_INSPECTOR_BUFFER: u32 = 512;
/// Connections that one wake-up of the listener accepts, so that workers share the load.
const ACCEPTS_PER_EVENT: u32 = 1;

/// What the HTTP inspector says of plaintext HTTP.
pub(super) const PLAINTEXT_HTTP: [&str; 2] = ["http/1.1", "h2c"];

/// `ADDRESS_PORT`, as istiod names listeners.
pub(super) fn name(address: IpAddr, port: u16) -> String {
    format!("{address}_{port}")
}

impl Build<'_> {
    /// All addresses, of the node's own family.
    pub(super) fn wildcard(&self) -> IpAddr {
        if self.only_v6() {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        }
    }

    pub(super) fn loopback(&self) -> IpAddr {
        if self.only_v6() {
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
        }
    }

    fn only_v6(&self) -> bool {
        !self.node.ips.is_empty() && self.node.ips.iter().all(IpAddr::is_ipv6)
    }

    /// A listener with a socket of its own.
    pub(super) fn bound(
        &self,
        bind: IpAddr,
        port: u16,
        direction: TrafficDirection,
        chains: Vec<FilterChain>,
    ) -> Listener {
        Listener {
            name: name(bind, port),
            address: address(&bind.to_string(), port),
            filter_chains: chains,
            traffic_direction: direction.into(),
            access_log: access_log::of_listener(self.mesh),
            max_connections_to_accept_per_socket_event: number(ACCEPTS_PER_EVENT),
            ..Listener::default()
        }
    }

    /// A listener that only takes captured connections, from `virtualOutbound`.
    pub(super) fn captured(&self, bind: IpAddr, port: u16, chains: Vec<FilterChain>) -> Listener {
        Listener {
            name: name(bind, port),
            address: address(&bind.to_string(), port),
            filter_chains: chains,
            listener_filters_timeout: time(Duration::ZERO),
            continue_on_listener_filters_timeout: true,
            traffic_direction: TrafficDirection::Outbound.into(),
            bind_to_port: on(false),
            ..Listener::default()
        }
    }
}

/// A chain for any connection of a listener.
pub(super) fn chain(filter: Filter) -> FilterChain {
    FilterChain {
        filters: vec![filter],
        transport_socket_connect_timeout: time(tls::HANDSHAKE_TIMEOUT),
        ..FilterChain::default()
    }
}

/// A chain for plaintext HTTP, on a port where something else may be spoken too.
pub(super) fn sniffed_http_chain(filter: Filter) -> FilterChain {
    FilterChain {
        filter_chain_match: Some(plaintext_http()),
        ..chain(filter)
    }
}

pub(super) fn plaintext_http() -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: PLAINTEXT_HTTP.map(str::to_owned).to_vec(),
        ..FilterChainMatch::default()
    }
}

pub(super) fn original_dst() -> ListenerFilter {
    filter(
        "envoy.filters.listener.original_dst",
        pack(&OriginalDst::default()),
    )
}

pub(super) fn tls_inspector() -> ListenerFilter {
    filter(
        "envoy.filters.listener.tls_inspector",
        pack(&TlsInspector {
            initial_read_buffer_size: number(TLS_INSPECTOR_BUFFER),
            ..TlsInspector::default()
        }),
    )
}

pub(super) fn http_inspector() -> ListenerFilter {
    filter(
        "envoy.filters.listener.http_inspector",
        pack(&HttpInspector::default()),
    )
}

/// The same filter, skipped where `predicate` holds.
pub(super) fn disabled_where(
    filter: ListenerFilter,
    predicate: Option<ListenerFilterChainMatchPredicate>,
) -> ListenerFilter {
    ListenerFilter {
        filter_disabled: predicate,
        ..filter
    }
}

fn filter(name: &str, config: ithildin_proto::pb::google::protobuf::Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}
