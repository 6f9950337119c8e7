//! A document as a list of its nodes.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::YamlError;

/// Nesting that nobody writes by hand; a stack is finite.
pub(super) const MAX_DEPTH: usize = 100;

/// One document. A node is followed by all that are inside it.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    /// Never empty.
    items: Vec<Item<'t>>,
}

#[derive(Clone, Debug)]
pub(super) enum Item<'t> {
    /// Without quotes and without a tag: what it is, its text says.
    Plain(Cow<'t, str>),
    Text(Cow<'t, str>),
    List {
        /// How many nodes are inside, at any depth.
        inside: usize,
    },
    /// Keys and values take turns.
    Map {
        inside: usize,
    },
}

/// A scalar's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'d> {
    Plain(&'d str),
    Text(&'d str),
}

/// What a scalar is to Envoy: a plain one is nothing, a boolean, else a whole number, else text. So
/// `1.10` and `18446744073709551615` keep their digits, and Protobuf's JSON rules, which take
/// numbers as text, decide later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simple<'d> {
    Null,
    Bool(bool),
    Number(i64),
    Text(&'d str),
}

/// A node of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'d> {
    Scalar(Scalar<'d>),
    List(Nodes<'d>),
    Map(Nodes<'d>),
}

/// Some nodes, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nodes<'d> {
    items: &'d [Item<'d>],
}

impl<'t> Document<'t> {
    pub(super) fn new(items: Vec<Item<'t>>) -> Self {
        if items.is_empty() {
            return Self::null();
        }
        Self { items }
    }

    pub(crate) fn null() -> Self {
        Self {
            items: vec![Item::Plain(Cow::Borrowed(""))],
        }
    }

    pub(crate) fn root(&self) -> Node<'_> {
        let mut nodes = Nodes { items: &self.items };
        nodes.next().unwrap_or(Node::Scalar(Scalar::Plain("")))
    }

    /// # Errors
    /// When it is nested too deeply.
    pub(crate) fn from_json(value: Value) -> Result<Document<'static>, YamlError> {
        let mut items = Vec::new();
        add(value, MAX_DEPTH, &mut items)?;
        Ok(Document { items })
    }
}

fn add(value: Value, depth: usize, items: &mut Vec<Item<'static>>) -> Result<(), YamlError> {
    let depth = depth.checked_sub(1).ok_or(YamlError::Size)?;
    let at = items.len();
    match value {
        Value::Null => items.push(Item::Plain(Cow::Borrowed(""))),
        Value::Bool(flag) => items.push(Item::Plain(flag.to_string().into())),
        Value::Number(number) => items.push(Item::Plain(number.to_string().into())),
        Value::String(text) => items.push(Item::Text(text.into())),
        Value::Array(list) => {
            items.push(Item::List { inside: 0 });
            for value in list {
                add(value, depth, items)?;
            }
            let inside = items.len() - at - 1;
            items[at] = Item::List { inside };
        }
        Value::Object(map) => {
            items.push(Item::Map { inside: 0 });
            for (key, value) in map {
                items.push(Item::Text(key.into()));
                add(value, depth, items)?;
            }
            let inside = items.len() - at - 1;
            items[at] = Item::Map { inside };
        }
    }
    Ok(())
}

impl Item<'_> {
    /// Nodes that it is, with those inside.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Text(_) => 1,
            Self::List { inside } | Self::Map { inside } => 1 + inside,
        }
    }

    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match self {
            Self::Plain(text) => Some(Scalar::Plain(text)),
            Self::Text(text) => Some(Scalar::Text(text)),
            Self::List { .. } | Self::Map { .. } => None,
        }
    }
}

impl<'d> Iterator for Nodes<'d> {
    type Item = Node<'d>;

    fn next(&mut self) -> Option<Node<'d>> {
        let (first, rest) = self.items.split_first()?;
        let (inside, rest) = rest.split_at_checked(first.size() - 1)?;
        self.items = rest;
        let nodes = Nodes { items: inside };
        Some(match first {
            Item::Plain(text) => Node::Scalar(Scalar::Plain(text)),
            Item::Text(text) => Node::Scalar(Scalar::Text(text)),
            Item::List { .. } => Node::List(nodes),
            Item::Map { .. } => Node::Map(nodes),
        })
    }
}

