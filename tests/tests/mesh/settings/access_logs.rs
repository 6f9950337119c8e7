//! Access logs as Telemetries ask for them: by whom, of what, and in which form.

use ithildin_tests::{Mesh, eventually};

use super::{GATEWAY, SLEEP, WEB, get};

pub(super) fn all(mesh: &Mesh) {
    by_mode(mesh);
    by_expression(mesh);
    forms(mesh);
    disabled(mesh);
    of_one_workload(mesh);
}

/// `spec` of a Telemetry in the namespace, and what is asked and heard once it holds.
fn telemetry(mesh: &Mesh, spec: &str) {
    let object = format!(
        "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: logs, namespace: default}}
spec:
{spec}"
    );
    mesh.istiod.apply("telemetry.yaml", &object);
}

/// The lines of a Pod's proxy about a path.
fn lines(mesh: &Mesh, pod: &str, path: &str) -> Vec<String> {
    let log = mesh.pod(pod).log();
    let about = log.lines().filter(|line| line.contains(path));
    about.map(str::to_owned).collect()
}

/// Of a request to oneself, which half of the proxy logs.
fn by_mode(mesh: &Mesh) {
    for (mode, outbound, inbound) in [("CLIENT", 0, 1), ("SERVER", 1, 0)] {
        let spec = format!(
            "  accessLogging: [{{providers: [{{name: envoy}}], match: {{mode: {mode}}}, disabled: true}}]\n"
        );
        telemetry(mesh, &spec);
        let mut turn = 0;
        let counted = |path: &str| {
            let lines = lines(mesh, WEB.name, path);
            let of = |half: &str| lines.iter().filter(|line| line.contains(half)).count();
            (of("outbound|80||web"), of("inbound|8080||"))
        };
        eventually(mode, || {
            turn += 1;
            // The second request is logged after all that the first one is.
            let paths = [turn, turn + 1000].map(|turn| format!("/by-{mode}-{turn}/"));
            for path in &paths {
                let url = format!("http://web{path}");
                mesh.curl(WEB.name, &url, &[])
                    .expect_status(200)
                    .map_err(|it| it.error)?;
            }
            eventually("the second is logged", || {
                let lines = lines(mesh, WEB.name, &paths[1]);
                (!lines.is_empty()).then_some(()).ok_or(lines)
            });
            let counted = counted(&paths[0]);
            (counted == (outbound, inbound))
                .then_some(())
                .ok_or(format!("{counted:?}"))
        });
    }
}

/// What is asked for, whether it has a header, its status, and the expression for what is logged.
const EXPRESSIONS: [(&str, [bool; 4]); 6] = [
    ("response.code >= 400", [false, false, true, true]),
    (
        "request.url_path.startsWith('/status/4')",
        [false, false, true, false],
    ),
    (
        "request.method == 'GET' && 'x-logged' in request.headers",
        [false, true, false, false],
    ),
    (
        "request.headers['x-logged'] == 'yes' || response.code == 503",
        [false, true, false, true],
    ),
    (
        "!(request.url_path.contains('404')) && request.path != '/status/503'",
        [true, true, false, false],
    ),
    (
        "request.path.endsWith('503') || request.query == 'a=b'",
        [false, true, false, true],
    ),
];

