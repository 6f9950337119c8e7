//! Options of the HTTP codecs, of connection managers and of clusters.

use std::sync::Arc;

use ithildin_proto::pb::envoy::{
    config::core::v3::{
        Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings,
        TypedExtensionConfig,
        http_protocol_options::HeadersWithUnderscoresAction,
        http1_protocol_options::{
            HeaderKeyFormat, header_key_format::HeaderFormat as HeaderFormatProto,
        },
    },
    extensions::{
        filters::network::http_connection_manager::v3::HttpConnectionManager,
        http::header_formatters::preserve_case::v3::{
            PreserveCaseFormatterConfig,
            preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders,
        },
    },
};

use crate::{
    config::http::{HeaderFormat, Http1Options, Http2Keepalive, Http2Options, UnderscoreAction},
    control::{
        any,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's defaults and limits.
const DEFAULT_MAX_HEADERS_KB: u32 = 60;
const DEFAULT_MAX_HEADERS: u32 = 100;
/// Largest `max_request_headers_kb`; Envoy's.
const MAX_HEADERS_KB: u32 = 8192;
/// Envoy's defaults since 1.36: streams per connection, and windows in bytes.
const DEFAULT_MAX_STREAMS: u32 = 1024;
const DEFAULT_STREAM_WINDOW: u32 = 16 << 20;
const DEFAULT_CONNECTION_WINDOW: u32 = 24 << 20;
/// Envoy's: pings come up to so much later, as a share of their interval.
const DEFAULT_KEEPALIVE_JITTER: f64 = 0.15;
/// Smallest and largest window (RFC 9113, section 6.9.2, and Envoy's lower bound).
const MIN_WINDOW: u32 = 65_535;
const MAX_WINDOW: u32 = (1 << 31) - 1;

pub(super) fn max_headers_kb(config: &HttpConnectionManager, at: &At<'_>) -> u32 {
    let Some(limit) = config.max_request_headers_kb else {
        return DEFAULT_MAX_HEADERS_KB;
    };
    if !(1..=MAX_HEADERS_KB).contains(&limit.value) {
        at.field("max_request_headers_kb").error(format_args!(
            "{} is not from 1 to {MAX_HEADERS_KB}",
            limit.value
        ));
    }
    limit.value
}

pub(super) fn max_headers(common: &HttpProtocolOptions, at: &At<'_>) -> u32 {
    let limit = common
        .max_headers_count
        .map_or(DEFAULT_MAX_HEADERS, |value| value.value);
    let most = ithildin_http1::MAX_FIELDS;
    if !(1..=most).contains(&(limit as usize)) {
        at.field("common_http_protocol_options")
            .field("max_headers_count")
            .error(format_args!("{limit} is not from 1 to {most}"));
    }
    limit
}

pub(super) fn underscores(common: &HttpProtocolOptions, at: &At<'_>) -> Option<UnderscoreAction> {
    let at = at.field("common_http_protocol_options");
    let value = common.headers_with_underscores_action;
    Some(
        match at.enumeration("headers_with_underscores_action", value)? {
            HeadersWithUnderscoresAction::Allow => UnderscoreAction::Allow,
            HeadersWithUnderscoresAction::RejectRequest => UnderscoreAction::RejectRequest,
            HeadersWithUnderscoresAction::DropHeader => UnderscoreAction::DropHeader,
        },
    )
}

pub(super) fn common_options(config: &HttpProtocolOptions, at: &At<'_>) {
    let HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = config;
    // Read by the caller.
    no_effect!(
        idle_timeout,
        max_connection_duration,
        max_headers_count,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    );
    refuse!(at; max_connection_duration_jitter, max_response_headers_kb);
}

/// HTTP/1 options of a connection manager.
pub(super) fn http1_options(config: Option<&Http1ProtocolOptions>, at: &At<'_>) -> Http1Options {
    let at = at.field("http_protocol_options");
    let config = config.cloned().unwrap_or_default();
    http1_unsupported(&config, &at);
    Http1Options {
        accept_http_10: config.accept_http_10,
        custom_methods: config.allow_custom_methods,
        allow_absolute_url: config.allow_absolute_url.is_none_or(|value| value.value),
        enable_trailers: config.enable_trailers,
        default_host: default_host(&config.default_host_for_http_10, &at),
        header_format: header_format(config.header_key_format.as_ref(), &at),
    }
}

fn default_host(host: &str, at: &At<'_>) -> Option<Arc<str>> {
    if host.is_empty() {
        return None;
    }
    if !ithildin_http1::is_authority(host.as_bytes()) {
        at.field("default_host_for_http_10")
            .error(format_args!("{host:?} is no host"));
    }
    Some(host.into())
}

/// Refuses what neither side does.
pub(super) fn http1_unsupported(config: &Http1ProtocolOptions, at: &At<'_>) {
    let Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = config;
    // The first six are read by the caller; the choice of a parser is Envoy's own affair.
    no_effect!(
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_custom_methods,
        use_balsa_parser,
    );
    refuse!(
        at;
        allow_chunked_length, send_fully_qualified_url, ignore_http_11_upgrade,
    );
    at.not_true(
        "override_stream_error_on_invalid_http_message",
        override_stream_error_on_invalid_http_message,
    );
}

/// How header names are written, and whether those that come in are kept.
pub(super) fn header_format(config: Option<&HeaderKeyFormat>, at: &At<'_>) -> HeaderFormat {
    let at = at.field("header_key_format");
    match config.map(|config| &config.header_format) {
        None => HeaderFormat::Lower,
        Some(Some(HeaderFormatProto::ProperCaseWords(_))) => HeaderFormat::ProperWords,
        Some(Some(HeaderFormatProto::StatefulFormatter(config))) => {
            preserve_case(config, &at.field("stateful_formatter")).unwrap_or_default()
        }
        Some(None) => {
            at.error("one of proper_case_words and stateful_formatter is required");
            HeaderFormat::Lower
        }
    }
}

fn preserve_case(config: &TypedExtensionConfig, at: &At<'_>) -> Option<HeaderFormat> {
    let TypedExtensionConfig { name, typed_config } = config;
    // There is one: the type says which.
    no_effect!(name);
    let at_config = at.field("typed_config");
    let Some(config) = typed_config else {
        at_config.error("is required");
        return None;
    };
    if !any::is::<PreserveCaseFormatterConfig>(config) {
        any::unsupported(config, at);
        return None;
    }
    let PreserveCaseFormatterConfig {
        forward_reason_phrase,
        formatter_type_on_envoy_headers,
    } = any::read(config, &at_config)?;
    at_config.unset("forward_reason_phrase", &forward_reason_phrase);
    let field = "formatter_type_on_envoy_headers";
    let others: FormatterTypeOnEnvoyHeaders =
        at_config.enumeration(field, formatter_type_on_envoy_headers)?;
    let proper_others = others == FormatterTypeOnEnvoyHeaders::ProperCase;
    Some(HeaderFormat::Preserve { proper_others })
}

/// HTTP/2 options of a server.
pub(super) fn downstream_http2(config: Option<&Http2ProtocolOptions>, at: &At<'_>) -> Http2Options {
    let at = at.field("http2_protocol_options");
    let options = http2_options(config, &at);
    if options.keepalive.is_some() {
        at.field("connection_keepalive").error("is not supported");
    }
    options
}

/// HTTP/2 options of either side, with Envoy's defaults.
pub(super) fn http2_options(config: Option<&Http2ProtocolOptions>, at: &At<'_>) -> Http2Options {
    let config = config.cloned().unwrap_or_default();
    let Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = &config;
    // Which codec, how it compresses, and metadata frames that are refused below.
    no_effect!(
        hpack_table_size,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding
    );
    refuse!(
        at;
        allow_metadata, max_outbound_frames, max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging, custom_settings_parameters,
        max_header_field_size_kb, stream_reset_burst, stream_reset_rate,
    );
    at.not_true("disallow_obs_text", disallow_obs_text);
    at.not_true(
        "override_stream_error_on_invalid_http_message",
        override_stream_error_on_invalid_http_message,
    );
    let bounded = |name: &str, value: Option<u32>, min: u32, default: u32| {
        let value = value.unwrap_or(default);
        if !(min..=MAX_WINDOW).contains(&value) {
            at.field(name)
                .error(format_args!("{value} is not from {min} to {MAX_WINDOW}"));
        }
        value
    };
    Http2Options {
        allow_connect: *allow_connect,
        max_concurrent_streams: bounded(
            "max_concurrent_streams",
            max_concurrent_streams.map(|value| value.value),
            1,
            DEFAULT_MAX_STREAMS,
        ),
        initial_stream_window: bounded(
            "initial_stream_window_size",
            initial_stream_window_size.map(|value| value.value),
            MIN_WINDOW,
            DEFAULT_STREAM_WINDOW,
        ),
        initial_connection_window: bounded(
            "initial_connection_window_size",
            initial_connection_window_size.map(|value| value.value),
            MIN_WINDOW,
            DEFAULT_CONNECTION_WINDOW,
        ),
        keepalive: connection_keepalive
            .as_ref()
            .and_then(|config| keepalive(config, &at.field("connection_keepalive"))),
    }
}

/// Without an interval there are no pings.
fn keepalive(config: &KeepaliveSettings, at: &At<'_>) -> Option<Http2Keepalive> {
    let KeepaliveSettings {
        interval,
        timeout,
        interval_jitter,
        connection_idle_interval,
    } = config;
    refuse!(at; connection_idle_interval);
    let jitter = interval_jitter.map_or(DEFAULT_KEEPALIVE_JITTER, |percent| percent.value / 100.0);
    if !(0.0..=1.0).contains(&jitter) {
        at.field("interval_jitter").error("is not from 0 to 100");
    }
    let timeout = at.limit("timeout", timeout, None);
    if timeout.is_none() {
        at.field("timeout")
            .error("is required, and must be more than 0");
    }
    Some(Http2Keepalive {
        interval: at.limit("interval", interval, None)?,
        timeout: timeout?,
        jitter,
    })
}
