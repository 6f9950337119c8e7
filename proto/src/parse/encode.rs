//! Writes a document as a message in Protobuf's wire format, and finds what is wrong with it.

use std::{borrow::Cow, fmt::Display};

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor};

use super::{
    ParseErrors,
    path::Path,
    plan::{Field, Form, Plan, Plans, Shape},
};
use crate::{
    pool::Pool,
    yaml::{Node, Nodes, Scalar, Simple},
};

pub(crate) struct Encoder<'p> {
    pool: &'p Pool,
    plans: Plans,
    errors: Vec<String>,
    /// Whether numbers and truth values do for texts.
    takes_any_text: bool,
}

impl<'p> Encoder<'p> {
    pub(crate) fn new(pool: &'p Pool) -> Self {
        Self {
            pool,
            plans: Plans::default(),
            errors: Vec::new(),
            takes_any_text: false,
        }
    }

    /// For what a control plane has turned into JSON, where an operator's `value: 1` or `on` is no text
    /// any more. Envoy takes it for one.
    pub(crate) fn takes_any_text(mut self) -> Self {
        self.takes_any_text = true;
        self
    }

    /// # Errors
    /// Everything that is wrong, each with its path.
    pub(crate) fn encode(
        mut self,
        descriptor: MessageDescriptor,
        root: Node<'_>,
    ) -> Result<Vec<u8>, ParseErrors> {
        let plan = self.plans.of(&descriptor);
        let mut out = Vec::new();
        self.message(&plan, root, &Path::Root, &mut out);
        if self.errors.is_empty() {
            Ok(out)
        } else {
            Err(ParseErrors(self.errors))
        }
    }

    fn error(&mut self, path: &Path<'_>, what: impl Display) {
        self.errors.push(format!("{path}: {what}"));
    }

    fn expected(&mut self, path: &Path<'_>, what: &str, found: Node<'_>) {
        let found = kind_of(found);
        self.error(path, format_args!("expected {what}, found {found}"));
    }

    fn message(&mut self, plan: &Plan, node: Node<'_>, path: &Path<'_>, out: &mut Vec<u8>) {
        match (plan.form, node) {
            (Form::Any, node) => self.any(node, path, out),
            (Form::Free, node) => self.reflect(plan, node, path, out),
            (Form::Duration, node) if is_duration(node) => self.reflect(plan, node, path, out),
            (Form::Duration, node) => {
                let what = match node.to_json(Scalar::as_envoy) {
                    Ok(value) => value.to_string(),
                    Err(error) => error.to_string(),
                };
                let what = format!("expected a duration such as \"1.5s\", found {what}");
                self.error(path, what);
            }
            (Form::Text, node) if is_text(node) => self.reflect(plan, node, path, out),
            (Form::Text, node) => self.expected(path, "text", node),
            (Form::Wrapper, node) => {
                if let Some(field) = plan.field("value") {
                    self.scalar(&field.kind, 1, false, node, path, out);
                }
            }
            (Form::Fields, Node::Map(nodes)) => {
                self.fields(plan, nodes.entries(), path, out);
            }
            (Form::Fields, node) => self.expected(path, "a mapping", node),
        }
    }

    fn fields(
        &mut self,
        plan: &Plan,
        mut entries: Vec<(Cow<'_, str>, Node<'_>)>,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) {
        // As everybody writes them, so that equal messages have equal bytes.
        entries.sort_by_key(|(name, _)| plan.field(name).map(|field| field.number));
        let mut seen: Vec<(u32, Option<&str>)> = Vec::with_capacity(entries.len());
        for (name, node) in entries {
            // Null is Protobuf's way to leave a field out.
            if node.is_null() {
                continue;
            }
            let path = Path::Field(path, &name);
            let Some(field) = plan.field(&name) else {
                self.error(&path, "unknown field");
                continue;
            };
            // An Any without a type is people's way.
            if field.is_any() && matches!(node, Node::Map(nodes) if nodes.is_empty()) {
                continue;
            }
            let oneof = field.oneof.as_deref();
            if seen.iter().any(|(number, _)| *number == field.number) {
                self.error(&path, "is there twice, under both of its names");
            } else if let Some(oneof) = oneof
                && seen.iter().any(|(_, known)| *known == Some(oneof))
            {
                self.error(&path, format_args!("another field of {oneof} is set too"));
            }
            seen.push((field.number, oneof));
            self.field(field, node, &path, out);
        }
    }

    fn field(&mut self, field: &Field, node: Node<'_>, path: &Path<'_>, out: &mut Vec<u8>) {
        match (field.shape, node) {
            (Shape::Single, node) => self.single(field, node, !field.presence, path, out),
            (Shape::List, Node::List(items)) => {
                for (index, item) in items.enumerate() {
                    self.single(field, item, false, &Path::Index(path, index), out);
                }
            }
            // Envoy takes one element for a list of one.
            (Shape::List, node) => self.single(field, node, false, &Path::Index(path, 0), out),
            (Shape::Map, Node::Map(nodes)) => self.map(field, nodes, path, out),
            (Shape::Map, node) => self.expected(path, "a mapping", node),
        }
    }

