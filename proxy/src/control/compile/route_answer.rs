//! Routes that answer themselves: redirects and direct responses.

use http::StatusCode;
use ithildin_proto::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
};

use super::{matchers, route_action::Level};
use crate::{
    config::route::{Redirect, RedirectPath, RouteAction},
    control::{
        data_source,
        report::{At, refuse},
    },
};

pub(super) fn redirect(config: &RedirectAction, at: &At<'_>) -> Option<RouteAction> {
    let RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = config;
    let status = match at.enumeration("response_code", *response_code)? {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let (https, scheme) = match scheme_rewrite_specifier {
        None => (false, None),
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (*https, None),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            (false, Some(scheme.as_str().into()))
        }
    };
    let port = u16::try_from(*port_redirect).ok();
    if port.is_none() {
        at.field("port_redirect")
            .error(format_args!("{port_redirect} is not a port"));
    }
    let path = match path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) if !path.is_empty() => {
            RedirectPath::Replace(path.as_str().into())
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) if !prefix.is_empty() => {
            RedirectPath::Prefix(prefix.as_str().into())
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (regex, text) = matchers::substitution(rewrite, &at.field("regex_rewrite"))?;
            RedirectPath::Regex(regex, text)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            at.field("path_rewrite").error("is not supported");
            return None;
        }
        // An empty one, as istiod sends it, is none.
        Some(PathRewriteSpecifier::PathRedirect(_) | PathRewriteSpecifier::PrefixRewrite(_))
        | None => RedirectPath::Keep,
    };
    Some(RouteAction::Redirect(Box::new(Redirect {
        status,
        https,
        scheme,
        host: (!host_redirect.is_empty()).then(|| host_redirect.as_str().into()),
        port: port.filter(|port| *port != 0),
        path,
        strip_query: *strip_query,
    })))
}

pub(super) fn direct(
    config: &DirectResponseAction,
    level: &Level<'_>,
    at: &At<'_>,
) -> Option<RouteAction> {
    let DirectResponseAction {
        status,
        body,
        body_format,
    } = config;
    refuse!(at; body_format);
    let code = u16::try_from(*status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok());
    if code.is_none() {
        at.field("status")
            .error(format_args!("{status} is not from 200 to 599"));
    }
    let body = match body {
        Some(source) => data_source::read(source, &at.field("body"))?,
        None => Vec::new(),
    };
    if body.len() > level.max_direct_response_body as usize {
        at.field("body").error(format_args!(
            "has {} bytes, more than max_direct_response_body_size_bytes, which is {}",
            body.len(),
            level.max_direct_response_body
        ));
    }
    Some(RouteAction::Direct {
        status: code?,
        body: body.into(),
    })
}
