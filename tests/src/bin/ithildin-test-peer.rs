//! What the end-to-end tests put around the proxies, inside their namespaces: services, a relay, clients
//! and load.
//!
//!     ithildin-test-peer serve 127.0.0.1:80 [--tls DIR | --call URL...]
//!     ithildin-test-peer serve /run/app.sock
//!     ithildin-test-peer echo 0.0.0.0:9000 "220 welcome"
//!     ithildin-test-peer connect 0.0.0.0:3128
//!     ithildin-test-peer talk mail:9000 "<220" ">hello" "<hello"
//!     ithildin-test-peer chat web:7070 /chat.Chat/Both 3 100 1000
//!     ithildin-test-peer relay 10.0.1.50:8000 127.0.0.1:8080 (or unix:/run/istiod.sock)
//!     ithildin-test-peer authz 0.0.0.0:9000 0.0.0.0:8000
//!     ithildin-test-peer limits 0.0.0.0:8081
//!     ithildin-test-peer observer 0.0.0.0:4317
//!     ithildin-test-peer load 127.0.0.1:8000 app.example.org /status/200

use std::{env, net::SocketAddr, process::ExitCode};

use anyhow::{Context, bail};
use ithildin_tests::peer::{
    authz, chat, connect, echo, limits, load, observer, relay, serve, talk,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ithildin-test-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", on] if on.starts_with('/') => serve::unix(on.as_ref()).await,
        ["serve", on] => serve::plain(address(on)?, Vec::new()).await,
        ["serve", on, "--call", ref calls @ ..] => {
            let calls = calls.iter().filter(|argument| **argument != "--call");
            let calls: Result<_, _> = calls.map(|url| url.parse()).collect();
            serve::plain(address(on)?, calls?).await
        }
        ["serve", on, "--tls", dir] => serve::tls(address(on)?, dir.as_ref()).await,
        ["echo", on, greeting] => echo::run(address(on)?, greeting).await,
        ["connect", on] => connect::run(address(on)?).await,
        ["talk", to, ref steps @ ..] => talk::run(to, steps).await,
        ["chat", to, path, streams, count, size] => {
            let (streams, count) = (streams.parse()?, count.parse()?);
            chat::run(to, path, streams, count, size.parse()?).await
        }
        ["relay", from, to] => relay::run(address(from)?, target(to)?).await,
        ["authz", grpc, http] => authz::run(address(grpc)?, address(http)?).await,
        ["limits", on] => limits::run(address(on)?).await,
        ["observer", on] => observer::run(address(on)?).await,
        ["load", to, host, path] => load::run(address(to)?, host, path).await,
        _ => bail!(
            "serve ADDRESS [--tls DIR | --call URL...] | serve PATH | echo ADDRESS GREETING | connect ADDRESS | \
             talk HOST:PORT (<EXPECTED | >SENT)... | \
             chat HOST:PORT PATH STREAMS MESSAGES SIZE | relay FROM TO | authz GRPC HTTP | \
             limits ADDRESS | observer ADDRESS | load ADDRESS HOST PATH"
        ),
    }
}

fn target(text: &str) -> anyhow::Result<relay::Target> {
    Ok(match text.strip_prefix("unix:") {
        Some(path) => relay::Target::Unix(path.into()),
        None => relay::Target::Tcp(address(text)?),
    })
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse().with_context(|| format!("address {text:?}"))
}
