//! One secret from one server: a stream, and another one after it, until nobody wants the secret.

use std::sync::Arc;

use ithildin_proto::{
    pb::{
        envoy::{
            config::core::v3::Node,
            extensions::transport_sockets::tls::v3::Secret,
            service::{
                discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
                secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
            },
        },
        google::protobuf::Any,
    },
    unpack,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use tracing::{debug, info, warn};

use super::client::SecretCheck;
use crate::{
    ResourceKind, SecretMessage, SecretState, ServerAddress,
    backoff::Backoff,
    connect,
    subscription::{DeltaClient, Interest, SotwClient, Verdict},
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
    tokio::select! {
        () = follow(subscription) => {}
        () = state.closed() => {}
    }
}

async fn follow(subscription: Subscription) {
    let interest = Interest::of([subscription.name.as_str()]);
    let mut sotw = SotwClient::new(ResourceKind::Secret, interest.clone());
    let mut delta = DeltaClient::new(ResourceKind::Secret, interest);
    let mut backoff = Backoff::new();
    loop {
        let end = match subscription.protocol {
            Protocol::StateOfTheWorld => subscription.sotw(&mut sotw, &mut backoff).await,
            Protocol::Delta => subscription.delta(&mut delta, &mut backoff).await,
        };
        subscription.ended(
            &end.err()
                .unwrap_or_else(|| Status::unavailable("the stream ended")),
        );
        sleep(backoff.pause()).await;
    }
}

impl Subscription {
    async fn sotw(&self, machine: &mut SotwClient, backoff: &mut Backoff) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let mut first = machine.connect().unwrap_or_default();
        first.node = Some(self.node.clone());
        let _ = requests.try_send(first);
        let mut client = self.client();
        let stream = client.stream_secrets(ReceiverStream::new(receiver)).await?;
        let mut responses = stream.into_inner();
        while let Some(response) = responses.message().await? {
            backoff.reset();
            let verdict = self.take_sotw(&response);
            let answer = machine.answer(&response, verdict);
            if requests.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn delta(&self, machine: &mut DeltaClient, backoff: &mut Backoff) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let mut first = machine.connect().unwrap_or_default();
        first.node = Some(self.node.clone());
        let _ = requests.try_send(first);
        let mut client = self.client();
        let stream = client.delta_secrets(ReceiverStream::new(receiver)).await?;
        let mut responses = stream.into_inner();
        while let Some(response) = responses.message().await? {
            backoff.reset();
            let verdict = self.take_delta(&response);
            let answer = machine.answer(&response, &verdict);
            if requests.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn client(&self) -> SecretDiscoveryServiceClient<Channel> {
        SecretDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_SECRET_BYTES)
    }

    /// A response must hold our secret and nothing else, as Envoy demands.
    fn take_sotw(&self, response: &DiscoveryResponse) -> Result<(), String> {
        let accepted = match response.resources.as_slice() {
            [any] => self.accept(any),
            other => Err(format!("expected one secret, found {}", other.len())),
        };
        accepted.inspect_err(|reason| self.refused(reason))
    }

    fn take_delta(&self, response: &DeltaDiscoveryResponse) -> Verdict {
        let mut verdict = Verdict::default();
        for resource in &response.resources {
            let accepted = match &resource.resource {
                Some(any) => self.accept(any),
                None => Err("the resource is empty".to_owned()),
            };
            if let Err(reason) = accepted {
                self.refused(&reason);
                verdict.refused.insert(resource.name.clone(), reason);
            }
        }
        if response.removed_resources.contains(&self.name) {
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
