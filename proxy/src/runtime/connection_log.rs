//! The access logs of connections: a listener's, one line for each connection, whether it got as
//! far as a filter chain or not; and a TCP proxy's, one line for each connection of its chain.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::session::Accepted;
use crate::{
    access_log::{AccessLogs, Downstream, Entry, ResponseFlags},
    config::{FilterChain, Listener, listener::Terminal},
    io::Live,
    tcp::SessionRecord,
    worker::Connection,
};

/// What is known of a connection so far; boxed, since most connections are not logged.
pub(super) struct ConnectionLog(Option<Box<Known>>);

struct Known {
    since: Instant,
    id: u64,
    remote: SocketAddr,
    local: Option<SocketAddr>,
    server_name: Option<Box<str>>,
    chain: Option<Arc<FilterChain>>,
    no_chain: bool,
    transport_failure: Option<String>,
    connection: Option<Rc<Connection>>,
    session: SessionRecord,
}

impl ConnectionLog {
    pub(super) fn start(accepted: &Accepted, since: Instant) -> Self {
        let logged = accepted.listener.logs_connections;
        let known = || {
            Box::new(Known {
                since,
                id: accepted.id,
                remote: accepted.remote,
                local: accepted.stream.local_addr().ok(),
                server_name: None,
                chain: None,
                no_chain: false,
                transport_failure: None,
                connection: None,
                session: SessionRecord::default(),
            })
        };
        Self(logged.then(known))
    }

    pub(super) fn asked_for(&mut self, server_name: Option<&str>) {
        self.note(|known| known.server_name = server_name.map(Box::from));
    }

    pub(super) fn matched(&mut self, chain: Option<&Arc<FilterChain>>) {
        self.note(|known| {
            known.no_chain = chain.is_none();
            known.chain = chain.cloned();
        });
    }

    /// The TLS handshake failed; `reason` is Envoy's `DOWNSTREAM_TRANSPORT_FAILURE_REASON`.
    pub(super) fn refused(&mut self, reason: String) {
        self.note(|known| known.transport_failure = Some(reason));
    }

    pub(super) fn established(&mut self, connection: &Rc<Connection>) {
        self.note(|known| known.connection = Some(Rc::clone(connection)));
    }

    /// Where a TCP session writes down what becomes of it.
    pub(super) fn session(&mut self) -> Option<&mut SessionRecord> {
        self.0.as_mut().map(|known| &mut known.session)
    }

    /// Writes the lines, at the connection's end.
    pub(super) fn write(&self, listener: &Listener, live: &Live) {
        let Some(known) = &self.0 else {
            return;
        };
        let closed = live.close_reason().map(ToString::to_string);
        let mut entry = known.entry();
        entry.connection_termination_details = closed.as_deref();
        if let Some(logs) = known.proxy_log() {
            logs.log(&entry);
        }
        listener.access_log.log(&entry);
    }

    fn note(&mut self, note: impl FnOnce(&mut Known)) {
        if let Some(known) = &mut self.0 {
            note(known);
        }
    }
}

impl Known {
    fn entry(&self) -> Entry<'_> {
        let age = self.since.elapsed();
        let mut entry = Entry::new(SystemTime::now() - age);
        entry.durations.total = Some(age);
        entry.filter_chain = self.chain.as_ref().map(|chain| &*chain.name);
        self.session.describe(&mut entry);
        entry.downstream = match &self.connection {
            Some(connection) => connection.log_info(),
            None => Downstream {
                direct_remote: Some(self.remote),
                remote: Some(self.remote),
                local: self.local,
                server_name: self.server_name.as_deref(),
                connection_id: self.id,
                tls: None,
                transport_failure: self.transport_failure.as_deref(),
            },
        };
        if self.no_chain {
            entry.flags = ResponseFlags::NO_ROUTE_FOUND;
            entry.response_code_details = Some("filter_chain_not_found");
        }
        entry
    }

    fn proxy_log(&self) -> Option<&AccessLogs> {
        match &self.chain.as_ref()?.terminal {
            Terminal::Tcp(proxy) => Some(&proxy.access_log),
            Terminal::Http(_) => None,
        }
    }
}
