//! AuthorizationPolicies on the sidecar of a service.

use ithildin_tests::{
    Mesh, curl, eventually,
    mesh::{SLEEP, talk},
};

use super::{
    CONVERSATION, OUTSIDE, STRANGER, answered, authorization, eventually_answered,
    expect_all_protocols, policy, with_policy,
};

pub(super) fn all(mesh: &Mesh) {
    by_source(mesh);
    denied(mesh);
    methods_and_ports(mesh);
    conditions(mesh);
    workloads(mesh);
    templates(mesh);
    plain_text(mesh);
}

/// All forms that a source has, which let in one of two.
fn by_source(mesh: &Mesh) {
    for source in [
        "principals: [example.org/ns/default/sa/sleep]",
        "principals: [\"*/sa/sleep\"]",
        "serviceAccounts: [default/sleep]",
        "namespaces: [default]",
        "notNamespaces: [elsewhere]",
        "notPrincipals: [\"example.org/ns/elsewhere/*\"]",
        "ipBlocks: [10.0.4.1]",
        "notIpBlocks: [10.0.4.2/31]",
        "remoteIpBlocks: [10.0.4.0/31]",
    ] {
        policy(
            mesh,
            &authorization(&format!("  rules: [{{from: [{{source: {{{source}}}}}]}}]")),
        );
        expect_all_protocols(mesh, STRANGER.name, "/any", false);
        expect_all_protocols(mesh, SLEEP.name, "/any", true);
    }
}

