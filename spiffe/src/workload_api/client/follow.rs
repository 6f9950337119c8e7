//! Follows one stream of the Workload API for ever: connects, reads, reconnects.

use std::{
    error::Error,
    time::{Duration, Instant, SystemTime},
};

use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::{
    SourceOptions, WorkloadApiClient,
    again::{
        FIRST_DELAY, HOPELESS_DELAY, MAX_DELAY, NO_IDENTITY_MAX_DELAY, NOT_LISTENING_MAX_DELAY,
        SocketFile, wait,
    },
    decode::MessageError,
};
use crate::{Backoff, workload_api::WorkloadEndpoint};

/// A stream that lived shorter than this is not reconnected at once: the server may be ending each.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// So many of the refused messages of a stream are logged in each such time, which is more than anybody
/// reads; the others only for debugging.
const REFUSALS: u32 = 50;
const REFUSAL_WINDOW: Duration = Duration::from_secs(10);

/// What to do with one kind of stream.
#[async_trait::async_trait]
pub(super) trait Subscriber: Send {
    type Message: Send;
    /// The method's name, for logs.
    const METHOD: &'static str;

    async fn open(
        &mut self,
        client: &mut WorkloadApiClient,
    ) -> Result<Streaming<Self::Message>, Status>;

    /// Takes the message or leaves everything as it was.
    fn accept(&mut self, message: Self::Message) -> Result<(), MessageError>;

    /// Nothing is received now, for this reason. What was accepted stays.
    fn waiting(&mut self, reason: &str);

    /// The server says that there is nothing for us.
    fn denied(&mut self, reason: &str);

    /// Whether anything is held.
    fn holds_material(&self) -> bool;

    /// When a newer message should have come; the stream is then opened anew.
    fn overdue(&self) -> Option<SystemTime>;
}

/// Why a stream ended.
enum End {
    NotConnected(tonic::transport::Error),
    Status(Status),
    Closed,
    Silent,
    Overdue,
}

/// When to try again.
enum Retry {
    /// After the back-off, which is at most this long.
    Within(Duration),
    /// The same call will be refused again.
    Hopeless,
}

/// Follows the stream until the task is dropped.
pub(super) async fn follow<S: Subscriber>(
    endpoint: WorkloadEndpoint,
    options: SourceOptions,
    mut subscriber: S,
) {
    let mut backoff = Backoff::at_once(FIRST_DELAY, MAX_DELAY);
    let mut complaints = Complaints::default();
    let mut absence = Absence::default();
    loop {
        let socket = SocketFile::of(&endpoint);
        let started = Instant::now();
        let mut accepted = false;
        let end = run(&endpoint, &options, &mut subscriber, &mut accepted).await;
        if accepted {
            complaints = Complaints::default();
            absence = Absence::default();
            backoff.reset();
            if started.elapsed() < SHORT_LIVED {
                backoff.pause();
            }
        }
        let retry = if absence.excuses(&end, options.restart_grace) && subscriber.holds_material() {
            let reason =
                "a server that was away knows nothing of us yet; what we have is kept for a while";
            complaints.log::<S>(&endpoint, reason);
            Retry::Within(FIRST_DELAY)
        } else {
            report(&endpoint, &mut subscriber, &end, &mut complaints)
        };
        let delay = match retry {
            Retry::Within(max) => backoff.pause_within(max),
            Retry::Hopeless => HOPELESS_DELAY,
        };
        wait(&endpoint, socket, delay).await;
    }
}

async fn run<S: Subscriber>(
    endpoint: &WorkloadEndpoint,
    options: &SourceOptions,
    subscriber: &mut S,
    accepted: &mut bool,
) -> End {
    let connected = WorkloadApiClient::connect_with(endpoint, options.keep_alive_interval).await;
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => return End::NotConnected(error),
    };
    let opened = Instant::now();
    let first = timeout(options.first_message_timeout, async {
        let mut stream = subscriber.open(&mut client).await?;
        Ok((stream.message().await?, stream))
    });
    let (mut message, mut stream) = match first.await {
        Ok(Ok(first)) => first,
        Ok(Err(status)) => return End::Status(status),
        Err(_) => return End::Silent,
    };
    let mut refusals = Refusals::default();
    loop {
        let Some(received) = message.take() else {
            return End::Closed;
        };
        match subscriber.accept(received) {
            Ok(()) => *accepted = true,
            Err(error) => refusals.log::<S>(endpoint, &error),
        }
        let patience = patience(subscriber.overdue(), opened, options);
        message = match timeout(patience, stream.message()).await {
            Ok(Ok(message)) => message,
            Ok(Err(status)) => return End::Status(status),
            Err(_) => return End::Overdue,
        };
    }
}

/// How long to wait for the next message: until it is overdue, but give each stream some time.
fn patience(overdue: Option<SystemTime>, opened: Instant, options: &SourceOptions) -> Duration {
    let Some(overdue) = overdue else {
        return Duration::MAX;
    };
    let until_overdue = overdue
        .duration_since(SystemTime::now())
        .unwrap_or(Duration::ZERO);
    until_overdue.max(options.overdue_retry.saturating_sub(opened.elapsed()))
}

/// Whether the server was away since we last heard from it.
///
/// SPIRE's agent denies all callers while it starts, until its server has told it of their entries. That
/// takes nothing from anybody; only a denial that goes on does.
#[derive(Default)]
struct Absence {
    was_away: bool,
    denied_since: Option<Instant>,
}

