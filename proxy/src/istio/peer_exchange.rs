//! `istio.metadata_exchange` over TCP: what two proxies tell each other before the bytes that they
//! carry.
//!
//! Where both have agreed on it by ALPN, each sends one frame: a magic number, a length, and a
//! `google.protobuf.Any` with a `Struct` of the same metadata that HTTP has in headers. Who does
//! not begin with the magic number does not speak it: what it sends is for the other end.

use bytes::{Buf, Bytes, BytesMut};
use ithildin_proto::pb::google::protobuf::{Any, Struct, value::Kind};
use prost::{Message as _, Name as _};

use super::{
    ID_HEADER, METADATA_HEADER, Node, Workload,
    wire::{self, Fields},
};

const MAGIC: [u8; 4] = 0x3D23_0467_u32.to_be_bytes();

/// Magic number and length.
const HEADER: usize = 8;

/// Most bytes of a frame behind its header. Istio's are below 2 KiB; labels may add to that.
const MAX_FRAME: usize = 64 * 1024;

/// One filter of that kind, of a filter chain or of a cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct PeerExchange {
    /// The ALPN protocol that announces it.
    pub protocol: Box<[u8]>,
    labels: Vec<String>,
    /// What we send.
    pub frame: Bytes,
}

/// What the bytes from a peer begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// It takes more of them to tell.
    Unfinished,
    /// No frame: all of them are for the other end.
    Absent,
    /// A frame, which is taken off. `None`: it makes no sense.
    Peer(Option<Box<Workload>>),
    /// A frame that is too long to be one.
    TooLong,
}

impl PeerExchange {
    pub fn new(node: &Node, protocol: &str, labels: &[String]) -> Self {
        let mut told = Fields::default();
        told.fields(METADATA_HEADER, &node.for_tcp_peers(labels).fields());
        told.text(ID_HEADER, &node.id);
        let mut any = Vec::new();
        wire::bytes(1, Struct::type_url().as_bytes(), &mut any);
        wire::bytes(2, &told.encode(), &mut any);
        let length = u32::try_from(any.len()).unwrap_or(u32::MAX).to_be_bytes();
        Self {
            protocol: protocol.as_bytes().into(),
            labels: labels.to_vec(),
            frame: [&MAGIC[..], &length, &any].concat().into(),
        }
    }

    /// Reads what `buffer` begins with, and takes it off.
    pub fn read(&self, buffer: &mut BytesMut) -> Hello {
        let begin = buffer.len().min(MAGIC.len());
        if buffer[..begin] != MAGIC[..begin] {
            return Hello::Absent;
        }
        let Some(length) = buffer.get(MAGIC.len()..HEADER) else {
            return Hello::Unfinished;
        };
        let length = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if length > MAX_FRAME {
            return Hello::TooLong;
        }
        let Some(frame) = buffer.get(HEADER..HEADER + length) else {
            return Hello::Unfinished;
        };
        let peer = decode(frame, &self.labels);
        buffer.advance(HEADER + length);
        Hello::Peer(peer.map(Box::new))
    }
}

fn decode(frame: &[u8], labels: &[String]) -> Option<Workload> {
    let any = Any::decode(frame).ok()?;
    let told = Struct::decode(any.value.as_slice()).ok()?;
    match &told.fields.get(METADATA_HEADER)?.kind {
        Some(Kind::StructValue(metadata)) => Some(Workload::from_metadata(metadata, labels)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use ithildin_proto::{from_yaml, pb::envoy::config::core::v3::Node as NodeProto};
    use proptest::prelude::*;

    use super::*;

    fn exchange() -> PeerExchange {
        let node: NodeProto = from_yaml(
            "{id: n, locality: {region: r}, metadata: {NAME: a-0, NAMESPACE: b, WORKLOAD_NAME: a}}",
        )
        .expect("valid");
        PeerExchange::new(&Node::new(Some(&node)), "istio-peer-exchange", &[])
    }

    #[test]
    fn the_frame_is_that_of_istio() {
        let exchange = exchange();
        let any: &[&[u8]] = &[
            b"\x0a\x2etype.googleapis.com/google.protobuf.Struct\x12\x7c",
            b"\x0a\x57\x0a\x15x-envoy-peer-metadata\x12\x3e\x2a\x3c",
            b"\x0a\x0c\x0a\x06LABELS\x12\x02\x2a\x00",
            b"\x0a\x0d\x0a\x04NAME\x12\x05\x1a\x03a-0",
            b"\x0a\x10\x0a\x09NAMESPACE\x12\x03\x1a\x01b",
            b"\x0a\x14\x0a\x0dWORKLOAD_NAME\x12\x03\x1a\x01a",
        ];
        let any = any.concat();
        let id = b"\x0a\x1f\x0a\x18x-envoy-peer-metadata-id\x12\x03\x1a\x01n";
        let told = &exchange.frame[HEADER..];
        assert_eq!(&exchange.frame[..4], b"\x3d\x23\x04\x67");
        assert_eq!(
            exchange.frame[4..8],
            u32::try_from(told.len()).expect("small").to_be_bytes()
        );
        let read = Any::decode(told).expect("an Any");
        assert_eq!(read.type_url, "type.googleapis.com/google.protobuf.Struct");
        // From the metadata on; lengths before it follow from what they hold.
        let begin = any
            .windows(6)
            .position(|part| part == b"LABELS")
            .expect("it is there");
        let begun = told
            .windows(6)
            .position(|part| part == b"LABELS")
            .expect("it is told");
        assert_eq!(told[begun..begun + any.len() - begin], any[begin..]);
        assert!(told.ends_with(id));
    }

    #[test]
    fn frames_are_taken_off_in_any_parts() {
        let exchange = exchange();
        let mut buffer = BytesMut::new();
        for byte in &exchange.frame[..exchange.frame.len() - 1] {
            buffer.extend_from_slice(&[*byte]);
            assert_eq!(exchange.read(&mut buffer), Hello::Unfinished);
        }
        buffer.extend_from_slice(&exchange.frame[exchange.frame.len() - 1..]);
        buffer.extend_from_slice(b"application");
        let Hello::Peer(Some(peer)) = exchange.read(&mut buffer) else {
            panic!("no peer");
        };
        assert_eq!(&*peer.name, "a");
        assert_eq!(&*peer.region, "", "TCP peers do not learn where we run");
        assert_eq!(&buffer[..], b"application");
    }

    #[test]
    fn others_are_let_through_or_refused() {
        let exchange = exchange();
        for (sent, expected) in [
            (&b"GET / HTTP/1.1"[..], Hello::Absent),
            (b"=x", Hello::Absent),
            (b"=", Hello::Unfinished),
            (b"=#\x04\x67\x00\x01\x00\x01", Hello::TooLong),
            (b"=#\x04\x67\x00\x00\x00\x02\xff\xff", Hello::Peer(None)),
            (b"=#\x04\x67\x00\x00\x00\x00", Hello::Peer(None)),
        ] {
            let mut buffer = BytesMut::from(sent);
            assert_eq!(exchange.read(&mut buffer), expected, "{sent:?}");
            let is_kept = !matches!(expected, Hello::Peer(_));
            assert_eq!(buffer.len(), if is_kept { sent.len() } else { 0 });
        }
    }

    static EXCHANGE: LazyLock<PeerExchange> = LazyLock::new(exchange);

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&[&b"=#\x04\x67\x00\x00\x00\x40"[..], &bytes].concat()[..]);
            EXCHANGE.read(&mut buffer);
        }
    }
}
