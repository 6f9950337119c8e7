//! The access logs of connections: a listener's, one line for each connection, whether it got as
//! far as a filter chain or not; and a TCP proxy's, one line for each connection of its chain.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use uuid::{Builder, Uuid};

use super::{inspect::Arrival, session::Accepted};
use crate::{
    access_log::{AccessLogs, Downstream, Entry, Occasion, ResponseFlags},
    config::{FilterChain, Listener, listener::Terminal},
    io::Live,
    tcp::SessionRecord,
    worker::{Connection, Worker},
};

/// What is known of a connection so far; boxed, since most connections are not logged.
pub(super) struct ConnectionLog {
    listener: Arc<Listener>,
    known: Option<Box<Known>>,
    start: Start,
}

/// What is known of every connection from its start.
#[derive(Clone, Copy)]
struct Start {
    at: Instant,
    id: u64,
    direct_remote: SocketAddr,
    remote: SocketAddr,
    local: Option<SocketAddr>,
}

#[derive(Default)]
struct Known {
    server_name: Option<Box<str>>,
    chain: Option<Arc<FilterChain>>,
    no_chain: bool,
    transport_failure: Option<String>,
    connection: Option<Rc<Connection>>,
    session: SessionRecord,
}

impl ConnectionLog {
    pub(super) fn start(accepted: &Accepted) -> Self {
        let listener = &accepted.listener;
        let logged = listener.logs_connections;
        Self {
            listener: Arc::clone(listener),
            known: logged.then(Box::default),
            start: Start {
                at: Instant::now(),
                id: accepted.id,
                direct_remote: accepted.remote,
                remote: accepted.remote,
                local: logged.then(|| accepted.stream.local_addr().ok()).flatten(),
            },
        }
    }

    /// From here on the line is for another listener to write.
    pub(super) fn handed_to(&mut self, listener: &Arc<Listener>, arrival: &Arrival) {
        self.start.moved_to(arrival);
        self.listener = Arc::clone(listener);
        self.known = listener.logs_connections.then(Box::default);
    }

    /// Which chain of which listener serves it, if one does.
    pub(super) fn matched(
        &mut self,
        listener: &Arc<Listener>,
        arrival: &Arrival,
        chain: Option<&Arc<FilterChain>>,
    ) {
        if !Arc::ptr_eq(&self.listener, listener) {
            self.handed_to(listener, arrival);
        }
        self.start.moved_to(arrival);
        self.note(|known| {
            known.server_name = arrival.server_name().map(Box::from);
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
        self.known.as_mut().map(|known| &mut known.session)
    }

    /// Writes the lines, at the connection's end.
    pub(super) fn write(&self, worker: &Rc<Worker>, live: &Live) {
        let Some(known) = &self.known else {
            return;
        };
        let closed = live.close_reason().map(ToString::to_string);
        let mut entry = known.entry(&self.start);
        entry.connection_termination_details = closed.as_deref();
        if let Some(logs) = known.proxy_log() {
            entry.session_id = Some(session_id());
            entry.occasion = Occasion::SessionEnd;
            logs.log(worker, &entry);
            entry.occasion = Occasion::Unspecified;
        }
        self.listener.access_log.log(worker, &entry);
    }

    fn note(&mut self, note: impl FnOnce(&mut Known)) {
        if let Some(known) = &mut self.known {
            note(known);
        }
    }
}

impl Start {
    /// The ends that the listener filters have found.
    fn moved_to(&mut self, arrival: &Arrival) {
        self.remote = arrival.remote;
        self.local = Some(arrival.local);
    }
}

impl Known {
    fn entry(&self, start: &Start) -> Entry<'_> {
        let age = start.at.elapsed();
        let mut entry = Entry::new(SystemTime::now() - age);
        entry.durations.total = Some(age);
        entry.filter_chain = self.chain.as_ref().map(|chain| &*chain.name);
        self.session.describe(&mut entry);
        entry.downstream = match &self.connection {
            Some(connection) => connection.log_info(),
            None => Downstream {
                direct_remote: Some(start.direct_remote),
                remote: Some(start.remote),
                local: start.local,
                server_name: self.server_name.as_deref(),
                connection_id: start.id,
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

/// Nobody but readers of logs goes by it.
fn session_id() -> Uuid {
    let random = fastrand::u128(..).to_ne_bytes();
    Builder::from_random_bytes(random).into_uuid()
}
