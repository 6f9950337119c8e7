//! VirtualService.

use std::time::Duration;

use base64::Engine as _;

use super::Check;
use crate::{
    error::ConfigError,
    host,
    model::{
        DirectBody, HeaderOperations, Headers, HttpMatch, HttpRedirect, HttpRetry, HttpRewrite,
        HttpRoute, Interval, Object, StringMatch, VirtualService,
    },
};

/// Shortest duration of Istio's API.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// Conditions of `retryOn`, of Envoy's `retry_on` and `retry_grpc_on`.
const RETRY_CONDITIONS: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

type Checker<'a> = Check<'a, VirtualService>;

pub(crate) fn virtual_service(object: &Object<VirtualService>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let spec = &object.spec;
    check.required(!spec.hosts.is_empty(), "spec.hosts");
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == "mesh");
    for (index, name) in spec.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        check.host(name, &field);
        check.require(
            !(mesh && name == "*"),
            &field,
            "\"*\" is only for gateways, not for the mesh",
        );
    }
    for (index, name) in spec.gateways.iter().enumerate() {
        let valid = name.split('/').count() <= 2 && name.split('/').all(host::is_fqdn);
        if !valid {
            check.error(
                format!("spec.gateways[{index}]"),
                format!("invalid gateway {name:?}, expected name or namespace/name"),
            );
        }
    }
    check.export_to(&spec.export_to);
    check.required(!spec.http.is_empty(), "spec.http");
    for (index, route) in spec.http.iter().enumerate() {
        http_route(&mut check, route, &format!("spec.http[{index}]"));
    }
    check.finish()
}

fn http_route(check: &mut Checker<'_>, route: &HttpRoute, at: &str) {
    for (index, matching) in route.matches.iter().enumerate() {
        http_match(check, matching, &format!("{at}.match[{index}]"));
    }
    let actions = [
        !route.route.is_empty(),
        route.redirect.is_some(),
        route.direct_response.is_some(),
    ];
    match actions.iter().filter(|set| **set).count() {
        0 => check.error(at, "one of route, redirect and directResponse is required"),
        1 => {}
        _ => check.error(
            at,
            "only one of route, redirect and directResponse may be set",
        ),
    }
    destinations(check, route, at);
    if let Some(redirect) = &route.redirect {
        http_redirect(check, redirect, &format!("{at}.redirect"));
    }
    if let Some(response) = &route.direct_response {
        let status = format!("{at}.directResponse.status");
        check.require(
            (200..600).contains(&response.status),
            &status,
            "expected a status from 200 to 599",
        );
        if let Some(DirectBody::Bytes(bytes)) = &response.body
            && base64::engine::general_purpose::STANDARD
                .decode(bytes)
                .is_err()
        {
            check.error(format!("{at}.directResponse.body.bytes"), "not base64");
        }
    }
    only_with_route(check, route, at);
    if let Some(rewrite) = &route.rewrite {
        http_rewrite(check, rewrite, &format!("{at}.rewrite"));
    }
    interval(check, route.timeout, &format!("{at}.timeout"), true);
    if let Some(retries) = &route.retries {
        http_retry(check, retries, &format!("{at}.retries"));
    }
    headers(check, &route.headers, &format!("{at}.headers"));
}

fn destinations(check: &mut Checker<'_>, route: &HttpRoute, at: &str) {
    for (index, entry) in route.route.iter().enumerate() {
        let at = format!("{at}.route[{index}]");
        let destination = &entry.destination;
        let field = format!("{at}.destination.host");
        if destination.host.is_empty() {
            check.error(field, "required");
        } else if !host::is_fqdn(&destination.host) {
            check.error(field, format!("invalid host {:?}", destination.host));
        }
        if destination
            .port
            .as_ref()
            .is_some_and(|port| port.number == 0)
        {
            check.error(format!("{at}.destination.port.number"), "required");
        }
        headers(check, &entry.headers, &format!("{at}.headers"));
    }
    let several = route.route.len() > 1;
    let total: u64 = route
        .route
        .iter()
        .map(|entry| u64::from(entry.weight))
        .sum();
    if several && total == 0 {
        check.error(format!("{at}.route"), "the sum of all weights is 0");
    }
    if total > u64::from(u32::MAX) {
        check.error(format!("{at}.route"), "the sum of all weights is too large");
    }
}

fn only_with_route(check: &mut Checker<'_>, route: &HttpRoute, at: &str) {
    if !route.route.is_empty() {
        return;
    }
    let fields = [
        ("rewrite", route.rewrite.is_some()),
        ("timeout", route.timeout.is_some()),
        ("retries", route.retries.is_some()),
    ];
    for (field, set) in fields {
        check.require(!set, &format!("{at}.{field}"), "only possible with route");
    }
}

