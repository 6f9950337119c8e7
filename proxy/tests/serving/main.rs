//! Whole proxies on static files, between plain sockets.

mod admin;
mod authz_liars;
mod authz_server;
mod certificates;
mod changes;
mod counts;
mod edges;
mod envoy;
mod ext_authz;
mod filters;
mod forward;
mod hashing;
mod http1;
mod http_log;
mod jwt;
mod like_envoy;
mod outlier;
mod proxy_protocol;
mod rate_limit;
mod rbac;
mod routing;
mod stats_config;
mod support;
mod tcp;
mod tunnels;
mod zones;
