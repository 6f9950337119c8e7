//! The listener filters: what is found out about a connection before a filter chain is chosen.

mod http;

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    task::ready,
};

use bytes::{Buf, BytesMut};
use http::Sniffed;
use ithildin_sys::original_dst::original_destination;
use ithildin_tls::{ClientHello, FirstBytes, MAX_CLIENT_HELLO, Protocols};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    config::{
        Listener,
        listener::{ConnectionInfo, ListenerFilter, ListenerFilterKind},
    },
    io::Socket,
    proxy_protocol::{self, Accepted, Ends, Found, ProxyProtocolError, Version},
    stats::ProxyProtocolBlock,
    worker::{Findings, Worker},
};

/// Room for one read, in bytes: a post-quantum ClientHello and many a request head fit.
const READ_SIZE: usize = 2048;

/// A connection on its way to a filter chain.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: Socket,
    /// What was read so far.
    pub(super) read: BytesMut,
    /// Where the client connected to, as far as is known.
    pub(super) local: SocketAddr,
    /// Whether `local` is the original destination, and not only the socket's own address.
    pub(super) restored: bool,
    /// The client, as far as a proxy before us tells of it.
    pub(super) remote: SocketAddr,
    /// Who connected to us.
    pub(super) direct_remote: SocketAddr,
    /// Upstream connections are to come from the client's address, with this mark.
    pub(super) source_mark: Option<u32>,
    pub(super) hello: Option<ClientHello>,
    /// What the HTTP inspector saw.
    sniffed: Protocols<'static>,
}

/// Why a connection goes no further.
enum Stop {
    /// The client left without a word.
    Left,
    Broken(io::Error),
}

