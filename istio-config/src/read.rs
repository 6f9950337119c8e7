//! JSON values to typed resources, with every fault and its path, not only the first.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// Most faults that are listed for one resource; whoever has more starts with these.
const MAX_FAULTS: usize = 50;

/// What is wrong in one field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub field: String,
    pub message: String,
}

/// Reads `value` as a `T`.
///
/// serde stops at the first fault. So the field at fault is taken out and the rest is read again,
/// until nothing is left to complain about.
pub(crate) fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, Vec<Fault>> {
    strip_nulls(&mut value);
    let mut faults = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, T>(value.clone()) {
            Ok(read) if faults.is_empty() => return Ok(read),
            Ok(_) => return Err(faults),
            Err(error) => error,
        };
        faults.push(Fault {
            field: display_path(error.path()),
            message: plain_message(&error.inner().to_string()),
        });
        if faults.len() == MAX_FAULTS || !remove(&mut value, error.path()) {
            return Err(faults);
        }
    }
}

/// Kubernetes treats a null as an absent field.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// The path without what serde adds for enums and what it could not tell.
fn display_path(path: &Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// serde's words in those of the user: no names of Rust types, and the field's name not again,
/// since the path has it.
fn plain_message(message: &str) -> String {
    if let Some((_, tail)) = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
    {
        return format!("unknown field{tail}");
    }
    if message.contains("expected key to be a number") {
        return "keys must be numbers".to_owned();
    }
    message
        .replace("unknown variant", "unknown value")
        .replace("expected u16", "expected 0 to 65535")
        .replace("expected u32", "expected 0 to 4294967295")
}

/// Takes the innermost map entry on `path` out of `value`. Elements of lists stay, so that the
/// indices in later faults are those that the user sees.
fn remove(value: &mut Value, path: &Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some(last) = segments
        .iter()
        .rposition(|segment| matches!(segment, Segment::Map { .. }))
    else {
        return false;
    };
    let mut at = value;
    for segment in &segments[..last] {
        let next = match segment {
            Segment::Seq { index } => at.get_mut(*index),
            Segment::Map { key } => at.get_mut(key.as_str()),
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        match next {
            Some(next) => at = next,
            None => return false,
        }
    }
    let Segment::Map { key } = segments[last] else {
        return false;
    };
    at.as_object_mut()
        .is_some_and(|map| map.remove(key).is_some())
}
