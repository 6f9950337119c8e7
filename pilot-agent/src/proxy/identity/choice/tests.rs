use super::*;

const SOCKET: &str = "/pod/workload-spiffe-uds/socket";

fn facts() -> Facts {
    Facts {
        demanded: Demand::Auto,
        endpoint: None,
        workload_socket: SOCKET.into(),
        socket: SocketPath::Nothing,
        socket_named: false,
        folder: SocketFolder::Writable,
        files_only: false,
        credentials: None,
        files: FileIdentity::default(),
        istiod: true,
    }
}

fn files(folder: &str, certificate: bool, roots: bool) -> FileIdentity {
    let path = |name: &str| PathBuf::from(format!("{folder}/{name}"));
    FileIdentity {
        certificate: certificate.then(|| (path("cert-chain.pem"), path("key.pem"))),
        roots: roots.then(|| path("root-cert.pem")),
    }
}

fn endpoint() -> Option<WorkloadEndpoint> {
    Some(WorkloadEndpoint::Unix("/spire/agent.sock".into()))
}

const AT_ENDPOINT: &str = "the Workload API at unix:///spire/agent.sock";
const AT_MOUNT: &str = "the Workload API at unix:///pod/workload-spiffe-uds/socket";
const CREDENTIALS: &str = "files (/cred/cert-chain.pem, /cred/key.pem, /cred/root-cert.pem)";
const CERTS: &str = "files (/certs/cert-chain.pem, /certs/key.pem, /certs/root-cert.pem)";
const CA: &str = "istiod's CA";

/// Each case is the default Pod of Istio but for what is named.
#[test]
fn the_first_row_that_applies_wins() {
    let spire = |facts: Facts| Facts {
        endpoint: endpoint(),
        ..facts
    };
    let credentials = |facts| Facts {
        credentials: Some(files("/cred", true, true)),
        ..facts
    };
    let certs = |facts| Facts {
        files: files("/certs", true, true),
        ..facts
    };
    let alone = |facts| Facts {
        istiod: false,
        ..facts
    };
    let socket = |socket| Facts { socket, ..facts() };
    let folder = |folder| Facts { folder, ..facts() };
    let named = || Facts {
        socket_named: true,
        ..facts()
    };
    for (case, facts, expected) in [
        ("a stock Pod", facts(), CA),
        ("no folder for sockets", folder(SocketFolder::Absent), CA),
        (
            "an agent's own socket from before",
            socket(SocketPath::Ours),
            CA,
        ),
        ("the endpoint is named", spire(facts()), AT_ENDPOINT),
        (
            "and comes first",
            spire(certs(credentials(socket(SocketPath::Somebodys)))),
            AT_ENDPOINT,
        ),
        ("SPIRE's socket", socket(SocketPath::Somebodys), AT_MOUNT),
        (
            "and files",
            certs(credentials(socket(SocketPath::Somebodys))),
            AT_MOUNT,
        ),
        ("the socket is named and late", named(), AT_MOUNT),
        ("and files", certs(credentials(named())), AT_MOUNT),
        (
            "a mount of SPIRE's, the socket late",
            folder(SocketFolder::NotOurs),
            AT_MOUNT,
        ),
        (
            "and files",
            certs(credentials(folder(SocketFolder::NotOurs))),
            AT_MOUNT,
        ),
        (
            "without istiod",
            alone(folder(SocketFolder::NotOurs)),
            AT_MOUNT,
        ),
        ("mounted credentials", credentials(facts()), CREDENTIALS),
        (
            "and the old place",
            certs(credentials(facts())),
            CREDENTIALS,
        ),
        ("the old place", certs(facts()), CERTS),
        ("without istiod", alone(certs(facts())), CERTS),
        (
            "files and nothing else, though they are not there",
            Facts {
                files_only: true,
                files: files("/certs", true, true),
                ..facts()
            },
            CERTS,
        ),
        (
            "a root alone",
            Facts {
                files: files("/certs", false, true),
                ..facts()
            },
            "istiod's CA, and files (/certs/root-cert.pem)",
        ),
        (
            "a certificate alone",
            Facts {
                files: files("/certs", true, false),
                ..facts()
            },
            "istiod's CA, and files (/certs/cert-chain.pem, /certs/key.pem)",
        ),
        (
            "demanded: SPIRE",
            Facts {
                demanded: Demand::Spire,
                ..certs(facts())
            },
            AT_MOUNT,
        ),
        (
            "demanded: files",
            Facts {
                demanded: Demand::Files,
                ..certs(spire(socket(SocketPath::Somebodys)))
            },
            CERTS,
        ),
        (
            "demanded: istiod",
            Facts {
                demanded: Demand::Istiod,
                ..spire(folder(SocketFolder::NotOurs))
            },
            CA,
        ),
    ] {
        let choice = facts.choose().unwrap();
        assert_eq!(choice.source.to_string(), expected, "{case}");
        assert!(!choice.why.is_empty(), "{case}");
    }
}

/// istio#45534: whatever says SPIRE keeps every other CA away, in each state of the socket.
#[test]
fn spire_is_never_left_for_another_ca() {
    for socket in [SocketPath::Nothing, SocketPath::Ours, SocketPath::Somebodys] {
        for folder in [
            SocketFolder::Absent,
            SocketFolder::Writable,
            SocketFolder::NotOurs,
        ] {
            for socket_named in [true, false] {
                let says_spire = socket_named
                    || socket == SocketPath::Somebodys
                    || folder == SocketFolder::NotOurs;
                let facts = Facts {
                    socket,
                    folder,
                    socket_named,
                    credentials: Some(files("/cred", true, true)),
                    ..facts()
                };
                let is_spire = matches!(facts.choose().unwrap().source, Chosen::WorkloadApi(_));
                assert_eq!(is_spire, says_spire, "{facts:?}");
            }
        }
    }
}

#[test]
fn no_source_is_an_error_that_says_what_to_do() {
    let alone = Facts {
        istiod: false,
        ..facts()
    };
    let error = alone.choose().unwrap_err().to_string();
    for part in ["SPIFFE_ENDPOINT_SOCKET", SOCKET, "files"] {
        assert!(error.contains(part), "{error}");
    }
    let demanded = Facts {
        demanded: Demand::Istiod,
        ..alone
    };
    let error = demanded.choose().unwrap_err().to_string();
    assert!(
        error.contains("ITHILDIN_IDENTITY") && error.contains("--configDir"),
        "{error}"
    );
}
