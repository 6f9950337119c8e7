//! Who a workload is, as its proxy tells others (Istio's workload metadata).

use std::sync::OnceLock;

use ithildin_proto::pb::{
    envoy::config::core::v3::Locality,
    google::protobuf::{Struct, Value, value::Kind},
};
use prost::Message as _;
use serde_json::{Map, Value as Json};

use super::wire::Fields;

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// The name of an application: the first of these labels that is there. It is told as `app`.
const APP: [&str; 2] = ["app.kubernetes.io/name", "app"];
const VERSION: [&str; 2] = ["app.kubernetes.io/version", "version"];
/// Most bytes of one text that a peer tells; what is longer is cut. Names and labels of Kubernetes
/// have 253 at most, and what is kept of peers becomes labels of metrics.
const MAX_TEXT: usize = 256;
const OWNER_PREFIX: &str = "kubernetes://apis/apps/v1/namespaces/";

/// What is known of one workload; texts are empty where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The Pod.
    pub instance: Box<str>,
    pub namespace: Box<str>,
    /// The Deployment, or what else owns the Pod.
    pub name: Box<str>,
    /// The Kubernetes cluster.
    pub cluster: Box<str>,
    pub identity: Box<str>,
    pub canonical_name: Box<str>,
    pub canonical_revision: Box<str>,
    pub app: Box<str>,
    pub version: Box<str>,
    pub owner: Option<Owner>,
    pub region: Box<str>,
    pub zone: Box<str>,
    /// Labels that the configuration asks for besides these, by name.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

/// The kind of a workload's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Pod,
    Deployment,
    Job,
    CronJob,
}

impl Owner {
    const ALL: [Self; 4] = [Self::Pod, Self::Deployment, Self::Job, Self::CronJob];

    fn kind(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::CronJob => "cronjob",
        }
    }

    /// Of `.../namespaces/<namespace>/<kind>s/<workload>`; only the length of the workload's name
    /// counts, as in Istio.
    fn parse(owner: &str, workload: &str) -> Option<Self> {
        let end = owner.len().checked_sub(workload.len() + 2)?;
        let (_, kind) = owner.get(..end)?.rsplit_once('/')?;
        Self::ALL.into_iter().find(|owner| owner.kind() == kind)
    }
}

