//! Header operations of routes, in Envoy's order: removals, then additions.
//!
//! Values are literals: the compiler refuses command operators in them.

use bytes::Bytes;

use super::headers::Headers;
use crate::config::route::{AppendAction, HeaderMutations};

/// Applies one level's operations.
pub(super) fn apply(mutations: &HeaderMutations, headers: &mut Headers) {
    for name in &mutations.remove {
        headers.remove(name.as_str());
    }
    for addition in &mutations.add {
        let Some(value) = addition.value.as_literal() else {
            continue;
        };
        if value.is_empty() && !addition.keep_empty {
            continue;
        }
        let present = headers.get(addition.name.as_str()).is_some();
        match addition.action {
            AppendAction::AppendOrAdd => {}
            AppendAction::AddIfAbsent if present => continue,
            AppendAction::AddIfAbsent => {}
            AppendAction::OverwriteIfExists if !present => continue,
            AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists => {
                headers.remove(addition.name.as_str());
            }
        }
        headers.append(addition.name.clone(), Bytes::copy_from_slice(value));
    }
}
