//! Dynamic metadata: what filters of a request leave for those behind them, for routes and logs.
//!
//! A request without a filter that writes any has none, and pays for none.

use serde_json::{Map, Value};

use crate::config::matchers::StringMatch;

/// What filters left, by namespace (which is the name of a filter) and key.
#[derive(Clone, Debug, Default)]
pub struct DynamicMetadata(Vec<(Box<str>, Map<String, Value>)>);

impl DynamicMetadata {
    /// Replaces the value of `key`.
    pub fn set(&mut self, namespace: &str, key: &str, value: Value) {
        let spaces = &mut self.0;
        let at = spaces.iter().position(|(name, _)| **name == *namespace);
        let at = at.unwrap_or_else(|| {
            spaces.push((namespace.into(), Map::new()));
            spaces.len() - 1
        });
        spaces[at].1.insert(key.to_owned(), value);
    }

    /// The value of a key, or below it.
    pub fn get<'m, K: AsRef<str>>(&'m self, namespace: &str, path: &[K]) -> Option<&'m Value> {
        let (first, rest) = path.split_first()?;
        let value = self.namespace(namespace)?.get(first.as_ref())?;
        rest.iter()
            .try_fold(value, |value, key| value.as_object()?.get(key.as_ref()))
    }

    /// All namespaces.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        self.0.iter().map(|(name, fields)| (&**name, fields))
    }

    /// All keys of one namespace.
    pub fn namespace(&self, name: &str) -> Option<&Map<String, Value>> {
        let mut spaces = self.0.iter();
        let (_, values) = spaces.find(|(space, _)| **space == *name)?;
        Some(values)
    }
}

/// `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug)]
pub struct MetadataMatch {
    pub namespace: Box<str>,
    pub path: Vec<Box<str>>,
    pub value: MetadataValue,
    pub invert: bool,
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Debug)]
pub enum MetadataValue {
    Null,
    Exactly(f64),
    /// `start <= n < end`.
    Between(f64, f64),
    String(StringMatch),
    Bool(bool),
    /// `present_match`; one that is false matches nothing, as in Envoy.
    Present(bool),
    /// A list that has such a value.
    ListWith(Box<Self>),
    AnyOf(Vec<Self>),
}

impl MetadataMatch {
    /// What is not there matches nothing, so an inverted matcher matches without it.
    pub fn admits(&self, metadata: Option<&DynamicMetadata>) -> bool {
        let value = metadata.and_then(|it| it.get(&self.namespace, &self.path));
        value.is_some_and(|value| self.value.admits(value)) != self.invert
    }
}

impl MetadataValue {
    fn admits(&self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Exactly(number) => value.as_f64() == Some(*number),
            Self::Between(start, end) => {
                let number = value.as_f64();
                number.is_some_and(|number| (*start..*end).contains(&number))
            }
            Self::String(matcher) => {
                let text = value.as_str();
                text.is_some_and(|text| matcher.admits(text.as_bytes()))
            }
            Self::Bool(wanted) => value.as_bool() == Some(*wanted),
            Self::Present(present) => *present,
            Self::ListWith(matcher) => {
                let list = value.as_array();
                list.is_some_and(|list| list.iter().any(|item| matcher.admits(item)))
            }
            Self::AnyOf(matchers) => matchers.iter().any(|matcher| matcher.admits(value)),
        }
    }
}

/// Numbers of filters are floating ones; those that are whole are written so.
pub(crate) fn whole_numbers(value: &mut Value) {
    /// Up to here each whole number has a floating one of its own.
    const LARGEST: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.filter(|it| it.fract() == 0.0 && it.abs() <= LARGEST);
            if let Some(whole) = whole {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::matchers::StringPattern;

    fn is(text: &str) -> MetadataValue {
        MetadataValue::String(StringMatch::new(StringPattern::Exact(text.into()), false))
    }

    /// Measured with Envoy 1.40.
    #[test]
    fn values_match_as_in_envoy() {
        let mut metadata = DynamicMetadata::default();
        let payload = json!({
            "sub": "a", "n": 5, "yes": true, "nil": null, "list": ["p", "q"], "nest": {"deep": "x"},
        });
        metadata.set("jwt", "payload", payload);
        let admits = |path: &[&str], value, invert| {
            let matcher = MetadataMatch {
                namespace: "jwt".into(),
                path: path.iter().map(|it| (*it).into()).collect(),
                value,
                invert,
            };
            matcher.admits(Some(&metadata))
        };
        let list_with = |value| MetadataValue::ListWith(Box::new(value));
        for (key, value, expected) in [
            ("sub", is("a"), true),
            ("sub", is("b"), false),
            ("sub", MetadataValue::Present(true), true),
            ("sub", MetadataValue::Present(false), false),
            ("none", MetadataValue::Present(true), false),
            ("none", MetadataValue::Present(false), false),
            ("list", MetadataValue::Present(true), true),
            ("nest", MetadataValue::Present(true), true),
            ("nil", MetadataValue::Present(true), true),
            ("nil", MetadataValue::Null, true),
            ("none", MetadataValue::Null, false),
            ("n", MetadataValue::Exactly(5.0), true),
            ("n", MetadataValue::Between(1.0, 5.0), false),
            ("n", MetadataValue::Between(5.0, 6.0), true),
            ("n", is("5"), false),
            ("yes", MetadataValue::Bool(true), true),
            ("yes", MetadataValue::Bool(false), false),
            ("list", list_with(is("q")), true),
            ("list", list_with(is("r")), false),
            ("sub", list_with(is("a")), false),
            ("list", is("p"), false),
            (
                "sub",
                MetadataValue::AnyOf(vec![list_with(is("a")), is("a")]),
                true,
            ),
            ("sub", MetadataValue::AnyOf(vec![]), false),
        ] {
            let text = format!("{key} {value:?}");
            assert_eq!(admits(&["payload", key], value, false), expected, "{text}");
        }
        assert!(admits(&["payload", "nest", "deep"], is("x"), false));
        assert!(!admits(&["payload", "sub", "deep"], is("x"), false));
        assert!(admits(&["payload", "none"], is("x"), true));
        assert!(!admits(&["payload", "sub"], is("a"), true));
        assert!(!admits(&[], MetadataValue::Present(true), false));
    }

    #[test]
    fn without_metadata_only_inverted_matchers_match() {
        let matcher = |invert| MetadataMatch {
            namespace: "jwt".into(),
            path: vec!["payload".into()],
            value: MetadataValue::Present(true),
            invert,
        };
        for metadata in [None, Some(&DynamicMetadata::default())] {
            assert!(!matcher(false).admits(metadata));
            assert!(matcher(true).admits(metadata));
        }
    }
}
