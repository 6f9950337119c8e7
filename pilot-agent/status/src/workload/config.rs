//! `readinessProbe` of Istio's `ProxyConfig`.

use std::{num::NonZeroU16, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// How the workload of a virtual machine is known to be healthy (`ReadinessProbe` of networking.istio.io).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadProbe {
    pub(super) initial_delay: Duration,
    pub(super) timeout: Duration,
    pub(super) period: Duration,
    /// As many in a row make it healthy, or unhealthy.
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) method: Method,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Http {
        /// Our own address, if there is none.
        host: Option<String>,
        port: NonZeroU16,
        path: String,
        https: bool,
        /// With `Host` among them where it is to differ from the address.
        headers: HeaderMap,
    },
    Tcp {
        host: Option<String>,
        port: NonZeroU16,
    },
    Grpc {
        port: NonZeroU16,
        service: String,
    },
    Exec {
        command: String,
        arguments: Vec<String>,
    },
}

/// What is wrong with it, and where.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("readinessProbe{path}: {reason}")]
pub struct WorkloadProbeError {
    /// `.httpGet.port`, say.
    path: String,
    reason: String,
}

impl WorkloadProbe {
    /// Reads the field's value. Times of 0 and thresholds of 0 are Istio's defaults.
    ///
    /// # Errors
    /// The first field that is wrong, by its path.
    pub fn parse(value: &Value) -> Result<Self, WorkloadProbeError> {
        let fields = Fields::of(value, "")?;
        let methods = ["httpGet", "tcpSocket", "grpc", "exec"];
        let mut given = methods
            .into_iter()
            .filter(|name| fields.get(name).is_some());
        let (Some(method), None) = (given.next(), given.next()) else {
            return Err(fields.wrong(
                "",
                "must have exactly one of httpGet, tcpSocket, grpc and exec",
            ));
        };
        Ok(Self {
            initial_delay: Duration::from_secs(fields.number("initialDelaySeconds", 0)?),
            timeout: Duration::from_secs(fields.number("timeoutSeconds", 1)?),
            period: Duration::from_secs(fields.number("periodSeconds", 10)?),
            successes: fields.number("successThreshold", 1)?,
            failures: fields.number("failureThreshold", 1)?,
            method: Method::parse(method, &fields.object(method)?)?,
        })
    }
}

impl WorkloadProbeError {
    pub(super) fn of_http(reason: &str) -> Self {
        Self {
            path: ".httpGet".into(),
            reason: reason.to_owned(),
        }
    }
}

impl Method {
    fn parse(name: &str, fields: &Fields<'_>) -> Result<Self, WorkloadProbeError> {
        let host = |fields: &Fields<'_>| {
            let host = fields.text("host")?;
            Ok((!host.is_empty()).then(|| host.to_owned()))
        };
        Ok(match name {
            "httpGet" => Self::Http {
                host: host(fields)?,
                port: fields.port()?,
                path: format!("/{}", fields.text("path")?.trim_start_matches('/')),
                https: match fields.text("scheme")? {
                    scheme if scheme.eq_ignore_ascii_case("https") => true,
                    scheme if scheme.is_empty() || scheme.eq_ignore_ascii_case("http") => false,
                    _ => return Err(fields.wrong("scheme", "is neither HTTP nor HTTPS")),
                },
                headers: headers(fields)?,
            },
            "tcpSocket" => Self::Tcp {
                host: host(fields)?,
                port: fields.port()?,
            },
            "grpc" => Self::Grpc {
                port: fields.port()?,
                service: fields.text("service")?.to_owned(),
            },
            _ => {
                let mut words = fields.list("command")?.iter().map(|word| {
                    let word = word.as_str().map(str::to_owned);
                    word.ok_or_else(|| fields.wrong("command", "is not a list of text"))
                });
                let command = words.next().transpose()?;
                Self::Exec {
                    command: command.ok_or_else(|| fields.wrong("command", "is empty"))?,
                    arguments: words.collect::<Result<_, _>>()?,
                }
            }
        })
    }
}