    fn map(&mut self, field: &Field, nodes: Nodes<'_>, path: &Path<'_>, out: &mut Vec<u8>) {
        let Kind::Message(entry) = &field.kind else {
            return;
        };
        let plan = self.plans.of_field(field, entry);
        let (Some(key_field), Some(value_field)) = (plan.field("key"), plan.field("value")) else {
            return;
        };
        for (key, node) in nodes.entries() {
            let path = Path::Key(path, &key);
            let mut inner = Vec::new();
            // A number as text is a number, too.
            let text = Node::Scalar(Scalar::Text(&key));
            self.single(key_field, text, false, &path, &mut inner);
            self.single(value_field, node, false, &path, &mut inner);
            bytes(field.number, &inner, out);
        }
    }

    /// One value; `omit_default` leaves out what is there anyhow.
    fn single(
        &mut self,
        field: &Field,
        node: Node<'_>,
        omit_default: bool,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) {
        match &field.kind {
            Kind::Message(descriptor) => {
                let plan = self.plans.of_field(field, descriptor);
                let mut inner = Vec::new();
                self.message(&plan, node, path, &mut inner);
                bytes(field.number, &inner, out);
            }
            Kind::Enum(descriptor) => {
                let number = self.enumeration(descriptor, node, path);
                if let Some(number) = number.filter(|number| !omit_default || *number != 0) {
                    varint(field.number, i64::from(number).cast_unsigned(), out);
                }
            }
            kind => self.scalar(kind, field.number, omit_default, node, path, out),
        }
    }

    fn any(&mut self, node: Node<'_>, path: &Path<'_>, out: &mut Vec<u8>) {
        let mut entries = match node {
            Node::Map(nodes) => nodes.entries(),
            Node::Scalar(_) | Node::List(_) => Vec::new(),
        };
        let at = entries.iter().position(|(key, _)| key == "@type");
        let url = at.map(|at| entries.remove(at).1);
        let Some(Node::Scalar(url)) = url else {
            return self.error(path, "needs an \"@type\"");
        };
        let url = url.text();
        let name = url.rsplit('/').next().unwrap_or_default();
        let Some(descriptor) = self.pool.message(name) else {
            return self.error(path, format_args!("could not find @type {url:?}"));
        };
        let plan = self.plans.of(&descriptor);
        let mut inner = Vec::new();
        match &*entries {
            _ if plan.form == Form::Fields => self.fields(&plan, entries, path, &mut inner),
            // What has a form of its own stands in a field `value`.
            [(key, node)] if key == "value" => self.message(&plan, *node, path, &mut inner),
            _ => self.error(path, "needs a \"value\", and nothing else"),
        }
        bytes(1, url.as_bytes(), out);
        bytes(2, &inner, out);
    }

    fn enumeration(
        &mut self,
        descriptor: &EnumDescriptor,
        node: Node<'_>,
        path: &Path<'_>,
    ) -> Option<i32> {
        let simple = match node {
            Node::Scalar(scalar) => scalar.simple(),
            Node::List(_) | Node::Map(_) => Simple::Null,
        };
        match simple {
            Simple::Text(name) => {
                let exact = descriptor.get_value_by_name(name);
                let mut all = descriptor.values();
                let found = exact.or_else(|| all.find(|it| it.name().eq_ignore_ascii_case(name)));
                if found.is_none() {
                    let names: Vec<_> =
                        descriptor.values().map(|it| it.name().to_owned()).collect();
                    let names = names.join(", ");
                    self.error(path, format_args!("{name:?} is none of {names}"));
                }
                found.map(|found| found.number())
            }
            Simple::Number(number) => {
                let known = i32::try_from(number).ok();
                let known = known.filter(|number| descriptor.get_value(*number).is_some());
                if known.is_none() {
                    let what = format!("{number} is not a value of {}", descriptor.name());
                    self.error(path, what);
                }
                known
            }
            Simple::Null | Simple::Bool(_) => {
                self.expected(path, &format!("one of {}", descriptor.name()), node);
                None
            }
        }
    }

