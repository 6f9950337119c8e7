//! A forward proxy: `CONNECT HOST:PORT`, and bytes both ways from there on.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

const MAX_HEAD: usize = 8 * 1024;
const END: &[u8] = b"\r\n\r\n";

/// Serves until the process ends, and prints who is asked for.
pub async fn run(on: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(on).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async {
            if let Err(error) = tunnel(client).await {
                eprintln!("no tunnel: {error:#}");
            }
        });
    }
}

async fn tunnel(mut client: TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(END) {
        if head.len() > MAX_HEAD {
            bail!("no end of the head");
        }
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        bail!("not CONNECT: {head}");
    };
    println!("CONNECT {target}");
    let connected = TcpStream::connect(target).await;
    let mut server = connected.with_context(|| target.to_owned())?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
