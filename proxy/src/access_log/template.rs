//! Format strings, compiled: literal text and operators.

use super::{Entry, Needs, operator::Kind, operator::Operator};

/// A format string with command operators (`%REQ(:PATH)%`), compiled.
#[derive(Clone, Debug)]
pub struct Template(Vec<Segment>);

/// What stands for an operator without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// `-`, as in access logs.
    Dash,
    /// Nothing, as in header values and with `omit_empty_values`.
    Empty,
}

/// Why a format string is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

#[derive(Clone, Debug)]
enum Segment {
    Literal(Box<[u8]>),
    Operator {
        operator: Operator,
        /// Longest value in bytes (`%REQ(X):10%`).
        limit: Option<usize>,
    },
}

impl Template {
    /// Compiles `format`. `%%` is a percent sign.
    pub fn parse(format: &str) -> Result<Self, FormatError> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                let text = std::mem::take(&mut literal);
                segments.push(Segment::Literal(text.into_bytes().into()));
            }
            let (segment, after) = operator(after).map_err(FormatError)?;
            segments.push(segment);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal.into_bytes().into()));
        }
        Ok(Self(segments))
    }

    /// The text, if there is no operator in it.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text between operators.
    pub fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Literal(text) => Some(&**text),
            Segment::Operator { .. } => None,
        })
    }

    /// Appends the text for `entry` to `out`.
    pub fn render(&self, entry: &Entry<'_>, unset: Unset, out: &mut Vec<u8>) {
        for segment in &self.0 {
            if segment.write(entry, out).is_none() && unset == Unset::Dash {
                out.push(b'-');
            }
        }
    }

    /// What it names and this proxy lacks.
    pub fn lacking(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Operator {
                operator: Operator::Lacking(name),
                ..
            } => Some(&**name),
            _ => None,
        })
    }

    pub(super) fn needs(&self, needs: &mut Needs) {
        for segment in &self.0 {
            if let Segment::Operator { operator, .. } = segment {
                operator.needs(needs);
            }
        }
    }

    /// Appends the value of a template that is one operator, with its kind; `Some(None)` if it has
    /// no value. `None` for any other template.
    pub(super) fn write_single(
        &self,
        entry: &Entry<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Option<Kind>> {
        match self.0.as_slice() {
            [segment @ Segment::Operator { .. }] => Some(segment.write(entry, out)),
            _ => None,
        }
    }
}

impl Segment {
    fn write(&self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        match self {
            Self::Literal(text) => {
                out.extend_from_slice(text);
                Some(Kind::Text)
            }
            Self::Operator { operator, limit } => {
                let start = out.len();
                let kind = operator.write(entry, out);
                if let Some(limit) = limit {
                    out.truncate(start.saturating_add(*limit));
                }
                kind
            }
        }
    }
}

/// Reads one operator behind its percent sign: `NAME%`, `NAME(argument)%`, `NAME(argument):10%`.
fn operator(text: &str) -> Result<(Segment, &str), String> {
    let shown = || text.chars().take(40).collect::<String>();
    let end = text
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return Err(format!(
            "no command operator after \"%\" in \"%{}\"",
            shown()
        ));
    }
    let closed = match rest.strip_prefix('(') {
        None => after_argument(rest).map(|(limit, rest)| (None, limit, rest)),
        // A time format holds percent signs and may hold parentheses: the argument ends at the
        // first parenthesis that ends the operator.
        Some(inner) => inner.match_indices(')').find_map(|(at, _)| {
            let (limit, rest) = after_argument(&inner[at + 1..])?;
            Some((Some(&inner[..at]), limit, rest))
        }),
    };
    let Some((argument, limit, rest)) = closed else {
        return Err(format!(
            "the command operator \"%{}\" does not end",
            shown()
        ));
    };
    let operator = Operator::parse(name, argument)?;
    Ok((Segment::Operator { operator, limit }, rest))
}

/// Reads `%` or `:10%`.
fn after_argument(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (limit, rest) = text.strip_prefix(':')?.split_once('%')?;
    if !limit.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Some(limit.parse().ok()?), rest))
}
