//! A folder of YAML files becomes [`Resources`].

mod folder;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use ithildin_proto::yaml;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

pub(crate) use folder::{Fingerprint, fingerprint};

use crate::{
    error::{ConfigError, ObjectId},
    model::{ConfigMap, Ignored, MeshConfig, Metadata, Object},
    read::{Fault, read},
    resources::Resources,
    validate,
};

/// Namespace of a resource that names none, as with `kubectl apply`.
const DEFAULT_NAMESPACE: &str = "default";
/// Name of the ConfigMap whose key `mesh` is the mesh configuration.
const MESH_CONFIG_MAP: &str = "istio";

/// The largest file: a mesh of ten thousand services in one.
const MAX_FILE_BYTES: usize = 64 << 20;

const NOT_A_RESOURCE: &str = "not a Kubernetes resource: apiVersion and kind are required";

/// Kinds that say how programs run or who may do what in Kubernetes, and nothing about traffic.
const WITHOUT_BEARING: [&str; 17] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Job",
    "Namespace",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "ReplicaSet",
    "Role",
    "RoleBinding",
    "Secret",
    "ServiceAccount",
    "StatefulSet",
];

/// Reads every `.yaml`, `.yml` and `.json` file below `dir`, except below names that start with a
/// dot. Either everything is right, or every fault is listed.
pub fn load(dir: &Path) -> Result<Resources, Vec<ConfigError>> {
    let mut loader = Loader::default();
    match folder::files(dir) {
        Ok(files) => files.iter().for_each(|file| loader.file(dir, file)),
        Err(error) => loader
            .errors
            .push(ConfigError::in_file(dir, error.to_string())),
    }
    loader.finish()
}

#[derive(Default)]
struct Loader {
    resources: Resources,
    errors: Vec<ConfigError>,
    /// Where each resource was first seen, to refuse a second one of the same name.
    seen: BTreeMap<(&'static str, ObjectId), PathBuf>,
}

/// One document, and whose it is.
struct Source<'a> {
    file: &'a Path,
    id: ObjectId,
    document: Map<String, Value>,
}

/// What every resource starts with.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: String,
    kind: String,
    items: Vec<Value>,
    metadata: HeadMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadMetadata {
    name: String,
    namespace: String,
}

/// What follows the head of a resource that has a `spec`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, bound = "S: DeserializeOwned + Default")]
struct Body<S> {
    spec: S,
    #[serde(rename = "status")]
    _status: Ignored,
}

