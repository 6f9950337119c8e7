//! Where a request comes from, as its headers tell in Zipkin's words: `b3`, or several `x-b3-*`.
//!
//! Invariant: a header longer than what it may hold is not read.

use bytes::Bytes;
use ithildin_http1::Known;

use super::context::{Extracted, Parent, hex};
use crate::{access_log::SpanIds, http::headers::Headers};

const SINGLE: &str = "b3";
const TRACE_ID: &str = "x-b3-traceid";
const SPAN_ID: &str = "x-b3-spanid";
const PARENT_ID: &str = "x-b3-parentspanid";
const SAMPLED: &str = "x-b3-sampled";

/// Digits of the id of a span, and of one half of a trace's.
const ID: usize = 16;

/// Whether the hop before decided, by itself or beside its ids.
pub(super) fn sampled(headers: &Headers) -> Option<bool> {
    if let Some(single) = headers.get(SINGLE) {
        // The flag is behind one id of a trace, of either length, and one of a span.
        let at = match single.len() {
            1 => 0,
            35 | 52 => 34,
            51 | 68 => 50,
            _ => return None,
        };
        return flag(single[at]);
    }
    let value = headers.get(SAMPLED)?;
    Some(value == "1" || value == "true")
}

/// `sampled` is what was decided.
pub(super) fn read(headers: &Headers, sampled: bool) -> Extracted {
    let ids = match headers.get(SINGLE) {
        Some(single) if single.len() == 1 => match flag(single[0]) {
            Some(_) => return Extracted::Nothing,
            None => None,
        },
        Some(single) => of_single(single),
        None => match (headers.get(TRACE_ID), headers.get(SPAN_ID)) {
            (Some(trace), Some(span)) => of_several(trace, span, headers.get(PARENT_ID)),
            _ => return Extracted::Nothing,
        },
    };
    let Some((trace, span, parent)) = ids else {
        return Extracted::Nonsense;
    };
    Extracted::Parent(Parent {
        ids: SpanIds {
            trace,
            span,
            sampled,
            wide: is_wide(trace),
        },
        parent,
        state: None,
    })
}

/// Tells the upstream, in the form in which we were told.
pub(super) fn write(ids: &SpanIds, parent: Option<u64>, headers: &mut Headers) {
    if is_single(headers) {
        let (trace, sampled) = (ids.trace_hex(), u8::from(ids.sampled));
        let mut value = format!("{trace}-{:016x}-{sampled}", ids.span);
        if let Some(parent) = parent {
            value.push_str(&format!("-{parent:016x}"));
        }
        headers.set(Known::Other, SINGLE, value);
        return;
    }
    headers.set(Known::Other, TRACE_ID, ids.trace_hex());
    headers.set(Known::Other, SPAN_ID, format!("{:016x}", ids.span));
    if let Some(parent) = parent {
        headers.set(Known::Other, PARENT_ID, format!("{parent:016x}"));
    }
    let sampled = if ids.sampled { b"1" } else { b"0" };
    headers.set(Known::Other, SAMPLED, Bytes::from_static(sampled));
}

/// Whether the hop before speaks in this form, though it may tell of no span.
pub(super) fn is_single(headers: &Headers) -> bool {
    headers.get(SINGLE).is_some()
}

/// Whether the id of a trace needs its upper half.
pub(super) fn is_wide(trace: u128) -> bool {
    trace >> 64 != 0
}

/// The ids of a trace, a span, and its parent.
type Ids = (u128, u64, Option<u64>);

fn of_several(trace: &[u8], span: &[u8], parent: Option<&Bytes>) -> Option<Ids> {
    let trace = trace_id(trace)?;
    let span = hex(span)?;
    let parent = match parent.filter(|parent| !parent.is_empty()) {
        Some(parent) => Some(hex(parent)?).filter(|parent| *parent != 0),
        None => None,
    };
    Some((trace, span, parent))
}

/// `trace-span`, `trace-span-flag` or `trace-span-flag-parent`.
fn of_single(value: &[u8]) -> Option<Ids> {
    let length = match value.get(2 * ID) {
        Some(b'-') => 2 * ID,
        _ => ID,
    };
    let (trace, rest) = value.split_at_checked(length)?;
    let trace = trace_id(trace)?;
    let (span, rest) = rest.strip_prefix(b"-")?.split_at_checked(ID)?;
    let span = hex(span)?;
    let Some((b'-', rest)) = rest.split_first() else {
        return rest.is_empty().then_some((trace, span, None));
    };
    let (first, rest) = rest.split_first()?;
    flag(*first)?;
    let parent = match rest {
        [] => None,
        [b'-', parent @ ..] if parent.len() == ID => Some(hex(parent)?),
        _ => return None,
    };
    Some((trace, span, parent.filter(|parent| *parent != 0)))
}

fn trace_id(digits: &[u8]) -> Option<u128> {
    let (high, low) = match digits.len() {
        length if length == 2 * ID => (hex(&digits[..ID])?, hex(&digits[ID..])?),
        _ => (0, hex(digits)?),
    };
    Some(u128::from(high) << 64 | u128::from(low))
}

/// `d`: sampled, and more than that.
fn flag(flag: u8) -> Option<bool> {
    match flag {
        b'0' => Some(false),
        b'1' | b'd' => Some(true),
        _ => None,
    }
}
