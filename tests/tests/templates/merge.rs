//! Kubernetes' strategic merge, as far as Pods need it.

use serde_json::Value;

/// Merges `patch` into `base`. Lists of Pods are joined by the key of their items, others are replaced.
pub(crate) fn merge(base: &mut Value, patch: &Value) {
    merge_at(base, patch, "");
}

fn merge_at(base: &mut Value, patch: &Value, field: &str) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (name, value) in patch {
                merge_at(base.entry(name).or_insert(Value::Null), value, name);
            }
        }
        (Value::Array(base), Value::Array(patch)) if key(field).is_some() => {
            let key = key(field).unwrap_or_default();
            for item in patch {
                match base.iter_mut().find(|known| known[key] == item[key]) {
                    Some(known) => merge_at(known, item, ""),
                    None => base.push(item.clone()),
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

/// `patchMergeKey` of the Pod API.
fn key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "volumes" | "env" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}

#[test]
fn items_are_joined_by_their_key() {
    let mut base = serde_json::json!({"containers": [
        {"name": "a", "args": ["1", "2"], "env": [{"name": "X", "value": "1"}]},
    ]});
    let patch = serde_json::json!({"containers": [
        {"name": "a", "args": ["3"], "env": [{"name": "Y"}]}, {"name": "b"},
    ]});
    merge(&mut base, &patch);
    let expected = serde_json::json!({"containers": [
        {"name": "a", "args": ["3"], "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}, {"name": "b"},
    ]});
    assert_eq!(base, expected);
}
