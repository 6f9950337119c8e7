//! What a real istiod sent for a mesh, beside what we build for it.
use std::path::Path;

use ithildin_istio_config::*;
use ithildin_proto::pb::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    service::discovery::v3::DeltaDiscoveryResponse,
};
use prost::Message;

fn data() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn recorded<M: Message + Default>(node: &str, file: &str) -> Vec<(String, M)> {
    let bytes = std::fs::read(data().join("recorded").join(node).join(file)).unwrap();
    DeltaDiscoveryResponse::decode(&bytes[..])
        .unwrap()
        .resources
        .into_iter()
        .map(|r| (r.name, M::decode(&r.resource.unwrap().value[..]).unwrap()))
        .collect()
}

fn expand(text: String) -> String {
    use ithildin_proto::pb::envoy::extensions as x;
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("Any { type_url: \"") {
        out.push_str(&rest[..at]);
        let r = &rest[at + 17..];
        let (url, r) = r.split_once('"').unwrap();
        let r = r.strip_prefix(", value: [").unwrap();
        let (bytes, r) = r.split_once(']').unwrap();
        let bytes: Vec<u8> = bytes
            .split(", ")
            .filter(|b| !b.is_empty())
            .map(|b| b.parse().unwrap())
            .collect();
        macro_rules! t { ($($t:ty),*) => {{ let mut d = None; $( if url.ends_with(&<$t as prost::Name>::full_name()) { d = Some(format!("{:?}", <$t>::decode(&bytes[..]).unwrap())); } )* d }} }
        let d = t!(
            x::filters::network::http_connection_manager::v3::HttpConnectionManager,
            x::filters::network::tcp_proxy::v3::TcpProxy,
            x::transport_sockets::tls::v3::UpstreamTlsContext,
            x::transport_sockets::tls::v3::DownstreamTlsContext,
            x::upstreams::http::v3::HttpProtocolOptions,
            x::filters::http::grpc_stats::v3::FilterConfig,
            x::filters::http::router::v3::Router,
            x::filters::http::cors::v3::Cors,
            x::filters::http::fault::v3::HttpFault,
            x::access_loggers::file::v3::FileAccessLog,
            x::request_id::uuid::v3::UuidRequestIdConfig,
            x::network::dns_resolver::cares::v3::CaresDnsResolverConfig,
            x::filters::listener::tls_inspector::v3::TlsInspector,
            x::filters::listener::http_inspector::v3::HttpInspector,
            x::filters::listener::original_dst::v3::OriginalDst,
            x::retry::host::previous_hosts::v3::PreviousHostsPredicate,
            x::transport_sockets::raw_buffer::v3::RawBuffer
        );
        out.push_str(&expand(d.unwrap_or_else(|| panic!("{url}"))));
        rest = r.strip_prefix(" }").unwrap();
    }
    out.push_str(rest);
    out
}

#[test]
fn dump() {
    let res = load(&data().join("mesh")).unwrap_or_else(|e| {
        panic!(
            "{}",
            e.iter()
                .map(|e| e.to_string())
                .collect::<Vec<_>>()
                .join("\n")
        )
    });
    for (name, kind, ns, pod, ip) in [
        (
            "router",
            NodeKind::Router,
            "istio-system",
            "istio-ingressgateway-0",
            "127.0.1.20",
        ),
        (
            "productpage",
            NodeKind::Sidecar,
            "default",
            "productpage-v1-0",
            "127.0.1.10",
        ),
    ] {
        let v: serde_json::Value = serde_json::from_slice(
            &std::fs::read(data().join("recorded").join(name).join("node.json")).unwrap(),
        )
        .unwrap();
        let mut node = Node::new(kind, pod, ns, "cluster.local");
        node.ips = vec![ip.parse().unwrap()];
        node.data_plane = DataPlane::Envoy;
        node.unprivileged = true;
        node.labels = serde_json::from_value(v["node"]["metadata"]["LABELS"].clone()).unwrap();
        let built = build(&res, &node).unwrap();
        for w in &built.warnings {
            println!("WARN {w}");
        }
        let out = Path::new("/tmp/istio-dump").join(name);
        for side in ["ours", "theirs"] {
            std::fs::create_dir_all(out.join(side)).unwrap();
        }
        let w = |side: &str, kind: &str, name: &str, text: String| {
            std::fs::write(
                out.join(side)
                    .join(format!("{kind}-{}", name.replace('/', "_"))),
                expand(text),
            )
            .unwrap()
        };
        for (n, m) in recorded::<Cluster>(name, "clusters.pb") {
            w("theirs", "c", &n, format!("{m:?}"));
        }
        for (n, m) in recorded::<Listener>(name, "listeners.pb") {
            w("theirs", "l", &n, format!("{m:?}"));
        }
        for (n, m) in recorded::<RouteConfiguration>(name, "routes.pb") {
            w("theirs", "r", &n, format!("{m:?}"));
        }
        for (n, m) in recorded::<ClusterLoadAssignment>(name, "endpoints.pb") {
            w("theirs", "e", &n, format!("{m:?}"));
        }
        for (n, m) in &built.resources.clusters {
            w("ours", "c", n, format!("{m:?}"));
        }
        for (n, m) in &built.resources.listeners {
            w("ours", "l", n, format!("{m:?}"));
        }
        for (n, m) in &built.resources.routes {
            w("ours", "r", n, format!("{m:?}"));
        }
        for (n, m) in &built.resources.endpoints {
            w("ours", "e", n, format!("{m:?}"));
        }
    }
}
