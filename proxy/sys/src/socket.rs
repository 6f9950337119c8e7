//! Listening sockets, one per worker where the kernel spreads connections over them.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that the kernel completes before we accept them; Envoy's default on Linux, and
/// capped there by `net.core.somaxconn`.
pub const DEFAULT_BACKLOG: u32 = 4096;

/// How to open a TCP listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// SO_REUSEPORT: several sockets on one address, and the kernel spreads connections over them.
    pub reuse_port: bool,
    pub backlog: u32,
    /// IP_FREEBIND: bind an address that no interface has yet.
    pub freebind: bool,
    /// IP_TRANSPARENT: bind an address that is not ours; needs CAP_NET_ADMIN.
    pub transparent: bool,
    /// An IPv6 socket takes IPv4 connections too (Envoy's `ipv4_compat`).
    pub ipv4_compat: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            reuse_port: true,
            backlog: DEFAULT_BACKLOG,
            freebind: false,
            transparent: false,
            ipv4_compat: false,
        }
    }
}

/// Opens a non-blocking TCP listening socket.
///
/// TCP_NODELAY is set on it and inherited by accepted sockets, which saves a call per connection.
/// Port 0 asks for a free port; bind the other workers to the port that `local_addr` then names.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and listen(2), with the address in the text.
pub fn listen(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    open(addr, options)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

fn open(addr: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!options.ipv4_compat)?;
        socket.set_freebind_v6(options.freebind)?;
        if options.transparent {
            socket.set_ip_transparent_v6(true)?;
        }
    } else {
        socket.set_freebind_v4(options.freebind)?;
        if options.transparent {
            socket.set_ip_transparent_v4(true)?;
        }
    }
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Opens a non-blocking Unix listening socket with the permission bits `mode`.
///
/// A socket that nobody listens on any more is replaced. A live one, or a file of another kind, is
/// left alone and is an error.
///
/// # Errors
/// `AddrInUse`, or those of bind(2), listen(2) and chmod(2), with the path in the text.
pub fn listen_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    open_unix(path, mode).map_err(|error| {
        let path = path.display();
        io::Error::new(error.kind(), format!("cannot listen on {path}: {error}"))
    })
}

fn open_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let _alone = lock_folder(path);
    remove_dead_socket(path)?;
    let socket = unix_socket()?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before anybody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(i32::try_from(DEFAULT_BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// How often the lock of a folder is tried, and the pause between: it is held for less than that.
const LOCK_ATTEMPTS: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Keeps others who open sockets there away until it is dropped: of two processes that find one dead
/// socket, the second would remove the first one's new one. Without the lock, because the folder cannot
/// be read or a stranger holds it, things are only as good as without it.
fn lock_folder(path: &Path) -> Option<fs::File> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::File::open(folder.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(_)) => break,
        }
    }
    None
}

fn unix_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a file that is not a socket is there",
        ));
    }
    match unix_socket()?.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It would block: somebody listens, and is behind with accepting.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, Ipv6Addr, TcpStream},
        os::unix::net::UnixStream,
        sync::Barrier,
    };

    use super::*;

    fn accept(listener: &TcpListener) -> TcpStream {
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap().0
    }

    #[test]
    fn two_workers_share_a_port() {
        let options = ListenOptions::default();
        let first = listen((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
        let second = listen(first.local_addr().unwrap(), &options).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }

    #[test]
    fn without_reuse_port_the_second_is_refused_by_name() {
        let options = ListenOptions {
            reuse_port: false,
            ..ListenOptions::default()
        };
        let first = listen((Ipv4Addr::LOCALHOST, 0).into(), &options).unwrap();
        let addr = first.local_addr().unwrap();
        let error = listen(addr, &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }

    #[test]
    fn accepted_sockets_inherit_no_delay() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = accept(&listener);
        assert!(server.nodelay().unwrap());
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn the_listener_does_not_block() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn ipv6_takes_ipv4_only_when_asked() {
        for ipv4_compat in [false, true] {
            let options = ListenOptions {
                ipv4_compat,
                ..ListenOptions::default()
            };
            // One that nobody has on IPv4.
            let port = crate::port::unused().unwrap();
            let Ok(_listener) = listen((Ipv6Addr::UNSPECIFIED, port).into(), &options) else {
                println!("skipped: this machine has no IPv6");
                return;
            };
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
            let v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            assert_eq!(v4.is_ok(), ipv4_compat);
        }
    }

    #[test]
    fn freebind_takes_a_foreign_address() {
        // TEST-NET-1 (RFC 5737) is on no interface.
        let addr = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0));
        let options = ListenOptions::default();
        let error = listen(addr, &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let freebind = ListenOptions {
            freebind: true,
            ..options
        };
        listen(addr, &freebind).unwrap();
    }

    #[test]
    fn a_dead_unix_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(listen_unix(&path, 0o600).unwrap());
        assert!(path.exists());
        let listener = listen_unix(&path, 0o666).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_live_unix_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let _live = listen_unix(&path, 0o600).unwrap();
        let error = listen_unix(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process"), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    /// A blocking connect would wait until the other process accepts, which may be never.
    #[test]
    fn a_live_unix_socket_that_does_not_accept_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let busy = unix_socket().unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let error = listen_unix(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[test]
    fn of_many_that_find_a_dead_socket_one_gets_it() {
        const PROCESSES: usize = 8;
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s.sock");
            drop(listen_unix(&path, 0o600).unwrap());
            let start = Barrier::new(PROCESSES);
            let opened: Vec<_> = thread::scope(|scope| {
                let open = || {
                    start.wait();
                    listen_unix(&path, 0o600)
                };
                let tasks: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(open)).collect();
                tasks.into_iter().map(|task| task.join().unwrap()).collect()
            });
            let listeners: Vec<_> = opened.into_iter().flatten().collect();
            assert_eq!(listeners.len(), 1);
            let _client = UnixStream::connect(&path).unwrap();
            listeners[0].accept().unwrap();
        }
    }

    #[test]
    fn a_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = listen_unix(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
