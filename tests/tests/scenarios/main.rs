//! The walk-throughs, end to end, through the real binaries: on the built-in data plane and on Envoy,
//! with identities from the development authority and, where there is one, from a real SPIRE.

mod federated_domains;
mod nested_ca;
mod shared_ca;
mod static_file;
mod support;
