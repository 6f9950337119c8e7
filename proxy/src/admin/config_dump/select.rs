//! The parts of a dump that were asked for: `resource`, `mask` and `name_regex`.

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value};

/// The lists of each section (without `ConfigDump`): field, message of an entry, and where the
/// resource stands in it.
const LISTS: &[(&str, &str, &str, &str)] = &[
    ("Clusters", "static_clusters", "StaticCluster", "cluster"),
    (
        "Clusters",
        "dynamic_active_clusters",
        "DynamicCluster",
        "cluster",
    ),
    (
        "Clusters",
        "dynamic_warming_clusters",
        "DynamicCluster",
        "cluster",
    ),
    (
        "Endpoints",
        "static_endpoint_configs",
        "StaticEndpointConfig",
        "endpoint_config",
    ),
    (
        "Endpoints",
        "dynamic_endpoint_configs",
        "DynamicEndpointConfig",
        "endpoint_config",
    ),
    (
        "Listeners",
        "static_listeners",
        "StaticListener",
        "listener",
    ),
    (
        "Listeners",
        "dynamic_listeners",
        "DynamicListener",
        "listener",
    ),
    (
        "Routes",
        "static_route_configs",
        "StaticRouteConfig",
        "route_config",
    ),
    (
        "Routes",
        "dynamic_route_configs",
        "DynamicRouteConfig",
        "route_config",
    ),
    ("Secrets", "static_secrets", "StaticSecret", "secret"),
    (
        "Secrets",
        "dynamic_active_secrets",
        "DynamicSecret",
        "secret",
    ),
    (
        "Secrets",
        "dynamic_warming_secrets",
        "DynamicSecret",
        "secret",
    ),
];

/// What of a dump is wanted; by default all of it.
#[derive(Default)]
pub(in crate::admin) struct Selection {
    /// With the endpoints.
    pub(in crate::admin) include_eds: bool,
    /// One list, its entries alone.
    pub(in crate::admin) resource: Option<String>,
    /// Fields: of each entry with `resource`, else of each section.
    pub(in crate::admin) mask: Option<String>,
    /// Must match a resource's whole name.
    pub(in crate::admin) name: Option<Regex>,
}

/// A regular expression for a whole name.
pub(in crate::admin) fn whole_name(text: &str) -> Result<Regex, regex::Error> {
    // By itself first, so that it cannot close our group.
    Regex::new(text)?;
    Regex::new(&format!("^(?:{text})$"))
}

impl Selection {
    /// Takes what is wanted out of the sections.
    ///
    /// # Errors
    /// A status and why.
    pub(super) fn apply(&self, mut sections: Vec<Value>) -> Result<Value, (StatusCode, String)> {
        if let Some(name) = &self.name {
            sections.iter_mut().for_each(|it| keep_named(it, name));
        }
        let configs = match (&self.resource, &self.mask) {
            (Some(resource), mask) => entries(resource, mask.as_deref(), &sections)?,
            (None, Some(mask)) => masked_sections(mask, sections)?,
            (None, None) => sections,
        };
        let mut dump = Map::new();
        if !configs.is_empty() {
            dump.insert("configs".to_owned(), configs.into());
        }
        Ok(dump.into())
    }
}

