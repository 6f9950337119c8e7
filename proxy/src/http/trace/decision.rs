//! Whether a request is traced. What was decided is packed into its `x-request-id`, where the next
//! hop finds it.
//!
//! Invariant: an id that is not a UUID decides nothing, and is passed on as it came.

use bytes::Bytes;
use ithildin_http1::Known;

use crate::{
    config::trace::{Sampling, Tracing},
    http::{headers::Headers, prepare::FORCE_TRACE, request::Request},
    stats::HttpBlock,
};

/// Digits of a UUID with its hyphens.
const UUID: usize = 36;

/// The digit of a UUID that tells its version, which is always 4: in its place stands what was decided.
const REASON_AT: usize = 14;

/// Digits of an id that decide by chance.
const CHANCE: usize = 8;

/// Those digits choose one of so many parts.
const PARTS: u64 = 10_000;

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NotTraced,
    Sampled,
    /// A service of ours asks for it (`x-envoy-force-trace`).
    Forced,
    /// The client does (`x-client-trace-id`).
    Client,
}

impl Reason {
    pub(super) fn traces(self) -> bool {
        self != Self::NotTraced
    }

    pub(super) fn count(self, stats: &HttpBlock) {
        match self {
            Self::NotTraced => stats.tracing_not_traceable.inc(),
            Self::Sampled => stats.tracing_random_sampling.inc(),
            Self::Forced => stats.tracing_service_forced.inc(),
            Self::Client => stats.tracing_client_enabled.inc(),
        }
    }

    fn of(digit: u8) -> Self {
        match digit {
            b'9' => Self::Sampled,
            b'a' => Self::Forced,
            b'b' => Self::Client,
            _ => Self::NotTraced,
        }
    }

    fn digit(self) -> u8 {
        match self {
            Self::NotTraced => b'4',
            Self::Sampled => b'9',
            Self::Forced => b'a',
            Self::Client => b'b',
        }
    }
}

/// Decides, and tells the next hop. Source: Envoy, `mutateTracingRequestHeader`.
pub(super) fn decide(tracing: &Tracing, sampling: &Sampling, request: &mut Request) -> Reason {
    if !tracing.samples_by_request_id {
        return Reason::Sampled;
    }
    let headers = &request.headers;
    let id = headers.known(Known::XRequestId).cloned();
    let Some((id, chance)) = id.and_then(|id| chance(&id).map(|chance| (id, chance))) else {
        return Reason::NotTraced;
    };
    let before = match tracing.packs_reason {
        true => told(&id),
        false => Reason::NotTraced,
    };
    let mut reason = before;
    if reason == Reason::NotTraced {
        reason = afresh(sampling, headers, chance);
    }
    let mut is_news = reason != before;
    if reason.traces() && !sampling.overall.covers(chance) {
        reason = Reason::NotTraced;
        is_news = true;
    }
    if is_news && tracing.packs_reason && id.len() == UUID {
        let mut packed = id.to_vec();
        packed[REASON_AT] = reason.digit();
        let packed = Bytes::from(packed);
        request
            .headers
            .set(Known::XRequestId, "x-request-id", packed);
    }
    reason
}

/// The id without what somebody decided; `None` if it tells of nothing.
pub(in crate::http) fn undecided(id: &[u8]) -> Option<Bytes> {
    let none = Reason::NotTraced.digit();
    (id.len() == UUID && id[REASON_AT] != none).then(|| {
        let mut id = id.to_vec();
        id[REASON_AT] = none;
        id.into()
    })
}

/// Where nobody has decided before us.
fn afresh(sampling: &Sampling, headers: &Headers, chance: u64) -> Reason {
    let has = |name| headers.get(name).is_some();
    if has("x-client-trace-id") && sampling.client.hits() {
        Reason::Client
    } else if has(FORCE_TRACE) {
        Reason::Forced
    } else if sampling.random.covers(chance) {
        Reason::Sampled
    } else {
        Reason::NotTraced
    }
}

/// What the hop before decided.
fn told(id: &[u8]) -> Reason {
    match id.len() {
        UUID => Reason::of(id[REASON_AT]),
        _ => Reason::NotTraced,
    }
}

/// The part that an id falls into: the same at each hop.
fn chance(id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(id.get(..CHANCE)?).ok()?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u64::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    Some(number % PARTS)
}
