//! Compiles the CA's protobuf file with a pure-Rust compiler: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = protox::compile(["ca.proto"], ["protos"])?;
    let mut config = prost_build::Config::new();
    // One set of well-known types for the whole workspace: the ones that Envoy's messages use.
    config
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::ithildin_proto::pb::google::protobuf");
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
