//! Bytes from one address to another, as `kubectl port-forward` does.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
};

/// Where connections are led.
pub enum Target {
    Tcp(SocketAddr),
    /// A Unix socket, which leads out of a namespace.
    Unix(PathBuf),
}

/// Relays until the process ends.
pub async fn run(from: SocketAddr, to: Target) -> anyhow::Result<()> {
    let listener = TcpListener::bind(from).await?;
    let to = Arc::new(to);
    loop {
        let (client, _) = listener.accept().await?;
        let _ = client.set_nodelay(true);
        tokio::spawn(lead(client, Arc::clone(&to)));
    }
}

async fn lead(client: TcpStream, to: Arc<Target>) {
    match &*to {
        Target::Tcp(address) => {
            if let Ok(server) = TcpStream::connect(address).await {
                let _ = server.set_nodelay(true);
                copy(client, server).await;
            }
        }
        Target::Unix(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                copy(client, server).await;
            }
        }
    }
}

/// Either side may go whenever it likes, and the other sees the end.
async fn copy(mut client: TcpStream, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
