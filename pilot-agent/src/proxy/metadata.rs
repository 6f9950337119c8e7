//! Node metadata: what Istio calls by name, and what the environment adds.

use std::{collections::BTreeMap, fs, net::IpAddr};

use anyhow::Context;
use ithildin_istio_config::{Interception, Node};
use serde_json::{Map, Value};

use super::settings::{Env, Ports};

const TEXT_PREFIX: &str = "ISTIO_META_";
const JSON_PREFIX: &str = "ISTIO_METAJSON_";
/// Where the downward API writes the Pod's labels.
const LABELS_FILE: &str = "./etc/istio/pod/labels";
/// It differs from one rollout to the next and says nothing.
const NOISE: &str = "pod-template-hash";
/// Of the Istio release whose behaviour we keep to.
const ISTIO_VERSION: &str = "1.28.0";

/// What `proxyMetadata` and the environment say; the environment wins.
pub(super) fn raw(
    env: &Env,
    proxy_metadata: &BTreeMap<String, String>,
) -> anyhow::Result<Map<String, Value>> {
    let mut raw = Map::new();
    let configured = proxy_metadata.iter();
    let configured = configured.map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in configured.chain(env.iter()) {
        if let Some(key) = name.strip_prefix(JSON_PREFIX) {
            let value: Value = serde_json::from_str(value).with_context(|| name.to_owned())?;
            raw.insert(key.to_owned(), value);
        } else if let Some(key) = name.strip_prefix(TEXT_PREFIX) {
            raw.insert(key.to_owned(), Value::String(value.to_owned()));
        }
    }
    if let Ok(text) = fs::read_to_string(LABELS_FILE) {
        let labels = raw
            .entry("LABELS")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(labels) = labels.as_object_mut() {
            for (key, value) in downward(&text) {
                labels.entry(key).or_insert(Value::String(value));
            }
        }
    }
    Ok(raw)
}

/// The labels, from an object or from `a=b,c=d`.
pub(super) fn labels(raw: &Map<String, Value>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels: BTreeMap<_, _> = match raw.get("LABELS") {
        None => BTreeMap::new(),
        Some(Value::String(text)) => pairs(text).context("ISTIO_META_LABELS")?,
        Some(Value::Object(object)) => {
            let text = |(key, value): (&String, &Value)| {
                let value = value
                    .as_str()
                    .with_context(|| format!("{key:?} must be text"))?;
                Ok((key.clone(), value.to_owned()))
            };
            let pairs: anyhow::Result<_> = object.iter().map(text).collect();
            pairs.context("ISTIO_METAJSON_LABELS")?
        }
        Some(_) => anyhow::bail!("ISTIO_METAJSON_LABELS must be an object"),
    };
    labels.remove(NOISE);
    Ok(labels)
}

/// Adds what Istio names itself; what was given otherwise under these names gives way.
pub(super) fn complete(
    mut metadata: Map<String, Value>,
    node: &Node,
    env: &Env,
    ports: &Ports,
) -> Map<String, Value> {
    let ips: Vec<_> = node.ips.iter().map(IpAddr::to_string).collect();
    let labels = node
        .labels
        .iter()
        .map(|(k, v)| (k.clone(), Value::String(v.clone())));
    let interception = match node.interception {
        Interception::Redirect => "REDIRECT",
        Interception::Tproxy => "TPROXY",
        Interception::None => "NONE",
    };
    let mut set = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    set("NAME", node.name.clone().into());
    set("NAMESPACE", node.namespace.clone().into());
    set("INSTANCE_IPS", ips.join(",").into());
    set("LABELS", Value::Object(labels.collect()));
    set("CLUSTER_ID", node.cluster_id.clone().into());
    set("INTERCEPTION_MODE", interception.into());
    set("ISTIO_VERSION", ISTIO_VERSION.into());
    set("ENVOY_STATUS_PORT", ports.health.into());
    set("ENVOY_PROMETHEUS_PORT", ports.prometheus.into());
    if let Some(account) = env.text("SERVICE_ACCOUNT") {
        set("SERVICE_ACCOUNT", account.into());
    }
    metadata
}

fn pairs(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |item: &str| {
        let (key, value) = item
            .split_once('=')
            .with_context(|| format!("{item:?} is not of the form key=value"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',')
        .filter(|item| !item.trim().is_empty())
        .map(pair)
        .collect()
}

/// Lines `key="value"`, the value quoted as in JSON.
fn downward(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.to_owned(), serde_json::from_str(value).ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().copied().collect()
    }

    #[test]
    fn labels_from_either_form() {
        for env in [
            env(&[(
                "ISTIO_METAJSON_LABELS",
                r#"{"app":"web","pod-template-hash":"1"}"#,
            )]),
            env(&[("ISTIO_META_LABELS", "app=web,")]),
        ] {
            let raw = raw(&env, &BTreeMap::new()).unwrap();
            assert_eq!(labels(&raw).unwrap(), [("app".into(), "web".into())].into());
        }
    }

    #[test]
    fn the_environment_wins() {
        let proxy = [("ISTIO_META_A", "1"), ("ISTIO_META_B", "1"), ("C", "1")];
        let proxy = proxy.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let proxy = BTreeMap::from(proxy);
        let raw = raw(&env(&[("ISTIO_META_B", "2"), ("PATH", "x")]), &proxy).unwrap();
        assert_eq!(
            (raw.len(), &raw["A"], &raw["B"]),
            (2, &"1".into(), &"2".into())
        );
    }

    #[test]
    fn mistakes_name_the_variable() {
        let of = |name: &str, value: &str| {
            let raw = raw(&env(&[(name, value)]), &BTreeMap::new());
            format!("{:#}", raw.and_then(|raw| labels(&raw)).unwrap_err())
        };
        for (name, value) in [
            ("ISTIO_METAJSON_LABELS", "{"),
            ("ISTIO_METAJSON_LABELS", "[]"),
            ("ISTIO_METAJSON_LABELS", r#"{"app":1}"#),
            ("ISTIO_META_LABELS", "app"),
        ] {
            let error = of(name, value);
            assert!(error.starts_with(name), "{value}: {error}");
        }
    }

    #[test]
    fn the_downward_api_quotes() {
        let labels = downward("app=\"web\"\nnote=\"a \\\"b\\\"\"\nbroken\n");
        assert_eq!(labels.len(), 2);
        assert_eq!(labels["note"], "a \"b\"");
    }
}
