//! `google.protobuf.Struct` on the wire, with its fields in the order of their names.
//!
//! Istio's peers are compared by these bytes, so equal metadata must be equal bytes; Protobuf's
//! maps have no order of their own.

use prost::encoding::{WireType, encode_key, encode_varint};

/// Field numbers of `Struct`, of its map entries and of `Value`.
const FIELDS: u32 = 1;
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING_VALUE: u32 = 3;
const STRUCT_VALUE: u32 = 5;

/// The fields of one `Struct`: texts, and structures that hold such.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Name and serialized `Value`.
    entries: Vec<(Box<str>, Vec<u8>)>,
}

impl Fields {
    /// An empty text is left out.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.add(name, STRING_VALUE, text.as_bytes());
        }
    }

    pub(super) fn fields(&mut self, name: &str, fields: &Self) {
        self.add(name, STRUCT_VALUE, &fields.encode());
    }

    /// What is added last under a name stays.
    fn add(&mut self, name: &str, number: u32, content: &[u8]) {
        let mut value = Vec::with_capacity(content.len() + 4);
        bytes(number, content, &mut value);
        match self
            .entries
            .binary_search_by(|(known, _)| (**known).cmp(name))
        {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (name.into(), value)),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in &self.entries {
            let mut entry = Vec::with_capacity(name.len() + value.len() + 8);
            bytes(KEY, name.as_bytes(), &mut entry);
            bytes(VALUE, value, &mut entry);
            bytes(FIELDS, &entry, &mut out);
        }
        out
    }
}

/// A length-delimited field.
pub(super) fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}