fn headers(fields: &Fields<'_>) -> Result<HeaderMap, WorkloadProbeError> {
    let mut headers = HeaderMap::new();
    for (index, header) in fields.list("httpHeaders")?.iter().enumerate() {
        let header = Fields::of(header, &format!("{}.httpHeaders[{index}]", fields.path))?;
        let name = HeaderName::try_from(header.text("name")?);
        let name = name.map_err(|error| header.wrong("name", &error.to_string()))?;
        let value = HeaderValue::try_from(header.text("value")?);
        let value = value.map_err(|error| header.wrong("value", &error.to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// An object and its path.
struct Fields<'a> {
    fields: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str) -> Result<Self, WorkloadProbeError> {
        let fields = value.as_object().ok_or_else(|| WorkloadProbeError {
            path: path.to_owned(),
            reason: "is not an object".into(),
        })?;
        Ok(Self {
            fields,
            path: path.to_owned(),
        })
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn object(&self, name: &str) -> Result<Self, WorkloadProbeError> {
        Self::of(
            self.get(name).unwrap_or(&Value::Null),
            &format!("{}.{name}", self.path),
        )
    }

    fn text(&self, name: &str) -> Result<&'a str, WorkloadProbeError> {
        match self.get(name) {
            None => Ok(""),
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.wrong(name, "is not text")),
        }
    }

    /// `default` in place of 0.
    fn number(&self, name: &str, default: u64) -> Result<u64, WorkloadProbeError> {
        let number = match self.get(name) {
            None => Some(0),
            Some(value) => value
                .as_u64()
                .filter(|number| u32::try_from(*number).is_ok()),
        };
        match number.ok_or_else(|| self.wrong(name, "is not a number from 0 to 4294967295"))? {
            0 => Ok(default),
            number => Ok(number),
        }
    }

    fn port(&self) -> Result<NonZeroU16, WorkloadProbeError> {
        let port = u16::try_from(self.number("port", 0)?)
            .ok()
            .and_then(NonZeroU16::new);
        port.ok_or_else(|| self.wrong("port", "is not from 1 to 65535"))
    }

    fn list(&self, name: &str) -> Result<&'a [Value], WorkloadProbeError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong(name, "is not a list")),
        }
    }

    fn wrong(&self, name: &str, reason: &str) -> WorkloadProbeError {
        let dot = if name.is_empty() { "" } else { "." };
        WorkloadProbeError {
            path: format!("{}{dot}{name}", self.path),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_istios() {
        let probe = WorkloadProbe::parse(&json!({"httpGet": {"port": 80}})).unwrap();
        let expected = WorkloadProbe {
            initial_delay: Duration::ZERO,
            timeout: Duration::from_secs(1),
            period: Duration::from_secs(10),
            successes: 1,
            failures: 1,
            method: Method::Http {
                host: None,
                port: NonZeroU16::new(80).unwrap(),
                path: "/".into(),
                https: false,
                headers: HeaderMap::new(),
            },
        };
        assert_eq!(probe, expected);
    }

    #[test]
    fn everything_is_read() {
        let probe = WorkloadProbe::parse(&json!({
            "initialDelaySeconds": 1, "timeoutSeconds": 2, "periodSeconds": 3,
            "successThreshold": 4, "failureThreshold": 5,
            "httpGet": {"host": "h", "port": 80, "path": "p", "scheme": "https",
                "httpHeaders": [{"name": "Host", "value": "a"}, {"name": "X", "value": "b"}]},
        }))
        .unwrap();
        assert_eq!(probe.initial_delay, Duration::from_secs(1));
        assert_eq!(
            (probe.timeout, probe.period),
            (Duration::from_secs(2), Duration::from_secs(3))
        );
        assert_eq!((probe.successes, probe.failures), (4, 5));
        let Method::Http {
            host,
            path,
            https,
            headers,
            ..
        } = probe.method
        else {
            panic!("{:?}", probe.method)
        };
        assert_eq!(
            (host.as_deref(), path.as_str(), https),
            (Some("h"), "/p", true)
        );
        assert_eq!(
            (&headers["host"], &headers["x"]),
            (&"a".parse().unwrap(), &"b".parse().unwrap())
        );
        let exec = json!({"exec": {"command": ["a", "b"]}, "httpGet": null});
        let expected = Method::Exec {
            command: "a".into(),
            arguments: vec!["b".into()],
        };
        assert_eq!(WorkloadProbe::parse(&exec).unwrap().method, expected);
    }

    #[test]
    fn mistakes_are_named_by_their_path() {
        for (value, expected) in [
            (json!([]), "readinessProbe: is not an object"),
            (json!({}), "readinessProbe: must have exactly one of"),
            (
                json!({"grpc": {"port": 1}, "exec": {}}),
                "readinessProbe: must have exactly one of",
            ),
            (
                json!({"httpGet": {}}),
                "readinessProbe.httpGet.port: is not from 1",
            ),
            (
                json!({"httpGet": {"port": 70000}}),
                "readinessProbe.httpGet.port: is not from 1",
            ),
            (
                json!({"tcpSocket": 1}),
                "readinessProbe.tcpSocket: is not an object",
            ),
            (
                json!({"tcpSocket": {"port": 1, "host": 2}}),
                "readinessProbe.tcpSocket.host: is not text",
            ),
            (
                json!({"httpGet": {"port": 1, "scheme": "ftp"}}),
                "readinessProbe.httpGet.scheme: is neither",
            ),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "a b"}]}}),
                "readinessProbe.httpGet.httpHeaders[0].name: ",
            ),
            (json!({"exec": {}}), "readinessProbe.exec.command: is empty"),
            (
                json!({"exec": {"command": [1]}}),
                "readinessProbe.exec.command: is not a list of text",
            ),
            (
                json!({"grpc": {"port": 1}, "periodSeconds": -1}),
                "readinessProbe.periodSeconds: ",
            ),
        ] {
            let error = WorkloadProbe::parse(&value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{value}: {error}");
        }
    }
}
