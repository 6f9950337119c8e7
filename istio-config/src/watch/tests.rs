use std::{fs, os::unix::fs::symlink};

use super::*;
use crate::{
    node::Interception,
    testing::{sidecar, write},
};

/// Far more than a change needs, notified or polled.
const PATIENCE: Duration = Duration::from_secs(20);

fn entry(host: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: entry}}
spec:
  hosts: [{host}]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
"
    )
}

fn has(resources: &ResourceSet, host: &str) -> bool {
    resources
        .clusters
        .contains_key(&format!("outbound|80||{host}"))
}

async fn until<T>(receiver: &mut watch::Receiver<T>, done: impl FnMut(&T) -> bool) {
    let waited = timeout(PATIENCE, receiver.wait_for(done)).await;
    waited.expect("the change is seen in time").unwrap();
}

async fn watcher(dir: &Path) -> Watcher {
    Watcher::start(dir.to_owned(), sidecar(Interception::None)).await
}

#[tokio::test]
async fn a_changed_file_changes_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &entry("a.example.org"));
    let watcher = watcher(dir.path()).await;
    let mut resources = watcher.resources();
    assert!(has(&resources.borrow(), "a.example.org"));

    write(dir.path(), "a.yaml", &entry("b.example.org"));
    until(&mut resources, |set| {
        has(set, "b.example.org") && !has(set, "a.example.org")
    })
    .await;
}

/// Opening a pipe would wait for a writer, and everything else with it.
#[tokio::test]
async fn a_pipe_is_reported_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &entry("a.example.org"));
    let pipe = dir.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let watcher = timeout(PATIENCE, watcher(dir.path())).await;
    let watcher = watcher.expect("nothing is waited for");
    let errors = watcher.errors().borrow().clone();
    let text = errors[0].to_string();
    assert!(
        text.contains("pipe.yaml") && text.contains("not a regular file"),
        "{text}"
    );
    fs::remove_file(&pipe).unwrap();
    until(&mut watcher.resources(), |set| has(set, "a.example.org")).await;
}

#[tokio::test]
async fn a_broken_file_is_reported_and_the_last_good_set_stays() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &entry("a.example.org"));
    let watcher = watcher(dir.path()).await;
    let mut errors = watcher.errors();
    assert!(errors.borrow().is_empty());

    write(dir.path(), "a.yaml", &entry("'*'"));
    until(&mut errors, |errors| !errors.is_empty()).await;
    assert_eq!(
        errors.borrow()[0].to_string(),
        "a.yaml: ServiceEntry default/entry: spec.hosts[0]: \"*\" is not a service"
    );
    assert!(has(&watcher.resources().borrow(), "a.example.org"));

    write(dir.path(), "a.yaml", &entry("b.example.org"));
    until(&mut errors, |errors| errors.is_empty()).await;
    let mut resources = watcher.resources();
    until(&mut resources, |set| has(set, "b.example.org")).await;
}

#[tokio::test]
async fn a_folder_that_is_broken_at_first_recovers() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", "kind: [");
    let watcher = watcher(dir.path()).await;
    assert_eq!(watcher.errors().borrow().len(), 1);
    assert!(watcher.resources().borrow().clusters.is_empty());

    write(dir.path(), "a.yaml", &entry("a.example.org"));
    until(&mut watcher.resources(), |set| has(set, "a.example.org")).await;
    assert!(watcher.errors().borrow().is_empty());
}

#[tokio::test]
async fn a_folder_may_appear_late() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("late");
    let watcher = watcher(&dir).await;
    assert_eq!(watcher.errors().borrow().len(), 1);

    fs::create_dir(&dir).unwrap();
    write(&dir, "a.yaml", &entry("a.example.org"));
    until(&mut watcher.resources(), |set| has(set, "a.example.org")).await;
}

/// A mounted ConfigMap: `a.yaml -> ..data/a.yaml`, `..data -> ..version`, and an update replaces
/// the link `..data` in one step.
#[tokio::test]
async fn a_swapped_config_map_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, host: &str| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        write(&folder, "a.yaml", &entry(host));
    };
    version("..1", "a.example.org");
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let watcher = watcher(dir.path()).await;
    assert!(has(&watcher.resources().borrow(), "a.example.org"));

    version("..2", "b.example.org");
    symlink("..2", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    until(&mut watcher.resources(), |set| {
        has(set, "b.example.org") && !has(set, "a.example.org")
    })
    .await;
    assert!(watcher.errors().borrow().is_empty());
}

#[tokio::test]
async fn what_did_not_change_keeps_its_arc() {
    let dir = tempfile::tempdir().unwrap();
    let json_log = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}
";
    write(dir.path(), "mesh.yaml", json_log);
    write(dir.path(), "a.yaml", &entry("a.example.org"));
    let watcher = watcher(dir.path()).await;
    let before = watcher.resources().borrow().clone();

    let other = entry("b.example.org")
        .replace("name: entry", "name: other")
        .replace("80", "81");
    write(dir.path(), "b.yaml", &other);
    let mut resources = watcher.resources();
    until(&mut resources, |set| {
        set.clusters.contains_key("outbound|81||b.example.org")
    })
    .await;
    let after = resources.borrow().clone();
    for (name, listener) in before.listeners.iter() {
        assert!(
            Arc::ptr_eq(listener, &after.listeners[name]),
            "listener {name}"
        );
    }
    for (name, cluster) in before.clusters.iter() {
        assert!(
            Arc::ptr_eq(cluster, &after.clusters[name]),
            "cluster {name}"
        );
    }
    for (name, routes) in before.routes.iter() {
        assert!(Arc::ptr_eq(routes, &after.routes[name]), "routes {name}");
    }
}
