//! Environment variables, read with their names in every error.
//!
//! An empty variable counts as not set: that is how a Pod template leaves one out.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use thiserror::Error;

use crate::proxy::duration;

/// Environment variables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Env(BTreeMap<String, String>);

/// A variable that says nothing that we understand.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name} {value:?} is not {expected}")]
pub(crate) struct EnvError {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) expected: String,
}

impl Env {
    /// Those of this process whose name and value are UTF-8.
    pub(crate) fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.iter();
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The rest of the name and the value of the variables that begin so.
    pub(crate) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
    }

    /// The value, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    pub(crate) fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or(default).to_owned()
    }

    /// A truth value in the spellings that Go's `strconv.ParseBool` accepts.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, EnvError> {
        Ok(self.optional_flag(name)?.unwrap_or(default))
    }

    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, EnvError> {
        self.text(name)
            .map(|text| match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(self.error(name, "true or false")),
            })
            .transpose()
    }

    /// A number within bounds.
    pub(crate) fn number<T>(
        &self,
        name: &str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> Result<T, EnvError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| {
            let expected = format!("a number from {} to {}", bounds.start(), bounds.end());
            self.error(name, &expected)
        })
    }

    /// A port from 1 to 65535.
    pub(crate) fn port(&self, name: &str, default: u16) -> Result<u16, EnvError> {
        self.number(name, default, 1..=u16::MAX)
    }

    /// A port, or none with 0.
    pub(crate) fn optional_port(&self, name: &str) -> Result<Option<u16>, EnvError> {
        let port = self.number(name, 0, 0..=u16::MAX)?;
        Ok((port != 0).then_some(port))
    }

    /// A duration such as `5s` or `1m30s`.
    pub(crate) fn duration(&self, name: &str, default: Duration) -> Result<Duration, EnvError> {
        match self.text(name) {
            Some(text) => duration::parse(text)
                .map_err(|_| self.error(name, "a duration such as 5s or 1m30s")),
            None => Ok(default),
        }
    }

    /// A duration of more than nothing.
    pub(crate) fn interval(&self, name: &str, default: Duration) -> Result<Duration, EnvError> {
        let interval = self.duration(name, default)?;
        match interval.is_zero() {
            true => Err(self.error(name, "longer than 0")),
            false => Ok(interval),
        }
    }

    /// What the value, or `default` in its place, stands for.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T, EnvError> {
        let text = self.text(name).unwrap_or(default);
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.error(name, &format!("one of {}", words.join(", ")))
        })
    }

    /// The error of a variable that is not what was expected.
    pub(crate) fn error(&self, name: &str, expected: &str) -> EnvError {
        EnvError {
            name: name.to_owned(),
            value: self.text(name).unwrap_or_default().to_owned(),
            expected: expected.to_owned(),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self(
            pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_gos() {
        for (text, expected) in [
            ("true", Some(true)),
            ("T", Some(true)),
            ("1", Some(true)),
            ("False", Some(false)),
            ("0", Some(false)),
            ("", None),
        ] {
            let env = Env::from_iter([("A", text)]);
            assert_eq!(env.optional_flag("A"), Ok(expected), "{text}");
        }
        for text in ["yes", "tRUE", "on", "2", " true"] {
            let error = Env::from_iter([("A", text)]).flag("A", true).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("A {text:?} is not true or false")
            );
        }
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let env = Env::from_iter([
            ("PORT", "70000"),
            ("SPAN", "0s"),
            ("WORD", "up"),
            ("N", "x"),
        ]);
        let text = |error: EnvError| error.to_string();
        assert_eq!(
            text(env.port("PORT", 1).unwrap_err()),
            "PORT \"70000\" is not a number from 1 to 65535"
        );
        assert_eq!(
            text(env.interval("SPAN", Duration::MAX).unwrap_err()),
            "SPAN \"0s\" is not longer than 0"
        );
        let choices = [("left", 1), ("right", 2)];
        assert_eq!(
            text(env.choice("WORD", "left", &choices).unwrap_err()),
            "WORD \"up\" is not one of left, right"
        );
        assert_eq!(env.choice("UNSET", "right", &choices), Ok(2));
        assert!(env.number("N", 1.0, 0.0..=1.0).is_err());
        assert_eq!(env.optional_port("UNSET"), Ok(None));
    }

    #[test]
    fn prefixes_leave_the_rest_of_the_name() {
        let env = Env::from_iter([("A_ONE", "1"), ("A_", "2"), ("B", "3")]);
        let found: Vec<_> = env.with_prefix("A_").collect();
        assert_eq!(found, [("", "2"), ("ONE", "1")]);
    }
}
