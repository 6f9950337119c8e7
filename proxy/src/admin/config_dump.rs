//! `/config_dump`: the bootstrap and every resource, as Envoy prints them.
//!
//! What a control plane sent is shown as it was received; a refused resource carries its errors.

use ithildin_proto::{Printer, pack};
use ithildin_xds::ResourceKind;
use serde_json::{Value, json};

use super::AdminState;

/// `include_eds` adds the endpoints.
pub(super) fn config_dump(state: &AdminState, include_eds: bool) -> Value {
    // 17 MB while it lives; dropped with this call.
    let printer = Printer::new();
    let dump = Dump { state, printer };
    let mut configs = vec![
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": dump.printer.json(&*state.bootstrap),
        }),
        dump.clusters(),
    ];
    if include_eds {
        configs.push(dump.endpoints());
    }
    configs.extend([dump.listeners(), dump.routes(), dump.secrets()]);
    json!({ "configs": configs })
}

struct Dump<'a> {
    state: &'a AdminState,
    printer: Printer,
}

impl Dump<'_> {
    fn clusters(&self) -> Value {
        let statics = self.state.bootstrap.static_resources.iter();
        let fixed: Vec<_> = statics
            .flat_map(|statics| &statics.clusters)
            .map(|cluster| json!({ "cluster": self.printer.json(&pack(cluster)) }))
            .collect();
        let resources = self.state.resources.borrow().clone();
        let mut active = Vec::new();
        for (name, cluster) in &resources.clusters {
            let mut entry = json!({ "cluster": self.printer.json(&pack(&**cluster)) });
            if let Some(error) = self.error(ResourceKind::Cluster, name) {
                entry["error_state"] = error;
            }
            active.push(entry);
        }
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": fixed,
            "dynamic_active_clusters": active,
        })
    }

    fn endpoints(&self) -> Value {
        let resources = self.state.resources.borrow().clone();
        let assignments = resources.endpoints.values();
        let assignments: Vec<_> = assignments
            .map(|it| json!({ "endpoint_config": self.printer.json(&pack(&**it)) }))
            .collect();
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": assignments,
        })
    }

    fn listeners(&self) -> Value {
        let statics = self.state.bootstrap.static_resources.iter();
        let fixed: Vec<_> = statics
            .flat_map(|statics| &statics.listeners)
            .map(|listener| json!({ "listener": self.printer.json(&pack(listener)) }))
            .collect();
        let resources = self.state.resources.borrow().clone();
        let mut dynamic = Vec::new();
        for (name, listener) in &resources.listeners {
            let listener = json!({ "listener": self.printer.json(&pack(&**listener)) });
            let mut entry = json!({ "name": name });
            match self.error(ResourceKind::Listener, name) {
                Some(mut error) => {
                    error["failed_configuration"] = listener["listener"].clone();
                    entry["error_state"] = error;
                }
                None => entry["active_state"] = listener,
            }
            dynamic.push(entry);
        }
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "static_listeners": fixed,
            "dynamic_listeners": dynamic,
        })
    }

    fn routes(&self) -> Value {
        let resources = self.state.resources.borrow().clone();
        let mut dynamic = Vec::new();
        for (name, routes) in &resources.routes {
            let mut entry = json!({ "route_config": self.printer.json(&pack(&**routes)) });
            if let Some(error) = self.error(ResourceKind::Route, name) {
                entry["error_state"] = error;
            }
            dynamic.push(entry);
        }
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": dynamic,
        })
    }

    /// Static secrets, redacted; of the others the name and the state.
    fn secrets(&self) -> Value {
        let statics = self.state.bootstrap.static_resources.iter();
        let fixed: Vec<_> = statics
            .flat_map(|statics| &statics.secrets)
            .map(
                |secret| json!({ "name": secret.name, "secret": self.printer.json(&pack(secret)) }),
            )
            .collect();
        let control = self.state.control.borrow().clone();
        let mut active = Vec::new();
        let mut warming = Vec::new();
        for secret in control.secrets.iter() {
            let mut entry = json!({
                "name": &*secret.name,
                "version_info": secret.updates.to_string(),
            });
            if let Some(error) = &secret.error {
                entry["error_state"] = json!({ "details": &**error });
            }
            if secret.ready {
                active.push(entry)
            } else {
                warming.push(entry)
            }
        }
        json!({
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "static_secrets": fixed,
            "dynamic_active_secrets": active,
            "dynamic_warming_secrets": warming,
        })
    }

    /// `error_state` of a resource whose newest form is refused.
    fn error(&self, kind: ResourceKind, name: &str) -> Option<Value> {
        let control = self.state.control.borrow().clone();
        let mut rejected = control.rejected.iter();
        let rejection = rejected.find(|it| it.kind == kind && *it.name == *name)?;
        Some(json!({ "details": rejection.errors.to_string() }))
    }
}