impl Loader {
    fn file(&mut self, dir: &Path, path: &Path) {
        let name = path.strip_prefix(dir).unwrap_or(path);
        let bytes = ithildin_sys::file::read_regular(path, MAX_FILE_BYTES);
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                return self
                    .errors
                    .push(ConfigError::in_file(name, error.to_string()));
            }
        };
        match yaml::documents(&text) {
            Ok(documents) => documents
                .into_iter()
                .for_each(|document| self.document(name, document)),
            Err(error) => self
                .errors
                .push(ConfigError::in_file(name, error.to_string())),
        }
    }

    fn document(&mut self, file: &Path, document: Value) {
        if !document.is_object() {
            return self.errors.push(ConfigError::in_file(file, NOT_A_RESOURCE));
        }
        let head: Head = match read(document.clone()) {
            Ok(head) => head,
            Err(faults) => return self.faults(file, None, "", faults),
        };
        if head.kind == "List" && head.api_version == "v1" {
            for item in head.items {
                self.document(file, item);
            }
            return;
        }
        if head.kind.is_empty() || head.api_version.is_empty() {
            return self.errors.push(ConfigError::in_file(file, NOT_A_RESOURCE));
        }
        let id = ObjectId {
            kind: head.kind,
            namespace: if head.metadata.namespace.is_empty() {
                DEFAULT_NAMESPACE.into()
            } else {
                head.metadata.namespace
            },
            name: head.metadata.name,
        };
        if id.name.is_empty() {
            return self.error(file, &id, "metadata.name", "required");
        }
        if let Value::Object(document) = document {
            self.resource(file, id, &head.api_version, document);
        }
    }

    fn resource(
        &mut self,
        file: &Path,
        id: ObjectId,
        api_version: &str,
        document: Map<String, Value>,
    ) {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let known: &[&str] = match group {
            "networking.istio.io" => &["v1", "v1beta1", "v1alpha3"],
            "security.istio.io" => &["v1", "v1beta1"],
            _ => &["v1"],
        };
        match (group, id.kind.as_str()) {
            (_, kind) if WITHOUT_BEARING.contains(&kind) && !group.ends_with("istio.io") => return,
            ("networking.istio.io", "Gateway" | "VirtualService" | "DestinationRule")
            | ("networking.istio.io", "ServiceEntry" | "WorkloadEntry")
            | ("security.istio.io", "PeerAuthentication")
            | ("", "Service" | "Pod" | "Endpoints" | "Node" | "ConfigMap")
            | ("discovery.k8s.io", "EndpointSlice") => {}
            _ => {
                let message = format!("{api_version} {} is not supported", id.kind);
                return self.error(file, &id, "", message);
            }
        }
        if !known.contains(&version) {
            let message = format!(
                "version {version} is not supported, expected {}",
                known.join(", ")
            );
            return self.error(file, &id, "apiVersion", message);
        }
        self.typed(Source { file, id, document });
    }

    fn typed(&mut self, source: Source<'_>) {
        let kind = source.id.kind.clone();
        match kind.as_str() {
            "Gateway" => self.add(source, "Gateway", |r| &mut r.gateways, validate::gateway),
            "VirtualService" => self.add(
                source,
                "VirtualService",
                |r| &mut r.virtual_services,
                validate::virtual_service,
            ),
            "DestinationRule" => self.add(
                source,
                "DestinationRule",
                |r| &mut r.destination_rules,
                validate::destination_rule,
            ),
            "ServiceEntry" => self.add(
                source,
                "ServiceEntry",
                |r| &mut r.service_entries,
                validate::service_entry,
            ),
            "WorkloadEntry" => self.add(
                source,
                "WorkloadEntry",
                |r| &mut r.workload_entries,
                validate::workload_entry,
            ),
            "PeerAuthentication" => self.add(
                source,
                "PeerAuthentication",
                |r| &mut r.peer_authentications,
                validate::peer_authentication,
            ),
            "Service" => self.add(source, "Service", |r| &mut r.services, validate::service),
            "Pod" => self.add_flat(source, "Pod", |r| &mut r.pods),
            "Endpoints" => self.add_flat(source, "Endpoints", |r| &mut r.endpoints),
            "EndpointSlice" => self.add_flat(source, "EndpointSlice", |r| &mut r.endpoint_slices),
            "Node" => self.add_flat(source, "Node", |r| &mut r.nodes),
            _ if source.id.name == MESH_CONFIG_MAP => self.mesh(source),
            _ => {}
        }
    }

    /// Reads a resource with a `spec`, checks it, and keeps it if it is right.
    fn add<S: DeserializeOwned + Default>(
        &mut self,
        source: Source<'_>,
        kind: &'static str,
        list: fn(&mut Resources) -> &mut Vec<Object<S>>,
        check: fn(&Object<S>) -> Vec<ConfigError>,
    ) {
        let Source { file, id, document } = source;
        let Some(object) = self.read::<Body<S>>(file, &id, kind, document) else {
            return;
        };
        let object = object.map(|body| body.spec);
        let errors = check(&object);
        if errors.is_empty() && self.first(kind, id, file) {
            list(&mut self.resources).push(object);
        }
        self.errors.extend(errors);
    }

    /// The same for a resource whose fields stand beside its metadata.
    fn add_flat<S: DeserializeOwned>(
        &mut self,
        source: Source<'_>,
        kind: &'static str,
        list: fn(&mut Resources) -> &mut Vec<Object<S>>,
    ) {
        let Source { file, id, document } = source;
        if let Some(object) = self.read::<S>(file, &id, kind, document)
            && self.first(kind, id, file)
        {
            list(&mut self.resources).push(object);
        }
    }

    /// Reads metadata and body; all faults of both are kept.
    fn read<B: DeserializeOwned>(
        &mut self,
        file: &Path,
        id: &ObjectId,
        kind: &'static str,
        mut document: Map<String, Value>,
    ) -> Option<Object<B>> {
        document.remove("apiVersion");
        document.remove("kind");
        let metadata = document.remove("metadata").unwrap_or_default();
        let metadata = read::<Metadata>(metadata)
            .map_err(|faults| self.faults(file, Some(id), "metadata", faults));
        let body = read::<B>(Value::Object(document))
            .map_err(|faults| self.faults(file, Some(id), "", faults));
        let mut metadata = metadata.ok()?;
        metadata.namespace.clone_from(&id.namespace);
        Some(Object {
            kind,
            file: file.to_owned(),
            metadata,
            spec: body.ok()?,
        })
    }

    fn mesh(&mut self, source: Source<'_>) {
        let Source { file, id, document } = source;
        let id = &id;
        let map: ConfigMap = match read(Value::Object(document)) {
            Ok(map) => map,
            Err(faults) => return self.faults(file, Some(id), "", faults),
        };
        let Some(text) = map.data.get("mesh") else {
            return self.error(file, id, "data.mesh", "required");
        };
        let mesh = match yaml::documents(text) {
            Ok(mut documents) if documents.len() <= 1 => {
                documents.pop().unwrap_or_else(|| Value::Object(Map::new()))
            }
            Ok(_) => return self.error(file, id, "data.mesh", "more than one YAML document"),
            Err(error) => return self.error(file, id, "data.mesh", error.to_string()),
        };
        match read::<MeshConfig>(mesh) {
            Ok(mesh) => {
                if let Err((field, message)) = validate::mesh(&mesh) {
                    return self.error(file, id, &format!("data.mesh.{field}"), message);
                }
                if self.first("ConfigMap", id.clone(), file) {
                    self.resources.mesh = mesh;
                }
            }
            Err(faults) => self.faults(file, Some(id), "data.mesh", faults),
        }
    }

    /// Whether no resource of this kind and name was seen before; a second one is an error.
    fn first(&mut self, kind: &'static str, id: ObjectId, file: &Path) -> bool {
        let key = (kind, id.clone());
        if let Some(other) = self.seen.get(&key) {
            let message = format!("already defined in {}", other.display());
            self.error(file, &id, "", message);
            return false;
        }
        self.seen.insert(key, file.to_owned());
        true
    }

    fn error(&mut self, file: &Path, id: &ObjectId, field: &str, message: impl Into<String>) {
        self.errors.push(ConfigError {
            file: Some(file.to_owned()),
            object: Some(id.clone()),
            field: field.into(),
            message: message.into(),
        });
    }

    fn faults(&mut self, file: &Path, id: Option<&ObjectId>, prefix: &str, faults: Vec<Fault>) {
        self.errors
            .extend(faults.into_iter().map(|fault| ConfigError {
                file: Some(file.to_owned()),
                object: id.cloned(),
                field: match (prefix, fault.field.as_str()) {
                    ("", field) => field.to_owned(),
                    (prefix, "") => prefix.to_owned(),
                    (prefix, field) => format!("{prefix}.{field}"),
                },
                message: fault.message,
            }));
    }

    fn finish(mut self) -> Result<Resources, Vec<ConfigError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.resources.sort();
        Ok(self.resources)
    }
}
