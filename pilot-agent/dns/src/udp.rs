//! DNS over UDP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, task::JoinSet};
use tracing::debug;

use crate::{
    query::{Transport, Verdict},
    reply::MAX_DATAGRAM,
    service::Service,
};

/// After an error of the socket itself, so that a lasting one does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped. Answers from the table go out at once; what is forwarded is waited for
/// in tasks, of which [`crate::upstream`] bounds the number.
pub(crate) async fn serve(socket: UdpSocket, service: Arc<Service>) {
    let socket = Arc::new(socket);
    let mut forwarded = JoinSet::new();
    // A longer query is cut off by the kernel, and malformed.
    let mut buffer = vec![0; usize::from(MAX_DATAGRAM)];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "cannot receive");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while forwarded.try_join_next().is_some() {}
        match service.judge(&buffer[..length], Transport::Udp) {
            Verdict::Drop => debug!(%client, length, "no query"),
            Verdict::Reply(reply) => log(socket.send_to(&reply, client).await, client),
            Verdict::Forward(query) => {
                let (socket, service) = (Arc::clone(&socket), Arc::clone(&service));
                forwarded.spawn(async move {
                    let answer = service.upstream.ask(&query).await;
                    log(socket.send_to(&answer, client).await, client);
                });
            }
        }
    }
}

fn log(sent: io::Result<usize>, client: SocketAddr) {
    if let Err(error) = sent {
        debug!(%client, %error, "cannot reply");
    }
}
