//! Who this proxy is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use ithildin_istio_config::{DataPlane, Interception, Locality, Node, NodeKind};
use serde_json::{Map, Value};

use super::{Env, Host, Ports, identity};
use crate::proxy::{
    args::{Args, DataPlaneKind, Kind},
    metadata::Labels,
    proxy_config::{ClusterName, ProxyConfig, TracingServiceName},
};

/// Istio's name of a proxy that has none.
const NAMELESS: &str = "istio-proxy";
/// In order of precedence.
const APP_LABELS: [&str; 3] = ["app", "app.kubernetes.io/name", CANONICAL_NAME];
const CANONICAL_LABELS: [&str; 3] = [CANONICAL_NAME, "app.kubernetes.io/name", "app"];
const CANONICAL_NAME: &str = "service.istio.io/canonical-name";

/// The node as the configuration folder is compiled for.
pub(super) fn node(
    args: &Args,
    env: &Env,
    raw: &Map<String, Value>,
    labels: &Labels,
    ports: &Ports,
    ips: Vec<IpAddr>,
) -> anyhow::Result<Node> {
    let kind = match args.kind {
        Kind::Sidecar => NodeKind::Sidecar,
        _ => NodeKind::Router,
    };
    let name = env.text_or("POD_NAME", "proxy");
    let namespace = env.text_or("POD_NAMESPACE", "default");
    let trust_domain = env.text_or("TRUST_DOMAIN", identity::DEFAULT_TRUST_DOMAIN);
    let mut node = Node::new(kind, &name, &namespace, &trust_domain);
    node.ips = ips;
    node.labels = labels.all.clone();
    let text = |key: &str| text(raw, key);
    if let Some(id) = text("CLUSTER_ID") {
        node.cluster_id = id.to_owned();
    }
    let locality = labels.locality();
    let locality = locality.as_deref().or_else(|| text("LOCALITY"));
    node.locality = locality.map(Locality::parse);
    node.interception = match text("INTERCEPTION_MODE") {
        None | Some("REDIRECT") => Interception::Redirect,
        Some("TPROXY") => Interception::Tproxy,
        Some("NONE") => Interception::None,
        Some(other) => {
            bail!("ISTIO_META_INTERCEPTION_MODE {other:?} is none of REDIRECT, TPROXY and NONE")
        }
    };
    node.data_plane = match args.data_plane {
        DataPlaneKind::Builtin => DataPlane::Builtin,
        DataPlaneKind::Envoy => DataPlane::Envoy,
    };
    node.unprivileged = text("UNPRIVILEGED_POD") == Some("true");
    if let Some(port) = text("HTTP_PROXY_PORT") {
        node.ports.http_proxy = Some(port.parse().context("ISTIO_META_HTTP_PROXY_PORT")?);
    }
    node.ports.reserved = ports.all();
    Ok(node)
}

/// Our addresses, the Pod's first: istiod takes the first one for it.
///
/// A configuration folder is compiled for the addresses that were named; istiod learns of all.
pub(super) fn ips(args: &Args, env: &Env, host: &Host) -> anyhow::Result<Vec<IpAddr>> {
    let parse = |ip: &str| {
        let parsed: Result<IpAddr, _> = ip.trim().parse();
        parsed.with_context(|| format!("INSTANCE_IP {ip:?}"))
    };
    let named = env.text("INSTANCE_IP");
    let named = named.map(|text| text.split(',').map(parse).collect());
    let mut ips: Vec<IpAddr> = named.transpose()?.unwrap_or_default();
    if args.config_dir.is_some() {
        if ips.is_empty() {
            ips.push(Ipv4Addr::LOCALHOST.into());
        }
        return Ok(ips);
    }
    let found = host.ips();
    if !found.is_empty() {
        for ip in found {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    } else if host.excluded().is_empty() {
        ips.extend([
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ]);
    }
    if ips.is_empty() {
        bail!("this Pod has no address left; set INSTANCE_IP");
    }
    Ok(ips)
}

/// `sidecar~10.0.0.1~pod.namespace~domain`.
pub(super) fn id(kind: Kind, node: &Node, domain: &str) -> String {
    let ip = node.ips.first().map(IpAddr::to_string).unwrap_or_default();
    let kind = kind.as_str();
    format!("{kind}~{ip}~{}.{}~{domain}", node.name, node.namespace)
}

/// `node.cluster`: what traces and metrics call the service.
pub(super) fn cluster(
    args: &Args,
    config: &ProxyConfig,
    node: &Node,
    raw: &Map<String, Value>,
) -> String {
    let workload = text(raw, "WORKLOAD_NAME");
    let label = |names: &[&str; 3]| {
        let mut found = names.iter().filter_map(|name| node.labels.get(*name));
        found.next().map(String::as_str)
    };
    let canonical = || {
        let name = label(&CANONICAL_LABELS).or(workload);
        name.unwrap_or(NAMELESS).to_owned()
    };
    let or_default = |name: &str| match name {
        "" | NAMELESS => {
            let name = label(&APP_LABELS).or(workload).unwrap_or(NAMELESS);
            format!("{name}.{}", node.namespace)
        }
        name => name.to_owned(),
    };
    match &config.cluster_name {
        ClusterName::Service(name) if name.is_empty() => or_default(&args.service_cluster),
        ClusterName::Service(name) => or_default(name),
        ClusterName::Tracing(TracingServiceName::AppLabelAndNamespace) => or_default(NAMELESS),
        ClusterName::Tracing(TracingServiceName::CanonicalNameOnly) => or_default(&canonical()),
        ClusterName::Tracing(TracingServiceName::CanonicalNameAndNamespace) => {
            format!("{}.{}", canonical(), node.namespace)
        }
    }
}

fn text<'a>(raw: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let text = raw.get(key).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
}
