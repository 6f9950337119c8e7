//! `envoy.type.tracing.v3.CustomTag` of loggers.

use serde_json::Value;

use super::text;
use crate::access_log::{Entry, Needs, Template, Unset, filter_state};

/// A text under a name; it is told where it is not empty.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: Box<str>,
    pub(crate) value: TagValue,
}

#[derive(Debug)]
pub(crate) enum TagValue {
    /// A text, or a variable's.
    Constant(Box<str>),
    /// Lower-case.
    RequestHeader {
        name: Box<str>,
        default: Box<str>,
    },
    Metadata {
        namespace: Box<str>,
        path: Vec<Box<str>>,
        default: Box<str>,
    },
    Format(Template),
}

impl Tag {
    pub(super) fn needs(&self, needs: &mut Needs) {
        if let TagValue::Format(template) = &self.value {
            template.needs(needs);
        }
    }

    pub(super) fn pair(&self, entry: &Entry<'_>) -> Option<(String, String)> {
        let value = self.value.text(entry);
        (!value.is_empty()).then(|| (self.name.to_string(), value))
    }
}

impl TagValue {
    fn text(&self, entry: &Entry<'_>) -> String {
        match self {
            Self::Constant(value) => value.to_string(),
            Self::RequestHeader { name, default } => {
                let value = entry.request_headers.and_then(|headers| headers.get(name));
                value.map_or_else(|| default.to_string(), text)
            }
            Self::Metadata {
                namespace,
                path,
                default,
            } => {
                let left = entry.metadata;
                let value = match path.is_empty() {
                    true => left.and_then(|it| it.namespace(namespace).cloned().map(Value::Object)),
                    false => left.and_then(|it| it.get(namespace, path).cloned()),
                };
                let Some(value) = value else {
                    return default.to_string();
                };
                let mut out = Vec::new();
                filter_state::write(value, &mut out);
                text(&out)
            }
            Self::Format(template) => {
                let mut value = Vec::new();
                template.render(entry, Unset::Empty, &mut value);
                text(&value)
            }
        }
    }
}
