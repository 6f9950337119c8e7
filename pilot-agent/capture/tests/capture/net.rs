//! A Pod and the world outside, as two network namespaces with a link. Needs root.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Gid, Uid},
    thread::{
        LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use socket2::{Domain, Socket, Type};

/// The Pod's addresses.
pub(crate) const POD: &str = "10.77.0.2";
pub(crate) const POD_V6: &str = "fd77::2";
/// Those of the world's end of the link.
pub(crate) const OUTSIDE: &str = "10.77.0.1";
pub(crate) const OUTSIDE_V6: &str = "fd77::1";
/// Further addresses of the world, which the Pod reaches by its default route.
const SERVERS: [&str; 4] = ["192.0.2.10", "192.0.2.130", "198.51.100.1", "2001:db8::10"];

pub(crate) const ROOT: Id = Id(0, 0);
pub(crate) const APP: Id = Id(1000, 1000);
pub(crate) const PROXY: Id = Id(1337, 1337);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A user and a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) u32, pub(crate) u32);

pub(crate) struct Namespace {
    holder: Child,
    file: File,
}

impl Namespace {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = holder.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "a network namespace needs root and iproute2"
        );
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        Self { holder, file }
    }

    /// Its path.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// What `body` returns inside. Sockets that it makes stay inside.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), kind).unwrap();
                body()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Namespace::enter`], as `id` and without capabilities unless it is root.
    pub(crate) fn enter_as<T: Send>(&self, id: Id, body: impl FnOnce() -> T + Send) -> T {
        self.enter(|| {
            let (user, group) = (Uid::from_raw(id.0), Gid::from_raw(id.1));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
            body()
        })
    }

    /// Runs a command inside, which must succeed, and returns what it prints.
    pub(crate) fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.enter(|| Command::new(words[0]).args(&words[1..]).output().unwrap());
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn listen(&self, address: &str, port: u16) -> TcpListener {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let listener = self.enter(|| TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        listener
    }

    /// A listener that takes connections to addresses of others.
    pub(crate) fn listen_transparent(&self, address: &str, port: u16) -> TcpListener {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(|| {
            let socket = transparent(address);
            socket.set_reuse_address(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(16).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.into()
        })
    }

    /// A socket of `id`, which owns what it sends.
    pub(crate) fn udp(&self, id: Id, address: &str, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let socket = self.enter_as(id, || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub(crate) fn connect(&self, id: Id, address: &str, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        self.enter_as(id, || TcpStream::connect_timeout(&address, PATIENCE))
    }

    /// Connects from a source address of its own choice.
    pub(crate) fn connect_from(
        &self,
        id: Id,
        source: &str,
        address: &str,
        port: u16,
    ) -> io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        self.enter_as(id, || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            Ok(socket.into())
        })
    }

    /// Connects with the address of another and a mark, as Envoy's original source filter does.
    pub(crate) fn connect_transparent(
        &self,
        id: Id,
        mark: u32,
        source: IpAddr,
        address: &str,
        port: u16,
    ) -> io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        self.enter_as(id, || {
            let socket = transparent(address);
            socket.set_mark(mark)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&address.into(), PATIENCE)?;
            Ok(socket.into())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn transparent(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true).unwrap(),
        SocketAddr::V6(_) => {
            socket.set_only_v6(true).unwrap();
            socket.set_ip_transparent_v6(true).unwrap();
        }
    }
    socket
}

/// A Pod with its link to the world.
pub(crate) struct Link {
    pub(crate) pod: Namespace,
    pub(crate) outside: Namespace,
}

impl Link {
    pub(crate) fn new() -> Self {
        let (pod, outside) = (Namespace::new(), Namespace::new());
        let peer = outside.holder.id();
        pod.run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {peer}"
        ));
        for (namespace, address, address_v6) in
            [(&pod, POD, POD_V6), (&outside, OUTSIDE, OUTSIDE_V6)]
        {
            namespace.run(&format!("ip addr add {address}/24 dev eth0"));
            namespace.run(&format!("ip addr add {address_v6}/64 dev eth0 nodad"));
            namespace.run("ip link set eth0 up");
        }
        for address in SERVERS {
            let bits = if address.contains(':') {
                "128 nodad"
            } else {
                "32"
            };
            let command = format!("ip addr add {address}/{bits}").replace(" nodad", "");
            outside.run(&format!("{command} dev lo"));
        }
        pod.run(&format!("ip route add default via {OUTSIDE}"));
        pod.run(&format!("ip route add default via {OUTSIDE_V6}"));
        Self { pod, outside }
    }
}

/// The connection that one of `listeners` takes, with that one's name. Whoever else had got it fails the test.
pub(crate) fn accepted<'a>(listeners: &[(&'a str, &TcpListener)]) -> (&'a str, TcpStream) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        for (name, listener) in listeners {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                return (name, stream);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody took the connection");
}

/// Checks that bytes pass in both directions.
pub(crate) fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    let mut buffer = [0; 4];
    for stream in [&*client, &*server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
}
