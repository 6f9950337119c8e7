//! Where in a configuration the compiler is, and everything that it found wrong there.
//!
//! Invariant: a path costs nothing until an error needs its text.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
    time::Duration,
};

use ithildin_proto::{
    pb::google::protobuf::{self, BoolValue},
    to_duration,
};

/// The longest text of one thing that is wrong, and of its place, in bytes: a configuration that quotes itself
/// must not fill logs, nor what the control plane is told.
const MAX_TEXT: usize = 2 << 10;

/// Things that are told of one resource; more are counted.
const MAX_ERRORS: usize = 1000;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In the words of the configuration file: `static_resources.clusters[0].transport_socket`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong, in the order of the configuration; one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Arc<[ConfigError]>);

impl ConfigErrors {
    pub(crate) fn one(path: String, message: &str) -> Self {
        let message = message.into();
        Self([ConfigError { path, message }].into())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects what is wrong with one resource, and what is skipped.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
    count: Cell<usize>,
}

impl Report {
    /// `value`, unless anything is wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        for ConfigError { path, message } in self.warnings.take() {
            tracing::warn!(%path, "{}", one_line(&message));
        }
        let mut errors = self.errors.take();
        if let more @ 1.. = self.count.get().saturating_sub(MAX_ERRORS)
            && let Some(last) = errors.last_mut()
        {
            last.message.push_str(&format!("; and {more} more"));
        }
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ => Err(ConfigErrors(errors.into())),
        }
    }

    pub(crate) fn root<'a>(&'a self, path: &'a str) -> At<'a> {
        At {
            report: self,
            parent: None,
            step: Step::Field(path),
        }
    }
}

/// A place in the configuration.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    report: &'a Report,
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(&'a str, usize),
    Key(&'a str, &'a str),
}

impl<'a> At<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Self {
        self.step(Step::Field(name))
    }

    pub(crate) fn index(&'a self, name: &'a str, index: usize) -> Self {
        self.step(Step::Index(name, index))
    }

    /// An entry of the map `name`.
    pub(crate) fn key(&'a self, name: &'a str, key: &'a str) -> Self {
        self.step(Step::Key(name, key))
    }

    /// The text of a field that must have one.
    pub(crate) fn text<'t>(&self, field: &str, text: &'t str) -> Option<&'t str> {
        if text.is_empty() {
            self.field(field).error("is empty");
            return None;
        }
        Some(text)
    }

    fn step(&'a self, step: Step<'a>) -> Self {
        At {
            report: self.report,
            parent: Some(self),
            step,
        }
    }

    pub(crate) fn error(&self, message: impl fmt::Display) {
        let count = self.report.count.get() + 1;
        self.report.count.set(count);
        if count <= MAX_ERRORS {
            let error = self.told(message);
            self.report.errors.borrow_mut().push(error);
        }
    }

    /// Something that is left out, and that traffic can do without.
    pub(crate) fn warn(&self, message: impl fmt::Display) {
        let mut warnings = self.report.warnings.borrow_mut();
        if warnings.len() < MAX_ERRORS {
            warnings.push(self.told(message));
        }
    }

    fn told(&self, message: impl fmt::Display) -> ConfigError {
        ConfigError {
            path: bounded(self),
            message: bounded(message),
        }
    }

    /// Reports the error of `result` here.
    pub(crate) fn check<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }

    /// How many errors there are so far, to tell whether a part was sound.
    pub(crate) fn errors(&self) -> usize {
        self.report.count.get()
    }

    /// Refuses the field if it is set: we could not honour it.
    pub(crate) fn unset<T: Default + PartialEq>(&self, name: &str, value: &T) {
        if *value != T::default() {
            self.field(name).error("is not supported");
        }
    }

    /// Refuses the field if it is true; false is what we do.
    pub(crate) fn not_true(&self, name: &str, value: &Option<BoolValue>) {
        if value.is_some_and(|value| value.value) {
            self.field(name).error("true is not supported");
        }
    }

    /// Refuses the field if it is false; true is what we do.
    pub(crate) fn not_false(&self, name: &str, value: &Option<BoolValue>) {
        if value.is_some_and(|value| !value.value) {
            self.field(name).error("false is not supported");
        }
    }

    pub(crate) fn duration(
        &self,
        name: &str,
        value: &Option<protobuf::Duration>,
    ) -> Option<Duration> {
        let value = value.as_ref()?;
        let duration = to_duration(value);
        if duration.is_none() {
            self.field(name)
                .error("is not a duration of zero or more seconds, up to 10,000 years");
        }
        duration
    }

    /// A limit in time: `default` where it is not set, `None` (no limit) where it is zero.
    pub(crate) fn limit(
        &self,
        name: &str,
        value: &Option<protobuf::Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        match value {
            None => default,
            Some(_) => self.duration(name, value).filter(|limit| !limit.is_zero()),
        }
    }

    /// An enum's value, or an error that names the number.
    pub(crate) fn enumeration<E: TryFrom<i32>>(&self, name: &str, value: i32) -> Option<E> {
        let known = E::try_from(value).ok();
        if known.is_none() {
            self.field(name)
                .error(format_args!("unknown value {value}"));
        }
        known
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        match self.step {
            Step::Field(name) => f.write_str(name),
            Step::Index(name, index) => write!(f, "{name}[{index}]"),
            Step::Key(name, key) => write!(f, "{name}[{key:?}]"),
        }
    }
}

/// The text, or its begin and its end, which says what is wrong with what is quoted.
fn bounded(text: impl fmt::Display) -> String {
    let text = text.to_string();
    if text.len() <= MAX_TEXT {
        return text;
    }
    let (begin, end) = (
        text.floor_char_boundary(MAX_TEXT / 2),
        text.ceil_char_boundary(text.len() - MAX_TEXT / 2),
    );
    format!("{}...{}", &text[..begin], &text[end..])
}

/// For the log, in which what is quoted begins no line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Refuses each of the fields that is set, under its own name.
macro_rules! refuse {
    ($at:expr; $($field:ident),+ $(,)?) => {
        $($at.unset(stringify!($field), $field);)+
    };
}

/// Names fields that are accepted and change no traffic, so that a new field of a message does not
/// compile before somebody decided about it.
macro_rules! no_effect {
    ($($field:ident),+ $(,)?) => {
        $(let _ = $field;)+
    };
}

pub(crate) use {no_effect, refuse};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_warning_quotes_begins_no_line() {
        let forged = "left out: no\n2026-01-01\tinfo\u{1b}[2J";
        assert_eq!(one_line(forged), "left out: no 2026-01-01 info [2J");
    }
}