/// What is denied anywhere is denied, whatever is allowed.
fn denied(mesh: &Mesh) {
    let here = authorization(
        "  action: DENY
  rules:
  - from: [{source: {principals: [example.org/ns/elsewhere/sa/stranger]}}]
    to:
    - operation: {ports: [\"8080\", \"8081\"], paths: [/deny*], notPaths: [/deny/allow], methods: [GET]}
    - operation: {ports: [\"8082\"], paths: [/echo.Echo/Say], methods: [POST]}
    - operation: {ports: [\"9000\"]}",
    );
    // With paths alone it would hold for all of TCP, too.
    let everywhere = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: global, namespace: istio-system}
spec:
  action: DENY
  rules:
  - to: [{operation: {ports: [\"8080\", \"8081\"], paths: [/global-deny*], notPaths: [/global-deny/allow]}}]
";
    let allowed = authorization("  rules: [{}]").replace("name: web,", "name: open,");
    policy(mesh, &format!("{here}\n---\n{everywhere}---\n{allowed}"));
    expect_all_protocols(mesh, STRANGER.name, "/deny", false);
    expect_all_protocols(mesh, SLEEP.name, "/deny", true);
    for pod in [STRANGER.name, SLEEP.name] {
        let rows = [
            ("http://web.default/deny/allow", &[][..], 200),
            ("http://web.default/deny/allow?param=value", &[], 200),
            ("http://web.default/allow", &[], 200),
            ("http://web.default/global-deny", &[], 403),
            ("http://web.default/global-deny?param=value", &[], 403),
            ("http://web.default/global-deny/allow", &[], 200),
        ];
        eventually_answered(mesh, pod, "denied everywhere", &rows);
    }
    let deny =
        authorization("  action: DENY\n  rules: [{to: [{operation: {paths: [/allow/admin]}}]}]");
    let allow = authorization("  rules: [{to: [{operation: {paths: [/allow*]}}]}]");
    let allow = allow.replace("name: web,", "name: allow,");
    with_policy(
        mesh,
        "precedence",
        &format!("{deny}\n---\n{allow}"),
        &[
            ("http://web/allow/admin", &[], 403),
            ("http://web/allow/admin?param=value", &[], 403),
            ("http://web/allow", &[], 200),
            ("http://web/other", &[], 403),
        ],
    );
}

fn methods_and_ports(mesh: &Mesh) {
    with_policy(
        mesh,
        "notMethods",
        &authorization("  rules: [{to: [{operation: {notMethods: [PUT]}}]}]"),
        &[
            ("http://web/", &[], 200),
            ("http://web/", &["-X", "PUT"], 403),
            (
                "http://web:81/",
                &["--http2-prior-knowledge", "-X", "PUT"],
                403,
            ),
        ],
    );
    with_policy(
        mesh,
        "notPorts",
        &authorization("  rules: [{to: [{operation: {notPorts: [\"8081\"]}}]}]"),
        &[("http://web/", &[], 200), ("http://web:81/", &[], 403)],
    );
    with_policy(
        mesh,
        "nothing is allowed",
        &authorization(""),
        &[("http://web/", &[], 403)],
    );
}

/// What `when` may ask for.
fn conditions(mesh: &Mesh) {
    let mut rules = String::from("  rules:\n");
    for (path, key, values) in [
        ("header", "request.headers[x-foo]", "values: [foo]"),
        ("not-header", "request.headers[x-foo]", "notValues: [bar]"),
        ("ip", "source.ip", "values: [10.0.4.1]"),
        ("not-ip", "source.ip", "notValues: [10.0.4.3]"),
        ("namespace", "source.namespace", "values: [default]"),
        (
            "not-namespace",
            "source.namespace",
            "notValues: [elsewhere]",
        ),
        (
            "principal",
            "source.principal",
            "values: [example.org/ns/default/sa/sleep]",
        ),
        (
            "not-principal",
            "source.principal",
            "notValues: [example.org/ns/elsewhere/sa/stranger]",
        ),
        (
            "trust-domain",
            "source.trustDomain",
            "values: [example.org]",
        ),
        (
            "other-trust-domain",
            "source.trustDomain",
            "values: [bad.test]",
        ),
        (
            "not-trust-domain",
            "source.trustDomain",
            "notValues: [bad.test]",
        ),
        ("to-ip", "destination.ip", "values: [10.0.4.2]"),
        ("to-other-ip", "destination.ip", "values: [1.2.3.4]"),
        ("not-to-ip", "destination.ip", "notValues: [10.0.4.2]"),
        ("to-port", "destination.port", "values: [\"8080\"]"),
        ("to-other-port", "destination.port", "values: [\"1\"]"),
        ("not-to-port", "destination.port", "notValues: [\"8080\"]"),
        (
            "sni",
            "connection.sni",
            "values: [\"*.web.default.svc.cluster.local\"]",
        ),
        ("other-sni", "connection.sni", "values: [never-exists]"),
        ("not-sni", "connection.sni", "notValues: [never-exists]"),
    ] {
        rules += &format!(
            "  - {{to: [{{operation: {{paths: [/{path}]}}}}], when: [{{key: \"{key}\", {values}}}]}}\n"
        );
    }
    with_policy(
        mesh,
        "conditions",
        &authorization(&rules),
        &[
            ("http://web/header", &["-H", "x-foo: foo"], 200),
            ("http://web/header", &["-H", "x-foo: bar"], 403),
            ("http://web/header", &[], 403),
            ("http://web/not-header", &["-H", "x-foo: foo"], 200),
            ("http://web/not-header", &["-H", "x-foo: bar"], 403),
            ("http://web/trust-domain", &[], 200),
            ("http://web/other-trust-domain", &[], 403),
            ("http://web/not-trust-domain", &[], 200),
            ("http://web/to-ip", &[], 200),
            ("http://web/to-other-ip", &[], 403),
            ("http://web/not-to-ip", &[], 403),
            ("http://web/to-port", &[], 200),
            ("http://web/to-other-port", &[], 403),
            ("http://web/not-to-port", &[], 403),
            ("http://web/sni", &[], 200),
            ("http://web/other-sni", &[], 403),
            ("http://web/not-sni", &[], 200),
        ],
    );
    for (pod, status) in [(SLEEP.name, 200), (STRANGER.name, 403)] {
        let rows = [
            "ip",
            "not-ip",
            "namespace",
            "not-namespace",
            "principal",
            "not-principal",
        ]
        .map(|path| format!("http://web.default/{path}"));
        let rows = rows.each_ref().map(|url| (&**url, &[][..], status));
        eventually_answered(mesh, pod, "who asks", &rows);
    }
}

/// A policy holds for the workloads that it selects, one without a selector for its namespace, and one of
/// the root namespace for the mesh.
fn workloads(mesh: &Mesh) {
    let one = |name: &str, namespace: &str, selector: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{selector} rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]}}
"
        )
    };
    let policies = [
        one(
            "workload",
            "default",
            "selector: {matchLabels: {app: web}},",
        ),
        one(
            "other-workload",
            "default",
            "selector: {matchLabels: {app: web, foo: bla}},",
        ),
        one("namespace", "default", ""),
        one("other-namespace", "elsewhere", ""),
        one("mesh", "istio-system", ""),
        one(
            "mesh-workload",
            "istio-system",
            "selector: {matchLabels: {app: web}},",
        ),
    ];
    with_policy(
        mesh,
        "selected workloads",
        &policies.join("---\n"),
        &[
            ("http://web/workload", &[], 200),
            ("http://web/other-workload", &[], 403),
            ("http://web/namespace", &[], 200),
            ("http://web/other-namespace", &[], 403),
            ("http://web/mesh", &[], 200),
            ("http://web/mesh-workload", &[], 200),
            ("http://web/none", &[], 403),
        ],
    );
}

fn templates(mesh: &Mesh) {
    let paths = "[\"/allow/admin/{**}\", \"/foo/{*}/bar/{**}\", \"/store/{**}/cart\"]";
    with_policy(
        mesh,
        "templates of paths",
        &authorization(&format!(
            "  rules: [{{to: [{{operation: {{paths: {paths}}}}}]}}]"
        )),
        &[
            ("http://web/allow/admin/", &[], 200),
            ("http://web/allow/admin", &[], 403),
            ("http://web/allow/admin?param=value", &[], 403),
            ("http://web/allow/user/", &[], 403),
            ("http://web/allow", &[], 403),
            ("http://web/allow/admin/temp", &[], 200),
            ("http://web/allow/admin/foo/temp.txt", &[], 200),
            ("http://web/foo/buzz/bar/bat.txt", &[], 200),
            ("http://web/foo/buzz/bar/bat/fuzz.txt", &[], 200),
            ("http://web/foo/buzz/bar/bat", &[], 200),
            ("http://web/foo/bar/bat.txt", &[], 403),
            ("http://web/foo//bar/bat.txt", &[], 403),
            ("http://web/store//cart", &[], 200),
            ("http://web/store/cart", &[], 403),
            ("http://web/store/foo/cart", &[], 200),
            ("http://web/store/foo/bar/cart", &[], 200),
        ],
    );
}

/// A port that takes plain text, too, and a policy that denies whoever does not say who he is.
fn plain_text(mesh: &Mesh) {
    let permissive = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: PERMISSIVE}}
---
";
    let outside = mesh.host(OUTSIDE);
    let url = "http://10.0.4.2:8080/get";
    policy(mesh, permissive);
    eventually("plain text", || {
        curl::get(&outside, url, &[]).expect_status(200)
    });
    let steps = CONVERSATION;
    eventually("plain TCP", || talk(&outside, "10.0.4.2:9000", &steps));
    let nobody =
        authorization("  action: DENY\n  rules: [{from: [{source: {notPrincipals: [\"*\"]}}]}]");
    policy(mesh, &format!("{permissive}{nobody}"));
    eventually("nobody by plain text", || {
        answered(&outside, &[(url, &[], 403)])
    });
    eventually("nobody by plain TCP", || {
        let told = talk(&outside, "10.0.4.2:9000", &steps);
        told.is_err().then_some(()).ok_or(told)
    });
    expect_all_protocols(mesh, SLEEP.name, "/get", true);
}
