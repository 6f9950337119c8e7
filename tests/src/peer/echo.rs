//! A service without HTTP, which speaks first if it has a greeting, and then says back what it hears.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncWriteExt, copy},
    net::TcpListener,
};

/// Serves until the process ends. An empty greeting is none.
pub async fn run(on: SocketAddr, greeting: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(on).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let greeting = match greeting {
            "" => String::new(),
            text => format!("{text}\r\n"),
        };
        tokio::spawn(async move {
            // The other side may go whenever it likes.
            let _ = stream.write_all(greeting.as_bytes()).await;
            let (mut read, mut write) = stream.split();
            let _ = copy(&mut read, &mut write).await;
        });
    }
}
