//! Questions that are not ours, forwarded as they are to the servers that the workload would have asked.
//!
//! Each goes out with a random id from a socket of its own, whose port the kernel chooses at random
//! (RFC 5452), and only what its server answers to its question comes back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_proto::{
    op::{Header, MessageType, Query as Question, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tracing::debug;

use crate::{
    query::{Query, Transport},
    reply,
};

/// Queries under way upstream, each with a socket or, in parallel, one for each server. A workload's
/// resolver waits for each of its own, so that more than this is a flood.
const MAX_UNDER_WAY: usize = 1024;

#[derive(Debug)]
pub(crate) struct Upstream {
    servers: Vec<SocketAddr>,
    parallel: bool,
    /// For each server.
    timeout: Duration,
    under_way: Semaphore,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// Why a server gave no answer that could be passed on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("an answer of more than {0} bytes, which are all that were asked for")]
    Oversize(u16),
}

impl Upstream {
    pub(crate) fn new(servers: Vec<SocketAddr>, parallel: bool, timeout: Duration) -> Self {
        Self {
            servers,
            parallel,
            timeout,
            under_way: Semaphore::new(MAX_UNDER_WAY),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The first answer that a server gives, else SERVFAIL.
    pub(crate) async fn ask(&self, query: &Query) -> Vec<u8> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = match self.under_way.try_acquire() {
            Ok(_permit) if self.parallel => self.ask_all(query).await,
            Ok(_permit) => self.ask_in_turn(query).await,
            Err(_) => {
                debug!(limit = MAX_UNDER_WAY, "too many queries are under way");
                None
            }
        };
        answer.unwrap_or_else(|| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            query.failure()
        })
    }

    async fn ask_in_turn(&self, query: &Query) -> Option<Vec<u8>> {
        let mut servers = self.servers.clone();
        fastrand::shuffle(&mut servers);
        for server in servers {
            if let Some(answer) = self.ask_one(query, server).await {
                return Some(answer);
            }
        }
        None
    }

    async fn ask_all(&self, query: &Query) -> Option<Vec<u8>> {
        let asked = self
            .servers
            .iter()
            .map(|server| self.ask_one(query, *server));
        let answers: FuturesUnordered<_> = asked.collect();
        answers.filter_map(std::future::ready).next().await
    }

    async fn ask_one(&self, query: &Query, server: SocketAddr) -> Option<Vec<u8>> {
        let answer = match query.transport {
            Transport::Udp => timeout(self.timeout, over_udp(query, server)).await,
            Transport::Tcp => timeout(self.timeout, over_tcp(query, server)).await,
        };
        match answer.map_err(Failure::from).flatten() {
            Ok(mut answer) => {
                set_id(&mut answer, query.message.id);
                Some(answer)
            }
            Err(failure) => {
                debug!(%server, %failure, "an upstream server fails");
                None
            }
        }
    }
}

/// As Istio's agent does, an answer that is longer than the client can take counts as none, unless it
/// says itself that it is cut off: the client then comes back over TCP.
async fn over_udp(query: &Query, server: SocketAddr) -> Result<Vec<u8>, Failure> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From here on the kernel passes on what comes from this server, and that alone.
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&with_id(&query.bytes, id)).await?;
    let limit = usize::from(query.limit());
    loop {
        let mut answer = Vec::with_capacity(limit + 1);
        socket.recv_buf(&mut answer).await?;
        match matching(&answer, query, id) {
            None => debug!(%server, "not an answer to the question"),
            Some(_) if answer.len() <= limit => return Ok(answer),
            Some(Matching { cut_off: true, end }) => {
                return reply::cut_off(&answer, end).ok_or(Failure::Oversize(query.limit()));
            }
            Some(_) => return Err(Failure::Oversize(query.limit())),
        }
    }
}

async fn over_tcp(query: &Query, server: SocketAddr) -> Result<Vec<u8>, Failure> {
    let mut stream = TcpStream::connect(server).await?;
    let id = rand::random();
    let length = u16::try_from(query.bytes.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(with_id(&query.bytes, id));
    stream.write_all(&frame).await?;
    loop {
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        if matching(&answer, query, id).is_some() {
            return Ok(answer);
        }
        debug!(%server, "not an answer to the question");
    }
}

/// An answer to our question.
struct Matching {
    cut_off: bool,
    /// Where the question ends.
    end: usize,
}

/// A refusal may come without the question; it does no more harm than silence.
fn matching(answer: &[u8], query: &Query, id: u16) -> Option<Matching> {
    let mut decoder = BinDecoder::new(answer);
    let header = Header::read(&mut decoder).ok()?;
    if header.id != id
        || header.message_type != MessageType::Response
        || header.op_code != query.message.op_code
    {
        return None;
    }
    let asked = match header.counts.queries {
        0 => header.response_code != ResponseCode::NoError,
        1 => Question::read(&mut decoder).ok().as_ref() == query.message.queries.first(),
        _ => false,
    };
    asked.then(|| Matching {
        cut_off: header.truncation,
        end: decoder.index(),
    })
}

fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    set_id(&mut message, id);
    message
}

fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}
