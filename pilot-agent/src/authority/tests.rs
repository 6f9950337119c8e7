use std::path::Path;

use clap::Parser;
use ithildin_spiffe::{
    IdentityState, Source,
    workload_api::{SourceOptions, WorkloadApiSource, WorkloadEndpoint},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// More than any wait takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn load(flags: &[&str]) -> anyhow::Result<ithildin_spiffe::authority::AuthorityConfig> {
    let args = Args::try_parse_from(std::iter::once("authority").chain(flags.iter().copied()))?;
    config::load(&args.serve)
}

fn load_file(yaml: &str) -> Result<ithildin_spiffe::authority::AuthorityConfig, String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("authority.yaml");
    std::fs::write(&file, yaml).unwrap();
    load(&["--config", file.to_str().unwrap()]).map_err(|error| format!("{error:#}"))
}

#[test]
fn flags_alone_are_enough() {
    let config = load(&[
        "--dir",
        "/run/x",
        "--trust-domain",
        "domain.test",
        "--trust-domain",
        "example.org",
        "--federate",
        "--workload",
        "spiffe://domain.test/web,uid=7,pid=3,ttl=5s,dns=web.test",
        "--workload",
        "spiffe://example.org/api,socket=/run/x/api.sock,hint=h",
        "--svid-ttl",
        "30s",
        "--intermediate",
        "rsa-2048",
    ])
    .unwrap();
    let ours = &config.trust_domains[0];
    assert_eq!(
        ours.socket.as_deref(),
        Some(Path::new("/run/x/domain.test/agent.sock"))
    );
    assert_eq!(ours.svid_ttl, Duration::from_secs(30));
    assert_eq!(ours.intermediate, Some(KeyType::Rsa2048));
    assert_eq!(ours.workloads[0].selector.uid, Some(7));
    assert_eq!(ours.workloads[0].ttl, Some(Duration::from_secs(5)));
    assert_eq!(
        config.trust_domains[1].workloads[0].hint.as_deref(),
        Some("h")
    );
    assert_eq!(config.federation.len(), 1);
}