impl Workload {
    /// Of whom nothing is known.
    pub fn nobody() -> &'static Self {
        static NOBODY: OnceLock<Workload> = OnceLock::new();
        NOBODY.get_or_init(Self::default)
    }

    /// From a node's metadata, or from what a peer told. Of the labels those in `labels` are kept
    /// besides the usual ones. Texts are cut at [`MAX_TEXT`].
    pub fn from_metadata(metadata: &Struct, labels: &[String]) -> Self {
        let field = |name: &str| text(metadata.fields.get(name));
        let told = match metadata.fields.get("LABELS").map(|value| &value.kind) {
            Some(Some(Kind::StructValue(told))) => Some(told),
            _ => None,
        };
        let label = |name: &str| text(told.and_then(|told| told.fields.get(name)));
        let first = |names: [&str; 2]| {
            let [first, second] = names.map(label);
            if first.is_empty() { second } else { first }
        };
        let name = field("WORKLOAD_NAME");
        let mut kept: Vec<_> = labels
            .iter()
            .filter(|name| told.is_some_and(|told| told.fields.contains_key(*name)))
            .map(|name| (Box::from(name.as_str()), label(name).into()))
            .collect();
        kept.sort();
        kept.dedup();
        Self {
            instance: field("NAME").into(),
            namespace: field("NAMESPACE").into(),
            cluster: field("CLUSTER_ID").into(),
            identity: field("IDENTITY").into(),
            canonical_name: label(CANONICAL_NAME).into(),
            canonical_revision: label(CANONICAL_REVISION).into(),
            app: first(APP).into(),
            version: first(VERSION).into(),
            owner: Owner::parse(field("OWNER"), name),
            region: field("REGION").into(),
            zone: field("AVAILABILITY_ZONE").into(),
            labels: kept,
            name: name.into(),
        }
    }

    /// From what a peer sent: a serialized `google.protobuf.Struct`. `None` if it is not one.
    pub fn decode(bytes: &[u8], labels: &[String]) -> Option<Self> {
        let metadata = Struct::decode(bytes).ok()?;
        Some(Self::from_metadata(&metadata, labels))
    }

    /// From the metadata of an endpoint: `workload;namespace;service;revision;cluster`.
    pub fn of_endpoint(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let mut next = || parts.next().map(Box::<str>::from);
        Some(Self {
            name: next()?,
            namespace: next()?,
            canonical_name: next()?,
            canonical_revision: next()?,
            cluster: next()?,
            ..Self::default()
        })
    }

    /// The memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = [
            &self.instance,
            &self.namespace,
            &self.name,
            &self.cluster,
            &self.identity,
            &self.canonical_name,
            &self.canonical_revision,
            &self.app,
            &self.version,
            &self.region,
            &self.zone,
        ];
        let labels = self.labels.iter();
        size_of::<Self>()
            + texts.into_iter().map(|text| text.len()).sum::<usize>()
            + labels
                .map(|it| size_of_val(it) + it.0.len() + it.1.len())
                .sum::<usize>()
    }

    /// Adds where the node says it runs.
    #[must_use]
    pub fn located(mut self, locality: Option<&Locality>) -> Self {
        let Some(locality) = locality else {
            return self;
        };
        if self.region.is_empty() {
            self.region = locality.region.as_str().into();
        }
        if self.zone.is_empty() {
            self.zone = locality.zone.as_str().into();
        }
        self
    }

    /// As a serialized `google.protobuf.Struct`: the same workload is always the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.fields().encode()
    }

    /// What is known of it, by the names that logs and expressions have for its parts.
    pub fn log_fields(&self) -> Map<String, Json> {
        let parts: [(&str, &str); 12] = [
            ("app", &self.app),
            ("availability_zone", &self.zone),
            ("cluster", &self.cluster),
            ("identity", &self.identity),
            ("name", &self.instance),
            ("namespace", &self.namespace),
            ("region", &self.region),
            ("revision", &self.canonical_revision),
            ("service", &self.canonical_name),
            ("type", self.owner.map_or("", Owner::kind)),
            ("version", &self.version),
            ("workload", &self.name),
        ];
        let known = parts.into_iter().filter(|(_, part)| !part.is_empty());
        let mut fields: Map<_, _> = known
            .map(|(name, part)| (name.into(), part.into()))
            .collect();
        if !self.labels.is_empty() {
            let labels = self.labels.iter();
            let labels: Map<_, _> = labels
                .map(|(name, value)| (name.to_string(), Json::from(&**value)))
                .collect();
            fields.insert("labels".into(), labels.into());
        }
        fields
    }

    pub(super) fn fields(&self) -> Fields {
        let mut labels = Fields::default();
        labels.text(CANONICAL_NAME, &self.canonical_name);
        labels.text(CANONICAL_REVISION, &self.canonical_revision);
        labels.text(APP[1], &self.app);
        labels.text(VERSION[1], &self.version);
        for (name, value) in &self.labels {
            labels.text(name, value);
        }
        let mut fields = Fields::default();
        fields.text("NAME", &self.instance);
        fields.text("NAMESPACE", &self.namespace);
        fields.text("WORKLOAD_NAME", &self.name);
        fields.text("CLUSTER_ID", &self.cluster);
        fields.text("IDENTITY", &self.identity);
        fields.fields("LABELS", &labels);
        if let Some(owner) = self.owner {
            let (namespace, name) = (&self.namespace, &self.name);
            let owner = format!("{OWNER_PREFIX}{namespace}/{}s/{name}", owner.kind());
            fields.text("OWNER", &owner);
        }
        fields.text("REGION", &self.region);
        fields.text("AVAILABILITY_ZONE", &self.zone);
        fields
    }
}

