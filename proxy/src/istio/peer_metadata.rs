//! `istio.metadata_exchange` over HTTP: two headers that tell who the other proxy serves.

use std::{cell::RefCell, sync::Arc};

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use bytes::Bytes;

use super::{MeshCluster, Node, Workload};
use crate::config::Map;

/// The peer's workload: a serialized `Struct` in base64.
pub const METADATA_HEADER: &str = "x-envoy-peer-metadata";
/// The peer's node id.
pub const ID_HEADER: &str = "x-envoy-peer-metadata-id";

/// Most bytes of a metadata header that are read. Istio's are below 1 KiB; labels may add to that.
const MAX_METADATA: usize = 16 * 1024;

/// Bytes that a worker remembers peers with, about a thousand of Istio's size; then it begins anew.
const MAX_REMEMBERED: usize = 2 * 1024 * 1024;

/// What remembering a peer takes besides its header and workload.
const ENTRY_BYTES: usize = 128;

/// To clusters of this name there is no telling what is behind.
const PASSTHROUGH: &str = "PassthroughCluster";

/// One filter of that kind.
#[derive(Debug)]
pub struct PeerMetadata {
    /// Labels that are exchanged besides the usual ones.
    labels: Arc<[String]>,
    /// Whether the client's headers are read and taken away.
    pub hears_downstream: bool,
    /// Whether the upstream's are.
    pub hears_upstream: bool,
    pub tells_downstream: Tell,
    pub tells_upstream: Tell,
    /// Values of our own headers.
    pub id: Bytes,
    pub metadata: Bytes,
}

/// Who learns about us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    Nobody,
    /// Not clusters outside of the mesh (`skip_external_clusters`).
    TheMesh,
    Everybody,
}

impl Tell {
    /// Whether the peer learns about us, given the request's cluster.
    pub fn reaches(self, cluster: Option<(&str, &MeshCluster)>) -> bool {
        if self == Self::Nobody {
            return false;
        }
        let Some((name, cluster)) = cluster else {
            return true;
        };
        let outside = cluster.external || name == PASSTHROUGH;
        !cluster.disable_mx && (self != Self::TheMesh || !outside)
    }
}

impl PeerMetadata {
    /// `hears` and `tells` are for downstream, then for upstream.
    pub fn new(node: &Node, labels: &[String], hears: [bool; 2], tells: [Tell; 2]) -> Self {
        let workload = node.for_http_peers(labels);
        Self {
            labels: labels.into(),
            hears_downstream: hears[0],
            hears_upstream: hears[1],
            tells_downstream: tells[0],
            tells_upstream: tells[1],
            id: Bytes::copy_from_slice(node.id.as_bytes()),
            metadata: BASE64_STANDARD.encode(workload.encode()).into(),
        }
    }
}

/// The peers whose headers one worker has read.
#[derive(Debug, Default)]
pub struct PeerCache(RefCell<Peers>);

#[derive(Debug, Default)]
struct Peers {
    known: Map<Bytes, Known>,
    bytes: usize,
}

/// `workload` is `None` for what makes no sense.
#[derive(Debug)]
struct Known {
    labels: Arc<[String]>,
    workload: Option<Arc<Workload>>,
}

impl PeerCache {
    /// The workload in a metadata header.
    pub fn read(&self, header: &Bytes, filter: &PeerMetadata) -> Option<Arc<Workload>> {
        if header.is_empty() || header.len() > MAX_METADATA {
            return None;
        }
        let peers = &mut *self.0.borrow_mut();
        if let Some(known) = peers.known.get(header)
            && known.labels == filter.labels
        {
            return known.workload.clone();
        }
        let workload = decode(header, &filter.labels).map(Arc::new);
        let kept = workload.as_ref().map_or(0, |it| it.bytes());
        let bytes = ENTRY_BYTES + header.len() + kept;
        if peers.bytes + bytes > MAX_REMEMBERED {
            *peers = Peers::default();
        }
        peers.bytes += bytes;
        let entry = Known {
            labels: Arc::clone(&filter.labels),
            workload: workload.clone(),
        };
        // Copied: the header is a part of all that was read with it.
        peers.known.insert(Bytes::copy_from_slice(header), entry);
        workload
    }
}

fn decode(header: &[u8], labels: &[String]) -> Option<Workload> {
    let indifferent =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, indifferent)
        .decode(header)
        .ok()?;
    Workload::decode(&bytes, labels)
}

#[cfg(test)]
mod tests {
    use ithildin_proto::{from_yaml, pb::envoy::config::core::v3::Node as NodeProto};

    use super::*;

