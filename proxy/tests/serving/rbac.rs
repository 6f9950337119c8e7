//! RBAC filters as a user sees them: who passes, what those who do not are told, what is counted,
//! and what a wrong policy is called.

use crate::support::{Bench, exchange};
use ithildin_proto::{from_yaml, pb::envoy::config::bootstrap::v3::Bootstrap};
use ithildin_proxy::{control, stats::Value};

/// `RBAC` is the filter's configuration.
const HTTP: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: LOG_PATH
              log_format: {text_format_source: {inline_string: "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}
          http_filters:
          - name: rbac
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, RBAC}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - {name: v, domains: [a.test], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}
"#;

/// The same before TCP.
const TCP: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: rbac
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, RBAC}
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: up}
  clusters:
  - {name: up, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]}}
"#;

/// Permissions and principals, and whether `GET /a/b?c` with `x-who: me` and other
/// headers from 127.0.0.1, which a
/// proxy before says came from 9.9.9.9, matches.
const CASES: &[(&str, &str, bool)] = &[
    ("any: true", "any: true", true),
    (
        "header: {name: ':method', string_match: {exact: GET}}",
        "any: true",
        true,
    ),
    (
        "header: {name: ':method', string_match: {exact: get}}",
        "any: true",
        false,
    ),
    ("url_path: {path: {exact: /a/b}}", "any: true", true),
    ("url_path: {path: {exact: '/a/b?c'}}", "any: true", false),
    ("url_path: {path: {suffix: /b}}", "any: true", true),
    (
        "url_path: {path: {safe_regex: {regex: '/a'}}}",
        "any: true",
        false,
    ),
    (
        "not_rule: {url_path: {path: {prefix: /admin}}}",
        "any: true",
        true,
    ),
    (
        "and_rules: {rules: [{any: true}, {url_path: {path: {prefix: /x}}}]}",
        "any: true",
        false,
    ),
    (
        "or_rules: {rules: [{url_path: {path: {prefix: /x}}}, {any: true}]}",
        "any: true",
        true,
    ),
    (
        "destination_ip: {address_prefix: 127.0.0.0, prefix_len: 8}",
        "any: true",
        true,
    ),
    (
        "destination_ip: {address_prefix: 10.0.0.0, prefix_len: 8}",
        "any: true",
        false,
    ),
    ("destination_port: 1", "any: true", false),
    (
        "destination_port_range: {start: 1024, end: 65536}",
        "any: true",
        true,
    ),
    ("requested_server_name: {exact: ''}", "any: true", true),
    ("requested_server_name: {prefix: a}", "any: true", false),
    (
        "any: true",
        "header: {name: x-who, string_match: {exact: me}}",
        true,
    ),
    (
        "any: true",
        "header: {name: x-who, invert_match: true, string_match: {exact: me}}",
        false,
    ),
    (
        "any: true",
        "header: {name: x-none, string_match: {exact: me}}",
        false,
    ),
    // A header that comes twice: each of its values counts, and not both in one.
    (
        "any: true",
        "header: {name: x-twice, string_match: {exact: one}}",
        true,
    ),
    (
        "any: true",
        "header: {name: x-twice, string_match: {exact: two}}",
        true,
    ),
    (
        "any: true",
        "header: {name: x-twice, string_match: {exact: 'one,two'}}",
        false,
    ),
    (
        "any: true",
        "header: {name: x-twice, invert_match: true, string_match: {exact: one}}",
        false,
    ),
    // Envoy keeps one value of some.
    (
        "any: true",
        "header: {name: accept, string_match: {exact: 'a,b'}}",
        true,
    ),
    (
        "any: true",
        "header: {name: accept, string_match: {exact: a}}",
        false,
    ),
    (
        "any: true",
        "direct_remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}",
        true,
    ),
    (
        "any: true",
        "remote_ip: {address_prefix: 9.9.9.9, prefix_len: 32}",
        true,
    ),
    (
        "any: true",
        "remote_ip: {address_prefix: 127.0.0.1, prefix_len: 32}",
        false,
    ),
    (
        "any: true",
        "direct_remote_ip: {address_prefix: '::1', prefix_len: 0}",
        false,
    ),
    // Nobody is authenticated here.
    ("any: true", "authenticated: {}", false),
    (
        "any: true",
        "authenticated: {principal_name: {prefix: spiffe}}",
        false,
    ),
    ("any: true", "not_id: {authenticated: {}}", true),
    (
        "any: true",
        "filter_state: {key: io.istio.peer_principal, string_match: {prefix: spiffe}}",
        false,
    ),
    (
        "any: true",
        "and_ids: {ids: [{any: true}, {authenticated: {}}]}",
        false,
    ),
    (
        "any: true",
        "or_ids: {ids: [{authenticated: {}}, {any: true}]}",
        true,
    ),
];

