//! Where the identity comes from, in each state of the sockets and files that users have met.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ithildin_proto::pb::envoy::extensions::transport_sockets::tls::v3::secret;
use ithildin_spiffe::{
    SpiffeId, TrustDomain, X509Svid,
    authority::{Authority, AuthorityConfig, TrustDomainConfig},
    x509::{certificates_from_pem, certificates_to_pem, key_from_pem},
};
use ithildin_xds::{SecretState, SecretSubscriber, sds::certificate_pem};

use crate::{
    lab::{Agent, LIMIT, Lab, has_envoy, until},
    sds::{clients, secret},
};

const SOCKETS: &str = "var/run/secrets/workload-spiffe-uds";
const CREDENTIALS: &str = "var/run/secrets/workload-spiffe-credentials";
/// What another CA would be called in the log.
const CA: &str = "istiod's CA";

/// An agent as in a Pod: its working folder is the lab's, and no endpoint is named.
fn pod(lab: &Lab, name: &str, data_plane: &str, variables: &[(&str, &str)]) -> Agent {
    lab.agent_as(name, data_plane, "router", |command, _| {
        command
            .current_dir(lab.path(""))
            .env_remove("SPIFFE_ENDPOINT_SOCKET");
        for (variable, value) in variables {
            command.env(variable, value);
        }
    })
}

