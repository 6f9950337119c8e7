//! Compiles the protobuf files in `protos/` with a pure-Rust compiler: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = protox::compile(["workload.proto", "nds.proto"], ["protos"])?;
    let mut config = prost_build::Config::new();
    // One set of well-known types for the whole workspace: the ones that Envoy's messages use.
    config
        .compile_well_known_types()
        // A table in a settled order is dumped and compared as it is.
        .btree_map([".istio.networking.nds"])
        .enable_type_names()
        .type_name_domain([".istio"], "type.googleapis.com")
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