    fn scalar(
        &mut self,
        kind: &Kind,
        number: u32,
        omit_default: bool,
        node: Node<'_>,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) {
        let simple = match node {
            Node::Scalar(scalar) => scalar.simple(),
            Node::List(_) | Node::Map(_) => Simple::Null,
        };
        match (kind, simple) {
            (Kind::String, Simple::Text(text)) => {
                if !(omit_default && text.is_empty()) {
                    bytes(number, text.as_bytes(), out);
                }
            }
            (Kind::Bytes, Simple::Text(text)) => match base64(text) {
                Some(decoded) if omit_default && decoded.is_empty() => {}
                Some(decoded) => bytes(number, &decoded, out),
                None => self.error(path, "is not base64"),
            },
            (Kind::String, Simple::Bool(flag)) if self.takes_any_text => {
                bytes(number, flag.to_string().as_bytes(), out);
            }
            (Kind::String, Simple::Number(value)) if self.takes_any_text => {
                bytes(number, value.to_string().as_bytes(), out);
            }
            (Kind::String | Kind::Bytes, _) => self.expected(path, "text", node),
            (Kind::Bool, simple) => {
                let flag = match simple {
                    Simple::Bool(flag) => flag,
                    Simple::Text("true") => true,
                    Simple::Text("false") => false,
                    _ => return self.expected(path, "true or false", node),
                };
                if flag || !omit_default {
                    varint(number, flag.into(), out);
                }
            }
            (Kind::Float | Kind::Double, simple) => {
                let value = match simple {
                    Simple::Number(_) | Simple::Text(_) => number_text(node).parse::<f64>().ok(),
                    Simple::Null | Simple::Bool(_) => None,
                };
                match value {
                    Some(value) => float(kind, number, value, out),
                    None => self.expected(path, "a number", node),
                }
            }
            (kind, Simple::Number(_) | Simple::Text(_)) => {
                match number_text(node).parse::<i128>() {
                    Ok(value) if value == 0 && omit_default => {}
                    Ok(value) => {
                        if !integer(kind, number, value, out) {
                            self.error(path, format_args!("{value} is out of range"));
                        }
                    }
                    Err(_) => self.expected(path, "a whole number", node),
                }
            }
            (_, Simple::Null | Simple::Bool(_)) => self.expected(path, "a whole number", node),
        }
    }

    /// Leaves the reading to `prost-reflect`: messages that look in JSON like nothing else.
    fn reflect(&mut self, plan: &Plan, node: Node<'_>, path: &Path<'_>, out: &mut Vec<u8>) {
        let value = match node.to_json(Scalar::as_envoy) {
            Ok(value) => value,
            Err(error) => return self.error(path, error),
        };
        match DynamicMessage::deserialize(plan.descriptor.clone(), value) {
            Ok(message) => out.extend(message.encode_to_vec()),
            Err(error) => self.error(path, error),
        }
    }
}

fn number_text<'d>(node: Node<'d>) -> &'d str {
    match node {
        Node::Scalar(scalar) => scalar.text(),
        Node::List(_) | Node::Map(_) => "",
    }
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn float(kind: &Kind, number: u32, value: f64, out: &mut Vec<u8>) {
    if *kind == Kind::Double {
        encode_key(number, WireType::SixtyFourBit, out);
        out.extend(value.to_le_bytes());
    } else {
        encode_key(number, WireType::ThirtyTwoBit, out);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the field is no more precise"
        )]
        out.extend((value as f32).to_le_bytes());
    }
}

/// Whether `value` fits.
fn integer(kind: &Kind, number: u32, value: i128, out: &mut Vec<u8>) -> bool {
    let wide = match kind {
        Kind::Uint64 | Kind::Fixed64 => u64::try_from(value).ok(),
        Kind::Uint32 | Kind::Fixed32 => u32::try_from(value).ok().map(u64::from),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            i64::try_from(value).ok().map(i64::cast_unsigned)
        }
        _ => i32::try_from(value)
            .ok()
            .map(|value| i64::from(value).cast_unsigned()),
    };
    let Some(wide) = wide else {
        return false;
    };
    match kind {
        Kind::Fixed64 | Kind::Sfixed64 => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend(wide.to_le_bytes());
        }
        Kind::Fixed32 | Kind::Sfixed32 => {
            encode_key(number, WireType::ThirtyTwoBit, out);
            out.extend(&wide.to_le_bytes()[..4]);
        }
        Kind::Sint32 | Kind::Sint64 => {
            let signed = wide.cast_signed();
            varint(
                number,
                ((signed << 1) ^ (signed >> 63)).cast_unsigned(),
                out,
            );
        }
        _ => varint(number, wide, out),
    }
    true
}

/// Both alphabets, padded or not, as Protobuf's JSON allows.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        URL_SAFE
    } else {
        STANDARD
    };
    GeneralPurpose::new(&alphabet, config).decode(text).ok()
}

fn is_text(node: Node<'_>) -> bool {
    matches!(node, Node::Scalar(scalar) if matches!(scalar.simple(), Simple::Text(_)))
}

fn is_duration(node: Node<'_>) -> bool {
    let Node::Scalar(scalar) = node else {
        return false;
    };
    let seconds = scalar.text().strip_suffix('s');
    seconds.is_some_and(|number| number.parse::<f64>().is_ok())
}

fn kind_of(node: Node<'_>) -> &'static str {
    match node {
        Node::List(_) => "a list",
        Node::Map(_) => "a mapping",
        Node::Scalar(scalar) => match scalar.simple() {
            Simple::Null => "nothing",
            Simple::Bool(_) => "true or false",
            Simple::Number(_) => "a number",
            Simple::Text(_) => "text",
        },
    }
}
