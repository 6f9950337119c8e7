//! The names that a workload's DNS proxy answers, as istiod makes them of its services.

use std::net::IpAddr;

use ithildin_proto::nds::{NameTable, name_table::NameInfo};

use crate::registry::Service;

/// Names the registry whose services have short names.
const KUBERNETES: &str = "Kubernetes";
const EXTERNAL: &str = "External";

/// The services that have addresses: virtual ones, or those of a headless service's endpoints.
/// A ServiceEntry without `addresses` has none, and its names are for other name servers.
pub(crate) fn name_table<'a>(services: impl Iterator<Item = &'a Service>) -> NameTable {
    let entry = |service: &Service| {
        let ips = ips(service);
        (!ips.is_empty()).then(|| (service.host.clone(), info(service, &ips)))
    };
    NameTable {
        table: services.filter_map(entry).collect(),
        name_info: None,
    }
}

fn ips(service: &Service) -> Vec<IpAddr> {
    if !service.headless {
        return service.addresses.clone();
    }
    let endpoints = service.endpoints.iter();
    let mut ips: Vec<IpAddr> = endpoints
        .filter_map(|endpoint| endpoint.address.parse().ok())
        .collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn info(service: &Service, ips: &[IpAddr]) -> NameInfo {
    // Only a Service of Kubernetes has a name that is not its host.
    let named = service.name != service.host;
    let text = |text: &str| {
        if named {
            text.to_owned()
        } else {
            String::new()
        }
    };
    NameInfo {
        ips: ips.iter().map(ToString::to_string).collect(),
        registry: if named { KUBERNETES } else { EXTERNAL }.to_owned(),
        shortname: text(&service.name),
        namespace: text(&service.namespace),
        ..NameInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        node::Interception,
        testing::{built, sidecar},
    };

    const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
spec: {clusterIPs: [10.1.0.1, 'fd00::1'], ports: [{name: http, port: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db}
subsets:
- addresses: [{ip: 10.0.0.7}, {ip: 10.0.0.6}]
  ports: [{name: tcp, port: 9000}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: virtual}
spec:
  hosts: [app.example.org, '*.apps.example.org']
  addresses: [240.0.0.1]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: real}
spec:
  hosts: [real.example.org]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: other}
spec:
  hosts: [hidden.example.org]
  addresses: [240.0.0.2]
  exportTo: ['.']
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: NONE
";

    #[test]
    fn services_with_addresses_have_names() {
        let built = built(MESH, &sidecar(Interception::Redirect));
        let names = built.names.table.iter().map(|(host, info)| {
            let ips = info.ips.join(",");
            format!(
                "{host} {ips} {} {}.{}",
                info.registry, info.shortname, info.namespace
            )
        });
        let names: Vec<_> = names.collect();
        assert_eq!(
            names,
            [
                "*.apps.example.org 240.0.0.1 External .",
                "app.example.org 240.0.0.1 External .",
                "db.default.svc.cluster.local 10.0.0.6,10.0.0.7 Kubernetes db.default",
                "web.other.svc.cluster.local 10.1.0.1,fd00::1 Kubernetes web.other",
            ]
        );
    }
}
