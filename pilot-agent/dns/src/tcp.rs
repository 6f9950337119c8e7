//! DNS over TCP (RFC 7766): queries one after the other without waiting, answers as they come.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use crate::{
    query::{Transport, Verdict},
    service::Service,
};

/// All clients are in one Pod.
const MAX_CONNECTIONS: usize = 256;
/// Queries of one connection that may be under way upstream; the next is read when one is done.
const MAX_PIPELINED: usize = 32;
/// How long a connection may stay without a query (RFC 7766 advises a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to read an answer.
const WRITE: Duration = Duration::from_secs(5);
/// After a failed accept, so that a lasting failure does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);
/// The length before each message.
const LENGTH_BYTES: usize = 2;

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, service: Arc<Service>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let service = Arc::clone(&service);
        connections.spawn(async move {
            if let Err(error) = connection(stream, client, &service).await {
                debug!(%client, %error, "a connection ends");
            }
            drop(permit);
        });
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    service: &Service,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut messages = Messages {
        reader,
        buffer: BytesMut::new(),
    };
    let mut forwarded = FuturesUnordered::<BoxFuture<'_, Vec<u8>>>::new();
    loop {
        let message = tokio::select! {
            biased;
            Some(answer) = forwarded.next() => {
                write(&mut writer, &answer).await?;
                continue;
            }
            message = timeout(IDLE, messages.next()), if forwarded.len() < MAX_PIPELINED => message,
        };
        let message = match message {
            Ok(message) => message?,
            // Who waits for an answer is not idle.
            Err(_) if !forwarded.is_empty() => continue,
            Err(_) => None,
        };
        let Some(message) = message else {
            break;
        };
        match service.judge(&message, Transport::Tcp) {
            Verdict::Reply(reply) => write(&mut writer, &reply).await?,
            Verdict::Forward(query) => {
                forwarded.push(async move { service.upstream.ask(&query).await }.boxed());
            }
            Verdict::Drop => {
                debug!(%client, "no query");
                return Ok(());
            }
        }
    }
    // A client may close its side and still want its answers.
    while let Some(answer) = forwarded.next().await {
        write(&mut writer, &answer).await?;
    }
    Ok(())
}

struct Messages<'a> {
    reader: ReadHalf<'a>,
    buffer: BytesMut,
}

impl Messages<'_> {
    /// The next message, or `None` at the end. What was read is kept if this is dropped.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(length) = self.buffer.first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if self.buffer.len() >= LENGTH_BYTES + length {
                    self.buffer.advance(LENGTH_BYTES);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

async fn write(writer: &mut WriteHalf<'_>, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(LENGTH_BYTES + message.len());
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    timeout(WRITE, writer.write_all(&frame)).await?
}
