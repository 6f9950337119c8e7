//! `envoy.type.tracing.v3.CustomTag`, of spans and of entries of access logs.

use ithildin_proto::pb::envoy::r#type::{
    metadata::v3::{
        MetadataKey, MetadataKind, metadata_key::path_segment::Segment, metadata_kind::Kind,
    },
    tracing::v3::{
        CustomTag as TagProto,
        custom_tag::{Environment, Header, Literal, Metadata, Type},
    },
};

use super::access_log;
use crate::{
    access_log::Template,
    config::{
        custom_tag::{CustomTag, TagValue},
        limit_rules::MetadataPlace,
    },
    control::report::At,
};

/// Those that can be told; others are left out with a warning. `knows_route`: whether what the route says is there.
pub(super) fn tags(configs: &[TagProto], knows_route: bool, at: &At<'_>) -> Box<[CustomTag]> {
    let configs = configs.iter().enumerate();
    let tags = configs.filter_map(|(i, config)| {
        let at = at.index("custom_tags", i);
        tag(config, knows_route, &at)
    });
    tags.collect()
}

fn tag(config: &TagProto, knows_route: bool, at: &At<'_>) -> Option<CustomTag> {
    let TagProto { tag, r#type } = config;
    let name = at.text("tag", tag)?.into();
    let (value, default) = match r#type {
        Some(Type::Literal(Literal { value })) => {
            let value = at.field("literal").text("value", value)?;
            (TagValue::Text(value.into()), "")
        }
        Some(Type::Environment(Environment {
            name,
            default_value,
        })) => {
            let name = at.field("environment").text("name", name)?.to_owned();
            let value = std::env::var(name).unwrap_or_else(|_| default_value.clone());
            (TagValue::Text(value.into()), "")
        }
        Some(Type::RequestHeader(Header {
            name,
            default_value,
        })) => {
            let at = at.field("request_header");
            let name = at.text("name", name)?;
            let value = Template::parse(&format!("%REQ({name})%"));
            let value = at.field("name").check(value)?;
            (TagValue::Template(value), default_value.as_str())
        }
        Some(Type::Metadata(config)) => {
            let (value, default) = metadata(config, knows_route, &at.field("metadata"))?;
            (value, default)
        }
        Some(Type::Value(text)) => {
            let value = access_log::template(text, &at.field("value"))?;
            (TagValue::Template(value), "")
        }
        None => {
            at.error("has no value");
            return None;
        }
    };
    let default = default.into();
    Some(CustomTag {
        name,
        value,
        default,
    })
}

fn metadata<'c>(
    config: &'c Metadata,
    knows_route: bool,
    at: &At<'_>,
) -> Option<(TagValue, &'c str)> {
    let Metadata {
        kind,
        metadata_key,
        default_value,
    } = config;
    let place = place(metadata_key.as_ref(), &at.field("metadata_key"))?;
    let kind = kind.and_then(|MetadataKind { kind }| kind);
    let value = match kind {
        Some(Kind::Request(_)) => TagValue::OfRequest(place),
        Some(Kind::Route(_)) if knows_route => TagValue::OfRoute(place),
        Some(other) => {
            let of = match other {
                Kind::Route(_) => "routes",
                Kind::Cluster(_) => "clusters",
                Kind::Host(_) | Kind::Request(_) => "hosts",
            };
            at.field("kind").warn(format_args!(
                "metadata of {of} is not supported here; the tag is left out"
            ));
            return None;
        }
        None => {
            at.field("kind").error("is required");
            return None;
        }
    };
    Some((value, default_value))
}

fn place(config: Option<&MetadataKey>, at: &At<'_>) -> Option<MetadataPlace> {
    let Some(MetadataKey { key, path }) = config else {
        at.error("is required");
        return None;
    };
    let keys = path.iter().map(|segment| match &segment.segment {
        Some(Segment::Key(key)) => Some(key.as_str().into()),
        Some(Segment::Index(_)) | None => None,
    });
    let Some(path) = keys.collect() else {
        at.field("path")
            .warn("only keys are supported; the tag is left out");
        return None;
    };
    Some(MetadataPlace {
        namespace: at.text("key", key)?.into(),
        path,
    })
}
