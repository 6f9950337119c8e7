//! `envoy.filters.http.lua`: scripts that compile.

use std::sync::Arc;

use ithildin_proto::pb::{
    envoy::{
        config::core::v3::DataSource,
        extensions::filters::http::lua::v3::{
            Lua as LuaProto, LuaPerRoute, lua_per_route::Override,
        },
    },
    google::protobuf::Struct,
};
use serde_json::{Map, Value};

use super::metadata;
use crate::{
    config::{
        filters::FilterOverride,
        lua::{Lua, LuaChoice, LuaOverride},
    },
    control::{
        data_source,
        report::{At, refuse},
    },
    scripts::Script,
    stats::Registry,
};

/// The filter of a connection manager with this stat prefix.
pub(super) fn filter(
    config: &LuaProto,
    stats: &Registry,
    manager: &str,
    at: &At<'_>,
) -> Option<Lua> {
    let LuaProto {
        inline_code,
        source_codes,
        default_source_code,
        stat_prefix,
        clear_route_cache,
        filter_context,
        package_paths,
        package_cpaths,
    } = config;
    // Scripts have no `require`.
    refuse!(at; package_paths, package_cpaths);
    let errors = at.errors();
    let default = match default_source_code {
        Some(_) if !inline_code.is_empty() => {
            at.error("only one of inline_code and default_source_code can be set");
            None
        }
        Some(source) => self::source(source, &at.field("default_source_code")),
        None if inline_code.is_empty() => None,
        None => script(inline_code.as_bytes(), &at.field("inline_code")),
    };
    let mut codes: Vec<_> = source_codes.iter().collect();
    codes.sort_unstable_by_key(|(name, _)| *name);
    let named = codes.into_iter().filter_map(|(name, config)| {
        let script = source(config, &at.key("source_codes", name))?;
        Some((name.as_str().into(), script))
    });
    let named = named.collect();
    (at.errors() == errors).then(|| Lua {
        default,
        named,
        clear_route_cache: clear_route_cache.is_none_or(|it| it.value),
        context: context(filter_context.as_ref()),
        stats: stats.lua(manager, stat_prefix),
    })
}

/// What a route says.
pub(super) fn per_route(config: &LuaPerRoute, at: &At<'_>) -> Option<FilterOverride> {
    let LuaPerRoute {
        filter_context,
        package_paths,
        package_cpaths,
        r#override,
    } = config;
    refuse!(at; package_paths, package_cpaths);
    let choice = match r#override {
        Some(Override::Disabled(true)) => return Some(FilterOverride::Disabled),
        Some(Override::Disabled(false)) => {
            at.field("disabled").error("must be true");
            return None;
        }
        Some(Override::Name(name)) if name.is_empty() => {
            at.field("name").error("is empty");
            return None;
        }
        Some(Override::Name(name)) => LuaChoice::Named(name.as_str().into()),
        Some(Override::SourceCode(config)) => {
            LuaChoice::Own(source(config, &at.field("source_code"))?)
        }
        None => LuaChoice::Default,
    };
    Some(FilterOverride::Lua(LuaOverride {
        choice,
        context: context(filter_context.as_ref()),
    }))
}

fn source(config: &DataSource, at: &At<'_>) -> Option<Arc<Script>> {
    script(&data_source::read(config, at)?, at)
}

fn script(source: &[u8], at: &At<'_>) -> Option<Arc<Script>> {
    let Ok(source) = std::str::from_utf8(source) else {
        at.error("is not UTF-8");
        return None;
    };
    match Script::new(source) {
        Ok(script) => Some(Arc::new(script)),
        Err(error) => {
            at.error(format_args!("script load error: {error}"));
            None
        }
    }
}

fn context(config: Option<&Struct>) -> Option<Arc<Map<String, Value>>> {
    config.map(|fields| Arc::new(metadata::object(fields)))
}