#[test]
fn a_file_is_read_whole() {
    let config = load_file(
        "
trust_domains:
- name: domain.test
  authority: east
  socket: /run/east.sock
  root: nested
  intermediate: rsa-2048
  svid_ttl: 10s
  workloads:
  - id: spiffe://domain.test/web
    selector: {uid: 1000, gid: 1000}
    federates_with: [example.org]
- name: example.org
federation:
- [domain.test, example.org]
",
    )
    .unwrap();
    assert_eq!(config.trust_domains[0].authority(), "east");
    assert_eq!(
        config.trust_domains[0].workloads[0].selector.gid,
        Some(1000)
    );
    assert_eq!(config.federation.len(), 1);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (yaml, expected) in [
        ("trust_domains: []", "there is no trust domain"),
        (
            "trust_domains: [{name: Bad}]",
            "trust_domains[0].name: \"Bad\" trust domain has",
        ),
        (
            "trust_domains: [{name: a, svid_ttl: 1x}]",
            "trust_domains[0].svid_ttl: \"1x\" is not a duration",
        ),
        (
            "trust_domains: [{name: a, nonsense: 1}]",
            "trust_domains[0].nonsense: unknown field",
        ),
        (
            "trust_domains: [{name: a, workloads: [{}]}]",
            "trust_domains[0].workloads[0]: missing field `id`",
        ),
        (
            "trust_domains: [{name: a}]\n---\n{}",
            "has 2 YAML documents",
        ),
        ("trust_domains: [", "authority.yaml: "),
        ("", "has 0 YAML documents"),
    ] {
        let error = load_file(yaml).unwrap_err();
        assert!(error.contains(expected), "{yaml:?}: {error}");
    }
    for (flags, expected) in [
        (
            &["--trust-domain", "a", "--workload", "spiffe://b/x"][..],
            "there is no --trust-domain b",
        ),
        (
            &["--trust-domain", "a", "--workload", "spiffe://a/x,uid=me"],
            "uid: \"me\" is not a number",
        ),
        (
            &["--trust-domain", "a", "--workload", "spiffe://a/x,foo=1"],
            "\"foo\" is not one of",
        ),
        (
            &["--trust-domain", "a", "--workload", "spiffe://a"],
            "has no path",
        ),
        (
            &["--trust-domain", "a", "--federate", "a,b"],
            "b is not among trust_domains",
        ),
        (
            &["--trust-domain", "a", "--federate", "a"],
            "write two trust domains as A,B",
        ),
        (
            &["--trust-domain", "a", "--svid-ttl", "soon"],
            "\"soon\" is not a duration",
        ),
        (
            &["--trust-domain", "a", "--intermediate", "rsa-1"],
            "unknown variant `rsa-1`",
        ),
        (
            &["--trust-domain", "a", "--socket", "/a", "--socket", "/b"],
            "more often than --trust-domain",
        ),
        (&["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    ] {
        let error = format!("{:#}", load(flags).unwrap_err());
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}

/// A controlled authority of two trust domains, in this process.
struct Running {
    folder: TempDir,
    sockets: Sockets,
}

impl Running {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let dir = folder.path().to_str().unwrap();
        let config = load(&[
            "--dir",
            dir,
            "--trust-domain",
            "domain.test",
            "--trust-domain",
            "example.org",
            "--workload",
            "spiffe://domain.test/web",
        ]);
        let config = config.unwrap();
        let sockets = Sockets::new(Authority::start(config.clone()).unwrap());
        for domain in &config.trust_domains {
            sockets
                .open_agent(domain.authority(), domain.socket.as_deref())
                .unwrap();
        }
        let control = control::serve(&folder.path().join("control.sock"), sockets.clone());
        tokio::spawn(control.unwrap());
        Self { folder, sockets }
    }

    async fn ctl(&self, operation: Value) -> Result<Value, String> {
        let operation: Operation = serde_json::from_value(operation).unwrap();
        let control = self.folder.path().join("control.sock");
        call(&control, &operation)
            .await
            .map_err(|error| error.to_string())
    }

    fn source(&self, socket: &str) -> std::sync::Arc<WorkloadApiSource> {
        let endpoint = WorkloadEndpoint::Unix(self.folder.path().join(socket));
        WorkloadApiSource::start(endpoint, SourceOptions::default())
    }
}

async fn until(
    source: &WorkloadApiSource,
    wanted: impl Fn(&IdentityState) -> bool,
) -> IdentityState {
    let mut states = source.subscribe();
    let state = timeout(PATIENCE, states.wait_for(|state| wanted(state))).await;
    state.expect("in time").expect("the source lives").clone()
}

#[tokio::test]
async fn a_running_authority_is_changed_over_its_control_socket() {
    let running = Running::start();
    let source = running.source("domain.test/agent.sock");
    let has = |state: &IdentityState, domain: &str| {
        state
            .snapshot()
            .is_some_and(|now| now.bundles.contains_key(domain))
    };
    until(&source, |state| has(state, "domain.test")).await;
    let pair = |op: &str| json!({"op": op, "a": "domain.test", "b": "example.org"});
    running.ctl(pair("federate")).await.unwrap();
    until(&source, |state| has(state, "example.org")).await;
    running.ctl(pair("unfederate")).await.unwrap();
    until(&source, |state| !has(state, "example.org")).await;
    running
        .ctl(json!({"op": "rotate-root", "authority": "domain.test", "settle": "10ms"}))
        .await
        .unwrap();
    let roots = |state: &IdentityState| {
        state
            .snapshot()
            .map(|now| now.bundles["domain.test"].roots.len())
    };
    until(&source, |state| roots(state) == Some(2)).await;
    running
        .ctl(json!({"op": "withdraw", "id": "spiffe://domain.test/web"}))
        .await
        .unwrap();
    until(&source, |state| {
        matches!(state, IdentityState::Withdrawn(_))
    })
    .await;
    let socket = running.folder.path().join("own.sock");
    let grant =
        json!({"op": "grant", "id": "spiffe://example.org/new", "socket": socket, "ttl": "9s"});
    running.ctl(grant).await.unwrap();
    until(&running.source("own.sock"), |state| {
        has(state, "example.org")
    })
    .await;
    let status = running.ctl(json!({"op": "status"})).await.unwrap();
    assert_eq!(
        status["trust_domains"][1]["workloads"][0]["id"],
        "spiffe://example.org/new"
    );
    running.sockets.close().await;
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test]
async fn certificates_are_minted_forged_and_revoked_over_the_control_socket() {
    let running = Running::start();
    let id = "spiffe://domain.test/x";
    let minted = running.ctl(json!({"op": "mint", "id": id})).await.unwrap();
    for (field, label) in [
        ("chain", "CERTIFICATE"),
        ("key", "PRIVATE KEY"),
        ("bundle", "CERTIFICATE"),
    ] {
        let text = minted[field].as_str().unwrap();
        assert!(
            text.starts_with(&format!("-----BEGIN {label}-----")),
            "{field}"
        );
    }
    let forged = running
        .ctl(json!({"op": "forge", "forgery": "expired", "id": id}))
        .await
        .unwrap();
    let serial = forged["serial"].as_str().unwrap();
    let revoke = json!({"op": "revoke", "what": serial, "authority": "domain.test"});
    assert_eq!(running.ctl(revoke).await.unwrap()["serial"], serial);
    let bundle = running
        .ctl(json!({"op": "bundle", "trust_domain": "example.org"}))
        .await
        .unwrap();
    let learn = json!({"op": "set-bundle", "trust_domain": "far.test", "pem": bundle["bundle"]});
    running.ctl(learn).await.unwrap();
    running
        .ctl(json!({"op": "trust", "who": "domain.test", "whom": "far.test"}))
        .await
        .unwrap();
    for (operation, expected) in [
        (
            json!({"op": "withdraw", "id": "spiffe://domain.test/no"}),
            "has no workload spiffe://domain.test/no",
        ),
        (
            json!({"op": "prepare-root"}),
            "name one of the authorities domain.test, example.org",
        ),
        (
            json!({"op": "activate-root", "authority": "domain.test"}),
            "no root is prepared",
        ),
        (
            json!({"op": "rotate-intermediate", "authority": "domain.test"}),
            "has no intermediate",
        ),
        (
            json!({"op": "mint", "id": "spiffe://nowhere.test/x"}),
            "there is no authority \"nowhere.test\"",
        ),
        (
            json!({"op": "mint", "id": "spiffe://example.org/x", "authority": "domain.test"}),
            "is not of trust domain",
        ),
        (
            json!({"op": "revoke", "what": "xyz"}),
            "is not a serial number",
        ),
        (
            json!({"op": "set-bundle", "trust_domain": "a.test", "pem": "none"}),
            "no CERTIFICATE block",
        ),
        (
            json!({"op": "federate", "a": "domain.test", "b": "no.test"}),
            "no bundle of trust domain no.test",
        ),
        (
            json!({"op": "grant", "id": "spiffe://domain.test/x", "ttl": "0s"}),
            "shorter than a second",
        ),
    ] {
        let error = running.ctl(operation.clone()).await.unwrap_err();
        assert!(error.contains(expected), "{operation}: {error}");
    }
}

/// A path that is a workload's socket cannot become another's, who would be handed the first one's
/// identity; and a grant whose socket cannot be opened grants nothing.
#[tokio::test]
async fn a_socket_is_of_one_workload_only() {
    let running = Running::start();
    let folder = running.folder.path();
    let grant = |name: &str, socket: &Path| {
        let id = format!("spiffe://example.org/{name}");
        json!({"op": "grant", "id": id, "socket": socket})
    };
    let own = folder.join("own.sock");
    running.ctl(grant("first", &own)).await.unwrap();
    running.ctl(grant("first", &own)).await.unwrap();
    let error = running.ctl(grant("second", &own)).await.unwrap_err();
    assert!(
        error.contains("is the socket of the workload spiffe://example.org/first"),
        "{error}"
    );
    let agent = folder.join("example.org/agent.sock");
    let error = running.ctl(grant("second", &agent)).await.unwrap_err();
    assert!(error.contains("is the socket of the agent of"), "{error}");

    let late = folder.join("late.sock");
    std::fs::write(&late, "in the way").unwrap();
    let error = running.ctl(grant("second", &late)).await.unwrap_err();
    assert!(error.contains("not a socket"), "{error}");
    let status = running.ctl(json!({"op": "status"})).await.unwrap();
    let workloads = status["trust_domains"][1]["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), 1, "{workloads:?}");

    // Not even its socket stays of a grant that is refused otherwise.
    let bad = json!({"op": "grant", "id": "spiffe://example.org/x", "socket": folder.join("x.sock"), "ttl": "0s"});
    running.ctl(bad).await.unwrap_err();
    assert!(!folder.join("x.sock").exists());

    std::fs::remove_file(&late).unwrap();
    running.ctl(grant("second", &late)).await.unwrap();
    let source = running.source("late.sock");
    let state = until(&source, |state| state.snapshot().is_some()).await;
    let ours = &state.snapshot().unwrap().svids;
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].id.path(), "/second");
}

/// A key is written for its owner alone, whatever lay in its place.
#[tokio::test]
async fn a_key_is_written_for_its_owner_alone() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["key.pem", "elsewhere"] {
        std::fs::write(at(name), "old").unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    symlink(at("elsewhere"), at("svid.pem")).unwrap();
    let answer = json!({"chain": "a chain", "key": "a key"});
    ctl::write(folder.path(), &answer).unwrap();
    let mode = std::fs::metadata(at("key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(at("key.pem")).unwrap(), "a key");
    assert_eq!(std::fs::read_to_string(at("elsewhere")).unwrap(), "old");
}
