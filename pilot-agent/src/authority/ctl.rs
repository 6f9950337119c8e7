//! `pilot-agent authority ctl`: one operation on a running authority.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Operation;

/// The files that `--write` makes of the answer's fields.
const FILES: [(&str, &str); 3] = [
    ("chain", "svid.pem"),
    ("key", "key.pem"),
    ("bundle", "bundle.pem"),
];

#[derive(Debug, clap::Args)]
pub(super) struct CtlArgs {
    /// The control socket of the authority.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/tmp/ithildin-authority/control.sock"
    )]
    control: PathBuf,
    /// Writes certificates and keys of the answer into svid.pem, key.pem and bundle.pem of this folder.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    #[command(subcommand)]
    operation: Operation,
}

/// Performs the operation and prints the answer.
pub(super) async fn run(args: CtlArgs) -> anyhow::Result<()> {
    let answer = call(&args.control, &args.operation).await?;
    match &args.write {
        Some(folder) => write(folder, &answer),
        None => print(&answer),
    }
}

/// Sends one operation to the authority at `control`.
pub async fn call(control: &Path, operation: &Operation) -> anyhow::Result<Value> {
    let stream = UnixStream::connect(control).await;
    let stream = stream.with_context(|| format!("cannot connect to {}", control.display()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/")
        .header(http::header::HOST, "authority")
        .body(Full::<Bytes>::from(serde_json::to_vec(operation)?))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    connection.await??;
    let answer: Value = serde_json::from_slice(&body).context("malformed answer")?;
    if status != StatusCode::OK {
        bail!(
            "{}",
            answer["error"].as_str().unwrap_or("the authority refused")
        );
    }
    Ok(answer)
}

fn print(answer: &Value) -> anyhow::Result<()> {
    let texts = FILES
        .iter()
        .filter_map(|(field, _)| answer[*field].as_str());
    let texts: Vec<_> = texts.collect();
    match answer.as_object() {
        Some(answer) if answer.is_empty() => println!("done"),
        _ if !texts.is_empty() => print!("{}", texts.concat()),
        _ => println!("{}", serde_json::to_string_pretty(answer)?),
    }
    Ok(())
}

pub(super) fn write(folder: &Path, answer: &Value) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (field, name) in FILES {
        if let Some(text) = answer[field].as_str() {
            let path = folder.join(name);
            // An old file, or a link, would keep its permission bits and its owner.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot replace {}", path.display()));
                }
                _ => {}
            }
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            println!("{}", path.display());
        }
    }
    Ok(())
}
