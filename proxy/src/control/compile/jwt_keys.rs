//! The keys that verify a provider's tokens: inline, or fetched by the proxy.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Uri;
use ithildin_jwt::KeySet;
use ithildin_proto::pb::envoy::{
    config::core::v3::{DataSource, HttpUri},
    extensions::filters::http::jwt_authn::v3::{
        JwksAsyncFetch, RemoteJwks, jwt_provider::JwksSourceSpecifier,
    },
};

use super::{Compiler, ext_authz_service};
use crate::{
    config::jwt_keys::{Ahead, JwtKeys, KeySource},
    control::{
        data_source,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
const MIN_LIFETIME: Duration = Duration::from_millis(1);

/// After a fetch that failed; Envoy's.
const DEFAULT_REFETCH: Duration = Duration::from_secs(1);

/// So long before they are old keys are fetched anew; Envoy's.
const BEFORE_OLD: Duration = Duration::from_secs(5);

pub(super) fn keys(
    source: Option<&JwksSourceSpecifier>,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Option<JwtKeys> {
    match source {
        Some(JwksSourceSpecifier::LocalJwks(source)) => local(source, &at.field("local_jwks")),
        Some(JwksSourceSpecifier::RemoteJwks(config)) => {
            let source = remote(config, &at.field("remote_jwks"))?;
            Some(JwtKeys::Remote(compiler.remote_keys(&source)))
        }
        None => {
            at.error("one of local_jwks and remote_jwks is required");
            None
        }
    }
}

fn local(source: &DataSource, at: &At<'_>) -> Option<JwtKeys> {
    let text = data_source::read(source, at)?;
    let keys = at.check(KeySet::parse(&text))?;
    for reason in keys.left_out() {
        at.warn(format_args!("{reason}; the key is left out"));
    }
    Some(JwtKeys::Local(Arc::new(keys)))
}

fn remote(config: &RemoteJwks, at: &At<'_>) -> Option<KeySource> {
    let RemoteJwks {
        http_uri,
        cache_duration,
        async_fetch,
        retry_policy,
    } = config;
    refuse!(at; retry_policy);
    let lifetime = at.duration("cache_duration", cache_duration);
    let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME);
    if lifetime < MIN_LIFETIME {
        at.field("cache_duration").error("must be at least 1 ms");
    }
    let ahead = async_fetch.as_ref();
    let ahead = ahead.map(|it| self::ahead(it, lifetime, &at.field("async_fetch")));
    let at = at.field("http_uri");
    let (cluster, timeout) = ext_authz_service::server(http_uri.as_ref(), &at)?;
    let HttpUri { uri, .. } = http_uri.as_ref()?;
    let (authority, path) = target(uri, &at.field("uri"))?;
    Some(KeySource {
        cluster,
        authority,
        path,
        timeout,
        lifetime,
        ahead,
    })
}

fn ahead(config: &JwksAsyncFetch, lifetime: Duration, at: &At<'_>) -> Ahead {
    let JwksAsyncFetch {
        fast_listener,
        failed_refetch_duration,
    } = config;
    // The listener serves at once, and requests wait for the first keys.
    no_effect!(fast_listener);
    let after_failure = at.duration("failed_refetch_duration", failed_refetch_duration);
    Ahead {
        after_success: match lifetime.checked_sub(BEFORE_OLD) {
            Some(rest) if !rest.is_zero() => rest,
            _ => lifetime,
        },
        after_failure: after_failure
            .filter(|it| !it.is_zero())
            .unwrap_or(DEFAULT_REFETCH),
    }
}

/// Whom to ask for what. Which scheme it is is a matter of the cluster.
pub(super) fn target(uri: &str, at: &At<'_>) -> Option<(Bytes, Bytes)> {
    let parsed = uri.parse::<Uri>().ok();
    let parts = parsed.as_ref().and_then(|uri| {
        let authority = uri.authority().filter(|_| uri.scheme().is_some())?;
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        Some((authority, path))
    });
    let Some((authority, path)) = parts else {
        at.error(format_args!("{uri:?} is not a URI with scheme and host"));
        return None;
    };
    if authority.as_str().contains('@') {
        at.error("a user and a password are not supported");
        return None;
    }
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Some((bytes(authority.as_str()), bytes(path)))
}