impl<'d> Nodes<'d> {
    /// Those of a mapping as keys and values. Merge keys (`<<`) give defaults: what the mapping
    /// says itself stays.
    pub(crate) fn entries(mut self) -> Vec<(Cow<'d, str>, Node<'d>)> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        while let (Some(Node::Scalar(key)), Some(value)) = (self.next(), self.next()) {
            match key {
                Scalar::Plain("<<") => merged.push(value),
                key => entries.push((key.as_key(), value)),
            }
        }
        for value in merged {
            merge(&mut entries, value);
        }
        entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

fn merge<'d>(entries: &mut Vec<(Cow<'d, str>, Node<'d>)>, value: Node<'d>) {
    match value {
        Node::Map(defaults) => {
            for (key, value) in defaults.entries() {
                if entries.iter().all(|(known, _)| *known != key) {
                    entries.push((key, value));
                }
            }
        }
        Node::List(list) => list.for_each(|value| merge(entries, value)),
        Node::Scalar(_) => {}
    }
}

impl<'d> Node<'d> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.simple() == Simple::Null)
    }

    /// A JSON value, with scalars as `read` takes them.
    pub(crate) fn to_json(
        self,
        read: fn(&Scalar<'d>) -> Result<Value, YamlError>,
    ) -> Result<Value, YamlError> {
        Ok(match self {
            Self::Scalar(scalar) => read(&scalar)?,
            Self::List(nodes) => {
                let items = nodes.map(|node| node.to_json(read));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(nodes) => {
                let mut map = Map::new();
                for (key, value) in nodes.entries() {
                    map.insert(key.into_owned(), value.to_json(read)?);
                }
                Value::Object(map)
            }
        })
    }
}

impl<'d> Scalar<'d> {
    pub(crate) fn text(&self) -> &'d str {
        match self {
            Self::Plain(text) | Self::Text(text) => text,
        }
    }

    pub(crate) fn simple(&self) -> Simple<'d> {
        let Self::Plain(text) = self else {
            return Simple::Text(self.text());
        };
        match *text {
            "" | "~" | "null" | "Null" | "NULL" => Simple::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
                Simple::Bool(true)
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
                Simple::Bool(false)
            }
            text => text.parse().map_or(Simple::Text(text), Simple::Number),
        }
    }

    /// As Envoy reads it.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "one of two readings, of which the other may fail"
    )]
    pub(crate) fn as_envoy(&self) -> Result<Value, YamlError> {
        Ok(match self.simple() {
            Simple::Null => Value::Null,
            Simple::Bool(flag) => flag.into(),
            Simple::Number(number) => number.into(),
            Simple::Text(text) => text.into(),
        })
    }

    /// By YAML 1.2's core schema.
    pub(crate) fn as_core_schema(&self) -> Result<Value, YamlError> {
        use saphyr::Scalar as Core;
        let Self::Plain(text) = self else {
            return Ok(self.text().into());
        };
        if text.is_empty() {
            return Ok(Value::Null);
        }
        Ok(match Core::parse_from_cow(Cow::Borrowed(*text)) {
            Core::Null => Value::Null,
            Core::Boolean(flag) => flag.into(),
            Core::Integer(number) => number.into(),
            Core::FloatingPoint(number) => {
                let number = Number::from_f64(number.into_inner());
                Value::Number(number.ok_or(YamlError::Number)?)
            }
            Core::String(text) => text.into(),
        })
    }

    /// A key is text, whatever it looks like.
    fn as_key(self) -> Cow<'d, str> {
        match self.simple() {
            Simple::Number(number) => number.to_string().into(),
            Simple::Bool(flag) => flag.to_string().into(),
            Simple::Null | Simple::Text(_) => self.text().into(),
        }
    }
}
