//! What a service's answer means. Names and values are checked here: what could not be sent makes the
//! whole answer an error.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header::HOST};
use ithildin_proto::{
    json,
    pb::envoy::{
        config::core::v3::HeaderValue as HeaderProto,
        service::ratelimit::v3::{
            RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, rate_limit::Unit},
        },
    },
};
use serde_json::{Map, Value};

use crate::http::headers::is_of_connection;

/// A service's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) is_over: bool,
    pub(super) statuses: Vec<DescriptorStatus>,
    pub(super) response_headers: Vec<(HeaderName, Bytes)>,
    pub(super) request_headers: Vec<(HeaderName, Bytes)>,
    /// Of the response to a request that is refused.
    pub(super) body: Bytes,
    pub(super) metadata: Map<String, Value>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the answer has a header that cannot be sent")]
    Header,
}

impl TryFrom<RateLimitResponse> for Answer {
    type Error = AnswerError;

    fn try_from(answer: RateLimitResponse) -> Result<Self, AnswerError> {
        let RateLimitResponse {
            overall_code,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata,
            // For filters that keep quotas.
            quota: _,
        } = answer;
        let metadata = dynamic_metadata.unwrap_or_default().fields.into_iter();
        Ok(Self {
            is_over: overall_code == i32::from(Code::OverLimit),
            statuses,
            response_headers: headers(&response_headers_to_add)?,
            request_headers: headers(&request_headers_to_add)?
                .into_iter()
                // There is one alone, which is the request's.
                .filter(|(name, _)| *name != HOST)
                .collect(),
            body: raw_body.into(),
            metadata: metadata.map(|(key, value)| (key, json(value))).collect(),
        })
    }
}

fn headers(list: &[HeaderProto]) -> Result<Vec<(HeaderName, Bytes)>, AnswerError> {
    let mut headers = Vec::with_capacity(list.len());
    for HeaderProto {
        key,
        value,
        // As in Envoy.
        raw_value: _,
    } in list
    {
        let name = HeaderName::try_from(key).map_err(|_| AnswerError::Header)?;
        HeaderValue::from_str(value).map_err(|_| AnswerError::Header)?;
        if !is_of_connection(&name) {
            headers.push((name, Bytes::copy_from_slice(value.as_bytes())));
        }
    }
    Ok(headers)
}

/// `x-ratelimit-limit`, `-remaining` and `-reset` for the limit that is next to be reached, with all
/// limits in the first (draft-polli-ratelimit-headers-03).
pub(super) fn limits(statuses: &[DescriptorStatus]) -> Option<[String; 3]> {
    let known = statuses.iter().filter(|it| it.current_limit.is_some());
    // The first of several.
    let next = known.clone().min_by_key(|it| it.limit_remaining)?;
    let requests = next.current_limit.as_ref()?.requests_per_unit;
    let mut limits = requests.to_string();
    for limit in known.filter_map(|it| it.current_limit.as_ref()) {
        let Some(window) = seconds(limit.unit()) else {
            continue;
        };
        limits.push_str(&format!(", {};w={window}", limit.requests_per_unit));
        // What would end the text, or the header, is no name.
        if !limit.name.is_empty() && limit.name.bytes().all(is_plain) {
            limits.push_str(&format!(";name=\"{}\"", limit.name));
        }
    }
    let reset = next.duration_until_reset.unwrap_or_default().seconds;
    let remaining = next.limit_remaining.to_string();
    Some([limits, remaining, reset.to_string()])
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// Seconds until there is room again, for a request that was refused.
pub(super) fn retry_after(statuses: &[DescriptorStatus]) -> Option<i64> {
    let over = statuses.iter().filter(|it| it.code() == Code::OverLimit);
    let resets = over.map(|it| it.duration_until_reset.unwrap_or_default().seconds);
    resets.max().map(|it| it.max(1))
}

/// The length of a window as Envoy takes it.
fn seconds(unit: Unit) -> Option<u32> {
    const DAY: u32 = 86_400;
    Some(match unit {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
    })
}
