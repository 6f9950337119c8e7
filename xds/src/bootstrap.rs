//! Loading of bootstrap files, and what other parts of the program take from one.

use std::{collections::HashMap, io, path::Path};

use ithildin_proto::{
    ParseErrors, from_yaml,
    pb::envoy::config::{
        bootstrap::v3::Bootstrap,
        cluster::v3::Cluster,
        core::v3::{address::Address, socket_address::PortSpecifier},
        endpoint::v3::lb_endpoint::HostIdentifier,
    },
};
use prost::Message;

use crate::ServerAddress;

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    /// Each error on a line of its own.
    #[error("{path} is not a bootstrap: {errors}")]
    Malformed { path: String, errors: ParseErrors },
}

/// Reads a bootstrap from a YAML or JSON file.
///
/// # Errors
/// When there is no such file, or all that is wrong with it.
pub fn read(path: &Path) -> Result<Bootstrap, BootstrapError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| BootstrapError::Read {
        path: shown(),
        source,
    })?;
    from_yaml(&text).map_err(|errors| BootstrapError::Malformed {
        path: shown(),
        errors,
    })
}

/// Merges `over` into `base` as Protobuf does and Envoy's `--config-yaml`: single fields are
/// replaced, lists joined.
pub fn merge(base: &mut Bootstrap, over: &Bootstrap) {
    base.merge(over.encode_to_vec().as_slice())
        .expect("a message that was just encoded decodes");
}

/// The addresses of static clusters by name, where an xDS or SDS server can be: the first endpoint
/// of each.
pub fn servers(bootstrap: &Bootstrap) -> HashMap<String, ServerAddress> {
    let resources = bootstrap.static_resources.iter();
    let clusters = resources.flat_map(|resources| &resources.clusters);
    clusters
        .filter_map(|cluster| Some((cluster.name.clone(), server(cluster)?)))
        .collect()
}

fn server(cluster: &Cluster) -> Option<ServerAddress> {
    let locality = cluster.load_assignment.as_ref()?.endpoints.first()?;
    let endpoint = match locality.lb_endpoints.first()?.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => endpoint,
        HostIdentifier::EndpointName(_) => return None,
    };
    match endpoint.address.as_ref()?.address.as_ref()? {
        Address::Pipe(pipe) => Some(ServerAddress::Pipe(pipe.path.clone().into())),
        Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => Some(ServerAddress::Tcp {
                host: socket.address.clone(),
                port: u16::try_from(*port).ok()?,
            }),
            PortSpecifier::NamedPort(_) => None,
        },
        Address::EnvoyInternalAddress(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
static_resources:
  clusters:
  - name: agent
    load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/a}}}}]}]}
  - name: tcp
    load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address:
      {socket_address: {address: sds.test, port_value: 8081}}}}]}]}
  - name: far
    load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address:
      {socket_address: {address: sds.test, port_value: 65536}}}}]}]}
  - name: none
";

    #[test]
    fn servers_are_the_first_endpoints_of_static_clusters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy.yaml");
        std::fs::write(&path, FILE).unwrap();
        let servers = servers(&read(&path).unwrap());
        assert_eq!(servers.len(), 2);
        assert_eq!(servers["agent"], ServerAddress::Pipe("/run/a".into()));
        let tcp = ServerAddress::Tcp {
            host: "sds.test".to_owned(),
            port: 8081,
        };
        assert_eq!(servers["tcp"], tcp);
    }

    #[test]
    fn what_is_wrong_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy.yaml");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())));
        std::fs::write(&path, "nope: 1\nnode: 2\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        let expected = format!("{} is not a bootstrap: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains("nope: unknown field"), "{error}");
    }

    #[test]
    fn lists_are_joined_and_single_fields_replaced() {
        let mut base: Bootstrap = from_yaml("node: {id: a, cluster: c}").unwrap();
        let over = from_yaml("node: {id: b}\nstatic_resources: {clusters: [{name: x}]}").unwrap();
        merge(&mut base, &over);
        merge(&mut base, &over);
        let node = base.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("b", "c"));
        assert_eq!(base.static_resources.unwrap().clusters.len(), 2);
    }
}
