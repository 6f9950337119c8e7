//! Our client with a server that does what it should not.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use ithildin_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use ithildin_spiffe::{
    Caller, IdentityState, Provider, Source,
    authority::Authority,
    workload_api::{SourceOptions, WorkloadApiSource, server::x509_svid_response},
};
use tempfile::tempdir;
use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    runtime::Runtime,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::*;

/// What a stream does; afterwards it does nothing, or ends if the script says so.
#[derive(Clone)]
enum Act {
    Send(X509svidResponse),
    Fail(Status),
    /// Nothing more, for ever.
    Stall,
}

/// One script for each stream, the last for all further ones.
struct Scripted {
    scripts: Vec<Vec<Act>>,
    opened: Arc<AtomicUsize>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Scripted {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let at = self.opened.fetch_add(1, Ordering::SeqCst);
        let script = self.scripts[at.min(self.scripts.len() - 1)].clone();
        if let [Act::Fail(status)] = &script[..] {
            return Err(status.clone());
        }
        let answers = stream::iter(script).then(|act| async move {
            match act {
                Act::Send(message) => Ok(message),
                Act::Fail(status) => Err(status),
                Act::Stall => std::future::pending().await,
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwtsvid(
        &self,
        _request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

struct Running {
    task: JoinHandle<()>,
    opened: Arc<AtomicUsize>,
}

impl Running {
    fn start(path: &Path, scripts: Vec<Vec<Act>>) -> Self {
        let opened = Arc::new(AtomicUsize::new(0));
        let scripted = Scripted {
            scripts,
            opened: opened.clone(),
        };
        let service = SpiffeWorkloadApiServer::new(scripted).max_encoding_message_size(usize::MAX);
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let server = Server::builder().add_service(service);
        let task = tokio::spawn(async move {
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { task, opened }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    async fn opened_at_least(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.opened() < count {
            assert!(
                Instant::now() < end,
                "{} of {count} streams were opened",
                self.opened()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that sends one message, and that dies with its runtime: all at once, as a killed process does.
fn doomed(path: &Path, message: X509svidResponse) -> (Runtime, Running) {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.enter();
    let running = Running::start(path, vec![vec![Act::Send(message), Act::Stall]]);
    drop(inside);
    (runtime, running)
}

fn message(authority: &Authority) -> X509svidResponse {
    let agent = authority.agent("domain.test").unwrap();
    let states = agent.identities(&Caller::default());
    let state = states.borrow();
    x509_svid_response(state.snapshot().unwrap())
}

/// A message, and another with a newer leaf.
fn two_messages() -> (X509svidResponse, X509svidResponse) {
    let authority = authority();
    let first = message(&authority);
    authority.rotate_leaf("domain.test", None).unwrap();
    (first, message(&authority))
}

fn leaf(message: &X509svidResponse) -> Vec<u8> {
    message.svids[0].x509_svid.clone()
}

#[tokio::test]
async fn a_malformed_message_is_refused_whole_and_the_next_good_one_is_taken() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let authority = authority();
    let first = message(&authority);
    authority.rotate_leaf("domain.test", None).unwrap();
    let mut broken = message(&authority);
    broken
        .federated_bundles
        .insert("spiffe://example.org".into(), b"garbage".to_vec());
    authority.rotate_leaf("domain.test", None).unwrap();
    let good = message(&authority);
    let (refused, taken) = (leaf(&broken), leaf(&good));
    let script = [first, broken, good].map(Act::Send).into_iter();
    let running = Running::start(&path, vec![script.chain([Act::Stall]).collect()]);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    ready(&mut source.subscribe(), |now| {
        let current = now.svids[0].leaf();
        assert_ne!(current.as_ref(), refused, "nothing of it is taken");
        current.as_ref() == taken
    })
    .await;
    assert_eq!(running.opened(), 1, "its stream goes on");
}

#[tokio::test]
async fn an_abrupt_end_is_answered_by_an_immediate_reconnect() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, second) = two_messages();
    let _running = Running::start(
        &path,
        vec![
            vec![Act::Send(first)],
            vec![Act::Send(second.clone()), Act::Stall],
        ],
    );
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    ready(&mut states, |now| {
        now.svids[0].leaf().as_ref() == leaf(&second)
    })
    .await;
}

#[tokio::test]
async fn streams_that_end_at_once_are_not_opened_in_a_hot_loop() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, _) = two_messages();
    let running = Running::start(&path, vec![vec![Act::Send(first)]]);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    ready(&mut source.subscribe(), |_| true).await;
    sleep(Duration::from_secs(3)).await;
    // Pauses from half a second on.
    assert!(
        running.opened() <= 7,
        "{} streams in three seconds",
        running.opened()
    );
}

#[tokio::test]
async fn a_call_that_is_refused_for_good_is_not_repeated() {
    for status in [
        Status::invalid_argument("security header missing from request"),
        Status::unimplemented("not here"),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let running = Running::start(&path, vec![vec![Act::Fail(status.clone())]]);
        let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
        let mut states = source.subscribe();
        let state = until(
            &mut states,
            |state| matches!(state, IdentityState::Waiting(reason) if reason.contains(status.message())),
        );
        state.await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(running.opened(), 1, "{status:?}");
    }
}

#[tokio::test]
async fn a_denial_in_the_middle_of_a_stream_withdraws_and_is_asked_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, second) = two_messages();
    let denied = Status::permission_denied("no identity issued");
    let running = Running::start(
        &path,
        vec![
            vec![Act::Send(first), Act::Fail(denied.clone())],
            vec![Act::Fail(denied)],
            vec![Act::Send(second), Act::Stall],
        ],
    );
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    withdrawn(&mut states).await;
    ready(&mut states, |_| true).await;
    assert_eq!(running.opened(), 3);
}

/// SPIRE's agent denies everybody when it has just started.
#[tokio::test]
async fn a_server_that_comes_back_and_denies_takes_nothing_at_once() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, second) = two_messages();
    let denied = || vec![Act::Fail(Status::permission_denied("no identity issued"))];
    let (dying, _running) = doomed(&path, first);
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let mut states = source.subscribe();
    ready(&mut states, |_| true).await;
    dying.shutdown_background();
    std::fs::remove_file(&path).unwrap();
    let script = vec![
        denied(),
        denied(),
        vec![Act::Send(second.clone()), Act::Stall],
    ];
    let running = Running::start(&path, script);
    let end = until(&mut states, |state| match state {
        IdentityState::Ready(now) => now.svids[0].leaf().as_ref() == leaf(&second),
        _ => true,
    });
    assert!(matches!(end.await, IdentityState::Ready(_)));
    assert_eq!(running.opened(), 3);
}

#[tokio::test]
async fn a_server_that_comes_back_and_goes_on_to_deny_is_believed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, _) = two_messages();
    let denied = || vec![Act::Fail(Status::permission_denied("no identity issued"))];
    let (dying, _running) = doomed(&path, first);
    let options = SourceOptions {
        restart_grace: Duration::from_millis(500),
        ..SourceOptions::default()
    };
    let source = WorkloadApiSource::start(endpoint(&path), options);
    let mut states = source.subscribe();
    ready(&mut states, |_| true).await;
    dying.shutdown_background();
    std::fs::remove_file(&path).unwrap();
    let _running = Running::start(&path, (0..20).map(|_| denied()).collect());
    let reason = withdrawn(&mut states).await;
    assert!(reason.contains("PermissionDenied"), "{reason}");
}

#[tokio::test]
async fn an_oversized_message_ends_the_stream_and_the_state_stays() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, _) = two_messages();
    let mut huge = first.clone();
    huge.svids[0].bundle = vec![0; 17 * 1024 * 1024];
    let running = Running::start(
        &path,
        vec![
            vec![Act::Send(first.clone()), Act::Send(huge), Act::Stall],
            vec![Act::Stall],
        ],
    );
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    let states = source.subscribe();
    running.opened_at_least(2).await;
    let current = states.borrow().snapshot().cloned().unwrap();
    assert_eq!(current.svids[0].leaf().as_ref(), leaf(&first));
}

