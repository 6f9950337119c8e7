//! A module by HTTP: asked for until it comes.

use std::{path::Path, time::Duration};

use http::{HeaderMap, Uri};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::debug;

use crate::{
    FetchError, Options, client,
    file::{Saved, save},
    unpack,
};

/// The pause after the first failure; each is twice the one before, and up to half as much again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The module at `uri`, in a file in `folder`.
pub(crate) async fn fetch(
    options: &Options,
    uri: &Uri,
    folder: &Path,
) -> Result<Saved, FetchError> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    let saved = loop {
        let once = Box::pin(download(options, uri, folder));
        let ended = timeout(options.request_timeout, once).await;
        let error = match ended.unwrap_or(Err(FetchError::Timeout(options.request_timeout))) {
            Ok(saved) => break saved,
            Err(error) => error,
        };
        debug!(%error, attempt, "no module yet");
        if attempt >= options.attempts || !error.is_passing() {
            return Err(error);
        }
        attempt += 1;
        sleep(pause + pause.mul_f64(fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(MAX_PAUSE);
    };
    let (folder, limit) = (folder.to_path_buf(), options.max_bytes);
    let unboxed = spawn_blocking(move || unpack::unbox(saved, &folder, limit)).await;
    unboxed.map_err(|_| FetchError::Interrupted)?
}

async fn download(options: &Options, uri: &Uri, folder: &Path) -> Result<Saved, FetchError> {
    let answer = client::get(options, uri.clone(), HeaderMap::new()).await?;
    save(answer.ok()?, folder, options.max_bytes).await
}
