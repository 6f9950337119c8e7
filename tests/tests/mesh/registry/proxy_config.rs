//! ProxyConfig: what the injector writes of the resource, and the annotation over it.

use ithildin_tests::Mesh;
use serde_json::Value;

use super::{FIRST, SECOND};

pub(super) const INJECTED: &str = r#"{"binaryPath": "/run/bin/envoy", "concurrency": 2,
 "proxyMetadata": {"ISTIO_META_TOLD": "by-the-resource", "ISTIO_META_ALSO": "by-the-resource"}}"#;
pub(super) const ANNOTATION: &str =
    r#"{"concurrency": 3, "proxyMetadata": {"ISTIO_META_TOLD": "by-the-annotation"}}"#;

pub(super) fn all(mesh: &Mesh) {
    let of = |pod: &str| {
        let page = |path: &str| -> Value {
            let page = mesh.pod(pod).admin(path).body;
            serde_json::from_str(&page).unwrap_or_else(|error| panic!("{error}: {page}"))
        };
        let server = page("/server_info");
        let metadata = server["node"]["metadata"].clone();
        (
            server["command_line_options"]["concurrency"].clone(),
            metadata,
        )
    };
    let (concurrency, metadata) = of(SECOND.name);
    assert_eq!(concurrency, 3);
    assert_eq!(metadata["TOLD"], "by-the-annotation");
    assert_eq!(metadata["ALSO"], "by-the-resource");
    assert_eq!(metadata["PROXY_CONFIG"]["concurrency"], 3);
    let (concurrency, metadata) = of(FIRST.name);
    assert_eq!(concurrency, 1);
    assert!(metadata["TOLD"].is_null(), "{metadata}");
}
