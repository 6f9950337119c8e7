//! The bootstrap as the process started with it, for dumps.

use std::time::SystemTime;

use ithildin_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use prost::Message;

/// A bootstrap, encoded: it may hold thousands of resources, and is read for a dump alone.
#[derive(Clone, Debug)]
pub struct StoredBootstrap {
    pub node_id: String,
    pub node_cluster: String,
    pub loaded: SystemTime,
    encoded: Vec<u8>,
}

impl StoredBootstrap {
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let node = bootstrap.node.as_ref();
        Self {
            node_id: node.map_or_else(String::new, |node| node.id.clone()),
            node_cluster: node.map_or_else(String::new, |node| node.cluster.clone()),
            loaded: SystemTime::now(),
            encoded: bootstrap.encode_to_vec(),
        }
    }

    pub fn read(&self) -> Bootstrap {
        Bootstrap::decode(self.encoded.as_slice()).expect("it was encoded by us")
    }
}