/// A folder of sockets such as the injection template mounts.
fn sockets(lab: &Lab) -> PathBuf {
    let folder = lab.path(SOCKETS);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A socket that nobody listens on, as a server that was killed leaves it behind.
fn dead(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

pub(crate) fn each_data_plane(test: &str, mut run: impl FnMut(&str)) {
    run("builtin");
    if has_envoy(test) {
        run("envoy");
    }
}

/// istio#55404: the stock agent deletes a socket that does not answer, or dies where it cannot.
#[test]
fn a_dead_socket_is_waited_for_and_never_deleted() {
    each_data_plane("a_dead_socket_is_waited_for_and_never_deleted", |plane| {
        let mut lab = Lab::new();
        lab.gateway();
        let socket = sockets(&lab).join("socket");
        dead(&socket);
        let agent = pod(&lab, "agent", plane, &[]);
        let waited_for = socket.display().to_string();
        agent.until_ready(503, &waited_for);
        agent.until_ready(503, "refused");
        assert!(socket.exists());
        lab.authority();
        fs::remove_file(&socket).unwrap();
        symlink(lab.workload_api(), &socket).unwrap();
        agent.until_ready(200, "ready");
        assert!(!agent.process.log().contains(CA), "{}", agent.process.log());
    });
}

/// istio#45534, istio#48845: a name in WORKLOAD_IDENTITY_SOCKET_FILE says SPIRE. The stock agent dies
/// if the socket comes later.
#[test]
fn a_named_socket_that_is_late_is_waited_for() {
    let mut lab = Lab::new();
    lab.gateway();
    let named = [("WORKLOAD_IDENTITY_SOCKET_FILE", "spire-agent.sock")];
    // Not even its folder is there.
    let agent = pod(&lab, "agent", "builtin", &named);
    agent.until_ready(503, "workload-spiffe-uds/spire-agent.sock");
    lab.authority();
    let folder = sockets(&lab);
    symlink(lab.workload_api(), folder.join("spire-agent.sock")).unwrap();
    agent.until_ready(200, "ready");
}

/// istio#43268, istio#42656: SPIRE knows the Pod later than it starts. Readiness says so, and Envoy is not
/// left with secrets that it waits for in vain.
#[test]
fn a_late_registration_is_waited_for() {
    each_data_plane("a_late_registration_is_waited_for", |plane| {
        let mut lab = Lab::new();
        lab.gateway();
        lab.authority_with(&[]);
        let agent = lab.agent("agent", plane);
        agent.until_ready(503, "PermissionDenied");
        lab.grant("spiffe://domain.test/gw");
        agent.until_ready(200, "ready");
    });
}

/// istio#47781, aws-spiffe-workload-helper#1: of several SVIDs the one that is named is ours, and not the
/// first; one that is not there is waited for by its name.
#[test]
fn the_named_one_of_several_svids_is_ours() {
    let mut lab = Lab::new();
    lab.gateway();
    let first = ["--workload", "spiffe://domain.test/gw"];
    lab.authority_with(&[
        first[0],
        first[1],
        "--workload",
        "spiffe://domain.test/other",
    ]);
    let output = lab.path("out");
    let out = output.display().to_string();
    let id = |selector: &str| {
        let variables = [("ITHILDIN_SVID", selector), ("OUTPUT_CERTS", &out)];
        let agent = lab.agent_with("agent", "builtin", &variables);
        agent.until_ready(200, "ready");
        // They are written beside readiness, and the roots last.
        until("all are written", || {
            let names = ["cert-chain.pem", "key.pem", "root-cert.pem"];
            names.iter().all(|name| output.join(name).exists())
        });
        let read = |name: &str| fs::read(output.join(name)).unwrap();
        let chain = certificates_from_pem(&read("cert-chain.pem")).unwrap();
        let key = key_from_pem(&read("key.pem")).unwrap();
        let svid = X509Svid::new(chain, key, None).unwrap();
        drop(agent);
        fs::remove_dir_all(&output).unwrap();
        svid.id.to_string()
    };
    assert_eq!(id("default"), "spiffe://domain.test/gw");
    assert_eq!(
        id("spiffe://domain.test/other"),
        "spiffe://domain.test/other"
    );
}

/// rossoctl#1899: machine and SPIRE sleep for longer than an SVID lives. Nothing is shown that has
/// expired, and everything goes on by itself.
#[test]
fn a_machine_that_was_suspended_gets_its_identity_back() {
    let mut lab = Lab::new();
    lab.gateway();
    let workload = ["--workload", "spiffe://domain.test/gw", "--svid-ttl", "4s"];
    lab.authority_with(&workload);
    let agent = lab.agent("agent", "builtin");
    agent.until_ready(200, "ready");
    agent.process.suspend(true);
    lab.suspend_authority(true);
    // Longer than an SVID lives; there is nothing to poll.
    std::thread::sleep(Duration::from_secs(5));
    agent.process.suspend(false);
    agent.until_ready(503, "withdrawn");
    lab.suspend_authority(false);
    agent.until_ready(200, "ready");
}

/// spiffe-csi#16: the driver restarts and another folder is mounted at the place.
#[test]
fn a_folder_that_is_replaced_is_noticed_and_a_flapping_socket_survived() {
    let mut lab = Lab::new();
    lab.gateway();
    let folder = sockets(&lab);
    let socket = folder.join("socket");
    dead(&socket);
    let mut agent = pod(&lab, "agent", "builtin", &[]);
    agent.until_ready(503, "refused");
    fs::rename(&folder, lab.path("old")).unwrap();
    lab.authority();
    let folder = sockets(&lab);
    symlink(lab.workload_api(), folder.join("socket")).unwrap();
    agent.until_ready(200, "ready");
    for _ in 0..3 {
        fs::remove_file(&socket).unwrap();
        dead(&socket);
        lab.authority();
        fs::remove_file(&socket).unwrap();
        symlink(lab.workload_api(), &socket).unwrap();
        agent.until_ready(200, "ready");
    }
    assert!(agent.process.is_alive());
}

/// istio.io#16844: a mount that nobody can write to, with and without the socket.
#[test]
fn a_read_only_mount_is_spires() {
    let test = "a_read_only_mount_is_spires";
    let lab = Lab::new();
    lab.gateway();
    let folder = sockets(&lab);
    let mount = format!(
        "mount -t tmpfs -o ro none {} && exec \"$@\"",
        folder.display()
    );
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "sh", "-c", &mount, "sh", "true"]);
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("{test}: skipped, it needs the right to mount");
        return;
    }
    let mut agent = lab.agent_as("agent", "builtin", "router", |command, _| {
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-c", &mount, "sh"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        inside
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .current_dir(lab.path(""));
        *command = inside;
    });
    agent.until_ready(503, "workload-spiffe-uds/socket");
    assert!(agent.process.is_alive());
    let log = agent.process.log();
    assert!(
        log.contains("somebody else's, who will put a socket there"),
        "{log}"
    );
    assert!(!log.contains(CA), "{log}");
}

/// Certificates of an authority, as the kubelet mounts them.
struct Mounted {
    authority: Authority,
    folder: PathBuf,
    version: usize,
}

