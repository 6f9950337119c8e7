//! What the walk needs of a message's descriptor, looked up once for each type.

use std::{cell::OnceCell, collections::HashMap, rc::Rc};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// How to write one type of message.
pub(super) struct Plan {
    pub(super) form: Form,
    pub(super) descriptor: MessageDescriptor,
    /// By both of their names.
    fields: HashMap<String, Rc<Field>>,
}

/// How a message looks in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A mapping of its fields.
    Fields,
    Any,
    /// The value of its only field.
    Wrapper,
    /// Text, in a form of its own.
    Duration,
    Text,
    /// Anything.
    Free,
}

/// How to write one field.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// Its default value is written too.
    pub(super) presence: bool,
    /// The group of which only one may be set.
    pub(super) oneof: Option<String>,
    /// Of a message, or of a map's values.
    plan: OnceCell<Rc<Plan>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    List,
    Map,
}

/// The plans of all types that were met.
#[derive(Default)]
pub(super) struct Plans(HashMap<String, Rc<Plan>>);

impl Plans {
    pub(super) fn of(&mut self, descriptor: &MessageDescriptor) -> Rc<Plan> {
        if let Some(plan) = self.0.get(descriptor.full_name()) {
            return Rc::clone(plan);
        }
        let plan = Rc::new(Plan::new(descriptor));
        let name = descriptor.full_name().to_owned();
        self.0.insert(name, Rc::clone(&plan));
        plan
    }

    /// The plan of a field's message.
    pub(super) fn of_field(&mut self, field: &Field, message: &MessageDescriptor) -> Rc<Plan> {
        Rc::clone(field.plan.get_or_init(|| self.of(message)))
    }
}

impl Plan {
    fn new(descriptor: &MessageDescriptor) -> Self {
        let mut fields = HashMap::new();
        for descriptor in descriptor.fields() {
            let field = Rc::new(Field::new(&descriptor));
            fields.insert(descriptor.json_name().to_owned(), Rc::clone(&field));
            fields.insert(descriptor.name().to_owned(), field);
        }
        Self {
            form: Form::of(descriptor.full_name()),
            descriptor: descriptor.clone(),
            fields,
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Rc<Field>> {
        self.fields.get(name)
    }
}

impl Form {
    pub(super) fn of(message: &str) -> Self {
        let Some(name) = message.strip_prefix("google.protobuf.") else {
            return Self::Fields;
        };
        match name {
            "Any" => Self::Any,
            "Struct" | "Value" | "ListValue" => Self::Free,
            "Duration" => Self::Duration,
            "Timestamp" | "FieldMask" => Self::Text,
            name if name.ends_with("Value") => Self::Wrapper,
            _ => Self::Fields,
        }
    }
}

impl Field {
    fn new(descriptor: &FieldDescriptor) -> Self {
        let oneof = descriptor.containing_oneof();
        // Proto3's `optional` is a oneof of one.
        let oneof = oneof.filter(|oneof| oneof.fields().len() > 1);
        Self {
            number: descriptor.number(),
            kind: descriptor.kind(),
            shape: if descriptor.is_map() {
                Shape::Map
            } else if descriptor.is_list() {
                Shape::List
            } else {
                Shape::Single
            },
            presence: descriptor.supports_presence(),
            oneof: oneof.map(|oneof| oneof.name().to_owned()),
            plan: OnceCell::new(),
        }
    }

    /// Whether it is one `Any`.
    pub(super) fn is_any(&self) -> bool {
        self.shape == Shape::Single
            && matches!(&self.kind, Kind::Message(message) if Form::of(message.full_name()) == Form::Any)
    }
}
