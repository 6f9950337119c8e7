//! Istio's own rules: what its webhook refuses, and what we cannot honour in a field that we know.
//!
//! Each check looks at one resource alone, and lists everything that is wrong with it.

mod destination_rule;
mod gateway;
mod service;
mod service_entry;
mod virtual_service;

pub(crate) use destination_rule::destination_rule;
pub(crate) use gateway::gateway;
pub(crate) use service::{mesh, peer_authentication, service};
pub(crate) use service_entry::{service_entry, workload_entry};
pub(crate) use virtual_service::virtual_service;

use crate::{error::ConfigError, host, model::Object};

/// Collects the errors of one resource.
struct Check<'a, S> {
    object: &'a Object<S>,
    errors: Vec<ConfigError>,
}

impl<'a, S> Check<'a, S> {
    fn new(object: &'a Object<S>) -> Self {
        Self {
            object,
            errors: Vec::new(),
        }
    }

    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(self.object.error(field, message));
    }

    fn require(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.error(field, message);
        }
    }

    fn required(&mut self, present: bool, field: &str) {
        self.require(present, field, "required");
    }

    /// A DNS name, `*.name` or `*`.
    fn host(&mut self, name: &str, field: &str) {
        if !host::is_valid(name) {
            self.error(field, format!("invalid host {name:?}"));
        }
    }

    fn export_to(&mut self, values: &[String]) {
        for (index, value) in values.iter().enumerate() {
            let valid = matches!(value.as_str(), "*" | "." | "~") || host::is_label(value);
            if !valid {
                self.error(
                    format!("spec.exportTo[{index}]"),
                    format!("invalid value {value:?}, expected a namespace, \"*\", \".\" or \"~\""),
                );
            }
        }
    }

    fn regex(&mut self, pattern: &str, field: &str) {
        if let Err(error) = regex::Regex::new(pattern) {
            // The first lines draw the pattern; the last one says what is wrong with it.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.trim().trim_start_matches("error: ");
            self.error(field, format!("invalid regular expression: {reason}"));
        }
    }

    fn finish(self) -> Vec<ConfigError> {
        self.errors
    }
}
