//! A Workload API that says what a test wants it to say.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{Stream, stream};
use ithildin_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::{net::UnixListener, runtime::Runtime, sync::watch};
use tonic::{Request, Response, Status, transport::Server};

use crate::{eventually, unix::UnixIncoming};

/// What each stream says: a message, which stays the last word until there is another, or an end.
pub type Word = Result<X509svidResponse, Status>;

/// The server; it ends when dropped.
pub struct ScriptedWorkloadApi {
    word: watch::Sender<Word>,
    heard: Arc<AtomicBool>,
    _runtime: Runtime,
}

impl ScriptedWorkloadApi {
    /// Serves at `socket`.
    pub fn start(socket: &Path, first: Word) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let word = watch::Sender::new(first);
        let heard = Arc::new(AtomicBool::new(false));
        let service = SpiffeWorkloadApiServer::new(Script {
            word: word.subscribe(),
            heard: Arc::clone(&heard),
        });
        let listener = runtime.block_on(async { UnixListener::bind(socket) });
        let listener = UnixIncoming(listener.expect("the socket's folder is there"));
        let server = Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(listener));
        Self {
            word,
            heard,
            _runtime: runtime,
        }
    }

    /// Says it on every stream, present and future.
    pub fn say(&self, word: Word) {
        self.heard.store(false, Ordering::Release);
        drop(self.word.send_replace(word));
    }

    /// Waits until a stream has heard the last word.
    pub fn wait_heard(&self) {
        eventually("the last word is heard", || {
            let latest = self.heard.load(Ordering::Acquire);
            if latest {
                Ok(())
            } else {
                Err("nobody listens")
            }
        });
    }
}

struct Script {
    word: watch::Receiver<Word>,
    heard: Arc<AtomicBool>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Script {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let mut words = self.word.clone();
        words.mark_changed();
        let state = (words, Arc::clone(&self.heard));
        let words = stream::unfold(state, |(mut words, heard)| async {
            words.changed().await.ok()?;
            let word = words.borrow_and_update().clone();
            heard.store(true, Ordering::Release);
            Some((word, (words, heard)))
        });
        Ok(Response::new(Box::pin(words)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not of this test"))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not of this test"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not of this test"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not of this test"))
    }
}
