//! The parts of `ithildin-test-peer`, which runs beside the proxies in their namespaces.

mod calls;
pub mod load;
pub mod relay;
pub mod serve;
