//! One secret from one server: a stream, and another one after it, until nobody wants the secret.

use std::sync::Arc;

use ithildin_proto::{
    pb::{
        envoy::{
            config::core::v3::Node,
            extensions::transport_sockets::tls::v3::Secret,
            service::{
                discovery::v3::{
                    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
                    DiscoveryResponse,
                },
                secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
            },
        },
        google::protobuf::Any,
    },
    unpack,
};
use ithildin_spiffe::Answers;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::client::SecretCheck;
use crate::{
    ResourceKind, SecretMessage, SecretState, ServerAddress, connect,
    subscription::{Client, DeltaClient, Interest, SotwClient, Update, Verdict},
};

/// Requests that wait for the connection; a machine has at most two under way.
const REQUESTS: usize = 4;

/// The largest response: the bundles of thousands of federated trust domains, as PEM.
const MAX_SECRET_BYTES: usize = 64 << 20;

/// The variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    StateOfTheWorld,
    Delta,
}

pub(super) struct Subscription {
    pub(super) name: String,
    pub(super) server: ServerAddress,
    pub(super) protocol: Protocol,
    pub(super) channel: Channel,
    pub(super) node: Node,
    pub(super) check: SecretCheck,
    pub(super) state: watch::Sender<SecretState>,
}

/// Follows the secret until nobody listens.
pub(super) async fn run(subscription: Subscription) {
    let state = subscription.state.clone();
    let follow = async {
        match subscription.protocol {
            Protocol::StateOfTheWorld => subscription.follow::<SotwClient>().await,
            Protocol::Delta => subscription.follow::<DeltaClient>().await,
        }
    };
    tokio::select! {
        () = follow => {}
        () = state.closed() => {}
    }
}

/// Opens a stream of either protocol.
trait Open: Client {
    fn open(
        client: SecretDiscoveryServiceClient<Answers>,
        requests: ReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
}

impl Open for SotwClient {
    async fn open(
        mut client: SecretDiscoveryServiceClient<Answers>,
        requests: ReceiverStream<DiscoveryRequest>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        Ok(client.stream_secrets(requests).await?.into_inner())
    }
}

impl Open for DeltaClient {
    async fn open(
        mut client: SecretDiscoveryServiceClient<Answers>,
        requests: ReceiverStream<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        Ok(client.delta_secrets(requests).await?.into_inner())
    }
}

impl Subscription {
    async fn follow<M: Open>(self) {
        let mut machine = M::new(ResourceKind::Secret, Interest::default());
        let mut backoff = connect::backoff();
        loop {
            let mut answered = None;
            let end = self.stream(&mut machine, &mut answered).await;
            backoff.ended(answered.map(|answered| answered.elapsed()));
            self.ended(
                &end.err()
                    .unwrap_or_else(|| Status::unavailable("the stream ended")),
            );
            sleep(backoff.pause()).await;
        }
    }

    /// `answered`: when the first response came.
    async fn stream<M: Open>(
        &self,
        machine: &mut M,
        answered: &mut Option<Instant>,
    ) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        machine.disconnect();
        if let Some(mut first) = machine.subscribe(Interest::of([self.name.as_str()])) {
            M::introduce(&mut first, self.node.clone());
            let _ = requests.try_send(first);
        }
        let client = SecretDiscoveryServiceClient::new(Answers::of(self.channel.clone()))
            .max_decoding_message_size(MAX_SECRET_BYTES);
        let mut responses = M::open(client, ReceiverStream::new(receiver)).await?;
        while let Some(response) = responses.message().await? {
            answered.get_or_insert_with(Instant::now);
            let update = M::update(response);
            let answer = machine.judge(&update.receipt, &self.take(&update));
            if requests.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, update: &Update) -> Verdict {
        let mut verdict = Verdict::default();
        let whole = self.protocol == Protocol::StateOfTheWorld;
        // Such a response must hold our secret and nothing else, as Envoy demands.
        if whole && update.resources.len() != 1 {
            let reason = format!("expected one secret, found {}", update.resources.len());
            self.refused(&reason);
            verdict.whole = Some(reason);
            return verdict;
        }
        for resource in &update.resources {
            let accepted = match &resource.body {
                Some(any) => self.accept(any),
                None => Err("the resource is empty".to_owned()),
            };
            if let Err(reason) = accepted {
                self.refused(&reason);
                match whole {
                    true => verdict.whole = Some(reason),
                    false => drop(verdict.refused.insert(resource.name.clone(), reason)),
                }
            }
        }
        if update.removed.contains(&self.name) {
            self.lost("the server has no such secret");
        }
        verdict
    }

    fn accept(&self, any: &Any) -> Result<(), String> {
        let secret: Secret = unpack(any).map_err(|error| error.to_string())?;
        let secret = SecretMessage::from(secret);
        if secret.name != self.name {
            return Err(format!(
                "expected secret {:?}, found {:?}",
                self.name, secret.name
            ));
        }
        if secret.r#type.is_none() {
            return Err("the secret has neither a certificate nor a validation context".into());
        }
        (self.check)(&secret)?;
        let changed = self.state.send_if_modified(|state| {
            if matches!(state, SecretState::Ready(old) if **old == secret) {
                return false;
            }
            *state = SecretState::Ready(Arc::new(secret));
            true
        });
        if changed {
            info!(name = self.name, server = %self.server, "a secret has arrived");
        }
        Ok(())
    }

    fn refused(&self, reason: &str) {
        warn!(name = self.name, server = %self.server, reason, "a secret is refused");
        self.pending(reason);
    }

    /// A lost stream says nothing about the secret, a refusal does.
    fn ended(&self, status: &Status) {
        let reason = connect::reason(status);
        match status.code() {
            Code::PermissionDenied | Code::InvalidArgument | Code::NotFound => self.lost(&reason),
            _ => {
                debug!(name = self.name, server = %self.server, reason, "an SDS stream has ended");
                self.pending(&reason);
            }
        }
    }

    /// The server says that there is no such secret for us.
    fn lost(&self, reason: &str) {
        let text: Arc<str> = self.text(reason);
        let withdrawn = self.state.send_if_modified(|state| {
            let held = matches!(state, SecretState::Ready(_));
            if held {
                *state = SecretState::Unavailable(Arc::clone(&text));
            }
            held
        });
        if withdrawn {
            warn!(name = self.name, server = %self.server, reason, "a secret is withdrawn");
        } else {
            self.pending(reason);
        }
    }

    /// Renews the reason for which there is no secret yet.
    fn pending(&self, reason: &str) {
        let text = self.text(reason);
        let changed = self.state.send_if_modified(|state| match state {
            SecretState::Pending(old) if *old != text => {
                *state = SecretState::Pending(Arc::clone(&text));
                true
            }
            _ => false,
        });
        if changed {
            info!(reason = %text, "a secret is waited for");
        }
    }

    fn text(&self, reason: &str) -> Arc<str> {
        format!("secret {:?} from {}: {reason}", self.name, self.server).into()
    }
}