    fn node() -> Node {
        let node: NodeProto = from_yaml(
            "id: sidecar~1.2.3.4~a.b~b.svc\n\
             locality: {region: r, zone: z}\n\
             metadata: {NAME: a-0, NAMESPACE: b, WORKLOAD_NAME: a, CLUSTER_ID: c, LABELS: {app: a}}",
        )
        .expect("valid");
        Node::new(Some(&node))
    }

    fn filter(labels: &[String]) -> PeerMetadata {
        PeerMetadata::new(&node(), labels, [true; 2], [Tell::Everybody; 2])
    }

    #[test]
    fn what_one_proxy_tells_another_one_reads() {
        let (cache, filter) = (PeerCache::default(), filter(&[]));
        let peer = cache.read(&filter.metadata, &filter).expect("it is ours");
        assert_eq!(*peer, node().for_http_peers(&[]));
        assert_eq!((&*peer.region, &*peer.zone), ("r", "z"));
        let again = cache.read(&filter.metadata, &filter).expect("it is known");
        assert!(Arc::ptr_eq(&peer, &again));
    }

    #[test]
    fn the_header_is_that_of_istio() {
        // Fields in the order of their names, each text a `Value`, labels a nested `Struct`.
        let read = BASE64_STANDARD
            .decode(&filter(&[]).metadata)
            .expect("base64");
        let expected: &[&[u8]] = &[
            b"\x0a\x18\x0a\x11AVAILABILITY_ZONE\x12\x03\x1a\x01z",
            b"\x0a\x11\x0a\x0aCLUSTER_ID\x12\x03\x1a\x01c",
            b"\x0a\x18\x0a\x06LABELS\x12\x0e\x2a\x0c\x0a\x0a\x0a\x03app\x12\x03\x1a\x01a",
            b"\x0a\x0d\x0a\x04NAME\x12\x05\x1a\x03a-0",
            b"\x0a\x10\x0a\x09NAMESPACE\x12\x03\x1a\x01b",
            b"\x0a\x0d\x0a\x06REGION\x12\x03\x1a\x01r",
            b"\x0a\x14\x0a\x0dWORKLOAD_NAME\x12\x03\x1a\x01a",
        ];
        assert_eq!(read, expected.concat());
    }

    #[test]
    fn padding_may_be_missing_and_noise_is_nobody() {
        let (cache, filter) = (PeerCache::default(), filter(&[]));
        let bare = String::from_utf8_lossy(&filter.metadata);
        let bare = Bytes::from(bare.trim_end_matches('=').to_owned());
        assert!(cache.read(&bare, &filter).is_some());
        for noise in ["", "%%%", "////"] {
            assert!(
                cache.read(&Bytes::from(noise), &filter).is_none(),
                "{noise}"
            );
        }
        let long = Bytes::from("A".repeat(MAX_METADATA + 4));
        assert!(cache.read(&long, &filter).is_none());
    }

    #[test]
    fn the_cache_has_a_bound_in_bytes() {
        let (cache, filter) = (PeerCache::default(), filter(&[]));
        let remembered = || {
            let peers = cache.0.borrow();
            peers.known.keys().map(Bytes::len).sum::<usize>()
        };
        let mut most = 0;
        for length in [8, MAX_METADATA] {
            for i in 0..3 * MAX_REMEMBERED / (length + ENTRY_BYTES) {
                cache.read(&Bytes::from(format!("{i:0length$}")), &filter);
                most = most.max(remembered_count(&cache));
            }
            assert!(remembered() <= MAX_REMEMBERED, "{length}");
        }
        assert!(most <= MAX_REMEMBERED / ENTRY_BYTES);
    }

    fn remembered_count(cache: &PeerCache) -> usize {
        cache.0.borrow().known.len()
    }

    #[test]
    fn who_learns_about_us_depends_on_the_cluster() {
        let mesh = MeshCluster::default();
        let external = MeshCluster {
            external: true,
            ..MeshCluster::default()
        };
        let disabled = MeshCluster {
            disable_mx: true,
            ..MeshCluster::default()
        };
        for (tell, name, cluster, reaches) in [
            (Tell::Nobody, "a", &mesh, false),
            (Tell::Everybody, "a", &external, true),
            (Tell::Everybody, PASSTHROUGH, &mesh, true),
            (Tell::Everybody, "a", &disabled, false),
            (Tell::TheMesh, "a", &mesh, true),
            (Tell::TheMesh, "a", &external, false),
            (Tell::TheMesh, PASSTHROUGH, &mesh, false),
        ] {
            assert_eq!(
                tell.reaches(Some((name, cluster))),
                reaches,
                "{tell:?} {name}"
            );
        }
        assert!(Tell::TheMesh.reaches(None));
    }
}
