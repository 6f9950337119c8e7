//! Routes that lead nowhere: they answer 503, and are most likely a mistake.

use super::Build;
use crate::{host, model::Destination};

impl Build<'_> {
    /// Warns of destinations that no resource declares.
    pub(super) fn check_destinations(&mut self) {
        for object in &self.resources.virtual_services {
            for (index, http) in object.spec.http.iter().enumerate() {
                for (entry, route) in http.route.iter().enumerate() {
                    let fault = self.destination_fault(object.namespace(), &route.destination);
                    if let Some((field, message)) = fault {
                        let at = format!("spec.http[{index}].route[{entry}].destination.{field}");
                        self.warnings.push(object.error(at, message));
                    }
                }
            }
        }
    }

    /// The first field that is wrong, and why.
    fn destination_fault(
        &self,
        namespace: &str,
        destination: &Destination,
    ) -> Option<(&'static str, String)> {
        let name = host::resolve(&destination.host, namespace, &self.node.cluster_domain);
        let Some(service) = self.registry.get(&name) else {
            let message = format!("no Service or ServiceEntry declares {name}");
            return Some(("host", message));
        };
        let port = destination.port.as_ref().map(|port| port.number);
        if let Some(port) = port.filter(|port| service.port(*port).is_none()) {
            return Some(("port.number", format!("{name} has no port {port}")));
        }
        let subset = &destination.subset;
        let known = subset.is_empty()
            || self
                .rules
                .find(service)
                .is_some_and(|rule| rule.subset(subset).is_some());
        (!known).then(|| {
            let message = format!("no DestinationRule for {name} has this subset");
            ("subset", message)
        })
    }
}
