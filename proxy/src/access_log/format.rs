//! The format of a log: one text template, or an object of templates.

use ithildin_proto::pb::google::protobuf::{Struct, Value, value::Kind as ProtoKind};

use super::{Entry, Needs, Template, Unset, operator::Kind, template::FormatError};

/// Envoy's format of a log that configures none.
pub const DEFAULT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);

/// How one entry becomes bytes.
#[derive(Clone, Debug)]
pub struct Format {
    body: Body,
    unset: Unset,
}

#[derive(Clone, Debug)]
enum Body {
    Text(Template),
    Json(Node),
}

#[derive(Clone, Debug)]
enum Node {
    Template(Template),
    /// Already JSON.
    Constant(Box<str>),
    List(Vec<Self>),
    /// Keys are already JSON; in their order.
    Object(Vec<(Box<str>, Self)>),
}

impl Format {
    pub fn text(format: &str, unset: Unset) -> Result<Self, FormatError> {
        let body = Body::Text(Template::parse(format)?);
        Ok(Self { body, unset })
    }

    /// One JSON object a line. Errors come with the path inside of the object.
    pub fn json(object: &Struct, unset: Unset) -> Result<Self, Vec<(String, FormatError)>> {
        let mut errors = Vec::new();
        let node = object_node(object, "", &mut errors);
        if errors.is_empty() {
            let body = Body::Json(node);
            Ok(Self { body, unset })
        } else {
            Err(errors)
        }
    }

    /// What it names and this proxy lacks.
    pub fn lacking(&self) -> Vec<&str> {
        let mut names = Vec::new();
        match &self.body {
            Body::Text(template) => names.extend(template.lacking()),
            Body::Json(node) => node.lacking(&mut names),
        }
        names
    }

    /// Adds what a line needs of messages that are gone when it is written.
    pub(super) fn needs(&self, needs: &mut Needs) {
        match &self.body {
            Body::Text(template) => template.needs(needs),
            Body::Json(node) => node.needs(needs),
        }
    }

    /// Appends the line for `entry` to `out`.
    pub fn render(&self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match &self.body {
            Body::Text(template) => template.render(entry, self.unset, out),
            Body::Json(node) => {
                node.write(entry, self.unset, out);
                out.push(b'\n');
            }
        }
    }
}

impl Node {
    fn lacking<'n>(&'n self, names: &mut Vec<&'n str>) {
        match self {
            Self::Template(template) => names.extend(template.lacking()),
            Self::Constant(_) => {}
            Self::List(items) => items.iter().for_each(|item| item.lacking(names)),
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.lacking(names)),
        }
    }

    fn needs(&self, needs: &mut Needs) {
        match self {
            Self::Template(template) => template.needs(needs),
            Self::Constant(_) => {}
            Self::List(items) => items.iter().for_each(|item| item.needs(needs)),
            Self::Object(fields) => fields.iter().for_each(|(_, value)| value.needs(needs)),
        }
    }
}

fn object_node(object: &Struct, path: &str, errors: &mut Vec<(String, FormatError)>) -> Node {
    let mut fields: Vec<_> = object.fields.iter().collect();
    fields.sort_by_key(|(key, _)| *key);
    let fields = fields.into_iter().map(|(key, value)| {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        (json_string(key), value_node(value, &path, errors))
    });
    Node::Object(fields.collect())
}

fn value_node(value: &Value, path: &str, errors: &mut Vec<(String, FormatError)>) -> Node {
    match &value.kind {
        Some(ProtoKind::StringValue(format)) => match Template::parse(format) {
            Ok(template) => Node::Template(template),
            Err(error) => {
                errors.push((path.to_owned(), error));
                Node::Constant("null".into())
            }
        },
        Some(ProtoKind::StructValue(object)) => object_node(object, path, errors),
        Some(ProtoKind::ListValue(list)) => {
            let items = list.values.iter().enumerate();
            Node::List(
                items
                    .map(|(i, item)| value_node(item, &format!("{path}[{i}]"), errors))
                    .collect(),
            )
        }
        Some(ProtoKind::NumberValue(number)) => {
            Node::Constant(serde_json::Value::from(*number).to_string().into())
        }
        Some(ProtoKind::BoolValue(value)) => Node::Constant(value.to_string().into()),
        Some(ProtoKind::NullValue(_)) | None => Node::Constant("null".into()),
    }
}

impl Node {
    fn write(&self, entry: &Entry<'_>, unset: Unset, out: &mut Vec<u8>) {
        match self {
            Self::Constant(json) => out.extend_from_slice(json.as_bytes()),
            Self::Template(template) => write_template(template, entry, unset, out),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(entry, unset, out);
                }
                out.push(b']');
            }
            Self::Object(fields) => {
                out.push(b'{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    value.write(entry, unset, out);
                }
                out.push(b'}');
            }
        }
    }
}

/// A single operator keeps its type: a number, or null if it has no value.
fn write_template(template: &Template, entry: &Entry<'_>, unset: Unset, out: &mut Vec<u8>) {
    let start = out.len();
    let kind = template.write_single(entry, out).unwrap_or_else(|| {
        template.render(entry, unset, out);
        Some(Kind::Text)
    });
    match kind {
        Some(Kind::Json) => {}
        Some(Kind::Text) => {
            let text = out.split_off(start);
            out.extend_from_slice(json_string(&String::from_utf8_lossy(&text)).as_bytes());
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn json_string(text: &str) -> Box<str> {
    serde_json::Value::from(text).to_string().into()
}
