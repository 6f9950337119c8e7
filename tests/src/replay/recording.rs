//! What a real istiod has sent, from `proxy/testdata/istiod`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ithildin_proto::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    google::protobuf::Any,
};
use prost::Message;

/// One resource as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    pub name: String,
    pub version: String,
    pub body: Any,
}

/// The resources of one response.
pub type Answer = Vec<Recorded>;

impl Recorded {
    /// The same, changed, as another version.
    pub fn edited<M: Message + Default>(&self, version: &str, change: impl FnOnce(&mut M)) -> Self {
        let mut message = M::decode(&*self.body.value).expect("it is of that type");
        change(&mut message);
        let mut edited = self.clone();
        edited.body.value = message.encode_to_vec();
        edited.version = version.to_owned();
        edited
    }
}

/// The resource of this type and name.
pub fn find<'a>(answers: &'a [Answer], kind: &str, name: &str) -> &'a Recorded {
    let mut all = answers.iter().flatten();
    let found =
        all.find(|recorded| short(&recorded.body.type_url) == kind && recorded.name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name:?} was recorded"))
}

/// A type by its last word: `Cluster`, `ClusterLoadAssignment`.
pub fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// The first answers of each type that a node got: `default/delta-router`, `stock/delta-router`.
pub fn node(folder: &str) -> Vec<Answer> {
    let delta = folder.contains("delta-");
    let files = files(folder);
    files.iter().map(|file| read(file, delta)).collect()
}

/// The answers of one stream in the order in which they came, by number.
pub fn pushes() -> Vec<(u32, Answer)> {
    let number = |file: &Path| {
        let name = file.file_name()?.to_str()?;
        name.split_once('-')?.0.parse().ok()
    };
    files("push")
        .iter()
        .map(|file| {
            let number = number(file).expect("its name begins with a number");
            (number, read(file, true))
        })
        .collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/testdata/istiod");
    let entries = fs::read_dir(root.join(folder)).expect("the recording is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} has recordings");
    files
}

fn read(file: &Path, delta: bool) -> Answer {
    let bytes = fs::read(file).expect("the recording is there");
    if delta {
        let answer = DeltaDiscoveryResponse::decode(&*bytes).expect("a response");
        let recorded = answer.resources.into_iter().map(|resource| Recorded {
            name: resource.name,
            version: resource.version,
            body: resource.resource.expect("each has a body"),
        });
        return recorded.collect();
    }
    let answer = DiscoveryResponse::decode(&*bytes).expect("a response");
    let version = answer.version_info;
    let recorded = answer.resources.into_iter().map(|body| Recorded {
        name: name_of(&body),
        version: version.clone(),
        body,
    });
    recorded.collect()
}

/// Clusters, load assignments, listeners and route configurations have their name in field 1.
fn name_of(body: &Any) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(&*body.value).expect("a message").name
}
