//! Header additions and removals.

use bytes::Bytes;
use http::HeaderName;
use ithildin_proto::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};

use super::access_log;
use crate::config::route::{AppendAction, HeaderAddition, HeaderMutations, HeaderText};
use crate::control::report::At;

/// The operations of one level on requests.
pub(super) fn request(
    add: &[HeaderValueOption],
    remove: &[String],
    at: &At<'_>,
) -> HeaderMutations {
    let fields = ("request_headers_to_add", "request_headers_to_remove");
    mutations(fields, add, remove, at)
}

/// The operations of one level on responses.
pub(super) fn response(
    add: &[HeaderValueOption],
    remove: &[String],
    at: &At<'_>,
) -> HeaderMutations {
    let fields = ("response_headers_to_add", "response_headers_to_remove");
    mutations(fields, add, remove, at)
}

/// Additions under a name of their own.
pub(super) fn additions(field: &str, add: &[HeaderValueOption], at: &At<'_>) -> HeaderMutations {
    mutations((field, ""), add, &[], at)
}

/// A value without command operators.
pub(super) fn value(text: &str, at: &At<'_>) -> Option<Bytes> {
    if http::HeaderValue::from_str(text).is_err() {
        at.error(format_args!("{text:?} is not a header value"));
        return None;
    }
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

fn mutations(
    (add_field, remove_field): (&str, &str),
    add: &[HeaderValueOption],
    remove: &[String],
    at: &At<'_>,
) -> HeaderMutations {
    let add = add.iter().enumerate();
    let remove = remove.iter().enumerate();
    HeaderMutations {
        remove: remove
            .filter_map(|(i, name)| header_name(name, &at.index(remove_field, i)))
            .collect(),
        add: add
            .filter_map(|(i, option)| addition(option, &at.index(add_field, i)))
            .collect(),
    }
}

fn addition(option: &HeaderValueOption, at: &At<'_>) -> Option<HeaderAddition> {
    let HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value,
    } = option;
    let Some(HeaderValue {
        key,
        value,
        raw_value,
    }) = header
    else {
        at.field("header").error("is required");
        return None;
    };
    let at_header = at.field("header");
    at_header.unset("raw_value", raw_value);
    let name = header_name(key, &at_header.field("key"));
    let at_value = at_header.field("value");
    let value = text(value, &at_value);
    let action = match append {
        // The deprecated form, which `append_action` replaced.
        Some(append) if append.value => AppendAction::AppendOrAdd,
        Some(_) => AppendAction::OverwriteOrAdd,
        None => match at.enumeration("append_action", *append_action)? {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
        },
    };
    Some(HeaderAddition {
        name: name?,
        value: value?,
        action,
        keep_empty: *keep_empty_value,
    })
}

fn text(value: &str, at: &At<'_>) -> Option<HeaderText> {
    let template = access_log::whole_template(value, at)?;
    let literals = template.literals().flatten();
    if literals
        .copied()
        .any(|byte| byte.is_ascii_control() && byte != b'\t')
    {
        at.error(format_args!("{value:?} is not a header value"));
        return None;
    }
    Some(match template.as_literal() {
        Some(text) => HeaderText::Literal(Bytes::copy_from_slice(text)),
        None => HeaderText::Template(template),
    })
}

/// A header's name; the host and the pseudo headers cannot be changed this way, in Envoy neither.
fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        at.error(format_args!(
            "{name:?} cannot be changed; use a rewrite of the route"
        ));
        return None;
    }
    let parsed = HeaderName::try_from(name);
    if parsed.is_err() {
        at.error(format_args!("{name:?} is not a header name"));
    }
    parsed.ok()
}
