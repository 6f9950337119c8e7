//! `envoy.type.tracing.v3.CustomTag`.

use http::HeaderName;
use ithildin_proto::pb::envoy::r#type::{
    metadata::v3::{
        MetadataKey, MetadataKind,
        metadata_key::{PathSegment, path_segment::Segment},
        metadata_kind::Kind,
    },
    tracing::v3::{
        CustomTag,
        custom_tag::{Environment, Header, Literal, Metadata, Type},
    },
};

use super::access_log;
use crate::{
    access_log::service::{Tag, TagValue},
    control::report::At,
};

/// Those that can be told; others are left out with a warning.
pub(super) fn tags(configs: &[CustomTag], at: &At<'_>) -> Vec<Tag> {
    let configs = configs.iter().enumerate();
    configs
        .filter_map(|(i, config)| tag(config, &at.index("custom_tags", i)))
        .collect()
}

fn tag(config: &CustomTag, at: &At<'_>) -> Option<Tag> {
    let CustomTag { tag, r#type } = config;
    let name = at.text("tag", tag)?.into();
    let value = match r#type {
        Some(Type::Literal(Literal { value })) => {
            let at = at.field("literal");
            TagValue::Constant(at.text("value", value)?.into())
        }
        Some(Type::Environment(Environment {
            name,
            default_value,
        })) => {
            let at = at.field("environment");
            let value = std::env::var(at.text("name", name)?);
            TagValue::Constant(value.unwrap_or_else(|_| default_value.clone()).into())
        }
        Some(Type::RequestHeader(Header {
            name,
            default_value,
        })) => {
            let at = at.field("request_header");
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = at.field("name").check(name)?;
            TagValue::RequestHeader {
                name: name.as_str().into(),
                default: default_value.as_str().into(),
            }
        }
        Some(Type::Metadata(config)) => metadata(config, &at.field("metadata"))?,
        Some(Type::Value(format)) => {
            TagValue::Format(at.field("value").check(access_log::template(format))?)
        }
        None => {
            at.error("has no value");
            return None;
        }
    };
    Some(Tag { name, value })
}

fn metadata(config: &Metadata, at: &At<'_>) -> Option<TagValue> {
    let Metadata {
        kind,
        metadata_key,
        default_value,
    } = config;
    if !matches!(
        kind,
        Some(MetadataKind {
            kind: Some(Kind::Request(_))
        })
    ) {
        at.field("kind")
            .warn("only metadata of requests is supported; the tag is left out");
        return None;
    }
    let Some(MetadataKey { key, path }) = metadata_key else {
        at.field("metadata_key").error("is required");
        return None;
    };
    let at = at.field("metadata_key");
    let namespace = at.text("key", key)?.into();
    let path = path.iter().enumerate().map(|(i, segment)| {
        let PathSegment { segment } = segment;
        match segment {
            Some(Segment::Key(key)) if !key.is_empty() => Some(key.as_str().into()),
            _ => {
                at.index("path", i)
                    .warn("only keys are supported; the tag is left out");
                None
            }
        }
    });
    Some(TagValue::Metadata {
        namespace,
        path: path.collect::<Option<_>>()?,
        default: default_value.as_str().into(),
    })
}
