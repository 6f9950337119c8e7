//! `ISTIO_KUBE_APP_PROBERS`: the workload's own probes and hooks, which the injector has pointed at us.

use std::{collections::BTreeMap, num::NonZeroU16, time::Duration};

use serde_json::{Map, Value};

/// The variable that the injector sets.
pub const PROBERS_ENV: &str = "ISTIO_KUBE_APP_PROBERS";

/// The probes by the path that the kubelet asks us for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppProbers(pub(super) BTreeMap<String, Prober>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prober {
    pub(crate) action: Action,
    /// The limit that its owner gave.
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Http {
        port: NonZeroU16,
        /// It begins with a slash and may have a query.
        path: String,
        https: bool,
    },
    Tcp {
        port: NonZeroU16,
    },
    Grpc {
        port: NonZeroU16,
        service: String,
    },
}

/// What is wrong with the variable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProberError {
    #[error("{PROBERS_ENV}: failed to decode app prober: {0}")]
    Json(String),
    #[error(
        "{PROBERS_ENV}: invalid path {0:?}, must be /app-health/CONTAINER/ with livez, readyz or startupz, or \
         /app-lifecycle/CONTAINER/ with prestopz or poststartz"
    )]
    Path(String),
    #[error(
        "{PROBERS_ENV}: {0}: invalid prober type, must be one of type httpGet, tcpSocket or gRPC"
    )]
    Kind(String),
    #[error("{PROBERS_ENV}: {0}: invalid prober config, the port must be int type")]
    PortType(String),
    #[error("{PROBERS_ENV}: {path}: invalid prober config, port {port} is not from 1 to 65535")]
    Port { path: String, port: i64 },
}

impl AppProbers {
    /// Reads the variable's value. Names of fields are matched in any case, as Go's JSON does.
    ///
    /// # Errors
    /// The first thing that is wrong, at the start and not at a probe.
    pub fn parse(text: &str) -> Result<Self, ProberError> {
        let value =
            serde_json::from_str(text).map_err(|error| ProberError::Json(error.to_string()))?;
        let Value::Object(probers) = value else {
            return Err(ProberError::Json("not an object".into()));
        };
        let mut known = BTreeMap::new();
        for (path, prober) in probers {
            if !is_prober_path(&path) {
                return Err(ProberError::Path(path));
            }
            let prober = Prober::parse(&path, &prober)?;
            known.insert(path, prober);
        }
        Ok(Self(known))
    }
}

/// `/app-health/<container>/livez` and its like.
fn is_prober_path(path: &str) -> bool {
    let mut parts = path.split('/');
    let known = parts.next() == Some("")
        && matches!(parts.next(), Some("app-health" | "app-lifecycle"))
        && parts.next().is_some_and(|container| !container.is_empty())
        && matches!(
            parts.next(),
            Some("livez" | "readyz" | "startupz" | "prestopz" | "poststartz")
        );
    known && parts.next().is_none()
}

impl Prober {
    fn parse(path: &str, value: &Value) -> Result<Self, ProberError> {
        let json = |what: &str| ProberError::Json(format!("{path}: {what}"));
        let Value::Object(fields) = value else {
            return Err(ProberError::Kind(path.to_owned()));
        };
        let handlers = ["httpGet", "tcpSocket", "grpc"].map(|name| (name, field(fields, name)));
        let mut given = handlers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let (Some((name, handler)), None) = (given.next(), given.next()) else {
            return Err(ProberError::Kind(path.to_owned()));
        };
        let Value::Object(handler) = handler else {
            return Err(json(&format!("{name} is not an object")));
        };
        let port = port(path, handler)?;
        let text = |name: &str| match field(handler, name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(json(&format!("{name} is not text"))),
        };
        let action = match name {
            "httpGet" => Action::Http {
                port,
                path: format!("/{}", text("path")?.trim_start_matches('/')),
                https: text("scheme")? == "HTTPS",
            },
            "tcpSocket" => Action::Tcp { port },
            _ => Action::Grpc {
                port,
                service: text("service")?.to_owned(),
            },
        };
        let seconds = match field(fields, "timeoutSeconds") {
            None => 0,
            Some(value) => value
                .as_i64()
                .ok_or_else(|| json("timeoutSeconds is not a number"))?,
        };
        let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        Ok(Self {
            action,
            timeout: seconds.map(Duration::from_secs),
        })
    }
}

/// The value of `name` in any case, unless it is null.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut fields = fields.iter();
    let (_, value) =
        fields.find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null())?;
    Some(value)
}