#[tokio::test]
async fn a_stream_without_a_first_message_is_given_up() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let (first, _) = two_messages();
    let _running = Running::start(
        &path,
        vec![vec![Act::Stall], vec![Act::Send(first), Act::Stall]],
    );
    let options = SourceOptions {
        first_message_timeout: Duration::from_millis(200),
        ..SourceOptions::default()
    };
    let source = WorkloadApiSource::start(endpoint(&path), options);
    ready(&mut source.subscribe(), |_| true).await;
}

#[tokio::test]
async fn an_overdue_renewal_opens_the_stream_anew() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    // Ten seconds of the life are over at the start: three quarters of 14 s are near.
    let authority = Authority::start(config(Duration::from_secs(4))).unwrap();
    let first = message(&authority);
    authority.rotate_leaf("domain.test", None).unwrap();
    let second = message(&authority);
    let _running = Running::start(
        &path,
        vec![
            vec![Act::Send(first), Act::Stall],
            vec![Act::Send(second.clone()), Act::Stall],
        ],
    );
    let options = SourceOptions {
        overdue_retry: Duration::from_millis(300),
        ..SourceOptions::default()
    };
    let source = WorkloadApiSource::start(endpoint(&path), options);
    let mut states = source.subscribe();
    ready(&mut states, |now| {
        now.svids[0].leaf().as_ref() == leaf(&second)
    })
    .await;
}

/// A peer that takes the connection and all bytes, and never says a word: not even HTTP/2's.
#[tokio::test]
async fn a_half_open_peer_is_noticed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = accepted.clone();
    let dumb = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let options = SourceOptions {
        keep_alive_interval: Duration::from_millis(200),
        ..SourceOptions::default()
    };
    let _source = WorkloadApiSource::start(endpoint(&path), options);
    let end = Instant::now() + PATIENCE;
    while accepted.load(Ordering::SeqCst) < 2 {
        assert!(Instant::now() < end, "the client never came again");
        sleep(Duration::from_millis(20)).await;
    }
    dumb.abort();
}

#[tokio::test]
async fn bytes_that_are_not_http2_do_no_harm() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let babbling = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-babble\r\n").await;
        }
    });
    let source = WorkloadApiSource::start(endpoint(&path), SourceOptions::default());
    tokio::time::timeout(PATIENCE, babbling)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(
        *source.subscribe().borrow(),
        IdentityState::Waiting(_)
    ));
}
