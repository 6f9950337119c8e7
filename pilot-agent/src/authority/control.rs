//! The control socket: HTTP with JSON on a Unix socket that only the authority's user may open. One
//! request, `POST /`, carries one [`Operation`]; the answer is JSON, with `error` if it failed.

use std::{
    collections::BTreeSet, convert::Infallible, fs::DirBuilder, os::unix::fs::DirBuilderExt,
    path::Path, time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ithildin_spiffe::{
    SpiffeId, X509Bundle,
    authority::{Selector, WorkloadConfig, parse_duration},
    x509::certificates_to_pem,
};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tracing::{info, warn};

use super::{Operation, Sockets, authority_of};

/// Only the authority's own user may control it.
const CONTROL_MODE: u32 = 0o600;
/// Of a folder that is made for it: who may write there could take its place.
const FOLDER_MODE: u32 = 0o755;
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that sends no whole head for so long is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request: a bundle of many roots.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Opens the control socket; the future serves it for ever.
pub(super) fn serve(
    path: &Path,
    sockets: Sockets,
) -> anyhow::Result<impl Future<Output = Infallible> + use<>> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let listener = ithildin_sys::socket::listen_unix(path, CONTROL_MODE)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let listener = UnixListener::from_std(listener)?;
    Ok(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let sockets = sockets.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, &sockets));
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    warn!(%error, "a control connection failed");
                }
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    sockets: &Sockets,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, answer) = match handle(request, sockets).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(error) => (
            StatusCode::BAD_REQUEST,
            json!({ "error": format!("{error:#}") }),
        ),
    };
    let mut response = Response::new(Full::from(answer.to_string()));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    Ok(response)
}

async fn handle(request: Request<Incoming>, sockets: &Sockets) -> anyhow::Result<Value> {
    if request.method() != Method::POST {
        bail!("only POST is understood");
    }
    let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES)
        .collect()
        .await;
    let body = body.map_err(|error| anyhow::anyhow!("cannot read the request: {error}"))?;
    let operation = serde_json::from_slice(&body.to_bytes()).context("malformed operation")?;
    info!(?operation, "control");
    perform(operation, sockets).await
}

async fn perform(operation: Operation, sockets: &Sockets) -> anyhow::Result<Value> {
    let authority = sockets.authority();
    let named = |name: Option<String>| Named { sockets, name };
    match operation {
        Operation::Status => return Ok(serde_json::to_value(authority.status())?),
        Operation::Grant { .. } => return grant(operation, sockets),
        Operation::Withdraw {
            id,
            authority: name,
        } => {
            authority.withdraw(&named(name).of(&id), &id)?;
        }
        Operation::RotateLeaf {
            id,
            authority: name,
        } => rotate_leaf(sockets, name, id)?,
        Operation::RotateIntermediate { authority: name } => {
            authority.rotate_intermediate(&named(name).only()?)?;
        }
        Operation::RotateRoot {
            authority: name,
            settle,
        } => {
            let settle = parse_duration(&settle)?;
            authority.rotate_root(&named(name).only()?, settle).await?;
        }
        Operation::PrepareRoot { authority: name } => {
            authority.prepare_root(&named(name).only()?)?;
        }
        Operation::ActivateRoot { authority: name } => {
            authority.activate_root(&named(name).only()?)?;
        }
        Operation::DropOldRoots { authority: name } => {
            authority.drop_old_roots(&named(name).only()?)?;
        }
        Operation::Federate { a, b } => authority.federate(&a, &b)?,
        Operation::Unfederate { a, b } => authority.unfederate(&a, &b)?,
        Operation::Trust { who, whom } => authority.trust(&who, &whom)?,
        Operation::Distrust { who, whom } => authority.distrust(&who, &whom)?,
        Operation::Revoke {
            what,
            authority: name,
        } => return revoke(sockets, name, &what),
        Operation::Mint {
            id,
            authority: name,
            ttl,
            dns,
        } => {
            let ttl: Option<Duration> = ttl.as_deref().map(parse_duration).transpose()?;
            let svid = authority.mint(&named(name).of(&id), &id, ttl, &dns)?;
            let bundle = authority.bundle(&id.trust_domain())?;
            return Ok(json!({
                "chain": certificates_to_pem(&svid.chain),
                "key": *svid.key.to_pem(),
                "bundle": bundle.to_pem(),
            }));
        }
        Operation::Forge {
            forgery,
            id,
            authority: name,
        } => {
            let forged = authority.forge(&named(name).of(&id), &id, forgery)?;
            return Ok(json!({
                "chain": certificates_to_pem(&forged.chain),
                "key": *forged.key.to_pem(),
                "serial": forged.serial.to_string(),
            }));
        }
        Operation::Bundle { trust_domain } => {
            return Ok(json!({ "bundle": authority.bundle(&trust_domain)?.to_pem() }));
        }
        Operation::SetBundle { trust_domain, pem } => {
            let bundle = X509Bundle::from_pem(trust_domain, pem.as_bytes());
            authority.set_bundle(bundle.context("pem")?)?;
        }
    }
    Ok(json!({}))
}

