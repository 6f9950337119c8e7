//! Scripts in Lua: of EnvoyFilters at both sides, and of TrafficExtensions.

use ithildin_tests::{
    Mesh,
    curl::Answer,
    eventually,
    mesh::{PodSpec, Program, SLEEP},
};

use crate::support::on_each;

const WEB: PodSpec<'static> = PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")]);

on_each!(scripts, and_istios_agent);

fn scripts(test: &str, program: Program) {
    let Some(mesh) = Mesh::start(test, program, &["wasm.yaml"], &[SLEEP, WEB]) else {
        return;
    };
    eventually("without scripts", || get(&mesh, &[]).expect_status(200));
    envoy_filters(&mesh);
    traffic_extensions(&mesh);
}

fn get(mesh: &Mesh, arguments: &[&str]) -> Answer {
    mesh.curl(SLEEP.name, "http://web/get", arguments)
}

#[track_caller]
fn eventually_so(mesh: &Mesh, what: &str, is_so: impl Fn(&Answer) -> bool) {
    eventually(what, || {
        let answer = get(mesh, &[]);
        is_so(&answer).then_some(()).ok_or(answer)
    });
}

/// A script before the router of the proxies of one application.
fn patch(app: &str, context: &str, code: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: {app}, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: {app}}}}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{context: {context}, listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.lua
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          inlineCode: |
            {code}
"
    )
}

const OUTBOUND: &str = "function envoy_on_request(h) h:headers():add('x-lua-outbound', h:headers():get(':path')) end
            function envoy_on_response(h) h:headers():add('x-lua-outbound', h:headers():get(':status')) end";

/// It tells who asks, by its certificate.
const INBOUND: &str = "function envoy_on_request(h)
              local ssl = h:streamInfo():downstreamSslConnection()
              h:headers():add('x-lua-inbound', h:headers():get(':path'))
              h:headers():add('x-lua-peer', ssl:uriSanPeerCertificate()[1])
              if h:headers():get('x-deny') then
                h:respond({[':status'] = '403', ['x-by'] = 'lua'}, 'not you')
              end
            end
            function envoy_on_response(h) h:headers():add('x-lua-inbound', h:headers():get(':status')) end";

/// One that does not compile is refused, with Lua's words, and the one before it stays.
fn envoy_filters(mesh: &Mesh) {
    let outbound = patch("sleep", "SIDECAR_OUTBOUND", OUTBOUND);
    let inbound = patch("web", "SIDECAR_INBOUND", INBOUND);
    mesh.istiod
        .apply("scripts.yaml", &format!("{outbound}---\n{inbound}"));
    eventually_so(mesh, "scripts at both sides", |answer| {
        if answer.status != 200 {
            return false;
        }
        let request = answer.echoed();
        let has = |side: &str| {
            let header = format!("x-lua-{side}");
            request["headers"][&header] == "/get" && answer.header(&header) == Some("200")
        };
        let peer = &request["headers"]["x-lua-peer"];
        has("inbound") && has("outbound") && peer == "spiffe://example.org/ns/default/sa/sleep"
    });
    let denied = get(mesh, &["-H", "x-deny: 1"]);
    assert_eq!(denied.status, 403, "{denied:?}");
    assert_eq!(denied.header("x-by"), Some("lua"), "{denied:?}");
    assert_eq!(denied.header("x-lua-outbound"), Some("403"), "{denied:?}");
    let broken = patch("web", "SIDECAR_INBOUND", "function envoy_on_request(h");
    mesh.istiod
        .apply("scripts.yaml", &format!("{outbound}---\n{broken}"));
    eventually("a script that does not compile", || {
        let page = "/config_dump?resource=dynamic_listeners";
        let dump = mesh.pod(WEB.name).admin(page).body;
        let told = dump.contains("script load error") && dump.contains("expected near");
        told.then_some(()).ok_or(dump)
    });
    let still = get(mesh, &[]);
    assert_eq!(still.header("x-lua-inbound"), Some("200"), "{still:?}");
    mesh.istiod.delete("scripts.yaml");
    eventually_so(mesh, "without scripts", |answer| {
        answer.header("x-lua-inbound").is_none() && answer.header("x-lua-outbound").is_none()
    });
}

/// What istiod makes of scripts by phases: they see a response in the order of the phases, backwards.
fn traffic_extensions(mesh: &Mesh) {
    let extension = |phase: &str, digit: u8| {
        format!(
            "apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {{name: order-{digit}, namespace: default}}
spec:
  phase: {phase}
  selector: {{matchLabels: {{app: web}}}}
  lua:
    inlineCode: |
      function envoy_on_response(h)
        local before = h:headers():get('x-order') or ''
        h:headers():replace('x-order', before .. '{digit}')
      end
"
        )
    };
    let objects = [("AUTHN", 1), ("AUTHZ", 2), ("STATS", 3)];
    let objects = objects.map(|(phase, digit)| extension(phase, digit));
    mesh.istiod.apply("extensions.yaml", &objects.join("---\n"));
    eventually_so(mesh, "scripts of phases", |answer| {
        answer.status == 200 && answer.header("x-order") == Some("321")
    });
}
