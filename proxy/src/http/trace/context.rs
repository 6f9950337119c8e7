//! Where a request comes from, as its headers tell in the words of W3C: `traceparent` and `tracestate`.
//!
//! Invariants: ids have a length that is known beforehand; what is not well-formed is not guessed at; what nobody
//! here understands (`tracestate`) is passed on as it came.

use bytes::Bytes;
use ithildin_http1::Known;

use crate::{access_log::SpanIds, http::headers::Headers};

pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// What the hop before tells of its span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) ids: SpanIds,
    /// Of that span.
    pub(super) parent: Option<u64>,
    /// `tracestate`, which nobody but its writers understands.
    pub(super) state: Option<Bytes>,
}

/// What the headers of a request tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extracted {
    Nothing,
    Parent(Parent),
    /// Something that makes no sense: the request has no span.
    Nonsense,
}

/// Reads `traceparent`, and `tracestate` beside it.
pub(super) fn read(headers: &Headers) -> Extracted {
    let Some(value) = headers.get(TRACEPARENT) else {
        return Extracted::Nothing;
    };
    let Some(ids) = parse(value) else {
        return Extracted::Nonsense;
    };
    let state = headers.joined(TRACESTATE);
    Extracted::Parent(Parent {
        ids,
        parent: None,
        state: state.filter(|state| !state.is_empty()),
    })
}

/// Tells the upstream of a span.
pub(super) fn write(ids: &SpanIds, headers: &mut Headers) {
    let SpanIds { trace, span, .. } = ids;
    let flags = u8::from(ids.sampled);
    let value = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
    headers.set(Known::Other, TRACEPARENT, value);
}

/// Tells it what came along with the parent; Envoy does so also where nothing did.
pub(super) fn write_state(state: Option<&Bytes>, headers: &mut Headers) {
    let state = state.cloned().unwrap_or_default();
    headers.set(Known::Other, TRACESTATE, state);
}

fn parse(value: &[u8]) -> Option<SpanIds> {
    let value: &[u8; LENGTH] = value.try_into().ok()?;
    if value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
        return None;
    }
    hex(&value[..2])?;
    let (high, low) = (hex(&value[3..19])?, hex(&value[19..35])?);
    let trace = u128::from(high) << 64 | u128::from(low);
    let span = hex(&value[36..52])?;
    let flags = hex(&value[53..])?;
    (trace != 0 && span != 0).then_some(SpanIds {
        trace,
        span,
        sampled: flags & 1 == 1,
        wide: true,
    })
}

/// A number of at most 16 digits.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    if !(1..=16).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u64::from(digit))
    })
}
