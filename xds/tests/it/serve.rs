//! Where services listen: what is replaced, what is left alone, what is cleaned up.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use ithildin_xds::serve::Socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
    task::JoinHandle,
};
use tonic::service::Routes;

use crate::common::LIMIT;

fn serve(path: &Path) -> (oneshot::Sender<()>, JoinHandle<std::io::Result<()>>) {
    let socket = Socket::unix(path, 0o660).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    (stop, tokio::spawn(socket.serve(Routes::default(), stopped)))
}

#[tokio::test]
async fn a_socket_lives_as_long_as_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/for/it/s.sock");
    let (stop, server) = serve(&path);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let made = folder.path().join("made");
    let mode = fs::metadata(made).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "only we may put sockets there");
    let error = Socket::unix(&path, 0o660).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    let connection = UnixStream::connect(&path).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, server)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
    assert!(!path.exists());
    let cut = async {
        let mut buffer = [0; 64];
        loop {
            connection.readable().await.unwrap();
            match connection.try_read(&mut buffer) {
                Ok(0) => return,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, cut)
        .await
        .expect("connections are cut");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_another_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (stop, server) = serve(&path);
    UnixStream::connect(&path).await.unwrap();

    // Somebody else has taken the path meanwhile: that is not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(LIMIT, server)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let error = Socket::unix(&path, 0o600).unwrap_err();
    assert!(error.to_string().contains("s.sock"), "{error}");
}

#[tokio::test]
async fn another_users_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    const NOBODY: u32 = 65534;
    if std::os::unix::fs::chown(&path, Some(NOBODY), None).is_err() {
        println!("another_users_socket_is_left_alone: skipped, it needs root");
        return;
    }
    let error = Socket::unix(&path, 0o600).unwrap_err();
    assert!(
        error.to_string().contains("belongs to user 65534"),
        "{error}"
    );
    assert!(path.exists());
}

#[tokio::test]
async fn tcp_is_for_loopback() {
    let error = Socket::tcp("0.0.0.0:0".parse().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("not a loopback address"),
        "{error}"
    );
    let socket = Socket::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    let serving = socket.serve(Routes::default(), std::future::pending());
    let connecting = async {
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        served = serving => panic!("{served:?}"),
        () = connecting => {}
    }
}

/// A peer that connects and says nothing, or that begins and stops, is hung up on.
#[tokio::test]
async fn a_peer_that_does_not_begin_is_hung_up_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let (_stop, _server) = serve(&path);
    let silent = UnixStream::connect(&path).await.unwrap();
    let mut hesitant = UnixStream::connect(&path).await.unwrap();
    hesitant.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    for mut peer in [silent, hesitant] {
        let mut read = Vec::new();
        let ended = tokio::time::timeout(LIMIT, peer.read_to_end(&mut read)).await;
        ended.expect("the server hangs up").unwrap();
    }
}

/// As many connections as are served at a time: the next one waits and is served when one ends.
#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    const MAX_CONNECTIONS: usize = 1024;
    ithildin_sys::process::raise_open_files().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let (_stop, _server) = serve(&path);
    let mut first = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut peer = UnixStream::connect(&path).await.unwrap();
        begin(&mut peer).await;
        first.push(peer);
    }
    let mut last = UnixStream::connect(&path).await.unwrap();
    let served = tokio::time::timeout(Duration::from_millis(200), begin(&mut last)).await;
    assert!(served.is_err(), "one more than the limit is served");
    first.pop();
    let mut byte = [0];
    let served = tokio::time::timeout(LIMIT, last.read_exact(&mut byte)).await;
    served.expect("it is served when a place is free").unwrap();
}

/// Opens HTTP/2 and waits for the server's first word.
async fn begin(peer: &mut UnixStream) {
    let opening = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0, 0, 0, 4, 0, 0, 0, 0, 0][..],
    ]
    .concat();
    peer.write_all(&opening).await.unwrap();
    let mut byte = [0];
    peer.read_exact(&mut byte).await.unwrap();
}
