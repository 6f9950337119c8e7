//! Node metadata: what Istio calls by name, and what the environment adds.
//!
//! istiod decides by it what it sends, so it is, key by key and form by form, what Istio's agent sends.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::{Env, EnvoySettings, Ports};

const TEXT_PREFIX: &str = "ISTIO_META_";
const JSON_PREFIX: &str = "ISTIO_METAJSON_";
/// It differs from one rollout to the next and says nothing.
const NOISE: &str = "pod-template-hash";
/// Of the Istio release whose behaviour we keep to.
pub(crate) const ISTIO_VERSION: &str = "1.32-dev";
/// Labels that name a locality; the second is what istiod reads.
const LOCALITY_LABELS: [&str; 2] = ["topology.istio.io/locality", "istio-locality"];

/// Keys whose values are truth values, written as text.
const FLAGS: [&str; 7] = [
    "ENABLE_SELF_DISCOVERY",
    "DNS_CAPTURE",
    "DNS_AUTO_ALLOCATE",
    "ENABLE_HBONE",
    "DISABLE_HBONE_SEND",
    "INBOUND_LISTENER_EXACT_BALANCE",
    "OUTBOUND_LISTENER_EXACT_BALANCE",
];

/// Keys whose values are objects of texts, if they are objects at all.
const TEXT_MAPS: [&str; 4] = [
    "LABELS",
    "STATIC_LABELS",
    "ANNOTATIONS",
    "PLATFORM_METADATA",
];

/// What `proxyMetadata` and the environment say; the environment wins.
///
/// # Errors
/// A value that istiod could not read, with the variable's name.
pub(super) fn raw(
    env: &Env,
    proxy_metadata: &BTreeMap<String, String>,
) -> anyhow::Result<Map<String, Value>> {
    let mut raw = Map::new();
    let configured = proxy_metadata.iter();
    let configured = configured.map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in configured.chain(env.iter()) {
        if let Some(key) = name.strip_prefix(TEXT_PREFIX) {
            raw.insert(key.to_owned(), Value::String(value.to_owned()));
        }
    }
    for (rest, value) in env.with_prefix(JSON_PREFIX) {
        let name = || format!("{JSON_PREFIX}{rest}");
        let object: Map<String, Value> = serde_json::from_str(value).with_context(name)?;
        for key in TEXT_MAPS {
            texts_of(&object, key).with_context(name)?;
        }
        raw.extend(object);
    }
    if let Some(address) = env.text("DNS_PROXY_ADDR") {
        raw.insert("DNS_PROXY_ADDR".into(), address.into());
    }
    normalize(&mut raw)?;
    Ok(raw)
}

/// The object of texts under `key`, if there is one.
fn texts_of(
    object: &Map<String, Value>,
    key: &str,
) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let value = object.get(key).filter(|value| value.is_object());
    let texts = value.map(BTreeMap::deserialize);
    texts.transpose().with_context(|| key.to_owned())
}

/// Truth values and ports in the form in which Istio's agent writes them again.
fn normalize(raw: &mut Map<String, Value>) -> anyhow::Result<()> {
    for key in FLAGS {
        let Some(value) = raw.get_mut(key) else {
            continue;
        };
        match value.as_str() {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => *value = "true".into(),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False" | "") => {}
            _ => bail!("{TEXT_PREFIX}{key} {value} is not true or false"),
        }
    }
    if let Some(ports) = raw.get_mut("POD_PORTS")
        && let Some(text) = ports.as_str().filter(|text| !text.is_empty())
    {
        let name = || format!("{TEXT_PREFIX}POD_PORTS");
        let parsed: Vec<PodPort> = serde_json::from_str(text).with_context(name)?;
        if !parsed.is_empty() {
            *ports = serde_json::to_string(&parsed).with_context(name)?.into();
        }
    }
    Ok(())
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodPort {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
}

/// The workload's labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// Those of `ISTIO_METAJSON_LABELS`.
    pub(crate) fixed: BTreeMap<String, String>,
    /// With those of the Pod, which win.
    pub(crate) all: BTreeMap<String, String>,
}

impl Labels {
    /// From `ISTIO_METAJSON_LABELS`, an object, or `ISTIO_META_LABELS`, `a=b,c=d`, and from the Pod.
    ///
    /// `LABELS` of another `ISTIO_METAJSON_*` are those of a machine that has neither.
    pub(super) fn resolve(
        env: &Env,
        raw: &mut Map<String, Value>,
        pod: Option<&BTreeMap<String, String>>,
    ) -> anyhow::Result<Self> {
        let mut fixed = match env.text("ISTIO_METAJSON_LABELS") {
            Some(text) => serde_json::from_str(text).context("ISTIO_METAJSON_LABELS")?,
            None => BTreeMap::new(),
        };
        let others = texts_of(raw, "LABELS")?;
        if others.is_none()
            && let Some(Value::String(text)) = raw.remove("LABELS")
        {
            fixed.extend(pairs(&text).context("ISTIO_META_LABELS")?);
        }
        fixed.remove(NOISE);
        let mut all = match others {
            Some(others) if fixed.is_empty() && pod.is_none() => others,
            _ => fixed.clone(),
        };
        if fixed.is_empty() {
            fixed = texts_of(raw, "STATIC_LABELS")?.unwrap_or_default();
        }
        if let Some(pod) = pod {
            all.clone_from(&fixed);
            all.extend(pod.clone());
        }
        all.remove(NOISE);
        let mut labels = Self { fixed, all };
        if let Some(locality) = labels.locality() {
            let label = LOCALITY_LABELS[1];
            // Without a Pod, both are one map in Istio's agent.
            if pod.is_none() && labels.fixed == labels.all {
                labels.fixed.insert(label.into(), locality.clone());
            }
            labels.all.insert(label.into(), locality);
        }
        Ok(labels)
    }

