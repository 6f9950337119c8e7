//! Request targets.

use super::Limits;
use crate::{error::ParseError, head::Fields};

/// A target's parts, as offsets into the head.
pub(super) struct Target {
    pub(super) authority: Option<(u32, u32)>,
    pub(super) path: Option<(u32, u32)>,
    pub(super) scheme: Option<&'static str>,
}

/// The four forms of RFC 9112, section 3.2.
pub(super) fn split_target(
    fields: &Fields,
    method: (u32, u32),
    (start, end): (u32, u32),
    limits: Limits,
) -> Result<Target, ParseError> {
    let target = fields.slice((start, end));
    let fragment = match limits.strips_fragment {
        true => memchr::memchr(b'#', target),
        false => None,
    };
    let target = &target[..fragment.unwrap_or(target.len())];
    let end = start + target.len() as u32;
    let method = fields.slice(method);
    check_target(target)?;
    if method == b"CONNECT" {
        let has_port = target.rsplit(|b| *b == b':').next().is_some_and(|port| {
            port.len() < target.len() && !port.is_empty() && port.iter().all(u8::is_ascii_digit)
        });
        return if has_port {
            Ok(Target {
                authority: Some((start, end)),
                path: None,
                scheme: None,
            })
        } else {
            Err(ParseError::Target)
        };
    }
    if target.first() == Some(&b'/') || (target == b"*" && method == b"OPTIONS") {
        return Ok(Target {
            authority: None,
            path: Some((start, end)),
            scheme: None,
        });
    }
    let (scheme, prefix) = if has_prefix(target, b"http://") {
        ("http", 7)
    } else if has_prefix(target, b"https://") {
        ("https", 8)
    } else if memchr::memmem::find(target, b"://").is_some() {
        return Err(ParseError::Scheme);
    } else if target == b"*" {
        return Err(ParseError::Target);
    } else {
        return Err(ParseError::Malformed);
    };
    let rest = &target[prefix..];
    let length = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority_end = start + (prefix + length) as u32;
    match rest.get(length) {
        _ if length == 0 => Err(ParseError::Target),
        // A query without a path has no origin form of its own.
        Some(b'?') => Err(ParseError::Target),
        next => Ok(Target {
            authority: Some((start + prefix as u32, authority_end)),
            path: next.map(|_| (authority_end, end)),
            scheme: Some(scheme),
        }),
    }
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    text.len() >= prefix.len() && text[..prefix.len()].eq_ignore_ascii_case(prefix)
}

/// What no target may hold, in whichever form and version.
pub fn check_target(target: &[u8]) -> Result<(), ParseError> {
    // Bytes above ASCII belong percent-encoded; peers disagree on what they mean raw.
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(ParseError::Target);
    }
    // Never sent (RFC 3986, section 3.5): peers disagree on whether it is a part of the path.
    if memchr::memchr(b'#', target).is_some() {
        return Err(ParseError::Fragment);
    }
    Ok(())
}

/// `uri-host [":" port]` without user information.
pub fn is_authority(authority: &[u8]) -> bool {
    authority
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(b))
}
