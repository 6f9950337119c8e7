//! `pilot-agent proxy`: readiness, metrics, the end.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use crate::lab::{BINARY, LIMIT, Lab, free_port, has_envoy, http, until};

#[test]
fn ready_when_everything_is_there() {
    life("builtin");
}

#[test]
fn ready_when_everything_is_there_with_envoy() {
    if has_envoy("ready_when_everything_is_there_with_envoy") {
        life("envoy");
    }
}

/// From nothing, in any order, to an orderly end.
fn life(data_plane: &str) {
    let mut lab = Lab::new();
    fs::write(lab.path("istio/broken.yaml"), "kind: Gateway\nspec: [\n").unwrap();
    let mut agent = lab.agent("agent", data_plane);
    agent.until_ready(503, "identity: ");
    agent.until_ready(503, "configuration: broken.yaml");
    lab.authority();
    fs::remove_file(lab.path("istio/broken.yaml")).unwrap();
    let port = lab.gateway();
    agent.until_ready(200, "ready");
    // The socket that accepts is the data plane's, and the port is in use.
    until("the listener is open", || {
        TcpListener::bind(("0.0.0.0", port)).is_err()
    });
    assert_eq!(
        http(agent.ports.status, "GET", "/healthz/ready").unwrap().0,
        200
    );
    assert_eq!(http(agent.ports.status, "GET", "/nothing").unwrap().0, 404);
    assert_eq!(
        http(agent.ports.health, "GET", "/debug/status").unwrap().0,
        404
    );

    let metrics = http(agent.ports.status, "GET", "/stats/prometheus")
        .unwrap()
        .1;
    assert!(metrics.contains("istio_agent_ready 1"), "{metrics}");
    assert!(
        metrics.contains(r#"spiffe_id="spiffe://domain.test/gw""#),
        "{metrics}"
    );
    assert!(
        metrics.contains("envoy_"),
        "the data plane's are missing: {metrics}"
    );
    let own = http(agent.ports.prometheus, "GET", "/stats/prometheus")
        .unwrap()
        .1;
    assert!(
        own.contains("envoy_") && !own.contains("istio_agent_ready"),
        "{own}"
    );
    let status = http(agent.ports.status, "GET", "/debug/status").unwrap().1;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["identity"]["svids"][0], "spiffe://domain.test/gw");

    // A mistake later is reported, and what is good goes on.
    fs::write(lab.path("istio/broken.yaml"), "kind: Gateway\nspec: [\n").unwrap();
    until("the mistake is counted", || {
        let metrics = http(agent.ports.status, "GET", "/stats/prometheus")
            .unwrap()
            .1;
        !metrics.contains("istio_agent_config_errors 0")
    });
    agent.until_ready(200, "ready");

    let asked = Instant::now();
    agent.process.terminate();
    assert!(agent.process.ended().success(), "{}", agent.process.log());
    // `terminationDrainDuration` of the lab.
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert!(asked.elapsed() < LIMIT);
    let log = agent.process.log();
    assert!(
        log.contains("have no effect") && log.contains("sampling"),
        "{log}"
    );
    assert!(!log.contains("PRIVATE KEY"));
    assert!(!lab.path("etc/XDS").exists() && !lab.path("etc/envoy-rev.json").exists());
}

#[test]
fn quit_ends_at_once_and_only_by_post() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let mut agent = lab.agent("agent", "builtin");
    agent.until_ready(200, "ready");
    assert_eq!(
        http(agent.ports.status, "GET", "/quitquitquit").unwrap().0,
        405
    );
    assert_eq!(
        http(agent.ports.status, "POST", "/quitquitquit").unwrap().0,
        200
    );
    assert!(agent.process.ended().success());
}

