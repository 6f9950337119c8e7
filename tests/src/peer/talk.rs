//! A client that says and expects what it is told, over TCP.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// For each step; longer than any answer takes that comes at all, short enough for those that must not.
const LIMIT: Duration = Duration::from_secs(4);

/// Takes `steps` in order: `>TEXT` sends, `<TEXT` waits for it in what came since the step before. Prints
/// all that came.
pub async fn run(to: &str, steps: &[&str]) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(LIMIT, TcpStream::connect(to)).await;
    let mut stream = stream.context("no connection in time")??;
    for step in steps {
        if let Some(text) = step.strip_prefix('>') {
            stream.write_all(text.as_bytes()).await?;
        } else if let Some(text) = step.strip_prefix('<') {
            let wait = tokio::time::timeout(LIMIT, expect(&mut stream, text)).await;
            wait.unwrap_or_else(|_| bail!("no {text:?} in {LIMIT:?}"))?;
        } else {
            bail!("a step begins with < or >, not {step:?}");
        }
    }
    Ok(())
}

async fn expect(stream: &mut TcpStream, text: &str) -> anyhow::Result<()> {
    let mut heard = Vec::new();
    while !contains(&heard, text.as_bytes()) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            bail!(
                "closed before {text:?}, after {:?}",
                String::from_utf8_lossy(&heard)
            );
        }
        heard.extend_from_slice(&buffer[..count]);
    }
    print!("{}", String::from_utf8_lossy(&heard));
    Ok(())
}

fn contains(heard: &[u8], text: &[u8]) -> bool {
    text.is_empty() || heard.windows(text.len()).any(|window| window == text)
}
