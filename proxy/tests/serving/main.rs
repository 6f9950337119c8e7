//! Whole proxies on static files, between plain sockets.

mod http_log;
mod like_envoy;
mod rbac;
mod support;
mod tcp;
