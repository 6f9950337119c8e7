//! A Pod and the world outside, as two network namespaces with a link, and a proxy in the Pod.
//! Needs root.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use ithildin_proto::from_yaml;
use ithildin_proxy::{Proxy, ProxyOptions, Readiness};
use ithildin_xds::{ResourceSet, SecretRef, SecretState, SecretSubscriber};
use rustix::{
    process::{Gid, Uid},
    thread::{
        LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid,
    },
};
use socket2::{Domain, Socket, Type};
use tokio::sync::{oneshot, watch};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The user whose connections are captured.
pub(crate) const APP: u32 = 1000;

pub(crate) struct Namespace {
    holder: Child,
    file: File,
}

impl Namespace {
    pub(crate) fn new() -> Self {
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
        assert_eq!(line, "ready\n", "namespaces need root and iproute2");
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        Self { holder, file }
    }

    /// The process that keeps it.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// What `body` returns inside. Sockets and threads that it makes stay inside.
    pub(crate) fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.file);
                body()
            });
            inside.join().unwrap()
        })
    }

    /// Runs a command inside, which must succeed.
    pub(crate) fn run(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.enter(|| Command::new(words[0]).args(&words[1..]).output().unwrap());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}");
    }

    /// Connects as `user`.
    pub(crate) fn connect(&self, user: u32, address: SocketAddr) -> TcpStream {
        let stream = self.enter(|| {
            let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            TcpStream::connect_timeout(&address, PATIENCE)
        });
        let stream = stream.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What comes back for `sent`, to the end of the connection; nothing for a reset.
    pub(crate) fn ask(&self, user: u32, address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = self.connect(user, address);
        let mut answer = Vec::new();
        let _ = stream.write_all(sent);
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// See [`ask`](Self::ask), for a client at an address of its own.
    pub(crate) fn ask_from(&self, client: SocketAddr, address: SocketAddr, sent: &[u8]) -> String {
        let socket = self.enter(|| {
            let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).unwrap();
            socket.bind(&client.into()).unwrap();
            socket.connect_timeout(&address.into(), PATIENCE).unwrap();
            socket
        });
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.write_all(sent);
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// An HTTP server, whose connections last, that answers with its client's address.
    pub(crate) fn serve_http(&self, address: SocketAddr) {
        self.accept(address, move |stream, peer| {
            thread::spawn(move || {
                let mut answers = stream.try_clone().unwrap();
                let body = format!("http {peer}");
                let length = body.len();
                let heads = BufReader::new(stream).lines().map_while(Result::ok);
                for _end in heads.filter(String::is_empty) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    let _ = answers.write_all((head + &body).as_bytes());
                }
            });
        });
    }

    /// A server that answers the first byte with `name`, its client's address and that byte.
    pub(crate) fn serve(&self, address: SocketAddr, name: &'static str) {
        self.accept(address, move |mut stream, peer| {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() {
                let _ = write!(stream, "{name} {peer} {:02x}", byte[0]);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
    }

    /// A server that speaks first.
    pub(crate) fn greet(&self, address: SocketAddr, name: &'static str) {
        self.accept(address, move |mut stream, peer| {
            let _ = write!(stream, "{name} {peer}");
        });
    }

    fn accept(&self, address: SocketAddr, serve: impl Fn(TcpStream, IpAddr) + Send + 'static) {
        let listener = self.enter(|| TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|error| panic!("{address}: {error}"));
        thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                serve(stream, peer.ip());
            }
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn enter(namespace: &File) {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind).unwrap();
}

/// A proxy inside a namespace, on a thread of its own.
pub(crate) struct Inside {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Ready when this returns.
    pub(crate) fn start(namespace: &Namespace, yaml: String) -> Self {
        let file = namespace.file.try_clone().unwrap();
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            enter(&file);
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let proxy = start(&yaml).await;
                ready.send(()).unwrap();
                let _ = stopped.await;
                proxy.shutdown(Duration::ZERO).await;
            });
        });
        is_ready.recv_timeout(PATIENCE).expect("the proxy starts");
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct NoSecrets;

impl SecretSubscriber for NoSecrets {
    fn subscribe(&self, _: &SecretRef) -> watch::Receiver<SecretState> {
        watch::channel(SecretState::Pending("test".into())).1
    }
}

async fn start(yaml: &str) -> Proxy {
    let options = ProxyOptions {
        bootstrap: from_yaml(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}")),
        resources: watch::channel(Arc::new(ResourceSet::default())).1,
        secrets: Arc::new(NoSecrets),
        concurrency: 1,
        drain_time: Duration::from_secs(1),
    };
    let proxy = Proxy::start(options).await;
    let proxy = proxy.unwrap_or_else(|error| panic!("{error}"));
    let mut ready = proxy.ready();
    ready
        .wait_for(|state| *state == Readiness::Ready)
        .await
        .unwrap();
    proxy
}
