//! Whole proxies on static files, between plain sockets.

mod http_log;
mod support;
mod tcp;
