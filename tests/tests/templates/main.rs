//! `istio-templates`: the injection templates as istiod's injector renders and merges them, the manifests, and
//! that our programs take what comes out of it.
//!
//! The injector is modelled: `render` evaluates the few constructs of Go's templates that ours use and fails on
//! any other, `merge` is Kubernetes' strategic merge of Pods, and `stock/` holds what Istio's own templates give.

mod injection;
mod manifests;
mod merge;
mod programs;
mod render;
mod walkthrough;

use std::{fs, path::Path};

use ithildin_proto::yaml;
use serde_json::Value;

/// A file of `istio-templates`.
fn template(name: &str) -> String {
    read(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../istio-templates")
            .join(name),
    )
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What Istio's injector makes of a Pod.
fn stock(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates/stock");
    parse(&read(&folder.join(format!("{name}.yaml"))))
}

fn parse(text: &str) -> Value {
    let documents = yaml::documents(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().next().expect("a document")
}

fn documents(name: &str) -> Vec<Value> {
    yaml::documents(&template(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The document of this kind.
fn kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let found = documents.iter().find(|document| document["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// The entries of a list with this name.
fn named<'a>(list: &'a Value, name: &str) -> Vec<&'a Value> {
    let items = list.as_array().into_iter().flatten();
    items.filter(|item| item["name"] == name).collect()
}

/// The only entry of a list with this name.
fn the<'a>(list: &'a Value, name: &str) -> &'a Value {
    match named(list, name)[..] {
        [item] => item,
        ref found => panic!("{} entries {name} in {list}", found.len()),
    }
}
