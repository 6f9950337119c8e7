//! What expressions come to.

use std::cmp::Ordering;

use super::{Attribute, Entry, Node, Operator, Value};

impl Node {
    /// `None` where an attribute has no value, or one of another type than what is done with it.
    pub(super) fn evaluate(&self, entry: &Entry<'_>) -> Option<Value> {
        let text = |node: &Self| match node.evaluate(entry)? {
            Value::Text(text) => Some(text),
            _ => None,
        };
        Some(match self {
            Self::Literal(value) => value.clone(),
            Self::Attribute(attribute) => attribute.value(entry)?,
            Self::List(nodes) => {
                let values: Option<_> = nodes.iter().map(|node| node.evaluate(entry)).collect();
                Value::List(values?)
            }
            Self::Not(node) => Value::Bool(!node.truth(entry)?),
            Self::Negate(node) => match node.evaluate(entry)? {
                Value::Int(number) => Value::Int(number.checked_neg()?),
                _ => return None,
            },
            Self::Binary(operator, left, right) => binary(*operator, left, right, entry)?,
            Self::Choice(nodes) => {
                let [condition, holds, other] = &**nodes;
                let chosen = if condition.truth(entry)? {
                    holds
                } else {
                    other
                };
                chosen.evaluate(entry)?
            }
            Self::Has(attribute) => Value::Bool(attribute.value(entry).is_some()),
            Self::Text(node) => Value::Text(node.evaluate(entry)?.to_string()),
            Self::Int(node) => Value::Int(match node.evaluate(entry)? {
                Value::Int(number) => number,
                Value::Text(text) => text.parse().ok()?,
                Value::Bool(_) | Value::List(_) => return None,
            }),
            Self::Size(node) => {
                let size = match node.evaluate(entry)? {
                    Value::Text(text) => text.chars().count(),
                    Value::List(values) => values.len(),
                    Value::Bool(_) | Value::Int(_) => return None,
                };
                Value::Int(i64::try_from(size).ok()?)
            }
            Self::Contains(subject, part) => {
                Value::Bool(text(subject)?.contains(text(part)?.as_str()))
            }
            Self::StartsWith(subject, part) => {
                Value::Bool(text(subject)?.starts_with(text(part)?.as_str()))
            }
            Self::EndsWith(subject, part) => {
                Value::Bool(text(subject)?.ends_with(text(part)?.as_str()))
            }
            Self::Matches(subject, regex) => Value::Bool(regex.is_match(&text(subject)?)),
        })
    }

    fn truth(&self, entry: &Entry<'_>) -> Option<bool> {
        match self.evaluate(entry)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Calls `visit` with each attribute.
    pub(super) fn visit<'n>(&'n self, visit: &mut dyn FnMut(&'n Attribute)) {
        match self {
            Self::Literal(_) => {}
            Self::Attribute(attribute) | Self::Has(attribute) => visit(attribute),
            Self::List(nodes) => nodes.iter().for_each(|node| node.visit(visit)),
            Self::Choice(nodes) => nodes.iter().for_each(|node| node.visit(visit)),
            Self::Not(node)
            | Self::Negate(node)
            | Self::Text(node)
            | Self::Int(node)
            | Self::Size(node)
            | Self::Matches(node, _) => node.visit(visit),
            Self::Binary(_, left, right)
            | Self::Contains(left, right)
            | Self::StartsWith(left, right)
            | Self::EndsWith(left, right) => {
                left.visit(visit);
                right.visit(visit);
            }
        }
    }
}

fn binary(operator: Operator, left: &Node, right: &Node, entry: &Entry<'_>) -> Option<Value> {
    // One side may decide although the other has no value.
    if let Operator::And | Operator::Or = operator {
        let decides = operator == Operator::Or;
        let (left, right) = (left.truth(entry), right.truth(entry));
        return if left == Some(decides) || right == Some(decides) {
            Some(Value::Bool(decides))
        } else {
            (left.is_some() && right.is_some()).then_some(Value::Bool(!decides))
        };
    }
    let (left, right) = (left.evaluate(entry)?, right.evaluate(entry)?);
    let compared = |holds: fn(Ordering) -> bool| {
        let ordering = match (&left, &right) {
            (Value::Int(left), Value::Int(right)) => left.cmp(right),
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            _ => return None,
        };
        Some(Value::Bool(holds(ordering)))
    };
    match operator {
        Operator::Equal => Some(Value::Bool(left == right)),
        Operator::NotEqual => Some(Value::Bool(left != right)),
        Operator::Less => compared(Ordering::is_lt),
        Operator::LessOrEqual => compared(Ordering::is_le),
        Operator::Greater => compared(Ordering::is_gt),
        Operator::GreaterOrEqual => compared(Ordering::is_ge),
        Operator::In => match right {
            Value::List(values) => Some(Value::Bool(values.contains(&left))),
            _ => None,
        },
        Operator::Add => match (left, right) {
            (Value::Text(left), Value::Text(right)) => Some(Value::Text(left + &right)),
            (Value::Int(left), Value::Int(right)) => Some(Value::Int(left.checked_add(right)?)),
            _ => None,
        },
        Operator::Subtract => match (left, right) {
            (Value::Int(left), Value::Int(right)) => Some(Value::Int(left.checked_sub(right)?)),
            _ => None,
        },
        Operator::And | Operator::Or => None,
    }
}
