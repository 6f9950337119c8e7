//! Who a client is held to be, and what is told of it and of us: each mode of a connection manager
//! as gateways and sidecars have it, by this proxy and by a real Envoy with the same file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fmt::Write as _, io::Write, net::SocketAddr, path::PathBuf};

use crate::{
    envoy::Envoy,
    support::{Bench, exchange, read_head, server},
};

/// `MODES` is the connection manager's own settings. The PROXY protocol says where clients are.
const LISTENER: &str = r#"
  - name: NAME
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    listener_filters:
    - name: envoy.filters.listener.proxy_protocol
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: NAME
          MODES
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, ROUTER}
          route_config:
            request_headers_to_add:
            - {header: {key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS%"}}
            - {header: {key: x-direct, value: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}}
            virtual_hosts:
            - {name: all, domains: ["*"], include_request_attempt_count: ATTEMPTS, routes: [{match: {prefix: /local}, direct_response: {status: 200}}, {match: {prefix: /}, route: {cluster: origin, timeout: 0s}}]}
"#;

const CLUSTERS: &str = r#"
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ORIGIN_PORT}}}}]}]
"#;

const INTERNAL: &str =
    "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}";

/// Fields of the manager, and of the router.
fn modes() -> Vec<(String, &'static str)> {
    let mut modes = Vec::new();
    for remote in ["true", "false"] {
        for hops in 0..3 {
            for skip in ["true", "false"] {
                for internal in ["", INTERNAL] {
                    let mode = format!(
                        "use_remote_address: {remote}\n          xff_num_trusted_hops: {hops}\n          \
                         skip_xff_append: {skip}\n          {internal}"
                    );
                    modes.push((mode, ""));
                }
            }
        }
    }
    for mode in [
        "server_header_transformation: PASS_THROUGH",
        "server_header_transformation: APPEND_IF_ABSENT",
        "server_name: istio-envoy",
        "generate_request_id: false",
        "preserve_external_request_id: true\n          use_remote_address: true",
        "append_x_forwarded_port: true",
        "append_x_forwarded_port: true\n          use_remote_address: true",
        "forward_client_cert_details: SANITIZE",
        "forward_client_cert_details: FORWARD_ONLY",
        "forward_client_cert_details: APPEND_FORWARD",
        "forward_client_cert_details: SANITIZE_SET\n          \
         set_current_client_cert_details: {subject: true, cert: true, dns: true, uri: true}",
        "forward_client_cert_details: ALWAYS_FORWARD_ONLY",
    ] {
        modes.push((mode.to_owned(), ""));
        modes.push((mode.to_owned(), "suppress_envoy_headers: true"));
    }
    modes
}

#[tokio::test]
async fn clients_are_told_of_like_envoy_does() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED clients_are_told_of_like_envoy_does: ENVOY_BIN is not set");
        return;
    };
    let modes = modes();
    let mut yaml = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n\
                    static_resources:\n  listeners:"
        .to_owned();
    for (index, (mode, router)) in modes.iter().enumerate() {
        yaml += &LISTENER
            .replace("NAME", &format!("l{index}"))
            .replace("MODES", mode)
            .replace("ROUTER", router)
            .replace("ATTEMPTS", if router.is_empty() { "true" } else { "false" });
    }
    yaml += &CLUSTERS.replace("ORIGIN_PORT", &origin().port().to_string());
    let ours = Bench::start(&yaml).await;
    let envoy = Envoy::start(&binary, &yaml, modes.len()).await;
    let mut differences = String::new();
    for (index, mode) in modes.iter().enumerate() {
        let listener = format!("l{index}");
        let ports = [&envoy.address(&listener), &ours.address(&listener)];
        for request in requests() {
            let mut seen = Vec::new();
            for address in ports {
                seen.push(normal(&exchange(*address, &request).await));
            }
            if seen[0] != seen[1] {
                let (mode, _) = mode;
                let missing: Vec<_> = seen[0].iter().filter(|it| !seen[1].contains(it)).collect();
                let more: Vec<_> = seen[1].iter().filter(|it| !seen[0].contains(it)).collect();
                writeln!(
                    differences,
                    "{mode}\n{request}Envoy's: {missing:#?}\nours: {more:#?}\n"
                )
                .unwrap();
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn requests() -> Vec<String> {
    let mut requests = Vec::new();
    for client in ["1.2.3.4", "10.1.2.3"] {
        for fields in [
            "",
            "X-Forwarded-For: 10.9.9.9\r\n",
            "X-Forwarded-For: 56.5.6.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 77\r\n",
            "X-Forwarded-For: 56.5.6.7, 72.9.5.6, 98.1.2.3\r\nX-Request-Id: mine\r\n",
            "X-Forwarded-For: 56.5.6.7, 10.1.1.1\r\n",
            "X-Forwarded-For: bad, 2001:db8::1, worse\r\nServer: x\r\n",
            "X-Forwarded-For: 1.1.1.1,\r\n",
            "X-Envoy-Internal: true\r\nX-Envoy-External-Address: 9.9.9.9\r\nX-Envoy-Original-Path: /z\r\n\
             X-Envoy-Decorator-Operation: x\r\nX-Envoy-Downstream-Service-Cluster: c\r\n\
             X-Envoy-Attempt-Count: 9\r\nX-Envoy-Foo: 1\r\nX-Envoy-Peer-Metadata-Id: q\r\n\
             X-Forwarded-Client-Cert: By=a;URI=b\r\n",
        ] {
            requests.push(format!(
                "PROXY TCP4 {client} 5.6.7.8 9 10\r\nGET / HTTP/1.1\r\nHost: a\r\n{fields}\
                 Connection: close\r\n\r\n"
            ));
        }
    }
    for path in ["/own", "/local"] {
        requests.push(requests[0].replacen(" / ", &format!(" {path} "), 1));
    }
    requests
}

/// The lines in one order, without what differs from one answer to the next.
fn normal(answer: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(": ") {
        Some((name @ ("date" | "x-envoy-upstream-service-time" | "content-length"), _)) => {
            format!("{name}: ...")
        }
        Some((name @ "x-request-id", value)) if value.len() == 36 => format!("{name}: ..."),
        _ => line.to_owned(),
    };
    let mut lines: Vec<String> = answer.split("\r\n").map(line).collect();
    lines.sort();
    lines
}

/// A server that answers with the request as it came; at `/own` it says who it is.
fn origin() -> SocketAddr {
    server(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            let own = match head.split(' ').nth(1) {
                None => return,
                Some("/own") => "server: origin\r\n",
                Some(_) => "",
            };
            let length = head.len();
            let answer = format!("HTTP/1.1 200 OK\r\n{own}content-length: {length}\r\n\r\n{head}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}
