//! Listeners and their filter chains (`envoy.config.listener.v3`).

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use super::chains::{FilterChains, OverlappingChains};
use super::http::HttpManager;
use crate::{
    access_log::AccessLogs,
    rbac::Rbac,
    stats::{ListenerStats, TcpStats},
};

/// One listener. `generation` differs whenever the compiled configuration does.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub generation: u64,
    pub addresses: Vec<SocketAddr>,
    pub bind_to_port: bool,
    pub inspect_tls: bool,
    /// How long the listener filters may take; `None`: no limit.
    pub inspect_timeout: Option<Duration>,
    /// Whether a connection goes on when that time is over.
    pub continue_on_inspect_timeout: bool,
    pub chains: FilterChains,
    /// Soft limit of what is buffered for one connection and direction, in bytes.
    pub buffer_limit: u32,
    pub access_log: AccessLogs,
    /// Whether it, or a TCP proxy in one of its chains, has an access log.
    pub logs_connections: bool,
    pub stats: Arc<ListenerStats>,
}

/// What a connection is matched on.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Lower-case SNI of the ClientHello.
    pub server_name: Option<&'a str>,
    pub tls: bool,
    /// The protocols that the ClientHello offers, or that the HTTP inspector saw.
    pub application_protocols: &'a [Vec<u8>],
}

/// The conditions of one chain (`FilterChainMatch`). An empty list means: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    /// `(address, prefix length)`.
    pub prefix_ranges: Vec<(std::net::IpAddr, u8)>,
    /// Lower-case; exact, or `*.suffix`.
    pub server_names: Vec<String>,
    pub transport: Option<Transport>,
    pub application_protocols: Vec<Vec<u8>>,
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
    /// `envoy.filters.network.rbac`, in the order of the filters.
    pub rbac: Vec<Rbac>,
    pub terminal: Terminal,
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
    pub access_log: AccessLogs,
}
