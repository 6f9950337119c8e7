//! The status port: what the kubelet, Prometheus and an operator get from it.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use crate::lab::{Agent, BINARY, Lab, free_port, has_envoy, http, refusing_port, until};

/// Both data planes, as far as they are here.
pub(crate) fn data_planes(test: &str) -> &'static [&'static str] {
    if has_envoy(test) {
        &["builtin", "envoy"]
    } else {
        &["builtin"]
    }
}

/// A sidecar that is ready; its lab must live as long.
pub(crate) fn sidecar(data_plane: &str, variables: &[(&str, &str)]) -> (Lab, Agent) {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let mut all = vec![("ISTIO_META_INTERCEPTION_MODE", "NONE")];
    all.extend_from_slice(variables);
    let agent = lab.agent_of_kind("agent", data_plane, "sidecar", &all);
    agent.until_ready(200, "ready");
    (lab, agent)
}

/// Answers each request with these bytes; where it listens.
fn workload(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

#[test]
fn every_path_has_its_status() {
    for data_plane in data_planes("every_path_has_its_status") {
        let (_lab, agent) = sidecar(data_plane, &[]);
        for (method, path, expected) in [
            ("GET", "/healthz/ready", 200),
            ("HEAD", "/healthz/ready", 200),
            ("POST", "/healthz/ready", 200),
            ("GET", "/healthz/ready?x=y", 200),
            ("GET", "/healthz/ready/", 404),
            ("GET", "/metrics", 200),
            ("GET", "/stats/prometheus", 200),
            ("GET", "/app-health/none/livez", 400),
            ("GET", "/app-lifecycle/none/prestopz", 400),
            ("GET", "/app-health", 307),
            ("GET", "/app-health/", 400),
            ("GET", "//metrics", 307),
            ("GET", "/quitquitquit", 405),
            ("PUT", "/quitquitquit", 405),
            ("GET", "/drain", 405),
            ("GET", "/debug/ndsz", 404),
            ("GET", "/debug/status", 200),
            ("GET", "/debug/pprof/", 200),
            ("GET", "/debug/pprof/cmdline", 200),
            ("GET", "/debug/pprof/profile", 501),
            ("GET", "/debug/pprof/other", 404),
            ("GET", "/debug", 404),
            ("GET", "/", 404),
            ("GET", "/config_dump", 404),
        ] {
            let (status, body) = http(agent.ports.status, method, path).unwrap();
            assert_eq!(status, expected, "{data_plane} {method} {path}: {body}");
            // The other ports have readiness and metrics, and nothing that changes or tells more.
            let elsewhere = http(agent.ports.health, method, path).unwrap().0;
            let here = path.starts_with("/healthz/ready") && expected == 200;
            assert_eq!(elsewhere == 200, here, "{data_plane} {method} {path}");
        }
        let commandline = http(agent.ports.status, "GET", "/debug/pprof/cmdline")
            .unwrap()
            .1;
        assert!(
            commandline.contains("pilot-agent\0proxy\0sidecar"),
            "{commandline}"
        );
        assert_eq!(
            http(agent.ports.status, "GET", "/debug/ndsz").unwrap().1,
            "{}"
        );
    }
}

#[test]
fn the_workloads_probes_are_done_for_the_kubelet() {
    let well = workload("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready");
    let ill = workload("HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nlate");
    let dead = refusing_port();
    let probers = format!(
        r#"{{"/app-health/c/livez": {{"httpGet": {{"path": "live", "port": {well}}}, "timeoutSeconds": 10}},
            "/app-health/c/readyz": {{"httpGet": {{"port": {ill}}}, "timeoutSeconds": 10}},
            "/app-health/c/startupz": {{"tcpSocket": {{"port": {well}}}, "timeoutSeconds": 10}},
            "/app-health/d/livez": {{"tcpSocket": {{"port": {dead}}}}},
            "/app-lifecycle/c/prestopz": {{"httpGet": {{"path": "/stop", "port": {well}}}, "timeoutSeconds": 10}}}}"#
    );
    let variables = [
        ("ISTIO_KUBE_APP_PROBERS", probers.as_str()),
        ("INSTANCE_IP", "127.0.0.1"),
    ];
    let (_lab, agent) = sidecar("builtin", &variables);
    for (path, expected, text) in [
        ("/app-health/c/livez", 200, "ready"),
        ("/app-health/c/readyz", 503, "late"),
        ("/app-health/c/startupz", 200, ""),
        ("/app-health/d/livez", 500, "cannot connect"),
        ("/app-lifecycle/c/prestopz", 200, "ready"),
        ("/app-health/c/poststartz", 400, "does not exist"),
    ] {
        let (status, body) = http(agent.ports.status, "GET", path).unwrap();
        assert_eq!(status, expected, "{path}");
        assert!(body.contains(text), "{path}: {body}");
    }
}

