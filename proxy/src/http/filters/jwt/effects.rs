//! What a good token changes: headers, metadata, the route.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use ithildin_jwt::{JwtError, Object, Token, Value};

use super::{
    Check, DynamicMetadata, NAMESPACE,
    locations::{Found, Place, without_parameter},
};
use crate::config::jwt::JwtProvider;

impl Check<'_> {
    pub(super) fn accept(&mut self, found: &Found<'_>, token: &Token<'_>, provider: &JwtProvider) {
        if let Some(header) = &provider.forward_payload_header {
            let mut payload = token.encoded_payload.to_owned();
            if provider.pad_forward_payload_header {
                let padded = payload.len().next_multiple_of(4);
                payload.extend(std::iter::repeat_n('=', padded - payload.len()));
            }
            self.request.headers.append(header.clone(), payload.into());
        }
        let mut told = provider.payload_in_metadata.is_some();
        for claim in &provider.claim_to_headers {
            if let Some(value) = header_value(&token.payload, &claim.path) {
                self.request.headers.append(claim.header.clone(), value);
                told = true;
            }
        }
        if !provider.forward {
            self.take_away(found.place);
        }
        self.leave_metadata(token, provider);
        self.reroute |= provider.clear_route_cache && told;
    }

    /// Takes the token from the request; cookies stay, as in Envoy.
    fn take_away(&mut self, place: Place<'_>) {
        match place {
            Place::Header(header) => self.request.headers.remove(header.as_str()),
            Place::Parameter(name) => {
                if let Some(path) = without_parameter(self.request, name) {
                    self.request.path = path;
                }
            }
            Place::Cookie => {}
        }
    }

    fn leave_metadata(&mut self, token: &Token<'_>, provider: &JwtProvider) {
        let mut leave = |key: &str, value: Value| {
            let metadata: &mut Box<DynamicMetadata> = self.request.metadata.get_or_insert_default();
            metadata.set(NAMESPACE, key, value);
        };
        if let Some(key) = &provider.header_in_metadata {
            leave(key, Value::Object(token.header.clone()));
        }
        if let Some(key) = &provider.payload_in_metadata {
            let mut payload = token.payload.clone();
            for claim in &provider.space_delimited_claims {
                if let Some(Value::String(text)) = payload.get(&**claim) {
                    let parts: Vec<_> = text.split(' ').filter(|it| !it.is_empty()).collect();
                    // What has no parts stays text, as in Envoy.
                    if !parts.is_empty() {
                        payload.insert(claim.to_string(), parts.into());
                    }
                }
            }
            leave(key, Value::Object(payload));
        }
    }
}

/// What `failed_status_in_metadata` says.
pub(super) fn failure(error: JwtError) -> Value {
    serde_json::json!({ "code": error.code(), "message": error.to_string() })
}

/// A claim as a header has it; `None` if it is missing, empty, or would be no header value.
fn header_value(payload: &Object, path: &[Box<str>]) -> Option<Bytes> {
    let (first, rest) = path.split_first()?;
    let value = payload.get(&**first)?;
    let mut rest = rest.iter();
    let value = rest.try_fold(value, |value, key| value.as_object()?.get(&**key))?;
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => decimal(number.as_f64()?),
        Value::Array(_) | Value::Object(_) => {
            let mut value = value.clone();
            value.sort_all_objects();
            STANDARD.encode(value.to_string())
        }
    };
    let value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    (!value.is_empty()).then(|| Bytes::from(text))
}

/// Whole numbers plainly, others to six places, as Envoy writes them.
fn decimal(number: f64) -> String {
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    match number.fract() == 0.0 && (0.0..LIMIT).contains(&number) {
        true => (number as u64).to_string(),
        false => format!("{number:.6}"),
    }
}
