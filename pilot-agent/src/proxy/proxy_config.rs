//! Istio's `ProxyConfig`, as far as this agent acts on it.
//!
//! It comes from the mesh configuration's `defaultConfig` and, field by field on top of it, from the
//! environment variable `PROXY_CONFIG`. Fields that have no effect here are named in one warning.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, anyhow, bail};
use saphyr::{LoadableYamlNode, Yaml};

use super::duration;

/// The effective values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyConfig {
    /// Where sockets and the generated bootstrap go.
    pub(crate) config_path: PathBuf,
    /// Envoy's binary.
    pub(crate) binary_path: Option<PathBuf>,
    pub(crate) service_cluster: Option<String>,
    /// Where istiod is.
    pub(crate) discovery_address: String,
    pub(crate) control_plane_auth: ControlPlaneAuth,
    pub(crate) proxy_admin_port: u16,
    pub(crate) status_port: u16,
    /// 0: as many as there are processors.
    pub(crate) concurrency: Option<u32>,
    pub(crate) drain_duration: Duration,
    pub(crate) termination_drain_duration: Duration,
    /// Environment of the proxy; `ISTIO_META_*` among it is node metadata.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Keys that have no effect here.
    pub(crate) ignored: Vec<String>,
}

/// Whether istiod is spoken to over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlPlaneAuth {
    MutualTls,
    None,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            config_path: "./etc/istio/proxy".into(),
            binary_path: None,
            service_cluster: None,
            discovery_address: "istiod.istio-system.svc:15012".into(),
            control_plane_auth: ControlPlaneAuth::MutualTls,
            proxy_admin_port: 15000,
            status_port: 15020,
            concurrency: None,
            drain_duration: Duration::from_secs(45),
            termination_drain_duration: Duration::from_secs(5),
            metadata: BTreeMap::new(),
            ignored: Vec::new(),
        }
    }
}

impl ProxyConfig {
    /// Takes the fields that `text`, a YAML mapping, has.
    pub(crate) fn merge(&mut self, text: &str) -> anyhow::Result<()> {
        if let Some(document) = document(text)? {
            self.merge_mapping(&document)?;
        }
        Ok(())
    }

    /// Takes the fields of `defaultConfig` in a mesh configuration.
    pub(crate) fn merge_mesh(&mut self, text: &str) -> anyhow::Result<()> {
        let document = document(text)?;
        match document
            .as_ref()
            .and_then(|mesh| mesh.as_mapping_get("defaultConfig"))
        {
            Some(config) => self.merge_mapping(config).context("defaultConfig"),
            None => Ok(()),
        }
    }

    fn merge_mapping(&mut self, config: &Yaml<'_>) -> anyhow::Result<()> {
        let fields = config
            .as_mapping()
            .context("must be a mapping of keys to values")?;
        for (key, value) in fields {
            let key = key.as_str().context("keys must be text")?;
            self.set(key, value).with_context(|| key.to_owned())?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &Yaml<'_>) -> anyhow::Result<()> {
        match key {
            "configPath" => self.config_path = text(value)?.into(),
            "binaryPath" => self.binary_path = Some(text(value)?.into()),
            "serviceCluster" => self.service_cluster = Some(text(value)?),
            "discoveryAddress" => self.discovery_address = text(value)?,
            "controlPlaneAuthPolicy" => {
                self.control_plane_auth = match text(value)?.as_str() {
                    "MUTUAL_TLS" => ControlPlaneAuth::MutualTls,
                    "NONE" => ControlPlaneAuth::None,
                    other => bail!("{other:?} is neither MUTUAL_TLS nor NONE"),
                }
            }
            "proxyAdminPort" => self.proxy_admin_port = number(value)?,
            "statusPort" => self.status_port = number(value)?,
            "concurrency" => self.concurrency = Some(number(value)?),
            "drainDuration" => self.drain_duration = duration::parse(&text(value)?)?,
            "terminationDrainDuration" => {
                self.termination_drain_duration = duration::parse(&text(value)?)?;
            }
            "proxyMetadata" => {
                let fields = value.as_mapping().context("must be a mapping")?;
                for (key, value) in fields {
                    self.metadata.insert(text(key)?, text(value)?);
                }
            }
            other => self.ignored.push(other.to_owned()),
        }
        Ok(())
    }
}

fn document(text: &str) -> anyhow::Result<Option<Yaml<'_>>> {
    let mut documents = Yaml::load_from_str(text)?;
    match documents.len() {
        0 => Ok(None),
        1 => Ok(documents.pop().filter(|document| !document.is_null())),
        n => bail!("expected one YAML document, found {n}"),
    }
}

fn text(value: &Yaml<'_>) -> anyhow::Result<String> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if let Some(number) = value.as_integer() {
        return Ok(number.to_string());
    }
    value
        .as_bool()
        .map(|value| value.to_string())
        .context("must be text")
}

fn number<T: TryFrom<i64> + std::str::FromStr>(value: &Yaml<'_>) -> anyhow::Result<T> {
    let number = match value.as_str() {
        Some(text) => text.parse().ok(),
        None => value
            .as_integer()
            .and_then(|number| T::try_from(number).ok()),
    };
    number.ok_or_else(|| anyhow!("must be a number in the range of the field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str) -> anyhow::Result<ProxyConfig> {
        let mut config = ProxyConfig::default();
        config.merge(text)?;
        Ok(config)
    }

    #[test]
    fn fields_are_merged() {
        let mut config = ProxyConfig::default();
        let mesh = "rootNamespace: x\ndefaultConfig:\n  statusPort: 1\n  concurrency: 3\n";
        config.merge_mesh(mesh).unwrap();
        config
            .merge(
                "{\"statusPort\": 2, \"terminationDrainDuration\": \"1m30s\", \
                  \"proxyMetadata\": {\"ISTIO_META_X\": \"y\", \"N\": 1}, \"tracing\": {}}",
            )
            .unwrap();
        assert_eq!((config.status_port, config.concurrency), (2, Some(3)));
        assert_eq!(config.termination_drain_duration, Duration::from_secs(90));
        assert_eq!(config.metadata["ISTIO_META_X"], "y");
        assert_eq!(config.metadata["N"], "1");
        assert_eq!(config.ignored, ["tracing"]);
        assert_eq!(merged("").unwrap(), ProxyConfig::default());
        assert_eq!(merged("# nothing\n").unwrap(), ProxyConfig::default());
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, field) in [
            ("statusPort: 70000", "statusPort"),
            ("statusPort: -1", "statusPort"),
            ("statusPort: x", "statusPort"),
            ("concurrency: {}", "concurrency"),
            ("drainDuration: 5", "drainDuration"),
            ("terminationDrainDuration: soon", "terminationDrainDuration"),
            ("proxyMetadata: []", "proxyMetadata"),
            ("configPath: []", "configPath"),
            ("controlPlaneAuthPolicy: TLS", "controlPlaneAuthPolicy"),
        ] {
            let error = format!("{:#}", merged(text).unwrap_err());
            assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
        }
        for text in ["- a", "a: [", "text", "a: b\n---\na: b\n", "[1]: 2"] {
            assert!(merged(text).is_err(), "{text}");
        }
    }
}
