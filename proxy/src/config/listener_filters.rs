//! Listener filters (`envoy.config.listener.v3.ListenerFilter`): what is found out about a
//! connection before a filter chain is chosen.

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use crate::{proxy_protocol, stats::ProxyProtocolStats};

/// A listener's filters, and how long all of them may take.
#[derive(Debug, Default)]
pub struct ListenerFilters {
    /// In the order in which they run.
    pub filters: Vec<ListenerFilter>,
    /// `None`: no limit.
    pub timeout: Option<Duration>,
    /// Whether a connection goes on, with what is known by then, when that time is over.
    pub continue_on_timeout: bool,
}

#[derive(Debug)]
pub struct ListenerFilter {
    pub kind: ListenerFilterKind,
    /// Connections that the filter passes over.
    pub disabled: Option<ListenerPredicate>,
}

#[derive(Clone, Debug)]
pub enum ListenerFilterKind {
    /// Restores where the client meant to go before the kernel redirected it.
    OriginalDst,
    /// Tells TLS from other bytes, and reads SNI and ALPN.
    TlsInspector,
    /// Tells HTTP from other plaintext, and its version.
    HttpInspector,
    /// Takes the ends of the connection from what a proxy before us says of them.
    ProxyProtocol(proxy_protocol::Accepted, Arc<ProxyProtocolStats>),
    /// Lets upstream connections come from the client's own address, with this SO_MARK; 0: with
    /// none.
    OriginalSrc { mark: u32 },
}

/// `ListenerFilterChainMatchPredicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerPredicate {
    Any,
    /// By the destination as it is known when the filter's turn comes. The end is exclusive, and
    /// may lie one beyond the last port.
    DestinationPorts(Range<u32>),
    Not(Box<Self>),
    AnyOf(Vec<Self>),
    AllOf(Vec<Self>),
}

impl ListenerFilters {
    /// One filter of this kind, for all connections.
    pub fn only(kind: ListenerFilterKind) -> Self {
        let filter = ListenerFilter {
            kind,
            disabled: None,
        };
        Self {
            filters: vec![filter],
            ..Self::default()
        }
    }
}

impl ListenerFilter {
    /// Whether the filter looks at a connection to this address.
    pub fn applies(&self, destination: SocketAddr) -> bool {
        let disabled = self.disabled.as_ref();
        !disabled.is_some_and(|predicate| predicate.matches(destination))
    }
}

impl ListenerPredicate {
    pub fn matches(&self, destination: SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::DestinationPorts(ports) => ports.contains(&destination.port().into()),
            Self::Not(rule) => !rule.matches(destination),
            Self::AnyOf(rules) => rules.iter().any(|rule| rule.matches(destination)),
            Self::AllOf(rules) => rules.iter().all(|rule| rule.matches(destination)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ListenerPredicate as Is, *};

    #[test]
    fn predicates_combine() {
        let port = |port: u32| Is::DestinationPorts(port..port + 1);
        let not = |rule| Is::Not(Box::new(rule));
        let cases = [
            (Is::Any, 1, true),
            (not(Is::Any), 1, false),
            (port(80), 80, true),
            (port(80), 81, false),
            (port(65535), 65535, true),
            (Is::DestinationPorts(10..20), 20, false),
            (Is::DestinationPorts(10..20), 10, true),
            (Is::AnyOf(vec![port(1), port(2)]), 2, true),
            (Is::AnyOf(vec![port(1), port(2)]), 3, false),
            (Is::AllOf(vec![port(1), port(2)]), 2, false),
            (Is::AllOf(vec![not(port(1)), not(port(2))]), 3, true),
            (Is::AllOf(vec![not(port(1)), not(port(2))]), 1, false),
        ];
        for (predicate, port, expected) in cases {
            let destination = SocketAddr::from(([10, 0, 0, 1], port));
            assert_eq!(
                predicate.matches(destination),
                expected,
                "{predicate:?} {port}"
            );
        }
    }
}