impl Arrival {
    pub(super) fn new(stream: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            local: stream.local_addr()?,
            restored: false,
            remote,
            direct_remote: remote,
            source_mark: None,
            socket: Socket::Tcp(stream),
            read: BytesMut::new(),
            hello: None,
            sniffed: Protocols::default(),
        })
    }

    /// Runs the listener's filters within their time; false if the connection is to be closed.
    pub(super) async fn inspect(&mut self, worker: &Worker, listener: &Listener) -> bool {
        let filters = &listener.filters;
        if filters.filters.is_empty() {
            return true;
        }
        let stats = listener.stats.worker(worker.index);
        stats.downstream_pre_cx_active.inc();
        let run = self.run(&filters.filters, worker.index);
        let outcome = worker.timers.timeout(filters.timeout, run).await;
        stats.downstream_pre_cx_active.dec();
        match outcome {
            Some(Ok(())) => true,
            Some(Err(Stop::Left)) => {
                stats.downstream_listener_filter_remote_close.inc();
                false
            }
            Some(Err(Stop::Broken(error))) => {
                stats.downstream_listener_filter_error.inc();
                tracing::debug!(listener = %listener.name, %error, "listener filters failed");
                false
            }
            None => {
                stats.downstream_pre_cx_timeout.inc();
                filters.continue_on_timeout
            }
        }
    }

    /// What filter chains are matched on.
    pub(super) fn info(&self) -> ConnectionInfo<'_> {
        ConnectionInfo {
            local: self.local,
            remote: self.remote,
            direct_remote: self.direct_remote,
            server_name: self.server_name(),
            tls: self.hello.is_some(),
            application_protocols: self.hello.as_ref().map_or(self.sniffed, ClientHello::alpn),
        }
    }

    pub(super) fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.server_name()
    }

    /// What there is to remember of it, if anything.
    pub(super) fn findings(&self) -> Option<Box<Findings>> {
        let any = self.remote != self.direct_remote || self.source_mark.is_some();
        any.then(|| {
            Box::new(Findings {
                direct_remote: self.direct_remote,
                source_mark: self.source_mark,
            })
        })
    }

    async fn run(&mut self, filters: &[ListenerFilter], worker: usize) -> Result<(), Stop> {
        for filter in filters.iter() {
            // The filters before may have restored the destination.
            if !filter.applies(self.local) {
                continue;
            }
            match &filter.kind {
                ListenerFilterKind::OriginalDst => self.restore_destination(),
                ListenerFilterKind::TlsInspector => self.inspect_tls().await?,
                ListenerFilterKind::HttpInspector => self.inspect_http().await?,
                ListenerFilterKind::ProxyProtocol(accepted, stats) => {
                    self.read_proxy_header(*accepted, stats.worker(worker))
                        .await?;
                }
                ListenerFilterKind::OriginalSrc { mark } => self.source_mark = Some(*mark),
            }
        }
        Ok(())
    }

    fn restore_destination(&mut self) {
        let Socket::Tcp(socket) = &self.socket else {
            return;
        };
        if let Some(destination) = original_destination(socket, self.local) {
            self.local = destination;
            self.restored = true;
        }
    }

    async fn read_proxy_header(
        &mut self,
        accepted: Accepted,
        stats: &ProxyProtocolBlock,
    ) -> Result<(), Stop> {
        loop {
            let found = proxy_protocol::read(&self.read, accepted);
            count_proxy_header(stats, &self.read, found);
            match found.map_err(io::Error::other)? {
                Found::Header { length, ends } => {
                    self.read.advance(length);
                    ends.into_iter().for_each(|ends| self.stands_for(ends));
                    return Ok(());
                }
                Found::Absent => return Ok(()),
                Found::Incomplete => {}
            }
            if self.fill().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Takes the ends of the connection that a proxy before us has.
    fn stands_for(&mut self, ends: Ends) {
        self.remote = ends.source;
        if self.local != ends.destination {
            self.local = ends.destination;
            self.restored = true;
        }
    }

    async fn inspect_tls(&mut self) -> Result<(), Stop> {
        loop {
            match ClientHello::read(&self.read) {
                FirstBytes::Tls(hello) => {
                    self.hello = Some(hello);
                    return Ok(());
                }
                FirstBytes::Other => return Ok(()),
                FirstBytes::Incomplete if self.read.len() > MAX_CLIENT_HELLO => {
                    let error = "the peer's ClientHello is longer than 16 KiB";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error).into());
                }
                FirstBytes::Incomplete => {}
            }
            if self.fill().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn inspect_http(&mut self) -> Result<(), Stop> {
        if self.hello.is_some() {
            return Ok(());
        }
        loop {
            match http::sniff(&self.read) {
                Sniffed::Http(version) => {
                    self.sniffed = version;
                    return Ok(());
                }
                Sniffed::Other => return Ok(()),
                Sniffed::Incomplete => {}
            }
            // Half a line and no more to come: not HTTP, but perhaps all that there is to say.
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads more, and says how much; 0 at the end of a stream that had bytes. No buffer is held
    /// before there is something to read.
    async fn fill(&mut self) -> Result<usize, Stop> {
        let filled = poll_fn(|cx| {
            ready!(self.socket.poll_readable(cx))?;
            self.read.reserve(READ_SIZE);
            pin!(self.socket.read_buf(&mut self.read)).poll(cx)
        });
        match filled.await? {
            0 if self.read.is_empty() => Err(Stop::Left),
            count => Ok(count),
        }
    }
}

/// As Envoy counts: a version that is not allowed was found, too.
fn count_proxy_header(
    stats: &ProxyProtocolBlock,
    bytes: &[u8],
    found: Result<Found, ProxyProtocolError>,
) {
    let of_version = match proxy_protocol::version(bytes) {
        Some(Version::V1) => Some(&stats.v1),
        Some(Version::V2) => Some(&stats.v2),
        None => None,
    };
    match (found, of_version) {
        (Ok(Found::Incomplete), _) => {}
        (Ok(Found::Absent), _) => stats.not_found_allowed.inc(),
        (Err(_), None) | (Err(ProxyProtocolError::Long), _) => stats.not_found_disallowed.inc(),
        (Ok(Found::Header { .. }), known) => known.into_iter().for_each(|it| it.found.inc()),
        (Err(ProxyProtocolError::Disallowed(_)), Some(known)) => {
            known.found.inc();
            known.disallowed.inc();
        }
        (Err(_), Some(known)) => known.error.inc(),
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}
