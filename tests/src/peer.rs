//! The parts of `ithildin-test-peer`, which runs beside the proxies in their namespaces.

mod answers;
pub mod authz;
mod calls;
pub mod chat;
pub mod connect;
pub mod echo;
pub mod limits;
pub mod load;
pub mod observer;
pub mod relay;
pub mod serve;
pub mod talk;
