//! Pages about the process: `/logging`, `/memory`, `/runtime`.

use std::collections::BTreeMap;

use http::StatusCode;
use ithildin_proto::{
    Printer,
    pb::envoy::config::bootstrap::v3::{RuntimeLayer, runtime_layer::LayerSpecifier},
};
use serde_json::{Map, Value, json};

use super::{
    AdminState, Page,
    pages::{self, Query, TEXT},
};
use crate::{log_levels, stats};

const LOGGING_USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
levels: trace debug info warning error critical off \n";

/// Changes log levels as the query says, and tells all.
pub(super) fn logging(query: &Query<'_>) -> Page {
    let changed = match query.pairs().next() {
        None => Ok(()),
        Some((key, level)) if key == "level" => log_levels::set_all(&level),
        Some((key, paths)) if key == "paths" => {
            let changes = paths.split(',').filter(|it| !it.is_empty());
            let changes = changes.map(|it| it.split_once(':').unwrap_or((it, "")));
            log_levels::set(&changes.collect::<Vec<_>>())
        }
        Some((name, level)) => log_levels::set(&[(&name, &level)]),
    };
    match changed {
        Ok(()) => pages::ok(TEXT, log_levels::text()),
        Err(error) => {
            let text = format!("error: {error}\n\n{LOGGING_USAGE}{}", log_levels::text());
            pages::page(StatusCode::BAD_REQUEST, TEXT, text)
        }
    }
}

/// `envoy.admin.v3.Memory`. The allocator is not Envoy's: what it holds is what the kernel says.
pub(super) fn memory() -> Value {
    let resident = stats::process::resident_bytes()
        .unwrap_or_default()
        .to_string();
    json!({
        "allocated": resident,
        "heap_size": resident,
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": resident,
    })
}

/// The layers of the bootstrap and their values. No key changes how this proxy behaves.
pub(super) fn runtime(state: &AdminState) -> Value {
    let layers = state.bootstrap.read().layered_runtime.unwrap_or_default();
    let printer = Printer::new();
    let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let count = layers.layers.len();
    for (index, layer) in layers.layers.iter().enumerate() {
        let mut values = BTreeMap::new();
        static_values(layer, &printer, &mut values);
        for (key, value) in values {
            let row = entries
                .entry(key)
                .or_insert_with(|| vec![String::new(); count]);
            row[index] = value;
        }
    }
    let entries: Map<String, Value> = entries
        .into_iter()
        .map(|(key, row)| {
            let last = row.iter().rfind(|value| !value.is_empty());
            let last = last.cloned().unwrap_or_default();
            (key, json!({"layer_values": row, "final_value": last}))
        })
        .collect();
    let names: Vec<_> = layers.layers.iter().map(|layer| &layer.name).collect();
    json!({"entries": entries, "layers": names})
}

fn static_values(layer: &RuntimeLayer, printer: &Printer, values: &mut BTreeMap<String, String>) {
    if let Some(LayerSpecifier::StaticLayer(_)) = &layer.layer_specifier {
        flatten("", &printer.json(layer)["static_layer"], values);
    }
}

/// Nested keys become one, with dots.
fn flatten(prefix: &str, value: &Value, values: &mut BTreeMap<String, String>) {
    let Some(fields) = value.as_object() else {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        values.insert(prefix.to_owned(), text);
        return;
    };
    for (key, value) in fields {
        let key = match prefix {
            "" => key.clone(),
            prefix => format!("{prefix}.{key}"),
        };
        flatten(&key, value, values);
    }
}