impl Mounted {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let domain = TrustDomainConfig::new(TrustDomain::parse("domain.test").unwrap());
        let authority = Authority::start(AuthorityConfig {
            trust_domains: vec![domain],
            federation: Vec::new(),
        });
        for name in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
            symlink(format!("..data/{name}"), folder.join(name)).unwrap();
        }
        Self {
            authority: authority.unwrap(),
            folder,
            version: 0,
        }
    }

    /// A new certificate, swapped in as the kubelet does it.
    fn rotate(&mut self) -> X509Svid {
        let id = SpiffeId::parse("spiffe://domain.test/from-files").unwrap();
        let svid = self.authority.mint("domain.test", &id, None, &[]).unwrap();
        let bundle = self.authority.bundle(&svid.id.trust_domain()).unwrap();
        self.version += 1;
        let version = format!("..{}", self.version);
        let folder = self.folder.join(&version);
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("cert-chain.pem"),
            certificates_to_pem(&svid.chain),
        )
        .unwrap();
        fs::write(folder.join("key.pem"), svid.key.to_pem().as_bytes()).unwrap();
        fs::write(folder.join("root-cert.pem"), bundle.to_pem()).unwrap();
        symlink(&version, self.folder.join("..tmp")).unwrap();
        fs::rename(self.folder.join("..tmp"), self.folder.join("..data")).unwrap();
        if self.version > 1 {
            fs::remove_dir_all(self.folder.join(format!("..{}", self.version - 1))).unwrap();
        }
        svid
    }
}

/// istio#59912: the second rotation of mounted files is missed. And the kubelet's swap, SDS for other
/// programs of the Pod, OUTPUT_CERTS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounted_files_are_the_identity_through_each_rotation() {
    let lab = Lab::new();
    lab.gateway();
    let socket = sockets(&lab).join("socket");
    let mut mounted = Mounted::new(lab.path(CREDENTIALS));
    let mut svid = mounted.rotate();
    let output = lab.path("out");
    let out = output.display().to_string();
    let agent = pod(&lab, "agent", "builtin", &[("OUTPUT_CERTS", &out)]);
    agent.until_ready(200, "ready");
    until("SDS for the Pod is there", || socket.exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    until("everybody may ask", || mode(&socket) == 0o666);

    let clients = clients(&socket);
    let mut certificate = clients.subscribe(&secret("default"));
    let mut roots = clients.subscribe(&secret("ROOTCA"));
    let trusted = roots.wait_for(|state| matches!(state, SecretState::Ready(_)));
    let SecretState::Ready(trusted) = tokio::time::timeout(LIMIT, trusted)
        .await
        .unwrap()
        .unwrap()
        .clone()
    else {
        unreachable!("it is ready");
    };
    let Some(secret::Type::ValidationContext(context)) = &trusted.r#type else {
        panic!("no trust: {trusted:?}");
    };
    assert!(
        context.trusted_ca.is_some(),
        "files say nothing of trust domains"
    );
    for _ in 0..4 {
        let shown = |state: &SecretState| match state {
            SecretState::Ready(secret) => {
                let (chain, _) = certificate_pem(secret).unwrap();
                certificates_from_pem(&chain).unwrap() == svid.chain
            }
            _ => false,
        };
        let seen = tokio::time::timeout(LIMIT, certificate.wait_for(shown));
        seen.await.expect("the rotation is seen").unwrap();
        let chain = certificates_to_pem(&svid.chain);
        until("the rotation is written", || {
            fs::read_to_string(output.join("cert-chain.pem")).is_ok_and(|text| text == chain)
        });
        svid = mounted.rotate();
    }
    // Half of a rotation is no rotation.
    fs::write(mounted.folder.join("..data/key.pem"), "-----BEGIN PRIV").unwrap();
    until("the half is told", || {
        agent.process.log().contains("what was read before stays")
    });
    agent.until_ready(200, "ready");
}

/// Envoy runs on files too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounted_files_are_envoys_identity() {
    if !has_envoy("mounted_files_are_envoys_identity") {
        return;
    }
    let lab = Lab::new();
    lab.gateway();
    let mut mounted = Mounted::new(lab.path(CREDENTIALS));
    mounted.rotate();
    let agent = pod(&lab, "agent", "envoy", &[]);
    agent.until_ready(200, "ready");
}

/// Files that come after the agent, with FILE_MOUNTED_CERTS to say that there will be some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_late_are_waited_for() {
    let lab = Lab::new();
    lab.gateway();
    let agent = pod(&lab, "agent", "builtin", &[("FILE_MOUNTED_CERTS", "true")]);
    agent.until_ready(503, "etc/certs/");
    let mut mounted = Mounted::new(lab.path("etc/certs"));
    mounted.rotate();
    agent.until_ready(200, "ready");
}