    /// `region/zone/subzone`. Labels cannot have a slash, so a dot stands for it.
    pub(crate) fn locality(&self) -> Option<String> {
        let mut values = LOCALITY_LABELS
            .iter()
            .filter_map(|name| self.all.get(*name));
        let value = values.next().filter(|value| !value.is_empty())?;
        Some(match value.contains('/') {
            true => value.clone(),
            false => value.replace('.', "/"),
        })
    }
}

/// What Istio's agent says of a node besides what it was told.
#[derive(Debug)]
pub(super) struct Typed<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) service_account: Option<&'a str>,
    pub(super) ips: &'a [IpAddr],
    pub(super) labels: &'a Labels,
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) ports: &'a Ports,
    pub(super) envoy: &'a EnvoySettings,
    pub(super) proxy_config: &'a Map<String, Value>,
    pub(super) exit_on_zero: bool,
    pub(super) sts_port: u16,
    /// Names that istiod's certificate may have; `None` without TLS.
    pub(super) pilot_san: Option<String>,
}

impl Typed<'_> {
    /// Adds these; what was given otherwise under their names gives way.
    pub(super) fn complete(self, mut metadata: Map<String, Value>) -> Map<String, Value> {
        let hbone = metadata.get("ENABLE_HBONE").and_then(Value::as_str) == Some("true");
        let discovery = self.envoy.metadata_discovery.unwrap_or(hbone);
        let version = metadata.get("ISTIO_VERSION").and_then(Value::as_str);
        let version = version.filter(|version| !version.is_empty());
        let version = version.unwrap_or(ISTIO_VERSION).to_owned();
        let mut ips: Vec<String> = Vec::new();
        for ip in self.ips.iter().map(IpAddr::to_string) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let texts = |map: &BTreeMap<String, String>| {
            let entries = map.iter();
            entries
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect::<Map<_, _>>()
        };
        let annotations = match metadata.remove("ANNOTATIONS") {
            Some(Value::Object(given)) => {
                given.into_iter().chain(texts(self.annotations)).collect()
            }
            _ => texts(self.annotations),
        };
        let mut set = |key: &str, value: Value| {
            let says_nothing = match &value {
                Value::String(text) => text.is_empty(),
                Value::Object(object) => object.is_empty(),
                Value::Number(number) => number.as_u64() == Some(0),
                Value::Null => true,
                _ => false,
            };
            if !says_nothing {
                metadata.insert(key.to_owned(), value);
            }
        };
        let when = |yes: bool| match yes {
            true => Value::from("true"),
            false => Value::Null,
        };
        set("NAME", self.name.into());
        set("NAMESPACE", self.namespace.into());
        set("SERVICE_ACCOUNT", self.service_account.into());
        set("INSTANCE_IPS", ips.join(",").into());
        set("LABELS", texts(&self.labels.all).into());
        set("STATIC_LABELS", texts(&self.labels.fixed).into());
        set("ANNOTATIONS", annotations.into());
        set("ISTIO_VERSION", version.into());
        set("PROXY_CONFIG", self.proxy_config.clone().into());
        set("ENVOY_STATUS_PORT", self.ports.health.into());
        set("ENVOY_PROMETHEUS_PORT", self.ports.prometheus.into());
        set(
            "ENVOY_SECURE_METRICS_PORT",
            self.ports.secure_metrics.into(),
        );
        set(
            "ENVOY_SECURE_MERGED_METRICS_PORT",
            self.ports.secure_merged_metrics.into(),
        );
        set("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", when(self.exit_on_zero));
        set("METADATA_DISCOVERY", discovery.to_string().into());
        set(
            "ENVOY_SKIP_DEPRECATED_LOGS",
            when(self.envoy.skip_deprecated_logs),
        );
        set(
            "WORKLOAD_IDENTITY_SOCKET_FILE",
            self.envoy.workload_socket_file.as_str().into(),
        );
        set("OUTLIER_LOG_PATH", self.envoy.outlier_log.as_deref().into());
        if self.sts_port != 0 {
            set("STS_PORT", self.sts_port.to_string().into());
        }
        if let Some(san) = self.pilot_san {
            set("PILOT_SAN", vec![san].into());
        }
        metadata
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().copied().collect()
    }

    fn labels(pairs: &[(&str, &str)]) -> anyhow::Result<Labels> {
        let env = env(pairs);
        let mut raw = raw(&env, &BTreeMap::new())?;
        Labels::resolve(&env, &mut raw, None)
    }

    #[test]
    fn labels_from_either_form() {
        for pairs in [
            (
                "ISTIO_METAJSON_LABELS",
                r#"{"app":"web","pod-template-hash":"1"}"#,
            ),
            ("ISTIO_META_LABELS", "app=web,"),
        ] {
            let labels = labels(&[pairs]).unwrap();
            assert_eq!(labels.all, [("app".into(), "web".into())].into());
        }
    }

    #[test]
    fn the_pod_s_labels_win() {
        let env = env(&[("ISTIO_METAJSON_LABELS", r#"{"app":"a","x":"y"}"#)]);
        let pod = [("app", "web"), ("istio-locality", "r.z.s"), (NOISE, "1")];
        let pod = pod.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = Labels::resolve(&env, &mut Map::new(), Some(&pod.into())).unwrap();
        assert_eq!(labels.fixed["app"], "a");
        assert_eq!((labels.all["app"].as_str(), labels.all.len()), ("web", 3));
        assert_eq!(labels.all["istio-locality"], "r/z/s");
        assert_eq!(labels.locality().as_deref(), Some("r/z/s"));
    }

    #[test]
    fn a_machine_has_one_set_of_labels() {
        let labels = labels(&[("ISTIO_METAJSON_LABELS", r#"{"istio-locality":"r.z.s"}"#)]);
        let labels = labels.unwrap();
        assert_eq!(labels.fixed["istio-locality"], "r/z/s");
        assert_eq!(labels.fixed, labels.all);
    }

    #[test]
    fn labels_may_come_in_an_object_of_another_name() {
        let vm = ("ISTIO_METAJSON_VM", r#"{"LABELS": {"app": "vm"}}"#);
        let both = (
            "ISTIO_METAJSON_VM",
            r#"{"LABELS": {"app": "vm"}, "STATIC_LABELS": {"app": "s", "x": "y"}}"#,
        );
        let own = ("ISTIO_METAJSON_LABELS", r#"{"app": "web"}"#);
        let pod = [("app".to_owned(), "pod".to_owned())].into();
        for (pairs, pod, all, fixed) in [
            (&[vm][..], None, "app=vm", ""),
            (&[vm, own], None, "app=web", "app=web"),
            (&[vm], Some(&pod), "app=pod", ""),
            (&[both], None, "app=vm", "app=s x=y"),
            (&[both], Some(&pod), "app=pod x=y", "app=s x=y"),
        ] {
            let env = env(pairs);
            let mut raw = raw(&env, &BTreeMap::new()).unwrap();
            let labels = Labels::resolve(&env, &mut raw, pod).unwrap();
            let text = |map: &BTreeMap<String, String>| {
                let items = map.iter().map(|(key, value)| format!("{key}={value}"));
                items.collect::<Vec<_>>().join(" ")
            };
            assert_eq!(text(&labels.all), all, "{pairs:?}");
            assert_eq!(text(&labels.fixed), fixed, "{pairs:?}");
        }
    }

    #[test]
    fn the_environment_wins_and_objects_are_merged_in() {
        let proxy = [("ISTIO_META_A", "1"), ("ISTIO_META_B", "1"), ("C", "1")];
        let proxy = proxy.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = env(&[
            ("ISTIO_META_B", "2"),
            ("PATH", "x"),
            ("ISTIO_METAJSON_ANY", r#"{"D": {"e": 1}}"#),
            ("DNS_PROXY_ADDR", "127.0.0.1:53"),
            ("ISTIO_META_DNS_CAPTURE", "1"),
            ("ISTIO_META_ENABLE_HBONE", "0"),
            (
                "ISTIO_META_POD_PORTS",
                "[\n {\"protocol\":\"TCP\",\"containerPort\":9080}\n]",
            ),
        ]);
        let raw = raw(&env, &BTreeMap::from(proxy)).unwrap();
        let expected = serde_json::json!({
            "A": "1",
            "B": "2",
            "D": {"e": 1},
            "DNS_PROXY_ADDR": "127.0.0.1:53",
            "DNS_CAPTURE": "true",
            "ENABLE_HBONE": "0",
            "POD_PORTS": r#"[{"containerPort":9080,"protocol":"TCP"}]"#,
        });
        assert_eq!(Value::Object(raw), expected);
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (name, value) in [
            ("ISTIO_METAJSON_LABELS", "{"),
            ("ISTIO_METAJSON_LABELS", "[]"),
            ("ISTIO_METAJSON_LABELS", r#"{"app":1}"#),
            ("ISTIO_METAJSON_X", "text"),
            ("ISTIO_METAJSON_X", r#"{"LABELS": {"app": 1}}"#),
            ("ISTIO_METAJSON_X", r#"{"ANNOTATIONS": {"a": {}}}"#),
            ("ISTIO_META_LABELS", "app"),
            ("ISTIO_META_DNS_CAPTURE", "maybe"),
            ("ISTIO_META_POD_PORTS", "9080"),
        ] {
            let error = format!("{:#}", labels(&[(name, value)]).unwrap_err());
            assert!(error.starts_with(name), "{value}: {error}");
        }
    }
}
