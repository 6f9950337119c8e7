//! `istio.alpn`: what upstream TLS offers by ALPN, by the version of HTTP.

use ithildin_proto::istio::alpn::{
    FilterConfig,
    filter_config::{AlpnOverride, Protocol},
};

use crate::{
    config::http::{Alpn, AlpnOverrides},
    control::report::At,
};

/// Longest name of a protocol in bytes (RFC 7301, section 3.1).
const MAX_PROTOCOL: usize = 255;

pub(super) fn overrides(config: &FilterConfig, at: &At<'_>) -> AlpnOverrides {
    let FilterConfig { alpn_override } = config;
    let mut overrides = AlpnOverrides::default();
    for (i, entry) in alpn_override.iter().enumerate() {
        let at = at.index("alpn_override", i);
        let AlpnOverride {
            upstream_protocol,
            alpn_override,
        } = entry;
        let list = match at.enumeration("upstream_protocol", *upstream_protocol) {
            Some(Protocol::Http10) => &mut overrides.http10,
            Some(Protocol::Http11) => &mut overrides.http11,
            Some(Protocol::Http2) => &mut overrides.http2,
            None => continue,
        };
        let fits = |name: &String| (1..=MAX_PROTOCOL).contains(&name.len());
        if let Some(bad) = alpn_override.iter().position(|name| !fits(name)) {
            at.index("alpn_override", bad).error(format_args!(
                "a protocol has from 1 to {MAX_PROTOCOL} bytes"
            ));
            continue;
        }
        // The first entry of a protocol counts; an empty one overrides nothing.
        if list.is_none() && !alpn_override.is_empty() {
            *list = Some(names(alpn_override));
        }
    }
    overrides
}

fn names(list: &[String]) -> Alpn {
    list.iter().map(|name| name.as_bytes().into()).collect()
}
