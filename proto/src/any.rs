//! `google.protobuf.Any` and `Duration` to and from what Rust code uses.

use std::time::Duration;

use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

/// Why an `Any` could not be read as the expected message.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("expected type {expected}, found {found:?}")]
    Type { expected: String, found: String },
    #[error("malformed {expected}: {source}")]
    Decode {
        expected: String,
        source: prost::DecodeError,
    },
}

/// Packs `message` with its `type.googleapis.com/` URL.
pub fn pack<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Reads `any` as an `M`; the type URL's host part is not compared, as in Envoy.
pub fn unpack<M: Message + Name + Default>(any: &protobuf::Any) -> Result<M, UnpackError> {
    let expected = M::full_name();
    if any.type_url.rsplit('/').next() != Some(expected.as_str()) {
        return Err(UnpackError::Type {
            expected,
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|source| UnpackError::Decode { expected, source })
}

/// The protobuf form of `duration`.
pub fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

/// `None` for a negative or malformed duration.
pub fn to_duration(duration: &protobuf::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}
