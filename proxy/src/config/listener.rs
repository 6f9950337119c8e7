//! Listeners and their filter chains (`envoy.config.listener.v3`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ithildin_tls::Protocols;

pub use super::{
    chains::{FilterChains, OverlappingChains},
    listener_filters::{ListenerFilter, ListenerFilterKind, ListenerFilters, ListenerPredicate},
};
use super::{ext_authz::TcpExtAuthz, http::HttpManager, route::HeaderMutations};
use crate::{
    access_log::{AccessLogs, Template},
    istio::{PeerExchange, Telemetry},
    rbac::Rbac,
    stats::{ListenerStats, TcpStats},
};

/// One listener. `generation` differs whenever the compiled configuration does.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub generation: u64,
    pub addresses: Vec<SocketAddr>,
    /// Whether it has sockets of its own. One that has none gets its connections from listeners
    /// that hand off.
    pub bind_to_port: bool,
    /// `use_original_dst`: a connection whose original destination is another listener's address
    /// is handed to that one.
    pub hands_off: bool,
    /// Its connections are taken even where the process has as many as it may.
    pub is_always_accepted: bool,
    pub direction: TrafficDirection,
    pub drain_type: DrainType,
    pub socket: SocketOptions,
    pub filters: ListenerFilters,
    pub chains: FilterChains,
    /// Soft limit of what is buffered for one connection and direction, in bytes.
    pub buffer_limit: u32,
    pub access_log: AccessLogs,
    /// Whether it, or a TCP proxy in one of its chains, has an access log.
    pub logs_connections: bool,
    pub stats: Arc<ListenerStats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// When connections of a listener are asked to finish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainType {
    #[default]
    Default,
    /// When the listener changes or goes, and not with the whole server.
    ModifyOnly,
}

/// How its sockets are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// IP_TRANSPARENT: it takes connections to addresses that are not ours (TPROXY).
    pub transparent: bool,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// `None`: ours.
    pub backlog: Option<u32>,
}

/// What a connection is matched on.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    /// Where the client connected to: the original destination where there is one.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
    /// Who connected to us: the client, or what stands between.
    pub direct_remote: SocketAddr,
    /// Lower-case SNI of the ClientHello.
    pub server_name: Option<&'a str>,
    pub tls: bool,
    /// The protocols that the ClientHello offers, or that the HTTP inspector saw.
    pub application_protocols: Protocols<'a>,
}

/// The conditions of one chain (`FilterChainMatch`). An empty list means: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<AddressRange>,
    /// Lower-case; exact, or `*.suffix`.
    pub server_names: Vec<String>,
    pub transport: Option<Transport>,
    pub application_protocols: Vec<Vec<u8>>,
    pub direct_source_prefix_ranges: Vec<AddressRange>,
    pub source_type: SourceType,
    pub source_prefix_ranges: Vec<AddressRange>,
    pub source_ports: Vec<u16>,
}

/// An address and the length of the prefix that counts, in bits.
pub type AddressRange = (IpAddr, u8);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    #[default]
    Any,
    /// From a loopback address, or from the address that it goes to.
    SameIpOrLoopback,
    External,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tls,
    RawBuffer,
}

/// One filter chain: transport, then what handles the bytes.
#[derive(Debug)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub matches: ChainMatch,
    pub tls: Option<Arc<ithildin_tls::ServerContext>>,
    /// Limit of the TLS handshake (`transport_socket_connect_timeout`).
    pub handshake_timeout: Option<Duration>,
    /// Who may connect, in the order of the filters.
    pub access: Vec<AccessFilter>,
    /// `envoy.filters.network.sni_cluster`: the SNI, where there is one, names the cluster.
    pub sni_cluster: bool,
    /// `envoy.filters.network.sni_dynamic_forward_proxy`: the SNI names the host, which is at this port.
    pub sni_forward: Option<u16>,
    /// `istio.metadata_exchange`: what TCP peers tell each other first.
    pub peer_exchange: Option<Arc<PeerExchange>>,
    /// `istio.stats` on TCP.
    pub telemetry: Option<Arc<Telemetry>>,
    pub terminal: Terminal,
}

/// A network filter that lets a connection in, or does not.
#[derive(Debug)]
pub enum AccessFilter {
    Rbac(Rbac),
    ExtAuthz(TcpExtAuthz),
}

/// The network filter that ends the chain.
#[derive(Debug)]
pub enum Terminal {
    Http(Arc<HttpManager>),
    Tcp(Arc<TcpProxy>),
}

/// `envoy.filters.network.tcp_proxy`.
#[derive(Debug)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    pub stats: Arc<TcpStats>,
    /// `(cluster, weight)`; one entry for a plain `cluster`.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// `None`: never idle out. Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_connect_attempts: u32,
    /// For clusters that balance by hash: the client's address is what counts (`hash_policy`).
    pub hash_source_ip: bool,
    /// The cluster's hosts are proxies, which are asked for a tunnel.
    pub tunneling: Option<Tunneling>,
    pub access_log: AccessLogs,
}

/// What a proxy is asked for (`tunneling_config`).
#[derive(Debug)]
pub struct Tunneling {
    /// Host and port that the tunnel leads to.
    pub hostname: Template,
    /// The path of a POST, where it takes the place of CONNECT.
    pub post_path: Option<Bytes>,
    pub headers: HeaderMutations,
}