fn grant(operation: Operation, sockets: &Sockets) -> anyhow::Result<Value> {
    let Operation::Grant {
        id,
        authority,
        uid,
        gid,
        pid,
        socket,
        hint,
        dns,
        ttl,
        federates_with,
    } = operation
    else {
        bail!("not a grant");
    };
    let name = Named {
        sockets,
        name: authority,
    }
    .of(&id);
    let workload = WorkloadConfig {
        id,
        selector: Selector { uid, gid, pid },
        socket,
        federates_with: federates_with.map(BTreeSet::from_iter),
        dns,
        hint,
        ttl: ttl.as_deref().map(parse_duration).transpose()?,
    };
    // First what may fail: nobody is to have an identity that was not granted.
    let bound = sockets.bind_workload(&name, &workload)?;
    sockets.authority().grant(&name, workload)?;
    sockets.serve(bound);
    Ok(json!({}))
}

fn rotate_leaf(
    sockets: &Sockets,
    name: Option<String>,
    id: Option<SpiffeId>,
) -> anyhow::Result<()> {
    let authority = sockets.authority();
    let names = match (&id, name) {
        (_, Some(name)) => vec![name],
        (Some(id), None) => vec![authority_of(id)],
        (None, None) => names(sockets),
    };
    for name in names {
        authority.rotate_leaf(&name, id.as_ref())?;
    }
    Ok(())
}

fn revoke(sockets: &Sockets, name: Option<String>, what: &str) -> anyhow::Result<Value> {
    let named = Named { sockets, name };
    let serial = match SpiffeId::parse(what) {
        Ok(id) => sockets.authority().revoke_workload(&named.of(&id), &id)?,
        Err(_) => {
            let serial = what.parse().with_context(|| format!("{what:?}"))?;
            sockets.authority().revoke(&named.only()?, &serial)?;
            serial
        }
    };
    Ok(json!({ "serial": serial.to_string() }))
}

/// The authority that a request means.
struct Named<'a> {
    sockets: &'a Sockets,
    name: Option<String>,
}

impl Named<'_> {
    fn of(&self, id: &SpiffeId) -> String {
        self.name.clone().unwrap_or_else(|| authority_of(id))
    }

    fn only(self) -> anyhow::Result<String> {
        if let Some(name) = self.name {
            return Ok(name);
        }
        let mut names = names(self.sockets);
        if names.len() != 1 {
            bail!(
                "name one of the authorities {} with --authority",
                names.join(", ")
            );
        }
        Ok(names.remove(0))
    }
}

fn names(sockets: &Sockets) -> Vec<String> {
    let status = sockets.authority().status();
    let domains = status.trust_domains.into_iter();
    domains.map(|domain| domain.authority).collect()
}
