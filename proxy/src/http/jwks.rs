//! Keys of tokens that are fetched: over the pools that all requests share, as a whole answer of a bounded
//! length.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use ithildin_jwt::{JwksError, KeySet};
use ithildin_panics::contained;

use super::{
    ask::{AskError, ask},
    headers::Headers,
    request::{BodyLength, Protocol, Request},
};
use crate::{
    config::{
        Listener,
        filters::FilterKind,
        jwt_keys::{Fetching, Following, KeySource, RemoteKeys},
        listener::Terminal,
    },
    stats::JwtStats,
    worker::Worker,
};

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the answer {0}")]
    Keys(#[from] JwksError),
    #[error("the answer is not understood: {0}")]
    Panic(String),
}

/// The keys, for which a fetch is waited if there are none; `None` if it fails.
pub(super) async fn keys(
    worker: &Rc<Worker>,
    remote: &Arc<RemoteKeys>,
    stats: &Arc<JwtStats>,
) -> Option<Arc<KeySet>> {
    if let Some(keys) = remote.current() {
        return Some(keys);
    }
    let mut ended = remote.watch();
    if let Some(fetching) = remote.begin() {
        let (worker, stats) = (Rc::clone(worker), Arc::clone(stats));
        // Others may wait for it when the client of this request has gone.
        tokio::task::spawn_local(async move { fetch(&worker, fetching, &stats).await });
    }
    ended.changed().await.ok()?;
    let keys = ended.borrow();
    keys.clone()
}

/// Fetches the keys of a listener that are fetched ahead, again and again for as long as somebody uses them.
pub(crate) fn follow_keys(worker: &Rc<Worker>, listener: &Listener) {
    for chain in listener.chains.chains() {
        let Terminal::Http(manager) = &chain.terminal else {
            continue;
        };
        for filter in &manager.filters {
            let FilterKind::Jwt(filter) = &filter.kind else {
                continue;
            };
            for following in filter.remote_keys().filter_map(RemoteKeys::follow) {
                let (worker, stats) = (Rc::clone(worker), Arc::clone(&filter.stats));
                tokio::task::spawn_local(async move { follow(&worker, &following, &stats).await });
            }
        }
    }
}

async fn follow(worker: &Worker, following: &Following, stats: &JwtStats) {
    let ahead = following.ahead;
    while let Some(keys) = following.keys() {
        let fetched = match keys.begin() {
            Some(fetching) => fetch(worker, fetching, stats).await,
            // By a request that found none.
            None => keys.current().is_some(),
        };
        drop(keys);
        tokio::time::sleep(match fetched {
            true => ahead.after_success,
            false => ahead.after_failure,
        })
        .await;
    }
}

/// Whether there are new keys.
async fn fetch(worker: &Worker, fetching: Fetching, stats: &JwtStats) -> bool {
    let fetched = Box::pin(ask_for_keys(worker, fetching.source())).await;
    let stats = stats.worker(worker.index);
    match fetched {
        Ok(keys) => {
            stats.jwks_fetch_success.inc();
            for reason in keys.left_out() {
                let cluster = &fetching.source().cluster;
                tracing::debug!(%cluster, reason, "a key of tokens is left out");
            }
            fetching.succeed(Arc::new(keys));
            true
        }
        Err(error) => {
            stats.jwks_fetch_failed.inc();
            let cluster = &fetching.source().cluster;
            if let Some(suppressed) = worker.log.admit() {
                tracing::warn!(%cluster, %error, suppressed, "keys of tokens could not be fetched");
            }
            false
        }
    }
}

async fn ask_for_keys(worker: &Worker, source: &KeySource) -> Result<KeySet, FetchError> {
    let request = Request {
        method: Bytes::from_static(b"GET"),
        scheme: Some("http"),
        authority: source.authority.clone(),
        path: source.path.clone(),
        headers: Headers::default(),
        body: BodyLength::Empty,
        upgrade: None,
        protocol: Protocol::Http11,
        metadata: None,
    };
    let none = Bytes::new();
    let answer = ask(worker, &source.cluster, source.timeout, &request, &none).await?;
    match answer.status {
        200 => Ok(contained(|| KeySet::parse(&answer.body)).map_err(FetchError::Panic)??),
        status => Err(FetchError::Status(status)),
    }
}
