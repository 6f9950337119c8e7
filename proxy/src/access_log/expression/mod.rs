//! Expressions over requests and connections: the part of CEL that filters of access logs and
//! labels of metrics are written in.
//!
//! Literals, Envoy's attributes, comparisons, `!`, `&&`, `||`, `? :`, `in`, `+` on texts, the
//! functions `has`, `string`, `int` and `size`, and the methods `contains`, `startsWith`,
//! `endsWith`, `matches` and `size`. All else is refused when the expression is read.
//! Sources: the CEL specification; Envoy, "Attributes".

mod attribute;
mod evaluate;
mod parse;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;

use regex::Regex;

use self::attribute::Attribute;
use super::Entry;

/// Deepest nesting that is read: a control plane's mistake must not take the process down.
const MAX_DEPTH: usize = 64;

/// Most operators and methods of an expression. Each may lie inside of the one behind it, as in
/// `1 + 1 + 1`, and whoever evaluates it goes as deep.
const MAX_OPERATORS: usize = 512;

/// Most bytes of an expression.
const MAX_LENGTH: usize = 16 * 1024;

/// One expression, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Expression(Node);

/// Why an expression cannot be evaluated here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(String);

#[derive(Clone, Debug)]
enum Node {
    Literal(Value),
    Attribute(Attribute),
    List(Vec<Self>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    /// Condition, then what holds and what does not.
    Choice(Box<[Self; 3]>),
    Has(Attribute),
    Text(Box<Self>),
    Int(Box<Self>),
    Size(Box<Self>),
    Contains(Box<Self>, Box<Self>),
    StartsWith(Box<Self>, Box<Self>),
    EndsWith(Box<Self>, Box<Self>),
    Matches(Box<Self>, Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
}

/// What an expression comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Self>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::List(values) => f.debug_list().entries(values).finish(),
        }
    }
}

impl Expression {
    /// # Errors
    /// What is not understood, or not supported.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_LENGTH {
            let message = format!("is longer than {MAX_LENGTH} bytes");
            return Err(ExpressionError(message));
        }
        parse::parse(text).map(Self)
    }

    /// Whether it holds. What cannot be told does not.
    pub fn holds(&self, entry: &Entry<'_>) -> bool {
        matches!(self.0.evaluate(entry), Some(Value::Bool(true)))
    }

    /// Its value as text; `None` where an attribute has none.
    pub fn text(&self, entry: &Entry<'_>) -> Option<String> {
        Some(self.0.evaluate(entry)?.to_string())
    }

    /// The response's headers that it asks for, lower-case.
    pub(super) fn response_headers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.0.visit(&mut |attribute| {
            if let Attribute::ResponseHeader(name) = attribute {
                names.push(&**name);
            }
        });
        names
    }
}
