//! Where a redirected connection was meant to go.

use std::net::SocketAddr;

use socket2::SockRef;

/// The address that the client of this accepted socket connected to, if the kernel knows better
/// than the socket's own (`local`): netfilter, which rewrote it (REDIRECT, DNAT), or the socket
/// itself, where it is transparent (TPROXY) and has kept it. `None`: nobody redirected the
/// connection, as far as can be known.
///
/// Where connections are tracked, netfilter answers for those too that it has not redirected; then
/// this is `local`.
pub fn original_destination<'s, S>(socket: &'s S, local: SocketAddr) -> Option<SocketAddr>
where
    SockRef<'s>: From<&'s S>,
{
    let socket = SockRef::from(socket);
    // IPv4 through an IPv6 socket is IPv4 to netfilter.
    let (tracked, transparent) = match local.ip().to_canonical().is_ipv4() {
        true => (socket.original_dst_v4(), socket.ip_transparent_v4()),
        false => (socket.original_dst_v6(), socket.ip_transparent_v6()),
    };
    let tracked = tracked.ok().and_then(|address| address.as_socket());
    tracked.or_else(|| transparent.unwrap_or(false).then_some(local))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_nobody_redirected_went_where_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped {address}: this machine has no IPv6");
                continue;
            };
            let local = listener.local_addr().unwrap();
            let _client = TcpStream::connect(local).unwrap();
            let (server, _) = listener.accept().unwrap();
            let found = original_destination(&server, local);
            assert!(found.is_none_or(|found| found == local), "{found:?}");
        }
    }
}