#[test]
fn quit_on_the_admin_server_ends_the_process() {
    for data_plane in ["builtin", "envoy"] {
        if data_plane == "envoy" && !has_envoy("quit_on_the_admin_server_ends_the_process") {
            continue;
        }
        let mut lab = Lab::new();
        lab.authority();
        lab.gateway();
        let mut agent = lab.agent("agent", data_plane);
        agent.until_ready(200, "ready");
        let quit = http(agent.ports.admin, "POST", "/quitquitquit").unwrap();
        assert_eq!(quit.0, 200, "{data_plane}");
        assert!(agent.process.ended().success(), "{data_plane}");
    }
}

#[test]
fn two_agents_on_one_host_differ_in_their_ports() {
    if !has_envoy("two_agents_on_one_host_differ_in_their_ports") {
        return;
    }
    let mut lab = Lab::new();
    lab.authority();
    let first = lab.agent("first", "envoy");
    first.until_ready(200, "ready");
    let mut second = lab.agent("second", "envoy");
    second.until_ready(200, "ready");
    second.process.terminate();
    second.process.ended();
    first.until_ready(200, "ready");
    assert!(lab.path("etc/XDS").exists(), "the first one's socket stays");
}

#[test]
fn envoy_does_not_outlive_its_agent() {
    if !has_envoy("envoy_does_not_outlive_its_agent") {
        return;
    }
    let mut lab = Lab::new();
    lab.authority();
    let mut agent = lab.agent("agent", "envoy");
    agent.until_ready(200, "ready");
    let admin = agent.ports.admin;
    assert!(http(admin, "GET", "/ready").is_some());
    agent.process.kill();
    until("Envoy is gone", || http(admin, "GET", "/ready").is_none());
}

#[test]
fn the_agent_ends_with_its_envoy() {
    if !has_envoy("the_agent_ends_with_its_envoy") {
        return;
    }
    let mut lab = Lab::new();
    lab.authority();
    let mut agent = lab.agent("agent", "envoy");
    agent.until_ready(200, "ready");
    assert_eq!(
        http(agent.ports.admin, "POST", "/quitquitquit").unwrap().0,
        200
    );
    // It was asked to, and ended well.
    assert!(agent.process.ended().success());
    assert!(
        agent.process.log().contains("Envoy has ended"),
        "{}",
        agent.process.log()
    );
}

/// istio#17460, istio#18276, istio#31395: whoever restarts the agent sees that it failed, and why.
#[test]
fn an_envoy_that_is_killed_is_a_failure_of_the_agent() {
    if !has_envoy("an_envoy_that_is_killed_is_a_failure_of_the_agent") {
        return;
    }
    let mut lab = Lab::new();
    lab.authority();
    let mut agent = lab.agent("agent", "envoy");
    agent.until_ready(200, "ready");
    let pid = agent.process.id();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children_of = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.unwrap().path().join("children")).unwrap()
    };
    let all: String = tasks.map(children_of).collect();
    let envoy: i32 = all.trim().parse().expect("one child");
    let envoy = rustix::process::Pid::from_raw(envoy).unwrap();
    rustix::process::kill_process(envoy, rustix::process::Signal::KILL).unwrap();
    assert_eq!(agent.process.ended().code(), Some(255));
    let log = agent.process.log();
    assert!(log.contains("out of memory"), "{log}");
    assert!(!lab.path("etc/envoy-rev.json").exists());
}

