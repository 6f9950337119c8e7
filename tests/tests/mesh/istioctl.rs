//! `istioctl` reads the admin pages of the built-in proxy as it reads Envoy's: what it prints of the same nodes
//! under the same istiod is the same, but for what a table names.

mod differences;
mod pages;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use ithildin_tests::{
    DataPlane, Identities, Mesh,
    mesh::{Cluster, INGRESS, Pod, PodSpec, Program, SLEEP},
    peers,
    pki::Ca,
};
use serde_json::{Value, json};

use self::{
    differences::{Differences, dump_without, statuses_without, with_svid},
    pages::Pages,
};

const CLUSTER: Cluster = Cluster {
    host_aliases: &["10.0.4.60 machine.corp.test"],
    ..Cluster::ONLY
};

const WEB: PodSpec<'static> = PodSpec::server(
    "web-0",
    "web",
    [10, 0, 4, 2],
    &[("app", "nodes"), ("version", "v1")],
);

/// All of the mesh, with what a node of each kind has heard of once istiod has told it all.
const NODES: [(PodSpec<'static>, &[&str]); 3] = [
    (
        SLEEP,
        &["10.0.4.2:8080", "10.0.4.10:8080", "10.0.4.60:8080"],
    ),
    (WEB, &["10.0.4.2:8080", "10.0.4.60:8080"]),
    (
        INGRESS,
        &["10.0.4.2:8080", "10.0.4.10:8080", "10.0.4.60:8080"],
    ),
];

const ENVOY: Program = Program::Ithildin(DataPlane::Envoy);
const BUILTIN: Program = Program::Ithildin(DataPlane::Builtin);

/// Subcommands that read `/config_dump?include_eds`.
const OF_DUMP: &[&str] = &[
    "proxy-config all",
    "proxy-config all --with-headers",
    "proxy-config all -o yaml",
    "proxy-config cluster",
    "proxy-config cluster -o json",
    "proxy-config cluster -o yaml",
    "proxy-config cluster --fqdn web.default.svc.cluster.local",
    "proxy-config cluster --port 8000",
    "proxy-config cluster --direction inbound",
    "proxy-config cluster --direction outbound -o json",
    "proxy-config cluster --subset v1",
    "proxy-config listener",
    "proxy-config listener -o json",
    "proxy-config listener -o yaml",
    "proxy-config listener --port 15006",
    "proxy-config listener --address 0.0.0.0",
    "proxy-config listener --type HTTP",
    "proxy-config listener --type TCP -o json",
    "proxy-config listener --verbose=false",
    "proxy-config route",
    "proxy-config route -o json",
    "proxy-config route -o yaml",
    "proxy-config route --name 8000",
    "proxy-config route --verbose=false",
    "proxy-config eds",
    "proxy-config eds -o json",
    "proxy-config eds -o yaml",
    "proxy-config eds --port 8080",
    "proxy-config secret",
    "proxy-config secret -o json",
    "proxy-config secret -o yaml",
    "proxy-config bootstrap -o short",
    "proxy-config bootstrap -o json",
    "proxy-config bootstrap -o yaml",
    "proxy-config ecds",
    "proxy-config ecds -o json",
    "experimental authz check",
];

/// Those that read `/clusters?format=json`.
const OF_CLUSTERS: &[&str] = &[
    "proxy-config endpoint",
    "proxy-config endpoint -o json",
    "proxy-config endpoint -o yaml",
    "proxy-config endpoint --port 8080",
    "proxy-config endpoint --address 10.0.4.2",
    "proxy-config endpoint --cluster outbound|8000||web.default.svc.cluster.local",
    "proxy-config endpoint --status healthy",
];

/// There is none with either data plane, and `istioctl` says so.
const FAILING: &str = "proxy-config ecds";

#[test]
fn prints_ours_as_envoys() {
    let test = "istioctl::prints_ours_as_envoys";
    let Some(istioctl) = peers::istioctl(test) else {
        return;
    };
    let Some(mut mesh) = start(test) else {
        return;
    };
    let theirs = NODES.map(|(node, heard)| pages::read(mesh.pod(node.name), heard));
    for (node, _) in NODES {
        mesh.restart_with(node.name, BUILTIN);
    }
    mesh.wait_ready();
    let mut differences = Differences::default();
    let mut others = Vec::new();
    for ((node, heard), theirs) in NODES.iter().zip(theirs) {
        let pod = mesh.pod(node.name);
        let ours = pages::read(pod, heard);
        reads_as_it_is(&istioctl, pod, &ours);
        let theirs = alike(&theirs, &mut differences);
        let mut ours = alike(&ours, &mut differences);
        ours.dump = with_svid(ours.dump, &theirs.dump);
        let found = pages::compare(&ours, &theirs).into_iter();
        let printed = compare(&istioctl, pod.net.dir(), &ours, &theirs);
        let found = found.chain(printed);
        others.extend(found.map(|it| format!("{}: {it}", node.name)));
    }
    assert!(others.is_empty(), "ours and Envoy's: {others:#?}");
    differences.all_seen();
}

fn start(test: &str) -> Option<Mesh> {
    let identities = Identities::of_mesh(test)?;
    let files = ["everyday.yaml", "everyday-routes.yaml", "istioctl.yaml"];
    let mut mesh = Mesh::start_in(test, ENVOY, identities, CLUSTER, &files)?;
    let leaf = Ca::plain("front").server("web.test");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "web", "namespace": "istio-system"},
        "stringData": {"tls.crt": leaf.certificate.pem(), "tls.key": leaf.key.serialize_pem()},
    });
    mesh.istiod.apply("secret-web.json", &secret.to_string());
    for (node, _) in NODES {
        mesh.add(&node);
    }
    mesh.wait_ready();
    Some(mesh)
}

