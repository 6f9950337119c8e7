//! What istiod says of a cluster (`metadata.filter_metadata.istio`).

use std::sync::Arc;

use ithildin_proto::pb::{
    envoy::config::core::v3::Metadata,
    google::protobuf::{Struct, Value, value::Kind},
};

/// Facts about a cluster for Istio's filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshCluster {
    /// The service behind it; the first where there are several.
    pub service: Option<Service>,
    /// Outside of the mesh.
    pub external: bool,
    /// Its peers exchange no metadata.
    pub disable_mx: bool,
    /// `alpn_override: "false"`: ALPN stays as the transport socket has it.
    pub keeps_alpn: bool,
}

/// A service as Kubernetes or a ServiceEntry names it; texts are empty where nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

impl MeshCluster {
    pub fn new(metadata: Option<&Metadata>) -> Self {
        let Some(istio) = metadata.and_then(|metadata| metadata.filter_metadata.get("istio"))
        else {
            return Self::default();
        };
        let flag = |name: &str| {
            let value = istio.fields.get(name).map(|value| &value.kind);
            matches!(value, Some(Some(Kind::BoolValue(true))))
        };
        Self {
            service: service(istio),
            external: flag("external"),
            disable_mx: flag("disable_mx"),
            keeps_alpn: text(istio, "alpn_override") == Some("false"),
        }
    }
}

fn service(istio: &Struct) -> Option<Service> {
    let services = istio.fields.get("services")?;
    let Some(Kind::ListValue(services)) = &services.kind else {
        return None;
    };
    let Some(Value {
        kind: Some(Kind::StructValue(service)),
    }) = services.values.first()
    else {
        return None;
    };
    let host = text(service, "host").unwrap_or_default();
    let name = text(service, "name").or_else(|| host.split('.').next());
    Some(Service {
        host: host.into(),
        name: name.unwrap_or_default().into(),
        namespace: text(service, "namespace").unwrap_or_default().into(),
    })
}

fn text<'s>(fields: &'s Struct, name: &str) -> Option<&'s str> {
    match &fields.fields.get(name)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::from_yaml;

    use super::*;

    fn read(yaml: &str) -> MeshCluster {
        let metadata: Metadata = from_yaml(yaml).expect("valid");
        MeshCluster::new(Some(&metadata))
    }

    #[test]
    fn what_istiod_sends_is_read() {
        let cluster = read(
            "filter_metadata: {istio: {external: true, alpn_override: \"false\", services: \
             [{host: app.example.org, name: app.example.org, namespace: default}, {host: b}]}}",
        );
        let service = cluster.service.expect("there is one");
        assert_eq!(&*service.host, "app.example.org");
        assert_eq!(&*service.namespace, "default");
        assert!(cluster.external && cluster.keeps_alpn && !cluster.disable_mx);
    }

    #[test]
    fn a_service_without_a_name_has_the_first_part_of_its_host() {
        let cluster = read("filter_metadata: {istio: {services: [{host: httpbin.default.svc}]}}");
        assert_eq!(&*cluster.service.expect("there is one").name, "httpbin");
    }

    #[test]
    fn other_forms_say_nothing() {
        assert_eq!(MeshCluster::new(None), MeshCluster::default());
        let odd = read("filter_metadata: {istio: {services: text, external: \"true\"}}");
        assert_eq!(odd, MeshCluster::default());
    }
}
