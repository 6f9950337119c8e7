//! Which filter chains a port has, and which inspectors they need.

use ithildin_proto::pb::envoy::{
    config::listener::v3::{
        ListenerFilter, ListenerFilterChainMatchPredicate,
        listener_filter_chain_match_predicate::{MatchSet, Rule},
    },
    r#type::v3::Int32Range,
};

use super::InboundPort;
use crate::{
    build::listener::{PLAINTEXT_HTTP, disabled_where, http_inspector, tls_inspector},
    mtls::MtlsMode,
    protocol::Protocol,
};

/// ALPN offers of clients of the mesh that speak HTTP.
const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPN offers of clients of the mesh that speak anything else.
const MESH_TCP: [&str; 1] = ["istio"];
const MESH_ANY: [&str; 4] = ["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

const TLS: &str = "tls";
const RAW: &str = "raw_buffer";

/// One filter chain of a port.
#[derive(Clone, Copy)]
pub(super) struct ChainKind {
    pub transport: &'static str,
    pub alpn: &'static [&'static str],
    pub http: bool,
    /// Whether TLS ends here, or goes on to the workload.
    pub terminates: bool,
}

/// The chains of a port, by what is declared and what the policies demand (Istio's table).
pub(super) fn chain_kinds(mode: MtlsMode, protocol: Protocol) -> Vec<ChainKind> {
    let mutual = |alpn, http| ChainKind {
        transport: TLS,
        alpn,
        http,
        terminates: true,
    };
    let plain = |alpn, http| ChainKind {
        transport: RAW,
        alpn,
        http,
        terminates: false,
    };
    let through = ChainKind {
        transport: TLS,
        alpn: &[],
        http: false,
        terminates: false,
    };
    let sniffed = protocol == Protocol::Unknown;
    let http = protocol.is_http();
    match mode {
        MtlsMode::Permissive if sniffed => vec![
            mutual(&MESH_HTTP, true),
            plain(&PLAINTEXT_HTTP, true),
            mutual(&MESH_TCP, false),
            plain(&[], false),
            through,
        ],
        MtlsMode::Permissive if http => vec![mutual(&MESH_ANY, true), plain(&[], true)],
        MtlsMode::Permissive => vec![mutual(&MESH_ANY, false), through, plain(&[], false)],
        MtlsMode::Strict if sniffed => vec![mutual(&MESH_HTTP, true), mutual(&[], false)],
        MtlsMode::Strict => vec![mutual(&[], http)],
        MtlsMode::Disable if sniffed => vec![plain(&PLAINTEXT_HTTP, true), plain(&[], false)],
        MtlsMode::Disable => vec![plain(&[], http)],
    }
}

pub(super) fn needs_tls(port: &InboundPort<'_>) -> bool {
    let kinds = chain_kinds(port.mode, port.protocol);
    kinds.iter().any(|kind| kind.transport == TLS)
}

pub(super) fn needs_http(port: &InboundPort<'_>) -> bool {
    let kinds = chain_kinds(port.mode, port.protocol);
    kinds
        .iter()
        .any(|kind| kind.transport == RAW && !kind.alpn.is_empty())
}

/// The inspectors of `virtualInbound`, each only on ports where a chain asks for its answer: a
/// server that speaks first would wait for it for ever.
pub(super) fn inspectors(ports: &[InboundPort<'_>], own: u16) -> Vec<ListenerFilter> {
    let inspector = |filter: ListenerFilter, needs: fn(&InboundPort<'_>) -> bool| {
        let numbers = |wanted: bool| {
            ports
                .iter()
                .filter(move |port| needs(port) == wanted)
                .filter_map(|port| port.number)
        };
        let others = ports
            .iter()
            .any(|port| port.number.is_none() && needs(port));
        let predicate = if others {
            any_port(std::iter::once(own).chain(numbers(false)))
        } else {
            not(any_port(numbers(true))?)
        };
        Some(disabled_where(filter, predicate))
    };
    let tls = inspector(tls_inspector(), needs_tls);
    tls.into_iter()
        .chain(inspector(http_inspector(), needs_http))
        .collect()
}

fn any_port(ports: impl Iterator<Item = u16>) -> Option<ListenerFilterChainMatchPredicate> {
    let mut rules: Vec<_> = ports
        .map(|port| {
            predicate(Rule::DestinationPortRange(Int32Range {
                start: port.into(),
                end: i32::from(port) + 1,
            }))
        })
        .collect();
    match rules.len() {
        0 | 1 => rules.pop(),
        _ => Some(predicate(Rule::OrMatch(MatchSet { rules }))),
    }
}

fn not(inner: ListenerFilterChainMatchPredicate) -> Option<ListenerFilterChainMatchPredicate> {
    Some(predicate(Rule::NotMatch(Box::new(inner))))
}

fn predicate(rule: Rule) -> ListenerFilterChainMatchPredicate {
    ListenerFilterChainMatchPredicate { rule: Some(rule) }
}