#[test]
fn the_workloads_metrics_are_merged_and_cannot_spoil_the_proxys() {
    const METRICS: &str = "# TYPE app_requests counter\napp_requests 5\n# EOF\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0\r\ncontent-length: {}\r\n\r\n{METRICS}",
        METRICS.len()
    );
    let app = workload(answer.leak());
    let dead = refusing_port();
    for data_plane in data_planes("the_workloads_metrics_are_merged_and_cannot_spoil_the_proxys") {
        for (port, alive) in [(app, true), (dead, false)] {
            let annotations = format!(r#"{{"scrape":"true","port":"{port}","path":"/metrics"}}"#);
            let variables = [("ISTIO_PROMETHEUS_ANNOTATIONS", annotations.as_str())];
            let (_lab, agent) = sidecar(data_plane, &variables);
            let (status, text) = http(agent.ports.status, "GET", "/stats/prometheus").unwrap();
            assert_eq!(status, 200);
            for name in [
                "istio_agent_process_",
                "istio_agent_startup_duration_seconds ",
                "envoy_",
            ] {
                assert!(text.contains(name), "{data_plane} {name}: {text}");
            }
            assert_eq!(text.contains("app_requests 5\n# EOF\n"), alive, "{text}");
        }
    }
}

#[test]
fn envoys_metrics_are_those_of_its_own_port() {
    let lab = Lab::new();
    let envoy = lab.path("envoy");
    fs::write(&envoy, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).unwrap();
    let answer =
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n# TYPE envoy_there counter\nenvoy_there 1\n";
    let port = workload(answer).to_string();
    let variables = [
        ("ENVOY_BIN", envoy.to_str().unwrap()),
        ("ENVOY_PROMETHEUS_PORT", &port),
    ];
    let agent = lab.agent_of_kind("agent", "envoy", "sidecar", &variables);
    until("the status port is open", || {
        let metrics = http(agent.ports.status, "GET", "/stats/prometheus");
        metrics.is_some_and(|(_, metrics)| metrics.contains("envoy_there 1\n"))
    });
}

#[test]
fn draining_is_no_end_but_makes_the_end_quick() {
    for data_plane in data_planes("draining_is_no_end_but_makes_the_end_quick") {
        let mut lab = Lab::new();
        lab.authority();
        lab.gateway();
        // The end would take this long if nothing had been drained before.
        let variables = [
            ("MINIMUM_DRAIN_DURATION", "20s"),
            ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
        ];
        let mut agent = lab.agent_with("agent", data_plane, &variables);
        agent.until_ready(200, "ready");
        assert_eq!(
            http(agent.ports.status, "POST", "/drain"),
            Some((200, "OK".into()))
        );
        until("it is said", || {
            agent.process.log().contains("command=drain")
        });
        assert!(agent.process.is_alive());
        let ready = http(agent.ports.status, "GET", "/healthz/ready").unwrap().0;
        assert_eq!(ready, 200, "draining alone does not end readiness");
        let begun = Instant::now();
        agent.process.terminate();
        assert!(agent.process.ended().success());
        assert!(begun.elapsed() < Duration::from_secs(10), "{data_plane}");
    }
}