fn text(value: Option<&Value>) -> &str {
    match value.map(|value| &value.kind) {
        Some(Some(Kind::StringValue(text))) => &text[..text.floor_char_boundary(MAX_TEXT)],
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::from_yaml;

    use super::*;

    fn productpage() -> Struct {
        from_yaml(
            "NAME: productpage-v1-0\n\
             NAMESPACE: default\n\
             WORKLOAD_NAME: productpage-v1\n\
             CLUSTER_ID: Kubernetes\n\
             OWNER: kubernetes://apis/apps/v1/namespaces/default/deployments/productpage-v1\n\
             SERVICE_ACCOUNT: bookinfo-productpage\n\
             LABELS:\n  app: productpage\n  version: v1\n  role: front\n  \
             service.istio.io/canonical-name: productpage\n  \
             service.istio.io/canonical-revision: v1\n",
        )
        .expect("valid")
    }

    #[test]
    fn what_is_told_is_read_again() {
        let workload = Workload::from_metadata(&productpage(), &["role".into()]);
        assert_eq!(&*workload.name, "productpage-v1");
        assert_eq!(workload.owner, Some(Owner::Deployment));
        assert_eq!(workload.labels, [("role".into(), "front".into())]);
        let bytes = workload.encode();
        assert_eq!(
            Workload::decode(&bytes, &["role".into()]).as_ref(),
            Some(&workload)
        );
        let without = Workload::decode(&bytes, &[]).expect("a struct");
        assert!(without.labels.is_empty());
    }

    #[test]
    fn the_bytes_are_those_of_a_struct_in_the_order_of_names() {
        let bytes = Workload::from_metadata(&productpage(), &[]).encode();
        let read = Struct::decode(&*bytes).expect("a struct");
        let mut names: Vec<_> = read.fields.keys().collect();
        let place = |name: &str| {
            let name = name.as_bytes();
            bytes.windows(name.len()).position(|part| part == name)
        };
        names.sort();
        assert_eq!(
            names,
            [
                "CLUSTER_ID",
                "LABELS",
                "NAME",
                "NAMESPACE",
                "OWNER",
                "WORKLOAD_NAME"
            ]
        );
        assert!(place("CLUSTER_ID") < place("LABELS"));
        assert!(place("LABELS") < place("OWNER"));
        assert!(place("OWNER") < place("WORKLOAD_NAME"));
        assert!(
            place("SERVICE_ACCOUNT").is_none(),
            "only what Istio exchanges"
        );
    }

    #[test]
    fn an_empty_node_has_labels_all_the_same() {
        let read = Struct::decode(&*Workload::default().encode()).expect("a struct");
        assert_eq!(read.fields.len(), 1);
        assert!(read.fields.contains_key("LABELS"));
    }

    #[test]
    fn qualified_labels_come_first() {
        let metadata: Struct =
            from_yaml("LABELS: {app: plain, app.kubernetes.io/name: qualified, version: v1}")
                .expect("valid");
        let workload = Workload::from_metadata(&metadata, &[]);
        assert_eq!((&*workload.app, &*workload.version), ("qualified", "v1"));
    }

    #[test]
    fn endpoints_tell_of_themselves_in_five_parts() {
        let told = Workload::of_endpoint("productpage-v1;default;productpage;v1;Kubernetes");
        let told = told.expect("five parts");
        assert_eq!(&*told.namespace, "default");
        assert_eq!(&*told.cluster, "Kubernetes");
        assert!(Workload::of_endpoint("a;b;c;d").is_none());
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "é".repeat(MAX_TEXT);
        let metadata: Struct = from_yaml(&format!(
            "{{WORKLOAD_NAME: a{long}, LABELS: {{app: {long}, role: {long}}}}}"
        ))
        .expect("valid");
        let workload = Workload::from_metadata(&metadata, &["role".into()]);
        assert_eq!(workload.name.len(), MAX_TEXT - 1);
        assert_eq!(workload.app.len(), MAX_TEXT);
        assert_eq!(workload.labels[0].1.len(), MAX_TEXT);
    }

    #[test]
    fn noise_is_no_workload() {
        assert!(Workload::decode(b"\xff\xff\xff\xff", &[]).is_none());
        assert!(Workload::decode(b"", &[]).is_some(), "an empty message");
    }
}
