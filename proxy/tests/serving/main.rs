//! Whole proxies on static files, between plain sockets.

mod admin;
mod changes;
mod envoy;
mod filters;
mod hashing;
mod http_log;
mod jwt;
mod like_envoy;
mod outlier;
mod proxy_protocol;
mod rate_limit;
mod rbac;
mod support;
mod tcp;
