//! `pilot-agent sds`, as an SDS client sees it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};

use ithildin_proto::pb::envoy::config::core::v3::{
    ApiConfigSource, ConfigSource, GrpcService, Node,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use ithildin_xds::{SdsClients, SecretRef, SecretState, SecretSubscriber, ServerAddress};

use crate::lab::{BINARY, LIMIT, Lab, Process, until};

/// A secret by name, from whatever server a client knows.
pub(crate) fn secret(name: &str) -> SecretRef {
    let grpc = EnvoyGrpc {
        cluster_name: "sds".into(),
        ..Default::default()
    };
    let api = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
            ..Default::default()
        }],
        ..Default::default()
    };
    SecretRef {
        name: name.into(),
        source: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
            ..Default::default()
        }),
    }
}

/// A client of the server at `socket`. Needs a tokio runtime.
pub(crate) fn clients(socket: &Path) -> SdsClients {
    let address = ServerAddress::Pipe(socket.to_path_buf());
    let lookup = move |_: &str| Some(address.clone());
    SdsClients::new(
        Node::default(),
        Arc::new(lookup),
        Vec::new(),
        Arc::new(|_| Ok(())),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_before_and_after_there_is_an_identity() {
    let mut lab = Lab::new();
    let socket = lab.path("sds.sock");
    let mut command = Command::new(BINARY);
    command
        .arg("sds")
        .args([
            "--workload-api",
            &format!("unix://{}", lab.workload_api().display()),
        ])
        .args(["--listen", &format!("unix://{}", socket.display())])
        .args(["--socket-mode", "0640"]);
    let mut process = Process::spawn(command, &lab.path("sds.log"));
    until("the socket is there", || socket.exists());
    until("its mode is set", || {
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777 == 0o640
    });

    let clients = clients(&socket);
    let mut names = [
        "default",
        "ROOTCA",
        "spiffe://domain.test/gw",
        "spiffe://domain.test",
    ]
    .map(|name| clients.subscribe(&secret(name)));
    assert!(
        names
            .iter()
            .all(|state| matches!(&*state.borrow(), SecretState::Pending(_)))
    );
    lab.authority();
    for state in &mut names {
        let ready = state.wait_for(|state| matches!(state, SecretState::Ready(_)));
        tokio::time::timeout(LIMIT, ready)
            .await
            .expect("the secret")
            .unwrap();
    }
    process.terminate();
    assert!(process.ended().success(), "{}", process.log());
    assert!(!socket.exists());
}

#[test]
fn bad_arguments_say_what_to_write() {
    for (arguments, expected) in [
        (&["--listen", "/tmp/x"][..], "unix:///path"),
        (&["--listen", "tcp://0.0.0.0:1"], "not a loopback address"),
        (
            &["--listen", "unix:///tmp/x", "--socket-mode", "9"],
            "octal",
        ),
        (
            &["--listen", "unix:///tmp/x", "--svid", "web"],
            "hint:<hint>",
        ),
        (&[], "--listen"),
    ] {
        let mut command = Command::new(BINARY);
        command
            .args(["sds", "--workload-api", "unix:///nonexistent.sock"])
            .args(arguments);
        let out = command.output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && error.contains(expected),
            "{arguments:?}: {error}"
        );
    }
}
