//! YAML and JSON to Envoy's messages, with Envoy's tolerance and with paths in the errors.
//!
//! A document is written as Protobuf's wire format in one walk beside the message's descriptor,
//! which finds everything that is wrong; the message is decoded from that.

mod encode;
mod path;
mod plan;

use std::fmt;

use prost::{Message, Name};
use serde_json::Value;

pub(crate) use self::encode::Encoder;
use crate::{
    pool::Pool,
    yaml::{self, Document},
};

/// Everything that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors(pub Vec<String>);

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ParseErrors {}

/// Reads a message from YAML.
///
/// # Errors
/// All of them at once, each with its path.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, ParseErrors> {
    let document = yaml::one(text).map_err(one)?;
    let bytes = wire::<M>(&document)?;
    // What is written is no longer needed while the message takes its place.
    drop(document);
    M::decode(bytes.as_slice()).map_err(one)
}

/// Reads a message from JSON text.
///
/// # Errors
/// See [`from_yaml`].
pub fn from_json<M: Message + Name + Default>(text: &str) -> Result<M, ParseErrors> {
    from_value(serde_json::from_str(text).map_err(one)?)
}

/// Reads a message from a JSON value.
///
/// # Errors
/// See [`from_yaml`].
pub fn from_value<M: Message + Name + Default>(value: Value) -> Result<M, ParseErrors> {
    let document = Document::from_json(value).map_err(one)?;
    M::decode(wire::<M>(&document)?.as_slice()).map_err(one)
}

fn wire<M: Name>(document: &Document<'_>) -> Result<Vec<u8>, ParseErrors> {
    let name = M::full_name();
    let pool = Pool::load();
    let descriptor = pool
        .message(&name)
        .ok_or_else(|| one(format!("{name} is not one of Envoy's messages")))?;
    let root = document.root();
    if root.is_null() {
        return Ok(Vec::new());
    }
    Encoder::new(&pool).encode(descriptor, root)
}

fn one(error: impl fmt::Display) -> ParseErrors {
    ParseErrors(vec![error.to_string()])
}

#[cfg(test)]
mod tests;