/// What the operator reads when it cannot start.
#[test]
fn mistakes_at_the_start() {
    let lab = Lab::new();
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(BINARY);
        command
            .arg("proxy")
            .args(arguments)
            .arg("--configDir")
            .arg(lab.path("istio"));
        command.env_remove("SPIFFE_ENDPOINT_SOCKET");
        command.envs(variables.iter().copied());
        let out = command.output().unwrap();
        assert!(!out.status.success(), "{arguments:?} {variables:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let socket = ("SPIFFE_ENDPOINT_SOCKET", "unix:///nonexistent/agent.sock");
    let error = run(&[], &[]);
    assert!(
        error.contains("there is no source of identities: set SPIFFE_ENDPOINT_SOCKET"),
        "{error}"
    );
    let error = run(&[], &[socket, ("PROXY_CONFIG", "statusPort: x")]);
    assert!(error.contains("PROXY_CONFIG: statusPort"), "{error}");
    let error = run(&["waypoint"], &[socket]);
    assert!(
        error.contains("waypoint") && error.contains("istiod"),
        "{error}"
    );

    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = run(
        &[],
        &[socket, ("PROXY_CONFIG", &format!("statusPort: {port}"))],
    );
    assert!(
        error.contains(&format!("statusPort of PROXY_CONFIG {port}")),
        "{error}"
    );

    let config = format!(
        "{{statusPort: {}, proxyAdminPort: {}, configPath: {}, binaryPath: /nonexistent/envoy}}",
        free_port(),
        free_port(),
        lab.path("etc").display()
    );
    let health = free_port().to_string();
    let variables = [
        socket,
        ("PROXY_CONFIG", &config),
        ("ENVOY_STATUS_PORT", &health),
    ];
    let error = run(&["--dataPlane", "envoy"], &variables);
    assert!(
        error.contains("/nonexistent/envoy") && error.contains("ENVOY_BIN"),
        "{error}"
    );
}

/// gRPC without a proxy: configuration and secrets are served, and nothing else runs.
#[test]
fn without_a_data_plane() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let disabled = [("DISABLE_ENVOY", "true"), ("ENVOY_BIN", "/nonexistent")];
    let mut agent = lab.agent_with("agent", "envoy", &disabled);
    agent.until_ready(200, "");
    for socket in ["etc/XDS", "etc/SDS"] {
        assert!(lab.path(socket).exists(), "{socket}");
    }
    assert!(!lab.path("etc/envoy-rev.json").exists());
    assert!(http(agent.ports.admin, "GET", "/").is_none());
    agent.process.terminate();
    assert!(agent.process.ended().success());
    assert!(!lab.path("etc/XDS").exists());
}

/// What manifests of other releases pass, and what is read of it.
#[test]
fn what_has_no_effect_is_named_once() {
    let mut lab = Lab::new();
    lab.authority();
    lab.gateway();
    let agent = lab.agent_as("agent", "builtin", "router", |command, _| {
        command
            .args([
                "--discoveryAddress",
                "old:15010",
                "--statusPort=1",
                "--log_as_json",
            ])
            .env("XDS_AUTH_PROVIDER", "gcp");
    });
    agent.until_ready(200, "");
    let log = agent.process.log();
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("no effect"))
        .collect();
    assert_eq!(warnings.len(), 1, "{log}");
    let warning: serde_json::Value = serde_json::from_str(warnings[0]).unwrap();
    assert_eq!(
        (&warning["level"], &warning["scope"]),
        (&"warn".into(), &"pilot_agent::proxy".into())
    );
    let names = warning["names"].as_str().unwrap();
    for name in [
        "--discoveryAddress, old:15010, --statusPort=1",
        "XDS_AUTH_PROVIDER",
        "sampling of the proxy configuration (unknown)",
    ] {
        assert!(names.contains(name), "{name}: {names}");
    }
    assert!(
        log.contains("configPath"),
        "the effective configuration: {log}"
    );
}

/// As Istio's agent ends.
#[test]
fn exit_codes() {
    for (words, code) in [
        (&["version"][..], 0),
        (&["version", "-o", "xml"], 255),
        (&["completion", "bash"], 0),
        (&["help"], 0),
        (&[], 0),
        (&["--unknown"], 0),
        (&["nosuch"], 255),
        (&["version", "--unknown"], 255),
        (&["proxy", "mixer"], 255),
        (&["proxy", "--log_output_level=default:loud"], 255),
        (&["istio-iptables", "--unknown"], 255),
    ] {
        let out = Command::new(BINARY).args(words).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{words:?} {out:?}");
        assert_eq!(out.stderr.is_empty(), code == 0, "{words:?} {out:?}");
    }
}
