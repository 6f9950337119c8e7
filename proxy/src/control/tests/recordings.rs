//! What a real istiod sends compiles and goes live, except for what the tables name; what it pushes
//! later rebuilds only what changed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use ithildin_proto::{
    pb::{
        envoy::{
            config::cluster::v3::Cluster,
            service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
        },
        google::protobuf::Any,
    },
    unpack,
};
use ithildin_xds::{ResourceSet, ads::Candidate};
use prost::{Message, Name};

use super::support::Bench;
use crate::control::check_resource;

/// What is refused, by kind, place and message.
type Refusals = &'static [&'static str];

#[tokio::test]
async fn without_filters_of_istio() {
    check("stock", 2, &[]).await;
}

#[tokio::test]
async fn by_default() {
    check("default", 6, &[]).await;
}

#[tokio::test]
async fn with_more_in_the_mesh() {
    check("more", 3, &[]).await;
}

/// Checks all of `recordings` streams.
async fn check(folder: &str, recordings: usize, expected: &[Refusals]) {
    let mut all = BTreeSet::new();
    let mut count = 0;
    for entry in std::fs::read_dir(path(folder)).expect("the recordings are there") {
        let stream = entry.expect("it is readable").path();
        let set = load(&stream);
        let (refused, texts) = refusals(&set);
        all.extend(texts);
        serves(&stream, set, &refused).await;
        count += 1;
    }
    assert_eq!(count, recordings);
    let expected = expected.iter().flat_map(|refusals| refusals.iter());
    let expected: BTreeSet<_> = expected.map(|text| text.to_string()).collect();
    let missing: Vec<_> = expected.difference(&all).collect();
    let more: Vec<_> = all.difference(&expected).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "{folder}: refused no longer: {missing:#?}\nrefused, too: {more:#?}"
    );
}

/// The resources that are refused, each with its kind, and why.
fn refusals(set: &ResourceSet) -> (BTreeSet<(&'static str, String)>, BTreeSet<String>) {
    let (mut refused, mut texts) = (BTreeSet::new(), BTreeSet::new());
    let mut add = |kind: &'static str, name: &str, candidate| {
        let Err(errors) = check_resource(candidate) else {
            return;
        };
        refused.insert((kind, name.to_owned()));
        for error in errors.lines() {
            let place = error.split_once("\".").map_or(error, |(_, place)| place);
            texts.insert(format!("{kind} {}", without_numbers(place)));
        }
    };
    for (name, it) in set.clusters.iter() {
        add("Cluster", name, Candidate::Cluster(it));
    }
    for (name, it) in set.endpoints.iter() {
        add("Endpoints", name, Candidate::Endpoints(it));
    }
    for (name, it) in set.listeners.iter() {
        add("Listener", name, Candidate::Listener(it));
    }
    for (name, it) in set.routes.iter() {
        add("Route", name, Candidate::Route(it));
    }
    (refused, texts)
}

