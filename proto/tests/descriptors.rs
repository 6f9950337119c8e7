//! `envoy.fds.zlib` is not made by the build: protoc is not everywhere. So that it cannot go stale
//! unseen, it is bound here to the crate that it was made from.

use std::{fs, path::Path};

use ithildin_proto::Pool;

/// The lock file's digest of `envoy-types`, whose Protobuf files the descriptors are made from.
/// With another one, make them anew: `protoc --include_imports --descriptor_set_out=FILE` over all
/// files of that crate's `proto` folder that its generated code has, then zlib; and write the new
/// digest here.
const MADE_FROM: &str = "e1fdd3fa7e8347872dd5d6e8626441589f0fd87d7fcf3003a4cca2103ecc39c0";

#[test]
fn the_descriptors_are_made_from_the_locked_crate() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = fs::read_to_string(lock).expect("the workspace has a lock file");
    let package = lock
        .split("[[package]]")
        .find(|package| package.contains("name = \"envoy-types\"\n"))
        .expect("it is a dependency");
    let digest = package
        .lines()
        .find_map(|line| line.strip_prefix("checksum = "));
    let digest = digest.map(|digest| digest.trim_matches('"'));
    assert_eq!(digest, Some(MADE_FROM), "envoy.fds.zlib is stale");
}

#[test]
fn the_descriptors_have_the_newest_fields_of_the_crate() {
    use ithildin_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    use prost::{Message, Name};

    let pool = Pool::load();
    let descriptor = pool
        .message(&HttpConnectionManager::full_name())
        .expect("it is one of Envoy's");
    // What the descriptors do not know would be kept as unknown fields, and not be printed.
    let message = HttpConnectionManager {
        add_proxy_protocol_connection_state: Some(Default::default()),
        ..Default::default()
    };
    let number = descriptor
        .get_field_by_name("add_proxy_protocol_connection_state")
        .expect("the descriptors know it")
        .number();
    let bytes = message.encode_to_vec();
    let mut rest = bytes.as_slice();
    let (found, _) = prost::encoding::decode_key(&mut rest).expect("one field");
    assert_eq!(found, number);
}
