//! Connecting to an endpoint that has several addresses (RFC 8305, "Happy Eyeballs").
//!
//! The next address is tried when one before it has failed or takes long; the first connection that
//! is open wins. Families take turns, beginning with that of the first address.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::net::TcpStream;

use super::{
    FailureKind,
    carried::Source,
    connect::{SocketFailure, open_tcp},
};
use crate::config::Cluster;

/// How long an address has for itself; Envoy's.
const ATTEMPT_DELAY: Duration = Duration::from_millis(300);

/// Within the cluster's connect timeout, which the caller keeps.
pub(super) async fn open(
    cluster: &Cluster,
    source: Option<Source>,
    first: SocketAddr,
    more: &[SocketAddr],
) -> Result<TcpStream, SocketFailure> {
    let mut left = in_turns(first, more);
    let mut tries = FuturesUnordered::new();
    let mut failure = (
        FailureKind::RemoteConnectionFailure,
        "no address".to_owned(),
    );
    loop {
        match left.pop_front() {
            Some(address) => tries.push(open_tcp(cluster, address, source)),
            None if tries.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(opened) = tries.next() => match opened {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if !left.is_empty() => {}
        }
    }
}

fn in_turns(first: SocketAddr, more: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let all = std::iter::once(first).chain(more.iter().copied());
    let same = |it: &SocketAddr| it.is_ipv4() == first.is_ipv4();
    let (mut own, mut other): (VecDeque<_>, VecDeque<_>) = all.partition(same);
    let mut turns = VecDeque::with_capacity(own.len() + other.len());
    while !own.is_empty() || !other.is_empty() {
        turns.extend(own.pop_front());
        turns.extend(other.pop_front());
    }
    turns
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let more = ["10.0.0.2:1", "[::1]:1", "[::2]:1", "[::3]:1"].map(address);
        let turns: Vec<_> = in_turns(address("10.0.0.1:1"), &more).into();
        let expected = ["10.0.0.1:1", "[::1]:1", "10.0.0.2:1", "[::2]:1", "[::3]:1"];
        assert_eq!(turns, expected.map(address));
    }

    #[tokio::test]
    async fn an_address_that_fails_leaves_the_others() {
        let cluster = testing::cluster("c", &[]);
        let refused = ithildin_sys::port::refusing().unwrap();
        let alive = TcpListener::bind(testing::ANY).await.unwrap();
        let address = alive.local_addr().unwrap();
        let stream = open(&cluster, None, refused, &[address])
            .await
            .expect("one is alive");
        assert_eq!(stream.peer_addr().unwrap(), address);
        let (kind, reason) = open(&cluster, None, refused, &[refused]).await.unwrap_err();
        assert_eq!(kind, FailureKind::RemoteConnectionFailure);
        assert_eq!(reason, "delayed connect error: Connection refused");
    }
}
