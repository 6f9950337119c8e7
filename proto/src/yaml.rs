//! YAML documents, read in one pass into a flat list of nodes that borrows from the text.
//!
//! A bootstrap may hold hundreds of thousands of nodes, of which nothing outlives the reading: one
//! list costs one allocation, and leaves no holes in the heap.

mod document;

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::Value;

pub(crate) use self::document::{Document, Node, Nodes, Scalar, Simple};
use self::document::{Item, MAX_DEPTH};

/// Nodes that aliases may add to a document.
const MAX_COPIES: usize = 100_000;

/// Why a text is not YAML as we take it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// With line and column.
    #[error("{0}")]
    Syntax(String),
    #[error("has {0} documents; one is expected")]
    Documents(usize),
    #[error("has a mapping key that is not plain text")]
    Key,
    #[error("has the key {0:?} twice in one mapping")]
    DuplicateKey(String),
    #[error("is nested too deeply, or aliases multiply it")]
    Size,
    #[error("has a number that is not finite")]
    Number,
}

/// One document as Envoy reads it; an empty text is `null`.
///
/// # Errors
/// Syntax, duplicate keys, several documents, and alias bombs.
pub fn load(text: &str) -> Result<Value, YamlError> {
    let document = one(text)?;
    document.root().to_json(Scalar::as_envoy)
}

/// All documents by YAML 1.2's core schema, as Kubernetes resources are written; empty ones are
/// left out.
///
/// # Errors
/// Syntax, duplicate keys, and alias bombs.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let documents = parse(text)?;
    let values = documents
        .iter()
        .map(|document| document.root().to_json(Scalar::as_core_schema));
    let full = |value: &Result<Value, _>| !matches!(value, Ok(Value::Null));
    values.filter(full).collect()
}

/// The only document of a text.
pub(crate) fn one(text: &str) -> Result<Document<'_>, YamlError> {
    let mut documents = parse(text)?;
    match documents.len() {
        0 => Ok(Document::null()),
        1 => Ok(documents.remove(0)),
        several => Err(YamlError::Documents(several)),
    }
}

fn parse(text: &str) -> Result<Vec<Document<'_>>, YamlError> {
    let mut parser = Parser::new_from_str(text);
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, _) = event.map_err(syntax)?;
        match event {
            Event::DocumentEnd => {
                let Builder { items, .. } = std::mem::take(&mut builder);
                documents.push(Document::new(items));
            }
            event => builder.take(event)?,
        }
    }
    Ok(documents)
}

#[expect(clippy::needless_pass_by_value, reason = "it is used in map_err")]
fn syntax(error: ScanError) -> YamlError {
    YamlError::Syntax(error.to_string())
}

/// Makes a document of events.
#[derive(Default)]
struct Builder<'t> {
    items: Vec<Item<'t>>,
    /// Where the collections begin that are not closed yet.
    open: Vec<(usize, Anchor)>,
    /// By anchor id, the node's items.
    anchors: Vec<(Anchor, std::ops::Range<usize>)>,
    copies: usize,
}

/// 0 for none.
type Anchor = usize;

impl<'t> Builder<'t> {
    fn take(&mut self, event: Event<'t>) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let at = self.items.len();
                self.items.push(match plain {
                    true => Item::Plain(text),
                    false => Item::Text(text),
                });
                self.remember(anchor, at);
            }
            Event::SequenceStart(anchor, _) => self.open(Item::List { inside: 0 }, anchor)?,
            Event::MappingStart(anchor, _) => self.open(Item::Map { inside: 0 }, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => self.copy(anchor)?,
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, item: Item<'t>, anchor: Anchor) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError::Size);
        }
        self.open.push((self.items.len(), anchor));
        self.items.push(item);
        Ok(())
    }

    fn close(&mut self) -> Result<(), YamlError> {
        let Some((at, anchor)) = self.open.pop() else {
            return Ok(());
        };
        let count = self.items.len() - at - 1;
        match &mut self.items[at] {
            Item::List { inside } => *inside = count,
            Item::Map { inside } => {
                *inside = count;
                check_keys(&self.items[at + 1..])?;
            }
            Item::Plain(_) | Item::Text(_) => {}
        }
        self.remember(anchor, at);
        Ok(())
    }

    /// The node from `at` to the end is complete.
    fn remember(&mut self, anchor: Anchor, at: usize) {
        if anchor > 0 {
            self.anchors.push((anchor, at..self.items.len()));
        }
    }

    fn copy(&mut self, anchor: Anchor) -> Result<(), YamlError> {
        // An anchor inside its own node is not complete yet.
        let known = self.anchors.iter().rev().find(|(id, _)| *id == anchor);
        let (_, range) = known.ok_or(YamlError::Size)?;
        self.copies += range.len();
        if self.copies > MAX_COPIES {
            return Err(YamlError::Size);
        }
        self.items.extend_from_within(range.clone());
        Ok(())
    }
}

/// The keys of a mapping are scalars, each there once.
fn check_keys(inside: &[Item<'_>]) -> Result<(), YamlError> {
    /// Above it a set is cheaper than comparing each with each.
    const FEW: usize = 12;
    let mut few: Vec<Scalar<'_>> = Vec::new();
    let mut many = HashSet::new();
    let mut at = 0;
    while let Some(key) = inside.get(at) {
        let key = key.scalar().ok_or(YamlError::Key)?;
        let fresh = match key {
            // Merge keys may be repeated.
            Scalar::Plain("<<") => true,
            key if few.len() < FEW => {
                let fresh = few.iter().all(|known| known.text() != key.text());
                few.push(key);
                fresh
            }
            key => {
                if many.is_empty() {
                    many.extend(few.iter().map(Scalar::text));
                }
                many.insert(key.text())
            }
        };
        if !fresh {
            return Err(YamlError::DuplicateKey(key.text().to_owned()));
        }
        at += 1 + inside.get(at + 1).map_or(0, Item::size);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
