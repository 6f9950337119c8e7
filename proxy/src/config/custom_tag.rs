//! `envoy.type.tracing.v3.CustomTag`: what spans and entries of access logs are told besides the usual.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use super::{limit_rules::MetadataPlace, route::Route};
use crate::{
    access_log::{Entry, Template, Unset},
    metadata::whole_numbers,
};

/// A text under a name.
#[derive(Debug)]
pub struct CustomTag {
    pub name: Arc<str>,
    pub value: TagValue,
    /// Where there is none; empty: then there is no tag.
    pub default: Box<str>,
}

#[derive(Debug)]
pub enum TagValue {
    /// A literal, and what the environment said at the start.
    Text(Box<str>),
    Template(Template),
    /// What filters left (`metadata.kind.request`).
    OfRequest(MetadataPlace),
    /// What the route says to filters.
    OfRoute(MetadataPlace),
}

impl CustomTag {
    /// `None`: there is no tag.
    pub fn text<'t>(
        &'t self,
        entry: &'t Entry<'t>,
        route: Option<&'t Route>,
    ) -> Option<Cow<'t, str>> {
        let value = self.value.text(entry, route);
        let value = value.unwrap_or_else(|| (&*self.default).into());
        (!value.is_empty()).then_some(value)
    }

    /// What is printed of a message.
    pub fn template(&self) -> Option<&Template> {
        match &self.value {
            TagValue::Template(template) => Some(template),
            TagValue::Text(_) | TagValue::OfRequest(_) | TagValue::OfRoute(_) => None,
        }
    }
}

impl TagValue {
    fn text<'t>(&'t self, entry: &'t Entry<'t>, route: Option<&'t Route>) -> Option<Cow<'t, str>> {
        match self {
            Self::Text(text) => Some((&**text).into()),
            Self::Template(template) => {
                let mut text = Vec::new();
                template.render(entry, Unset::Empty, &mut text);
                let text = String::from_utf8_lossy(&text).into_owned();
                (!text.is_empty()).then_some(text.into())
            }
            Self::OfRequest(at) => plain(entry.metadata?.get(&at.namespace, &at.path)?),
            Self::OfRoute(at) => {
                let metadata = route?.metadata.as_ref()?;
                let mut keys = at.path.iter();
                plain(keys.try_fold(metadata.get(&*at.namespace)?, |value, key| {
                    value.get(&**key)
                })?)
            }
        }
    }
}

fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        Value::Number(number) => Some(six_digits(number.as_f64()?).into()),
        value => {
            let mut value = value.clone();
            whole_numbers(&mut value);
            Some(value.to_string().into())
        }
    }
}

/// `%g`: six digits, which is how Envoy writes numbers of metadata.
fn six_digits(number: f64) -> String {
    let text = format!("{number:.5e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |digits: &str| match digits.contains('.') {
        true => digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        false => digits.to_owned(),
    };
    match usize::try_from(5 - exponent) {
        Ok(decimals @ 0..=9) => trimmed(&format!("{number:.decimals$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trimmed(digits), exponent.abs())
        }
    }
}
