//! `ISTIO_PROMETHEUS_ANNOTATIONS`: where the workload's own metrics are.

use serde_json::{Map, Value};

/// The variable that the injector sets from the Pod's annotations `prometheus.io/...`.
pub const SCRAPE_ENV: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const DEFAULT_PATH: &str = "/metrics";
const DEFAULT_PORT: &str = "80";
/// Ports of Istio's own: none has metrics of the workload, and some would have us scrape ourselves.
const RESERVED: [(u16, &str); 9] = [
    (15000, "Envoy admin"),
    (15001, "outbound traffic capture"),
    (15004, "pilot debug"),
    (15006, "inbound traffic capture"),
    (15008, "HBONE tunnel"),
    (15020, "pilot-agent status, the merged metrics"),
    (15021, "Envoy health"),
    (15053, "DNS proxy"),
    (15090, "Envoy Prometheus, already merged"),
];

/// One server of metrics on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeTarget {
    pub port: u16,
    /// It begins with a slash and may have a query.
    pub path: String,
}

/// What is wrong with the variable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetError {
    #[error("{SCRAPE_ENV}: failed to unmarshal: {0}")]
    Json(String),
    #[error("{SCRAPE_ENV}: {field} must be text")]
    NotText { field: String },
    #[error("{SCRAPE_ENV}: invalid prometheus scrape configuration: invalid target port {0:?}")]
    Port(String),
    #[error(
        "{SCRAPE_ENV}: invalid prometheus scrape configuration: target port {0} is the same as the agent's port, \
         which would be a loop; check the annotation prometheus.io/port, and that the Pod was not injected twice"
    )]
    Loop(u16),
    #[error(
        "{SCRAPE_ENV}: invalid prometheus scrape configuration: target port {0} is reserved for Istio ({1}) and \
         cannot be scraped"
    )]
    Reserved(u16, &'static str),
}

impl ScrapeTarget {
    /// The targets that `text`, the variable's value, names; none if it says `"scrape": "false"`.
    ///
    /// # Errors
    /// What is wrong with it, at the start and not at each scrape.
    pub fn parse(text: &str, status_port: u16) -> Result<Vec<Self>, TargetError> {
        let value =
            serde_json::from_str(text).map_err(|error| TargetError::Json(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(TargetError::Json("not an object".into()));
        };
        if text_of(&fields, "scrape")? == "false" {
            return Ok(Vec::new());
        }
        let (port, path) = (text_of(&fields, "port")?, text_of(&fields, "path")?);
        let listed = match fields.get("targets") {
            None | Some(Value::Null) => &[],
            Some(Value::Array(targets)) => targets.as_slice(),
            Some(_) => return Err(TargetError::Json("targets is not a list".into())),
        };
        let mut targets = Vec::with_capacity(listed.len());
        for target in listed {
            let Value::Object(target) = target else {
                return Err(TargetError::Json("a target is not an object".into()));
            };
            let (port, path) = (text_of(target, "port")?, text_of(target, "path")?);
            targets.push(Self::check(port, path, status_port)?);
        }
        match targets.as_mut_slice() {
            [] => targets.push(Self::check(or(port, DEFAULT_PORT), path, status_port)?),
            // Istio's agent scrapes a single target where the fields beside the list say, if they do.
            [only] => {
                let listed = only.port.to_string();
                let path = or(path, &only.path).to_owned();
                *only = Self::check(or(port, &listed), &path, status_port)?;
            }
            _ => {}
        }
        Ok(targets)
    }

    fn check(port: &str, path: &str, status_port: u16) -> Result<Self, TargetError> {
        let number = port.parse().ok().filter(|number| *number != 0);
        let number: u16 = number.ok_or_else(|| TargetError::Port(port.to_owned()))?;
        if number == status_port {
            return Err(TargetError::Loop(number));
        }
        if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == number) {
            return Err(TargetError::Reserved(number, reason));
        }
        let path = or(path, DEFAULT_PATH);
        Ok(Self {
            port: number,
            path: match path.starts_with('/') {
                true => path.to_owned(),
                false => format!("/{path}"),
            },
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://localhost:{}{}", self.port, self.path)
    }
}

fn text_of<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, TargetError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(TargetError::NotText {
            field: name.to_owned(),
        }),
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_as_istio_reads_them() {
        for (text, expected) in [
            (
                r#"{"scrape":"true","port":"8080","path":"/m"}"#,
                vec![(8080, "/m")],
            ),
            (r#"{"scrape":"true"}"#, vec![(80, "/metrics")]),
            ("{}", vec![(80, "/metrics")]),
            (r#"{"scrape":"false","port":"15020"}"#, vec![]),
            (r#"{"port":"8080","path":"m?x=y"}"#, vec![(8080, "/m?x=y")]),
            (
                r#"{"targets":[{"port":"8080","path":""}]}"#,
                vec![(8080, "/metrics")],
            ),
            (
                r#"{"port":"8080","path":"/metrics","targets":[{"port":"9100","path":"/c"}]}"#,
                vec![(8080, "/metrics")],
            ),
            (
                r#"{"targets":[{"port":"8080"},{"port":"9100","path":"/c"}]}"#,
                vec![(8080, "/metrics"), (9100, "/c")],
            ),
        ] {
            let targets = ScrapeTarget::parse(text, 15020).unwrap();
            let targets: Vec<_> = targets.iter().map(|t| (t.port, t.path.as_str())).collect();
            assert_eq!(targets, expected, "{text}");
        }
    }

    #[test]
    fn mistakes() {
        for (text, expected) in [
            ("", "failed to unmarshal"),
            ("[]", "failed to unmarshal"),
            (r#"{"port":8080}"#, "port must be text"),
            (r#"{"targets":{}}"#, "targets is not a list"),
            (r#"{"targets":[1]}"#, "a target is not an object"),
            (r#"{"port":"15021"}"#, "same as the agent's port"),
            (r#"{"port":"015021"}"#, "same as the agent's port"),
            (
                r#"{"targets":[{"port":"15000"}]}"#,
                "reserved for Istio (Envoy admin)",
            ),
            (r#"{"targets":[{"port":"015000"}]}"#, "reserved"),
            (
                r#"{"targets":[{"port":"8080"},{"port":"15090"}]}"#,
                "reserved",
            ),
            (r#"{"port":"abc"}"#, "invalid target port \"abc\""),
            (r#"{"port":"0"}"#, "invalid target port"),
            (r#"{"port":"70000"}"#, "invalid target port"),
            (r#"{"targets":[{"path":"/x"}]}"#, "invalid target port"),
        ] {
            let error = ScrapeTarget::parse(text, 15021).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains(SCRAPE_ENV),
                "{text}: {error}"
            );
        }
    }
}