fn entries(
    resource: &str,
    mask: Option<&str>,
    sections: &[Value],
) -> Result<Vec<Value>, (StatusCode, String)> {
    if resource == "bootstrap" {
        let text = "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field";
        return Err((StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let known = LISTS.iter().find(|(_, list, ..)| *list == resource);
    let found = known.and_then(|known| {
        let kind = section_type(known.0);
        let section = sections.iter().find(|it| it["@type"] == kind)?;
        Some((known, section))
    });
    let Some(((kind, _, message, _), section)) = found else {
        let text = format!("{resource} not found in config dump");
        return Err((StatusCode::NOT_FOUND, text));
    };
    let entries = section.get(resource).and_then(Value::as_array);
    let entries = entries.into_iter().flatten().map(|entry| {
        let mut typed = Map::new();
        let name = format!("{}.{message}", section_type(kind));
        typed.insert("@type".to_owned(), name.into());
        let fields = match mask {
            Some(mask) => masked(entry, mask),
            None => entry.as_object().cloned().unwrap_or_default(),
        };
        typed.extend(fields);
        typed.into()
    });
    Ok(entries.collect())
}

/// Sections that have the fields, with these fields alone.
fn masked_sections(mask: &str, sections: Vec<Value>) -> Result<Vec<Value>, (StatusCode, String)> {
    let applies = |section: &Value| {
        mask.split(',').all(|path| {
            let (field, inner) = path.split_once('.').unwrap_or((path, ""));
            // A path ends at a list.
            let list = LISTS.iter().any(|(kind, list, ..)| {
                section["@type"] == section_type(kind) && *list == field && inner.is_empty()
            });
            list || section.get(field).is_some_and(|value| !value.is_array())
        })
    };
    let wanted: Vec<_> = sections
        .iter()
        .filter(|section| applies(section))
        .map(|section| {
            let mut fields = Map::new();
            fields.insert("@type".to_owned(), section["@type"].clone());
            fields.extend(masked(section, mask));
            Value::from(fields)
        })
        .collect();
    if wanted.is_empty() {
        let text = format!("FieldMask {mask} could not be successfully applied to any configs.");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    Ok(wanted)
}

/// The fields of a mask.
fn masked(value: &Value, mask: &str) -> Map<String, Value> {
    let mut kept = Map::new();
    for path in mask.split(',') {
        copy(value, &mut kept, path);
    }
    kept
}

fn copy(from: &Value, to: &mut Map<String, Value>, path: &str) {
    let (field, inner) = path.split_once('.').unwrap_or((path, ""));
    let Some(value) = from.get(field) else {
        return;
    };
    if inner.is_empty() {
        to.insert(field.to_owned(), value.clone());
        return;
    }
    let below = to.entry(field).or_insert_with(|| {
        let mut below = Map::new();
        // What an `Any` holds is told either way.
        if let Some(kind) = value.get("@type") {
            below.insert("@type".to_owned(), kind.clone());
        }
        below.into()
    });
    if let Some(below) = below.as_object_mut() {
        copy(value, below, inner);
    }
}

/// Leaves the resources whose names match.
fn keep_named(section: &mut Value, wanted: &Regex) {
    for (_, list, _, field) in LISTS {
        let Some(entries) = section.get_mut(*list).and_then(Value::as_array_mut) else {
            continue;
        };
        entries.retain(|entry| name(entry, field).is_some_and(|name| wanted.is_match(name)));
        if entries.is_empty()
            && let Some(section) = section.as_object_mut()
        {
            section.remove(*list);
        }
    }
}

fn name<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    let resource = entry.get(field);
    let of_resource = |key: &str| resource?.get(key);
    let name = entry.get("name").or_else(|| of_resource("name"));
    let name = name.or_else(|| of_resource("cluster_name"));
    // A name that is empty is left out.
    Some(name.and_then(Value::as_str).unwrap_or_default())
}

pub(super) fn section_type(section: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{section}ConfigDump")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sections() -> Vec<Value> {
        vec![
            json!({"@type": section_type("Bootstrap"), "bootstrap": {"node": {"id": "n"}}}),
            json!({
                "@type": section_type("Clusters"),
                "version_info": "1",
                "static_clusters": [
                    {"cluster": {"@type": "C", "name": "one", "type": "EDS"}, "last_updated": "t"},
                    {"cluster": {"@type": "C", "name": "two"}, "last_updated": "t"},
                ],
            }),
        ]
    }

    /// The answers of Envoy 1.40 to the same.
    #[test]
    fn parts_of_a_dump_are_as_envoys() {
        let type_of = "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster";
        for (resource, mask, name, expected) in [
            (
                "static_clusters",
                "cluster.name",
                "",
                Ok(json!({"configs": [
                    {"@type": type_of, "cluster": {"@type": "C", "name": "one"}},
                    {"@type": type_of, "cluster": {"@type": "C", "name": "two"}},
                ]})),
            ),
            ("static_clusters", "", "t", Ok(json!({}))),
            (
                "static_clusters",
                "",
                "t.*",
                Ok(json!({"configs": [
                    {"@type": type_of, "cluster": {"@type": "C", "name": "two"}, "last_updated": "t"},
                ]})),
            ),
            ("dynamic_active_clusters", "", "", Ok(json!({}))),
            ("nope", "", "", Err("nope not found in config dump")),
            (
                "static_listeners",
                "",
                "",
                Err("static_listeners not found in config dump"),
            ),
            (
                "bootstrap",
                "",
                "",
                Err(
                    "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
                ),
            ),
            (
                "",
                "bootstrap.node",
                "",
                Ok(json!({"configs": [
                    {"@type": section_type("Bootstrap"), "bootstrap": {"node": {"id": "n"}}},
                ]})),
            ),
            (
                "",
                "static_clusters.cluster.name",
                "",
                Err(
                    "FieldMask static_clusters.cluster.name could not be successfully applied to any configs.",
                ),
            ),
            (
                "",
                "nope",
                "",
                Err("FieldMask nope could not be successfully applied to any configs."),
            ),
        ] {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let selection = Selection {
                include_eds: false,
                resource: given(resource),
                mask: given(mask),
                name: given(name).map(|name| whole_name(&name).expect("a pattern")),
            };
            let found = selection.apply(sections()).map_err(|(_, text)| text);
            let expected = expected.map_err(str::to_owned);
            assert_eq!(found, expected, "{resource} {mask} {name}");
        }
        assert!(whole_name("a)|(b").is_err());
    }
}
