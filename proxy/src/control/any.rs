//! Typed configuration in `google.protobuf.Any`.

use std::borrow::Cow;

use ithildin_proto::{pb::google::protobuf::Any, unpack};
use prost::{Message, Name};

use super::report::At;

/// The full name of the message in `any`.
pub(in crate::control) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether `any` holds an `M`.
pub(in crate::control) fn is<M: Name>(any: &Any) -> bool {
    type_name(any) == M::full_name()
}

/// `any`, or the message in it if it is a `TypedStruct`.
pub(in crate::control) fn resolve<'a>(any: &'a Any, at: &At<'_>) -> Option<Cow<'a, Any>> {
    at.check(ithildin_proto::resolve(any))
}

/// Reads `any` as an `M`; an error is reported at `at`.
pub(in crate::control) fn read<M: Message + Name + Default>(any: &Any, at: &At<'_>) -> Option<M> {
    at.check(unpack(any))
}

/// Reports that there is nothing here for the type of `any`.
pub(in crate::control) fn unsupported(any: &Any, at: &At<'_>) {
    at.field("typed_config")
        .error(format_args!("type {} is not supported", type_name(any)));
}