fn port(path: &str, handler: &Map<String, Value>) -> Result<NonZeroU16, ProberError> {
    let Some(port) = field(handler, "port").map_or(Some(0), Value::as_i64) else {
        return Err(ProberError::PortType(path.to_owned()));
    };
    let number = u16::try_from(port).ok().and_then(NonZeroU16::new);
    number.ok_or_else(|| ProberError::Port {
        path: path.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(prober: &str) -> Result<Prober, ProberError> {
        let text = format!(r#"{{"/app-health/c/readyz": {prober}}}"#);
        let mut probers = AppProbers::parse(&text)?.0;
        Ok(probers.remove("/app-health/c/readyz").unwrap())
    }

    #[test]
    fn what_istios_injector_writes() {
        let port = |number| NonZeroU16::new(number).unwrap();
        let http = |path: &str, https| Action::Http {
            port: port(8080),
            path: path.into(),
            https,
        };
        let grpc = |service: &str| Action::Grpc {
            port: port(8080),
            service: service.into(),
        };
        for (text, action, timeout) in [
            (
                r#"{"httpGet":{"path":"/a?b=c","port":8080}}"#,
                http("/a?b=c", false),
                0,
            ),
            (
                r#"{"httpGet":{"path":"a","port":8080,"scheme":"HTTP"}}"#,
                http("/a", false),
                0,
            ),
            (
                r#"{"httpGet":{"port":8080,"scheme":"HTTPS"},"timeoutSeconds":10}"#,
                http("/", true),
                10,
            ),
            (
                r#"{"tcpSocket":{"port":8080},"httpGet":null}"#,
                Action::Tcp { port: port(8080) },
                0,
            ),
            (r#"{"gRPC":{"port":8080},"timeoutSeconds":-1}"#, grpc(""), 0),
            (r#"{"grpc":{"port":8080,"service":null}}"#, grpc(""), 0),
            (
                r#"{"grpc":{"port":8080,"service":"s"},"periodSeconds":20}"#,
                grpc("s"),
                0,
            ),
        ] {
            let timeout = (timeout > 0).then(|| Duration::from_secs(timeout));
            assert_eq!(parsed(text), Ok(Prober { action, timeout }), "{text}");
        }
        assert_eq!(AppProbers::parse("{}"), Ok(AppProbers::default()));
    }

    #[test]
    fn mistakes() {
        const KIND: &str = "must be one of type httpGet, tcpSocket or gRPC";
        for (text, expected) in [
            (r#"{"exec":{"command":["true"]}}"#, KIND),
            ("{}", KIND),
            ("null", KIND),
            (r#"{"tcpSocket":{"port":1},"httpGet":{"port":2}}"#, KIND),
            (r#"{"grpc":{"port":1},"httpGet":{"port":2}}"#, KIND),
            (r#"{"tcpSocket":{"port":"tcp"}}"#, "must be int type"),
            (r#"{"httpGet":{"port":"http"}}"#, "must be int type"),
            (r#"{"httpGet":{"port":8080.5}}"#, "must be int type"),
            (r#"{"httpGet":{"port":70000}}"#, "port 70000 is not"),
            (r#"{"httpGet":{"path":"/"}}"#, "port 0 is not"),
            (r#"{"httpGet":{"port":80,"path":1}}"#, "path is not text"),
            (
                r#"{"httpGet":{"port":80},"timeoutSeconds":"1"}"#,
                "timeoutSeconds is not",
            ),
            (r#"{"httpGet":[]}"#, "httpGet is not an object"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains("/app-health/c/readyz") && error.contains(PROBERS_ENV));
        }
        for text in ["", "invalid-prober-json-encoding", "[]"] {
            let error = AppProbers::parse(text).unwrap_err().to_string();
            assert!(error.contains("failed to decode"), "{text}: {error}");
        }
        for path in [
            "abc",
            "app-health/c/livez",
            "/app-health//livez",
            "/app-health/c/livez/",
            "/app-health/a/b/livez",
            "/app-health/c/live",
            "/other/c/livez",
            "//app-health/c/livez",
        ] {
            let text = format!(r#"{{"{path}": {{"tcpSocket":{{"port":1}}}}}}"#);
            let error = AppProbers::parse(&text).unwrap_err();
            assert_eq!(error, ProberError::Path(path.into()));
        }
        let lifecycle = r#"{"/app-lifecycle/c/prestopz": {"httpGet":{"port":1}}}"#;
        assert!(AppProbers::parse(lifecycle).is_ok());
    }
}