/// The files as an operator saves them: no subcommand stumbles over ours.
fn reads_as_it_is(istioctl: &Path, pod: &Pod, ours: &Pages) {
    let dir = pod.net.dir();
    for (commands, page) in [(OF_DUMP, &ours.dump), (OF_CLUSTERS, &ours.clusters)] {
        let file = write(dir, "as-it-is.json", page);
        for command in commands.iter().filter(|it| !it.starts_with(FAILING)) {
            let printed = run(istioctl, command, &file);
            assert!(printed.succeeded, "istioctl {command}: {}", printed.text);
        }
    }
}

/// Without what differs for a reason.
fn alike(pages: &Pages, differences: &mut Differences) -> Pages {
    let parts = pages.parts.iter();
    Pages {
        dump: dump_without(&pages.dump, differences),
        clusters: statuses_without(&pages.clusters, "cluster_statuses", differences),
        listeners: statuses_without(&pages.listeners, "listener_statuses", differences),
        parts: parts.map(|it| dump_without(it, differences)).collect(),
        ..pages.clone()
    }
}

/// What subcommands print differently: the first such line of each.
fn compare(istioctl: &Path, dir: &Path, ours: &Pages, theirs: &Pages) -> Vec<String> {
    let mut found = Vec::new();
    for (commands, ours, theirs) in [
        (OF_DUMP, &ours.dump, &theirs.dump),
        (OF_CLUSTERS, &ours.clusters, &theirs.clusters),
    ] {
        let ours = write(dir, "ours.json", ours);
        let theirs = write(dir, "theirs.json", theirs);
        for command in commands {
            // The two at once, since each takes a while to start.
            let [ours, theirs] = thread::scope(|scope| {
                let both = [&ours, &theirs];
                let both = both.map(|file| scope.spawn(|| run(istioctl, command, file)));
                both.map(|run| run.join().expect("it does not panic"))
            });
            let fails = command.starts_with(FAILING);
            assert_eq!(theirs.succeeded, !fails, "{command}: {}", theirs.text);
            if ours == theirs {
                continue;
            }
            let mut lines = ours.text.lines().zip(theirs.text.lines());
            let first = lines.find(|(ours, theirs)| ours != theirs);
            found.push(format!("istioctl {command}: {first:?}"));
        }
    }
    found
}

#[derive(PartialEq, Eq)]
struct Printed {
    succeeded: bool,
    /// Standard output, then standard error.
    text: String,
}

fn run(istioctl: &Path, command: &str, file: &Path) -> Printed {
    let out = Command::new(istioctl)
        .args(command.split(' '))
        .arg("--file")
        .arg(file)
        // It is asked for nothing, and there is none.
        .env("KUBECONFIG", "/dev/null")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", istioctl.display()));
    let text = [out.stdout, out.stderr].concat();
    Printed {
        succeeded: out.status.success(),
        text: String::from_utf8_lossy(&text).into_owned(),
    }
}

fn write(dir: &Path, name: &str, page: &Value) -> PathBuf {
    let file = dir.join(name);
    fs::write(&file, page.to_string()).expect("the scratch folder is writable");
    file
}
