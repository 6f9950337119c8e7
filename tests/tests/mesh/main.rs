//! A mesh under an unmodified istiod, on both data planes, with identities from SPIRE.

mod bookinfo;
mod cases;
mod custom;
mod details;
mod east_west;
mod edge;
mod egress;
mod everyday;
mod federation;
mod gateway_api;
mod gateways;
mod istioctl;
mod istiod_by_svid;
mod istiod_ca;
mod limits;
mod machine;
mod observed;
mod operations;
mod outbound;
mod permissive;
mod registry;
mod scripts;
mod security;
mod settings;
mod support;
mod wasm;