fn http_match(check: &mut Checker<'_>, matching: &HttpMatch, at: &str) {
    let single = [
        ("uri", &matching.uri),
        ("scheme", &matching.scheme),
        ("method", &matching.method),
        ("authority", &matching.authority),
    ];
    for (field, value) in single {
        if let Some(value) = value {
            let at = format!("{at}.{field}");
            check.require(
                *value != StringMatch::Present,
                &at,
                "one of exact, prefix and regex is required",
            );
            string_match(check, value, &at);
        }
    }
    let maps = [
        ("headers", &matching.headers),
        ("withoutHeaders", &matching.without_headers),
        ("queryParams", &matching.query_params),
    ];
    for (field, map) in maps {
        for (name, value) in map {
            let at = format!("{at}.{field}.{name}");
            if name.starts_with('@') {
                check.error(&at, "matching on token claims is not supported");
            } else if field != "queryParams" && !is_header_name(name.trim_start_matches(':')) {
                check.error(&at, "not a header name");
            }
            string_match(check, value, &at);
        }
    }
    check.require(
        matching.port != Some(0),
        &format!("{at}.port"),
        "invalid port 0",
    );
}

fn string_match(check: &mut Checker<'_>, value: &StringMatch, at: &str) {
    if let StringMatch::Regex(pattern) = value
        && pattern != "*"
    {
        check.regex(pattern, &format!("{at}.regex"));
    }
}

fn http_redirect(check: &mut Checker<'_>, redirect: &HttpRedirect, at: &str) {
    check.require(
        redirect.uri.is_none() || redirect.uri_prefix.is_none(),
        at,
        "only one of uri and uriPrefix may be set",
    );
    check.require(
        redirect.port.is_none() || redirect.derive_port.is_none(),
        at,
        "only one of port and derivePort may be set",
    );
    if let Some(scheme) = &redirect.scheme {
        check.require(
            matches!(scheme.as_str(), "http" | "https"),
            &format!("{at}.scheme"),
            "expected http or https",
        );
    }
    if let Some(code) = redirect.redirect_code {
        check.require(
            matches!(code, 301 | 302 | 303 | 307 | 308),
            &format!("{at}.redirectCode"),
            "expected 301, 302, 303, 307 or 308",
        );
    }
}

fn http_rewrite(check: &mut Checker<'_>, rewrite: &HttpRewrite, at: &str) {
    let nothing =
        rewrite.uri.is_none() && rewrite.authority.is_none() && rewrite.uri_regex_rewrite.is_none();
    check.require(
        !nothing,
        at,
        "one of uri, uriRegexRewrite and authority is required",
    );
    check.require(
        rewrite.uri.is_none() || rewrite.uri_regex_rewrite.is_none(),
        at,
        "only one of uri and uriRegexRewrite may be set",
    );
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        check.required(
            !regex.pattern.is_empty(),
            &format!("{at}.uriRegexRewrite.match"),
        );
        check.regex(&regex.pattern, &format!("{at}.uriRegexRewrite.match"));
    }
}

fn http_retry(check: &mut Checker<'_>, retries: &HttpRetry, at: &str) {
    interval(
        check,
        retries.per_try_timeout,
        &format!("{at}.perTryTimeout"),
        true,
    );
    interval(check, retries.backoff, &format!("{at}.backoff"), false);
    let conditions = retries.retry_on.split(',').map(str::trim);
    for condition in conditions.filter(|condition| !condition.is_empty()) {
        let status = condition
            .parse::<u16>()
            .is_ok_and(|code| (100..600).contains(&code));
        if !status && !RETRY_CONDITIONS.contains(&condition) {
            check.error(
                format!("{at}.retryOn"),
                format!("unknown condition {condition:?}"),
            );
        }
    }
}

fn interval(check: &mut Checker<'_>, value: Option<Interval>, field: &str, zero: bool) {
    let valid = value.is_none_or(|value| value.0 >= MIN_INTERVAL || (zero && value.0.is_zero()));
    check.require(valid, field, "shorter than 1ms");
}

fn headers(check: &mut Checker<'_>, headers: &Headers, at: &str) {
    header_operations(check, &headers.request, &format!("{at}.request"));
    header_operations(check, &headers.response, &format!("{at}.response"));
}

fn header_operations(check: &mut Checker<'_>, operations: &HeaderOperations, at: &str) {
    for (field, map) in [("set", &operations.set), ("add", &operations.add)] {
        for name in map.keys() {
            let field = format!("{at}.{field}.{name}");
            let host = name.eq_ignore_ascii_case("host") || name == ":authority";
            if host && (field.contains(".add.") || at.ends_with("response")) {
                check.error(field, "the host can only be set, and only on requests");
            } else if !host && !is_header_name(name) {
                check.error(field, "not a header name");
            }
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        if !is_header_name(name) || name.eq_ignore_ascii_case("host") {
            check.error(
                format!("{at}.remove[{index}]"),
                "not a header that can be removed",
            );
        }
    }
}

/// Whether `name` is a token of RFC 9110.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
