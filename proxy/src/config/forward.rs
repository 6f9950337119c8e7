//! Hosts that requests name (`envoy.clusters.dynamic_forward_proxy`): workers ask for their addresses, and the
//! control runtime finds them and keeps them fresh for as long as somebody asks.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

/// What a name leads to, as it is known now. Who holds it keeps the name known.
pub type Known = watch::Receiver<Resolution>;

/// A host of a request, and the port where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedHost<'a> {
    /// In lower case, without brackets.
    pub name: &'a str,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub enum Resolution {
    Pending,
    /// One at least.
    Addresses(Arc<[IpAddr]>),
    Failed(Arc<str>),
}

/// How a worker asks for a name. `None` comes back if there are too many already.
#[derive(Debug)]
pub struct Question {
    pub name: Arc<str>,
    pub answer: oneshot::Sender<Option<Known>>,
}

/// A cluster's way to the names that its requests bring.
#[derive(Debug)]
pub struct Forward {
    pub questions: mpsc::Sender<Question>,
    /// How long a name is kept that no request brings (`host_ttl`).
    pub host_ttl: Duration,
    /// For a first answer (`dns_query_timeout`).
    pub query_timeout: Duration,
    /// Requests of one worker that wait for one (`max_pending_requests`).
    pub max_pending: u32,
}
