//! A mesh under an unmodified istiod, on both data planes, with identities from SPIRE.

mod bookinfo;
mod east_west;
mod egress;
mod istiod_ca;
mod operations;
