//! Access loggers and format strings (`envoy.config.accesslog.v3`).
//!
//! Loggers only observe: one of a type or with a filter that we lack is left out with a warning.

use ithildin_proto::pb::{
    envoy::{
        config::{
            accesslog::v3::{
                AccessLog as AccessLogProto, AccessLogFilter, ComparisonFilter, ExtensionFilter,
                access_log::ConfigType, access_log_filter::FilterSpecifier, comparison_filter::Op,
                extension_filter,
            },
            core::v3::{
                SubstitutionFormatString, substitution_format_string::Format as FormatProto,
            },
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
            filters::cel::v3::ExpressionFilter,
            grpc::v3::{HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig},
            open_telemetry::v3::OpenTelemetryAccessLogConfig,
            stream::v3::{StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log},
        },
    },
    google::protobuf::{Any, Struct},
};

use super::{Compiler, access_log_service};
use crate::{
    access_log::{
        AccessLog, AccessLogs, Comparison, DEFAULT_FORMAT, Destination, Expression, Filter, Format,
        ResponseFlags, Template, Unset,
    },
    control::{any, data_source, report::At},
};

pub(super) fn loggers(
    configs: &[AccessLogProto],
    compiler: &mut Compiler,
    at: &At<'_>,
) -> AccessLogs {
    let configs = configs.iter().enumerate();
    let loggers =
        configs.filter_map(|(i, config)| logger(config, compiler, &at.index("access_log", i)));
    AccessLogs::new(loggers.collect())
}

/// For what only tells of traffic.
pub(super) fn template(text: &str, at: &At<'_>) -> Option<Template> {
    let template = at.check(Template::parse(text))?;
    template.lacking().for_each(|name| lacks(name, at));
    Some(template)
}

/// For what changes it: a header that is not set leaves the client's own in place.
pub(super) fn whole_template(text: &str, at: &At<'_>) -> Option<Template> {
    let template = at.check(Template::parse(text))?;
    if let Some(name) = template.lacking().next() {
        at.error(format_args!("operator {name} is not supported"));
        return None;
    }
    Some(template)
}

fn lacks(name: &str, at: &At<'_>) {
    at.warn(format_args!(
        "operator {name} is not supported; it has no value"
    ));
}

fn text(format: &str, unset: Unset, at: &At<'_>) -> Option<Format> {
    let format = at.check(Format::text(format, unset))?;
    Some(told(format, at))
}

/// Names what has no value in `format`.
fn told(format: Format, at: &At<'_>) -> Format {
    for name in format.lacking() {
        lacks(name, at);
    }
    format
}

fn logger(config: &AccessLogProto, compiler: &Compiler, at: &At<'_>) -> Option<AccessLog> {
    let AccessLogProto {
        name: _,
        filter,
        config_type,
    } = config;
    let filter = match filter {
        None => None,
        Some(config) => Some(self::filter(config, &at.field("filter"))?),
    };
    let Some(ConfigType::TypedConfig(config)) = config_type else {
        at.field("typed_config").error("is required");
        return None;
    };
    let at = at.field("typed_config");
    let service = if any::is::<HttpGrpcAccessLogConfig>(config) {
        access_log_service::http(&any::read(config, &at)?, compiler, &at)
    } else if any::is::<TcpGrpcAccessLogConfig>(config) {
        access_log_service::tcp(&any::read(config, &at)?, compiler, &at)
    } else if any::is::<OpenTelemetryAccessLogConfig>(config) {
        access_log_service::open_telemetry(&any::read(config, &at)?, compiler, &at)
    } else {
        let (destination, format) = file(config, &at)?;
        let file = compiler.logs.as_ref()?.open(destination.clone());
        let file = at
            .field("path")
            .check(file.map_err(|error| format!("cannot open {destination:?}: {error}")))?;
        return Some(AccessLog::to_file(filter, format, file));
    };
    Some(AccessLog::to_service(filter, service?))
}

#[allow(deprecated)]
fn file(config: &Any, at: &At<'_>) -> Option<(Destination, Format)> {
    let default = || text(DEFAULT_FORMAT, Unset::Dash, at);
    if any::is::<FileAccessLog>(config) {
        let FileAccessLog {
            path,
            access_log_format,
        } = any::read(config, at)?;
        if path.is_empty() {
            at.field("path")
                .error("value length must be at least 1 characters");
            return None;
        }
        let format = match &access_log_format {
            None => default(),
            Some(AccessLogFormat::Format(format)) => text(format, Unset::Dash, &at.field("format")),
            Some(
                AccessLogFormat::JsonFormat(object) | AccessLogFormat::TypedJsonFormat(object),
            ) => json(object, Unset::Dash, &at.field("json_format")),
            Some(AccessLogFormat::LogFormat(config)) => format(config, &at.field("log_format")),
        };
        return Some((Destination::File(path.into()), format?));
    }
    let (destination, config) = if any::is::<StdoutAccessLog>(config) {
        let config: StdoutAccessLog = any::read(config, at)?;
        let format = config.access_log_format;
        let format = format.map(|stdout_access_log::AccessLogFormat::LogFormat(it)| it);
        (Destination::Stdout, format)
    } else if any::is::<StderrAccessLog>(config) {
        let config: StderrAccessLog = any::read(config, at)?;
        let format = config.access_log_format;
        let format = format.map(|stderr_access_log::AccessLogFormat::LogFormat(it)| it);
        (Destination::Stderr, format)
    } else {
        at.warn(format_args!(
            "access loggers of type {} are not supported; it is left out",
            any::type_name(config)
        ));
        return None;
    };
    let format = match &config {
        None => default(),
        Some(config) => format(config, &at.field("log_format")),
    };
    Some((destination, format?))
}