impl Absence {
    /// Takes note of how a stream ended; whether that is a denial which means nothing yet.
    fn excuses(&mut self, end: &End, grace: Duration) -> bool {
        match end {
            End::NotConnected(_) => self.was_away = true,
            End::Status(status) if status.source().is_some() => self.was_away = true,
            End::Status(status) if status.code() == Code::PermissionDenied && self.was_away => {
                let since = self.denied_since.get_or_insert_with(Instant::now);
                return since.elapsed() < grace;
            }
            _ => {}
        }
        false
    }
}

/// What was logged of a stream's refused messages: a server may send them one after another.
#[derive(Default)]
struct Refusals {
    since: Option<Instant>,
    logged: u32,
}

impl Refusals {
    fn log<S: Subscriber>(&mut self, endpoint: &WorkloadEndpoint, error: &MessageError) {
        let (method, field, reason) = (S::METHOD, &error.field, &error.reason);
        let text = "refused a message of the Workload API; the previous state stays";
        match self.admits(Instant::now()) {
            true => warn!(method, %endpoint, field, reason, "{text}"),
            false => debug!(method, %endpoint, field, reason, "{text}"),
        }
    }

    fn admits(&mut self, now: Instant) -> bool {
        let is_over = |since: Instant| now.duration_since(since) >= REFUSAL_WINDOW;
        if self.since.is_none_or(is_over) {
            *self = Self {
                since: Some(now),
                logged: 0,
            };
        }
        self.logged = self.logged.saturating_add(1);
        self.logged <= REFUSALS
    }
}

/// What was logged of an outage already: an hour without SPIRE is not an hour of equal lines.
#[derive(Default)]
struct Complaints {
    last: String,
}

impl Complaints {
    /// Logs `reason`, as a warning if it is not the one before.
    fn log<S: Subscriber>(&mut self, endpoint: &WorkloadEndpoint, reason: &str) {
        let method = S::METHOD;
        if self.last == reason {
            debug!(method, %endpoint, reason, "still nothing from the Workload API");
        } else {
            warn!(method, %endpoint, reason, "nothing comes from the Workload API; trying again and again");
            reason.clone_into(&mut self.last);
        }
    }
}

/// Logs the end and tells the subscriber; says when to try again.
fn report<S: Subscriber>(
    endpoint: &WorkloadEndpoint,
    subscriber: &mut S,
    end: &End,
    complaints: &mut Complaints,
) -> Retry {
    let method = S::METHOD;
    match end {
        End::NotConnected(error) => {
            let reason = format!("cannot connect to {endpoint}: {}", root_cause(error));
            complaints.log::<S>(endpoint, &reason);
            subscriber.waiting(&reason);
            if subscriber.holds_material() {
                Retry::Within(MAX_DELAY)
            } else {
                Retry::Within(NOT_LISTENING_MAX_DELAY)
            }
        }
        End::Status(status) => report_status(endpoint, subscriber, status, complaints),
        End::Closed => {
            info!(method, %endpoint, "the Workload API ended the stream");
            subscriber.waiting("the Workload API ended the stream");
            Retry::Within(MAX_DELAY)
        }
        End::Silent => {
            let reason = "the Workload API took the call and sent nothing";
            complaints.log::<S>(endpoint, reason);
            subscriber.waiting(reason);
            Retry::Within(MAX_DELAY)
        }
        End::Overdue => {
            warn!(method, %endpoint, "a renewal is overdue; opening the stream anew");
            Retry::Within(MAX_DELAY)
        }
    }
}

fn report_status<S: Subscriber>(
    endpoint: &WorkloadEndpoint,
    subscriber: &mut S,
    status: &Status,
    complaints: &mut Complaints,
) -> Retry {
    let method = S::METHOD;
    let (code, message) = (status.code(), status.message());
    if let Some(error) = status.source() {
        // Not the peer's word but tonic's, about the connection.
        let reason = format!("the connection to {endpoint} broke: {}", root_cause(error));
        complaints.log::<S>(endpoint, &reason);
        subscriber.waiting(&reason);
        return Retry::Within(MAX_DELAY);
    }
    let reason = format!("the Workload API answered {code:?}: {message}");
    match code {
        Code::PermissionDenied => {
            subscriber.denied(&reason);
            Retry::Within(NO_IDENTITY_MAX_DELAY)
        }
        Code::InvalidArgument | Code::Unimplemented => {
            error!(
                method,
                %endpoint,
                ?code,
                message,
                "the Workload API refuses the call itself; it is tried again when the socket is replaced",
            );
            subscriber.waiting(&reason);
            Retry::Hopeless
        }
        Code::Cancelled => {
            debug!(method, %endpoint, message, "the Workload API cancelled the stream");
            subscriber.waiting(&reason);
            Retry::Within(MAX_DELAY)
        }
        _ => {
            complaints.log::<S>(endpoint, &reason);
            subscriber.waiting(&reason);
            Retry::Within(MAX_DELAY)
        }
    }
}

/// The innermost source: tonic's own text is only "transport error".
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_refused_messages_some_are_logged_in_each_while() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let times = (0..10_000).map(|i| start + Duration::from_millis(3 * i));
        let admitted = times.filter(|now| refusals.admits(*now)).count();
        assert_eq!(admitted, 3 * REFUSALS as usize);
    }
}
