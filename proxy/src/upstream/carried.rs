//! What an upstream connection has of the downstream connection that it is for. Others, which come
//! from elsewhere, cannot share it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use crate::{config::cluster::TransportSocket, io::Live, proxy_protocol::Ends};

/// A downstream connection, as far as upstream connections show it.
#[derive(Clone, Copy, Debug)]
pub struct DownstreamEnd<'a> {
    pub live: &'a Rc<Live>,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// Upstream connections come from the client's address, with this SO_MARK; 0: with none.
    pub source_mark: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Carried {
    /// What the PROXY protocol tells of it, where it is spoken.
    pub(super) ends: Option<Ends>,
    pub(super) source: Option<Source>,
}

/// Whose address an upstream connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) ip: IpAddr,
    /// SO_MARK, by which the kernel finds the way of the answers; 0: none.
    pub(super) mark: u32,
}

impl Carried {
    /// `None`: nothing, as nearly always.
    pub(super) fn of(socket: Option<&TransportSocket>, end: &DownstreamEnd<'_>) -> Option<Self> {
        let tells = socket.is_some_and(|socket| socket.proxy_protocol.is_some());
        if !tells && end.source_mark.is_none() {
            return None;
        }
        Some(Self {
            ends: tells.then(|| Ends::new(end.remote, end.local)),
            source: end.source_mark.map(|mark| Source {
                ip: end.remote.ip().to_canonical(),
                mark,
            }),
        })
    }
}