/// What is not refused goes live, once it is known that secrets are not to be had.
async fn serves(stream: &Path, set: ResourceSet, refused: &BTreeSet<(&'static str, String)>) {
    let of_kind = |kind: &str| refused.iter().filter(|(it, _)| *it == kind).count();
    let (clusters, listeners) = (set.clusters.len(), set.listeners.len());
    let bench = Bench::start(set);
    let mut state = bench.control.state();
    // A listener whose routes are refused waits for others for ever.
    let waits = |it: &Arc<str>| of_kind("Route") == 0 || !it.contains("routes");
    let warm = async {
        loop {
            bench.secrets.settle();
            let is_warm = {
                let state = state.borrow_and_update();
                state.started && !state.waiting.iter().any(waits)
            };
            if is_warm {
                return;
            }
            state.changed().await.expect("the control task runs");
        }
    };
    let limit = std::time::Duration::from_secs(30);
    let warm = tokio::time::timeout(limit, warm).await;
    assert!(
        warm.is_ok(),
        "{stream:?}: {:#?}",
        bench.control.state().borrow()
    );
    let snapshot = bench.snapshot();
    assert_eq!(
        snapshot.clusters.len(),
        clusters - of_kind("Cluster"),
        "{stream:?}"
    );
    if of_kind("Route") == 0 {
        let expected = listeners - of_kind("Listener");
        assert_eq!(snapshot.listeners.len(), expected, "{stream:?}");
    }
}

/// A change of one thing rebuilds that thing, and what was served goes on in the meantime.
#[tokio::test]
async fn pushes_rebuild_what_changed() {
    let mut set = ResourceSet::default();
    for number in 1..=5 {
        apply(&mut set, number);
    }
    let (refused, texts) = refusals(&set);
    assert!(refused.is_empty(), "{texts:#?}");
    let bench = Bench::start(set.clone());
    let warm = async || {
        bench.secrets.settle();
        bench
            .until("is warm", |state| {
                bench.secrets.settle();
                state.started && state.waiting.is_empty()
            })
            .await;
    };
    warm().await;
    let start = bench.snapshot();
    assert!(!start.clusters.is_empty());
    const PRODUCTPAGE: &str = "outbound|9080||productpage.default.svc.cluster.local";
    let endpoints = |name: &str| start.clusters[name].endpoints.load_full();
    let others: Vec<_> = start
        .clusters
        .keys()
        .filter(|name| &***name != PRODUCTPAGE)
        .map(|name| (name.clone(), endpoints(name)))
        .collect();
    for (number, productpages) in [(6, 2), (7, 2), (8, 2), (9, 2), (10, 1)] {
        apply(&mut set, number);
        bench.send(set.clone());
        let applied = bench.control.inventory().get().await;
        assert!(applied.is_some(), "the control task runs");
        warm().await;
        let now = bench.snapshot();
        assert!(
            now.clusters.len() == start.clusters.len()
                && now
                    .clusters
                    .iter()
                    .all(|(name, it)| Arc::ptr_eq(it, &start.clusters[name])),
            "{number}: a cluster was built again"
        );
        assert!(
            now.listeners.len() == start.listeners.len()
                && now
                    .listeners
                    .iter()
                    .zip(&start.listeners)
                    .all(|(a, b)| Arc::ptr_eq(a, b)),
            "{number}: a listener was built again"
        );
        for (name, before) in &others {
            assert!(Arc::ptr_eq(before, &endpoints(name)), "{number}: {name}");
        }
        let hosts = endpoints(PRODUCTPAGE).priorities.iter().flatten().count();
        assert_eq!(hosts, productpages, "{number}");
    }
}

/// Adds one answer of the stream of pushes.
fn apply(set: &mut ResourceSet, number: u32) {
    let prefix = format!("{number:03}-");
    let file = std::fs::read_dir(path("push")).expect("the recording is there");
    let mut files = file.map(|entry| entry.expect("it is readable").path());
    let Some(file) = files.find(|it| name_of(it).starts_with(&prefix)) else {
        return;
    };
    match name_of(&file).trim_start_matches(&prefix) {
        "Cluster.pb" => {
            set.clusters.extend(read::<Cluster>(&file, true));
        }
        "Listener.pb" => set.listeners.extend(read(&file, true)),
        "ClusterLoadAssignment.pb" => set.endpoints.extend(read(&file, true)),
        _ => set.routes.extend(read(&file, true)),
    }
}

/// A place without the numbers of what it is in.
fn without_numbers(place: &str) -> String {
    let (place, message) = place.split_once(": ").unwrap_or((place, ""));
    let mut short = String::new();
    let mut in_brackets = false;
    for c in place.chars() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ if in_brackets && c.is_ascii_digit() => continue,
            _ => {}
        }
        short.push(c);
    }
    format!("{short}: {message}")
}

fn load(stream: &Path) -> ResourceSet {
    let delta = name_of(stream).starts_with("delta");
    let file = |kind: &str| stream.join(format!("{kind}.pb"));
    ResourceSet {
        clusters: read(&file("Cluster"), delta).into_iter().collect(),
        listeners: read(&file("Listener"), delta).into_iter().collect(),
        endpoints: read(&file("ClusterLoadAssignment"), delta)
            .into_iter()
            .collect(),
        routes: read(&file("RouteConfiguration"), delta)
            .into_iter()
            .collect(),
        provenance: None,
    }
}

/// The resources of one answer, by name.
fn read<M: Message + Name + Default>(file: &Path, delta: bool) -> Vec<(String, Arc<M>)> {
    let bytes = std::fs::read(file).expect("the recording is there");
    let resources: Vec<Any> = match delta {
        true => {
            let answer = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("an answer");
            let resources = answer.resources.into_iter();
            resources.filter_map(|it| it.resource).collect()
        }
        false => {
            let answer = DiscoveryResponse::decode(bytes.as_slice()).expect("an answer");
            answer.resources
        }
    };
    assert!(!resources.is_empty(), "{file:?} is empty");
    let resources = resources.iter();
    resources
        .map(|any| {
            let message: M = unpack(any).expect("the type that it says");
            (name_in(any), Arc::new(message))
        })
        .collect()
}

/// All of these messages have their name in field 1.
fn name_in(any: &Any) -> String {
    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(any.value.as_slice()).expect("a message").name
}

fn name_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    name.expect("it is named by us")
}

fn path(folder: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("testdata/istiod").join(folder)
}