fn by_expression(mesh: &Mesh) {
    for (i, (expression, expected)) in EXPRESSIONS.iter().enumerate() {
        let spec = format!(
            "  accessLogging:
  - providers: [{{name: envoy}}]
    match: {{mode: CLIENT}}
    filter: {{expression: \"({expression}) || request.url_path.startsWith('/all')\"}}
"
        );
        telemetry(mesh, &spec);
        let mut turn = 0;
        eventually(expression, || {
            turn += 1;
            let agent = format!("agent-{i}-{turn}-");
            let ask = |path: &str, more: &[&str]| {
                let arguments = [&["-A", &agent], more].concat();
                get(mesh, path, &arguments)
            };
            ask("/status/200", &[]);
            ask("/status/200?a=b", &["-H", "x-logged: yes"]);
            ask("/status/404", &[]);
            ask("/status/503", &[]);
            ask(&format!("/all/{i}/{turn}/"), &[]);
            let last = format!("/all/{i}/{turn}/");
            eventually("the last is logged", || {
                let told = lines(mesh, SLEEP.name, &last);
                (!told.is_empty()).then_some(()).ok_or(told)
            });
            let told = lines(mesh, SLEEP.name, &agent);
            let logged = [
                "/status/200 ",
                "/status/200?a=b ",
                "/status/404 ",
                "/status/503 ",
            ]
            .map(|path| told.iter().any(|line| line.contains(path)));
            (logged == *expected)
                .then_some(())
                .ok_or(format!("{logged:?} {told:?}"))
        });
    }
}

/// Formats of providers of one's own.
fn forms(mesh: &Mesh) {
    let both = "  accessLogging: [{providers: [{name: as-text}, {name: as-json}]}]\n";
    telemetry(mesh, both);
    eventually("both forms", || {
        get(mesh, "/forms/a?b", &[])
            .expect_status(200)
            .map_err(|it| it.error)?;
        let text = lines(mesh, SLEEP.name, "told GET /forms/a?b 200 web");
        let json = lines(mesh, WEB.name, "\"told\":\"/forms/a?b\"");
        let json = json
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        let json: Vec<serde_json::Value> = json.collect();
        let is_whole = |line: &serde_json::Value| {
            line["status"] == 200 && line["caller"] == mesh.pod(SLEEP.name).id
        };
        let all = !text.is_empty() && json.iter().any(is_whole);
        all.then_some(()).ok_or(format!("{text:?} {json:?}"))
    });
}

fn disabled(mesh: &Mesh) {
    telemetry(
        mesh,
        "  accessLogging: [{providers: [{name: envoy}], disabled: true}]\n",
    );
    eventually("no log is configured", || {
        let page = "/config_dump?resource=dynamic_listeners";
        let dump = mesh.pod(SLEEP.name).admin(page).body;
        let is_off = !dump.is_empty() && !dump.contains("access_log\"");
        is_off.then_some(()).ok_or(dump.len())
    });
    get(mesh, "/never-logged/", &[]);
    mesh.istiod.delete("telemetry.yaml");
    eventually("logs are the usual ones", || {
        get(mesh, "/logged-again/", &[]);
        let told = lines(mesh, SLEEP.name, "/logged-again/");
        (!told.is_empty()).then_some(()).ok_or(told)
    });
    assert_eq!(lines(mesh, SLEEP.name, "/never-logged/"), [""; 0]);
}

/// A Telemetry for one workload goes before that of the mesh, and is nobody else's.
fn of_one_workload(mesh: &Mesh) {
    let objects = "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  accessLogging: [{providers: [{name: envoy}], disabled: true}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: sleep, namespace: default}
spec:
  selector: {matchLabels: {app: sleep}}
  accessLogging: [{providers: [{name: as-text}]}]
";
    mesh.istiod.apply("telemetry.yaml", objects);
    eventually("sleep alone is to log", || {
        let has_log = [SLEEP, WEB, GATEWAY].map(|pod| {
            let page = "/config_dump?resource=dynamic_listeners";
            mesh.pod(pod.name).admin(page).body.contains("access_log\"")
        });
        (has_log == [true, false, false])
            .then_some(())
            .ok_or(has_log)
    });
    eventually("sleep logs", || {
        get(mesh, "/sleeps/", &[]);
        let told = lines(mesh, SLEEP.name, "told GET /sleeps/ 200");
        (!told.is_empty()).then_some(()).ok_or(told)
    });
    assert_eq!(lines(mesh, WEB.name, "/sleeps/"), [""; 0]);
    mesh.istiod.delete("telemetry.yaml");
}
