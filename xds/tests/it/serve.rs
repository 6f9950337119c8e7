//! Where services listen: what is replaced, what is left alone, what is cleaned up.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use ithildin_xds::serve::Socket;
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
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