#[test]
fn an_agent_that_ends_is_not_ready() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let variables = [
        ("MINIMUM_DRAIN_DURATION", "5s"),
        ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
    ];
    let mut agent = lab.agent_with("agent", "builtin", &variables);
    agent.until_ready(200, "ready");
    agent.process.terminate();
    agent.until_ready(503, "server is terminated");
    assert!(agent.process.ended().success());
}

#[test]
fn status_port_0_is_no_server() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let config = format!(
        "{{configPath: {}, proxyAdminPort: {}, statusPort: 0}}",
        lab.path("etc").display(),
        free_port()
    );
    let agent = lab.agent_with("agent", "builtin", &[("PROXY_CONFIG", &config)]);
    agent.until_ready(200, "ready");
    assert!(http(agent.ports.status, "GET", "/healthz/ready").is_none());
}

#[test]
fn readiness_behind_a_load_balancer_with_the_proxy_protocol() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let variables = [("ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL", "true")];
    let agent = lab.agent_with("agent", "builtin", &variables);
    until("the status port says that it is ready", || {
        http(agent.ports.status, "GET", "/healthz/ready").is_some_and(|(status, _)| status == 200)
    });
    let ask = |begin: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", agent.ports.health)).unwrap();
        let request = "GET /healthz/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream
            .write_all(format!("{begin}{request}").as_bytes())
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let answer = ask("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(ask(""), "");
}

#[test]
fn mistakes_in_what_the_injector_sets_end_the_start() {
    let lab = Lab::new();
    for (name, value, expected) in [
        ("ISTIO_KUBE_APP_PROBERS", "x", "failed to decode"),
        ("ISTIO_KUBE_APP_PROBERS", r#"{"abc":{}}"#, "invalid path"),
        (
            "ISTIO_KUBE_APP_PROBERS",
            r#"{"/app-health/c/livez":{}}"#,
            "must be one of type",
        ),
        (
            "ISTIO_PROMETHEUS_ANNOTATIONS",
            r#"{"port":"${status}"}"#,
            "same as the agent's port",
        ),
        (
            "ISTIO_PROMETHEUS_ANNOTATIONS",
            r#"{"port":"15090"}"#,
            "reserved for Istio",
        ),
    ] {
        let mut agent = lab.agent_of_kind("agent", "builtin", "sidecar", &[(name, value)]);
        assert_eq!(agent.process.ended().code(), Some(255), "{value}");
        let log = agent.process.log();
        assert!(
            log.contains(name) && log.contains(expected),
            "{value}: {log}"
        );
    }
}

fn command(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

#[test]
fn wait_ends_when_the_proxy_is_ready() {
    let mut lab = Lab::new();
    lab.gateway();
    let agent = lab.agent("agent", "builtin");
    let url = format!("http://localhost:{}/healthz/ready", agent.ports.health);
    until("the agent listens", || {
        http(agent.ports.health, "GET", "/healthz/ready").is_some_and(|(status, _)| status == 503)
    });
    let short = [
        "wait",
        "--timeoutSeconds=1",
        "--periodMillis",
        "50",
        "--url",
        &url,
    ];
    let out = command(&short);
    assert_eq!(out.status.code(), Some(255));
    let log = String::from_utf8_lossy(&out.stderr).into_owned();
    for text in [
        "timeout waiting for Envoy proxy to become ready",
        "HTTP status code 503",
        "identity",
    ] {
        assert!(log.contains(text), "{log}");
    }
    lab.authority();
    let out = command(&["wait", "--requestTimeoutMillis=500", "--url", &url]);
    assert!(out.status.success(), "{out:?}");

    let nobody = format!("http://localhost:{}/", refusing_port());
    let out = command(&["wait", "--timeoutSeconds=0", "--url", &nobody]);
    assert_eq!(out.status.code(), Some(255));
    let log = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(log.contains("cannot connect to"), "{log}");
}

#[test]
fn request_asks_only_the_ports_of_istio() {
    let out = command(&["request", "--debug-port=8080", "GET", "config_dump"]);
    assert_eq!(out.status.code(), Some(255));
    let log = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        log.contains("debug port 8080 is not in allowed list [15000, 15004, 15020, 15021]"),
        "{log}"
    );
    assert!(out.stdout.is_empty());
}
