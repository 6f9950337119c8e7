//! Compiles the protobuf files in `protos/` with a pure-Rust compiler: no `protoc` is needed.

use std::{env, error::Error, fs, path::Path};

use prost_build::Config;

/// What is spoken and never configured.
const SERVICES: [&str; 4] = [
    "workload.proto",
    "nds.proto",
    "opentelemetry/logs.proto",
    "opentelemetry/trace.proto",
];

/// Istio's own configuration and how it is wrapped, which are not among Envoy's messages.
const ISTIO: [&str; 6] = [
    "istio/alpn.proto",
    "istio/metadata_exchange.proto",
    "istio/peer_metadata.proto",
    "istio/stats.proto",
    "udpa/type/v1/typed_struct.proto",
    "xds/type/v3/typed_struct.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = protox::compile(SERVICES, ["protos"])?;
    let mut services = config();
    // A table in a settled order is dumped and compared as it is.
    services
        .btree_map([".istio.networking.nds"])
        .enable_type_names()
        .type_name_domain([".istio"], "type.googleapis.com");
    tonic_prost_build::configure().compile_fds_with_config(files, services)?;

    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    let mut compiler = protox::Compiler::new(["protos"])?;
    compiler.include_imports(true).open_files(ISTIO)?;
    // For YAML and JSON.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(Path::new(&out).join("istio.fds"), descriptors)?;
    let mut messages = config();
    messages
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// One set of well-known types for the whole workspace, and of OpenTelemetry's values: the ones that Envoy's
/// messages use.
fn config() -> Config {
    let mut config = Config::new();
    config
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .extern_path(
            ".opentelemetry.proto.common.v1",
            "::envoy_types::pb::opentelemetry::proto::common::v1",
        );
    config
}
