//! `google.protobuf.Any` and `Duration` to and from what Rust code uses.

use std::time::Duration;

use envoy_types::pb::google::protobuf;
use prost::{Message, Name};

/// The longest duration of `google.protobuf.Duration`: 10,000 years.
const MAX_SECONDS: u64 = 315_576_000_000;

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

/// `None` for a negative or malformed duration, and for a longer one than protobuf has: the clock could
/// not be set forward by it.
pub fn to_duration(duration: &protobuf::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    if seconds > MAX_SECONDS {
        return None;
    }
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_that_protobuf_has() {
        let of = |seconds, nanos| to_duration(&protobuf::Duration { seconds, nanos });
        assert_eq!(of(1, 5), Some(Duration::new(1, 5)));
        assert_eq!(
            of(315_576_000_000, 0),
            Some(Duration::from_secs(315_576_000_000))
        );
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (0, 1_000_000_000),
            (315_576_000_001, 0),
            (i64::MAX, 999_999_999),
        ] {
            assert_eq!(of(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