#[allow(deprecated)]
fn format(config: &SubstitutionFormatString, at: &At<'_>) -> Option<Format> {
    let SubstitutionFormatString {
        omit_empty_values,
        content_type: _,
        // `%REQ_WITHOUT_QUERY%`, which Istio loads so, is always there.
        formatters: _,
        // Our objects are sorted by key always.
        json_format_options: _,
        format,
    } = config;
    let unset = if *omit_empty_values {
        Unset::Empty
    } else {
        Unset::Dash
    };
    match format {
        None => {
            at.error("one of text_format_source and json_format is required");
            None
        }
        Some(FormatProto::TextFormat(format)) => text(format, unset, &at.field("text_format")),
        Some(FormatProto::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            let format = data_source::read(source, &at)?;
            let format = at.check(String::from_utf8(format))?;
            text(&format, unset, &at)
        }
        Some(FormatProto::JsonFormat(object)) => json(object, unset, &at.field("json_format")),
    }
}

fn json(object: &Struct, unset: Unset, at: &At<'_>) -> Option<Format> {
    match Format::json(object, unset) {
        Ok(format) => Some(told(format, at)),
        Err(errors) => {
            for (path, error) in errors {
                at.field(&path).error(error);
            }
            None
        }
    }
}

/// `None` leaves the logger out.
fn filter(config: &AccessLogFilter, at: &At<'_>) -> Option<Filter> {
    let list = |name: &str, filters: &[AccessLogFilter]| -> Option<Vec<Filter>> {
        let at = at.field(name);
        let filters = filters.iter().enumerate();
        filters
            .map(|(i, config)| filter(config, &at.index("filters", i)))
            .collect()
    };
    match config.filter_specifier.as_ref() {
        Some(FilterSpecifier::AndFilter(config)) => {
            list("and_filter", &config.filters).map(Filter::All)
        }
        Some(FilterSpecifier::OrFilter(config)) => {
            list("or_filter", &config.filters).map(Filter::Any)
        }
        Some(FilterSpecifier::ResponseFlagFilter(config)) => {
            flags(&config.flags, &at.field("response_flag_filter"))
        }
        Some(FilterSpecifier::StatusCodeFilter(config)) => {
            let at = at.field("status_code_filter");
            comparison(config.comparison.as_ref(), &at).map(Filter::StatusCode)
        }
        Some(FilterSpecifier::DurationFilter(config)) => {
            let at = at.field("duration_filter");
            comparison(config.comparison.as_ref(), &at).map(Filter::Duration)
        }
        Some(FilterSpecifier::NotHealthCheckFilter(_)) => Some(Filter::NotHealthCheck),
        Some(FilterSpecifier::ExtensionFilter(config)) => {
            expression(config, &at.field("extension_filter"))
        }
        Some(_) => {
            at.warn("this filter is not supported; its access logger is left out");
            None
        }
        None => {
            at.error("one of the filters is required");
            None
        }
    }
}

/// The filter by an expression; others are left out with their loggers.
fn expression(config: &ExtensionFilter, at: &At<'_>) -> Option<Filter> {
    let ExtensionFilter { name, config_type } = config;
    let Some(extension_filter::ConfigType::TypedConfig(config)) = config_type else {
        at.error(format_args!("filter {name:?} has no typed_config"));
        return None;
    };
    let at = at.field("typed_config");
    if !any::is::<ExpressionFilter>(config) {
        at.warn(format_args!(
            "filters of type {} are not supported; the access logger is left out",
            any::type_name(config)
        ));
        return None;
    }
    let ExpressionFilter {
        expression,
        cel_config,
    } = any::read(config, &at)?;
    at.unset("cel_config", &cel_config);
    match Expression::parse(&expression) {
        Ok(expression) => Some(Filter::Expression(expression)),
        Err(error) => {
            let at = at.field("expression");
            at.warn(format_args!("{error}; the access logger is left out"));
            None
        }
    }
}

fn flags(codes: &[String], at: &At<'_>) -> Option<Filter> {
    let mut flags = ResponseFlags::NONE;
    for (i, code) in codes.iter().enumerate() {
        match ResponseFlags::from_code(code) {
            Some(flag) => flags |= flag,
            None => at
                .index("flags", i)
                .error(format_args!("unknown response flag {code:?}")),
        }
    }
    Some(Filter::Flags((!codes.is_empty()).then_some(flags)))
}

fn comparison(config: Option<&ComparisonFilter>, at: &At<'_>) -> Option<Comparison> {
    let at = at.field("comparison");
    let Some((op, value)) = config.and_then(|config| Some((config.op, config.value.as_ref()?)))
    else {
        at.error("is required");
        return None;
    };
    // `runtime_key` overrides the default where a runtime layer sets it; we have none.
    let limit = value.default_value;
    Some(match at.enumeration::<Op>("op", op)? {
        Op::Eq => Comparison::Equal(limit),
        Op::Ge => Comparison::AtLeast(limit),
        Op::Le => Comparison::AtMost(limit),
        Op::Ne => Comparison::NotEqual(limit),
    })
}
