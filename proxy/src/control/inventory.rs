//! All dynamic resources as they were received, for `/config_dump`.
//!
//! The control task answers on request, so that nobody pays for it otherwise.

use std::sync::Arc;

use ithildin_proto::pb::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use ithildin_xds::SecretMessage;
use tokio::sync::{mpsc, oneshot};

use super::{
    held::{Held, Stamp},
    secrets::SecretStatus,
};

/// What the control task holds at one instant. It has private keys: it is printed by nothing but
/// the dump, which redacts them.
pub struct Inventory {
    /// Of all clusters, as the control plane calls it.
    pub clusters_version: Arc<str>,
    /// Of all listeners, likewise.
    pub listeners_version: Arc<str>,
    pub clusters: Vec<Held<Cluster>>,
    pub endpoints: Vec<Held<ClusterLoadAssignment>>,
    pub listeners: Vec<Held<Listener>>,
    pub routes: Vec<Held<RouteConfiguration>>,
    pub secrets: Vec<HeldSecret>,
}

impl Default for Inventory {
    fn default() -> Self {
        Self {
            clusters_version: "".into(),
            listeners_version: "".into(),
            clusters: Vec::new(),
            endpoints: Vec::new(),
            listeners: Vec::new(),
            routes: Vec::new(),
            secrets: Vec::new(),
        }
    }
}

/// One secret of SDS.
pub struct HeldSecret {
    pub status: SecretStatus,
    /// The last good form, if it serves.
    pub secret: Option<Arc<SecretMessage>>,
    /// When it was accepted.
    pub stamp: Option<Stamp>,
}

pub(crate) type InventoryRequest = oneshot::Sender<Inventory>;

/// Asks the control task.
#[derive(Clone, Debug)]
pub struct InventoryClient(mpsc::Sender<InventoryRequest>);

impl InventoryClient {
    pub(crate) fn new() -> (Self, mpsc::Receiver<InventoryRequest>) {
        // One dump at a time; more wait.
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// `None` once the control task has ended.
    pub async fn get(&self) -> Option<Inventory> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(sender).await.ok()?;
        receiver.await.ok()
    }
}