/// Rules that are wrong, and what is said of them behind the path of the filter.
const BROKEN: &[(&str, &str)] = &[
    ("matcher: {}", ".matcher: is not supported"),
    (
        "rules: {policies: {p: {principals: [{any: true}]}}}",
        ".rules.policies[\"p\"].permissions: is empty",
    ),
    (
        "rules: {policies: {p: {permissions: [{any: true}]}}}",
        ".rules.policies[\"p\"].principals: is empty",
    ),
    (
        "rules: {policies: {p: {permissions: [{any: false}], principals: [{any: true}]}}}",
        ".rules.policies[\"p\"].permissions[0].any: must be true",
    ),
    (
        "rules: {policies: {p: {permissions: [{}], principals: [{any: true}]}}}",
        ".rules.policies[\"p\"].permissions[0]: a permission must say what it permits",
    ),
    (
        "rules: {policies: {p: {permissions: [{and_rules: {}}], principals: [{any: true}]}}}",
        ".rules.policies[\"p\"].permissions[0].and_rules.rules: is empty",
    ),
    (
        "rules: {policies: {p: {permissions: [{any: true}], principals: [{metadata: {}}]}}}",
        ".rules.policies[\"p\"].principals[0].metadata.filter: is empty",
    ),
    (
        "rules: {policies: {p: {permissions: [{any: true}], principals: [{filter_state: {key: k, string_match: {exact: a}}}]}}}",
        ".rules.policies[\"p\"].principals[0].filter_state.key: \"k\" is not supported; io.istio.peer_principal is",
    ),
    (
        "rules: {policies: {p: {permissions: [{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 33}}], principals: [{any: true}]}}}",
        ".rules.policies[\"p\"].permissions[0].destination_ip.prefix_len: 33 is not from 0 to 32",
    ),
    (
        "shadow_rules: {policies: {p: {permissions: [{url_path: {}}], principals: [{any: true}]}}}",
        ".shadow_rules.policies[\"p\"].permissions[0].url_path.path: is required",
    ),
];

const REQUEST: &str = "GET /a/b?c HTTP/1.1\r\nHost: a.test\r\nx-who: me\r\n\
     x-twice: one\r\nX-Twice: two\r\nAccept: a\r\nAccept: b\r\n\
                       x-forwarded-for: 9.9.9.9\r\nconnection: close\r\n\r\n";

async fn http(rbac: &str) -> Bench {
    Bench::start(&HTTP.replace("RBAC}", &format!("{rbac}}}"))).await
}

fn policy(action: &str, permission: &str, principal: &str) -> String {
    format!(
        "rules: {{action: {action}, policies: {{\"my policy\": \
         {{permissions: [{{{permission}}}], principals: [{{{principal}}}]}}}}}}"
    )
}

#[tokio::test]
async fn what_matches_is_allowed_or_denied() {
    for (index, (permission, principal, matches)) in CASES.iter().enumerate() {
        let actions = [("ALLOW", *matches), ("DENY", !matches), ("LOG", true)];
        // The other actions only turn round what the first one says.
        let actions = &actions[..if index < 3 { 3 } else { 1 }];
        for &(action, passes) in actions {
            let proxy = http(&policy(action, permission, principal)).await;
            let answer = exchange(proxy.address("l"), REQUEST).await;
            let case = format!("{action} {permission}; {principal}: {answer}");
            if passes {
                assert!(answer.starts_with("HTTP/1.1 200 "), "{case}");
                assert_eq!(proxy.lines(1).await, ["200 - direct_response"], "{case}");
            } else {
                assert!(answer.starts_with("HTTP/1.1 403 "), "{case}");
                assert!(answer.ends_with("\r\n\r\nRBAC: access denied"), "{case}");
                let policy = if action == "DENY" {
                    "my_policy"
                } else {
                    "none"
                };
                let line = format!("403 - rbac_access_denied_matched_policy[{policy}]");
                assert_eq!(proxy.lines(1).await, [line], "{case}");
            }
        }
    }
}

#[tokio::test]
async fn without_rules_all_pass_and_without_policies_none_does() {
    for (rbac, status) in [
        ("", 200),
        ("rules: {}", 403),
        ("rules: {action: DENY}", 200),
    ] {
        let proxy = http(rbac).await;
        let answer = exchange(proxy.address("l"), REQUEST).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{rbac}: {answer}"
        );
    }
}

#[tokio::test]
async fn shadow_rules_deny_nobody_and_are_counted() {
    let proxy = http("shadow_rules: {}, rules: {action: DENY}").await;
    let answer = exchange(proxy.address("l"), REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let count = |name: &str| {
        let metrics = proxy.proxy.stats().metrics(false);
        let metric = metrics.iter().find(|metric| metric.name == name);
        match metric.map(|metric| &metric.value) {
            Some(Value::Counter(count)) => *count,
            other => panic!("{name}: {other:?}"),
        }
    };
    assert_eq!(count("http.x.rbac.shadow_denied"), 1);
    assert_eq!(count("http.x.rbac.allowed"), 1);
    assert_eq!(count("http.x.rbac.denied"), 0);
}

#[tokio::test]
async fn who_is_denied_does_not_learn_which_hosts_there_are() {
    let proxy = http("rules: {}").await;
    let request = REQUEST.replace("a.test", "other.test");
    let answer = exchange(proxy.address("l"), &request).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_denied_connection_reaches_no_upstream() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = upstream.local_addr().unwrap().port().to_string();
    upstream.set_nonblocking(true).unwrap();
    let config = TCP.replace("PORT", &port);
    let denied = config.replace("RBAC}", "stat_prefix: tcp., rules: {}}");
    let proxy = Bench::start(&denied).await;
    assert_eq!(exchange(proxy.address("l"), "hello").await, "");
    let refused = upstream.accept().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn errors_name_the_field() {
    const PATH: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config\
                        .http_filters[0].typed_config";
    for (rbac, expected) in BROKEN {
        let yaml = HTTP.replace("RBAC}", &format!("{rbac}}}"));
        let yaml = yaml.replace("LOG_PATH", "/dev/null");
        let bootstrap: Bootstrap = from_yaml(&yaml).unwrap();
        let errors = control::validate(bootstrap).unwrap_err();
        assert_eq!(errors.to_string(), format!("{PATH}{expected}"));
    }
}
