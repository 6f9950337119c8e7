//! A WasmPlugin whose module is on a site: a real Envoy runs it, and without its module a filter lets nothing
//! pass, or everything, as it says.

use std::fs;

use ithildin_tests::{
    DataPlane, Mesh, Process,
    curl::{self, Answer},
    eventually,
    mesh::{PodSpec, Program, SLEEP},
};

/// Where the agent may write, as the template mounts it.
const DATA: (&str, &str) = ("ITHILDIN_DATA_DIR", "/run/pod/var/lib/istio/data");

const WEB: PodSpec<'static> = PodSpec {
    env: &[DATA],
    ..PodSpec::server("web-0", "web", [10, 0, 4, 2], &[("app", "web")])
};

/// A module of the proxy-wasm ABI 0.2.1 that adds `x-wasm: here` to each response: the import of
/// `proxy_add_header_map_value`, a memory with the two words in it, and four functions.
const MODULE: &str = "0061736d01000000011e0560057f7f7f7f7f017f60000060017f017f60027f7f0060037f7f7f017f02220103\
    656e761a70726f78795f6164645f6865616465725f6d61705f76616c75650000030504010203040503010001077505066d656d6f7279\
    02001770726f78795f6162695f76657273696f6e5f305f325f3100011870726f78795f6f6e5f6d656d6f72795f616c6c6f6361746500\
    021770726f78795f6f6e5f636f6e746578745f63726561746500031970726f78795f6f6e5f726573706f6e73655f6865616465727300\
    040a1f0402000b05004180080b02000b11004102410041064106410410001a41000b0b10010041000b0a782d7761736d68657265";

#[test]
fn on_envoy() {
    let program = Program::Ithildin(DataPlane::Envoy);
    let test = concat!(module_path!(), "::on_envoy");
    let Some(mesh) = Mesh::start(test, program, &["wasm.yaml"], &[SLEEP, WEB]) else {
        return;
    };
    let _site = site(&mesh);
    eventually("without a plugin", || get(&mesh).expect_status(200));
    assert_eq!(get(&mesh).header("x-wasm"), None);
    plugin(&mesh, "/m.wasm", "FAIL_CLOSE");
    eventually("the module runs", || {
        let answer = get(&mesh);
        let runs = answer.status == 200 && answer.header("x-wasm") == Some("here");
        runs.then_some(()).ok_or(answer)
    });
    let dump = mesh.pod(WEB.name).admin("/config_dump").body;
    assert!(
        dump.contains(DATA.1) && !dump.contains("ISTIO_META_WASM"),
        "{dump}"
    );
    let url = "http://127.0.0.1:15020/stats/prometheus";
    let metrics = curl::get(&mesh.pod(WEB.name).net, url, &[]).body;
    let fetched = r#"istio_agent_wasm_remote_fetch_count{result="success"} 1"#;
    assert!(metrics.lines().any(|line| line == fetched), "{metrics}");
    plugin(&mesh, "/none.wasm", "FAIL_CLOSE");
    eventually("nothing passes", || get(&mesh).expect_status(403));
    plugin(&mesh, "/none.wasm", "FAIL_OPEN");
    eventually("everything passes", || {
        let answer = get(&mesh);
        let passes = answer.status == 200 && answer.header("x-wasm").is_none();
        passes.then_some(()).ok_or(answer)
    });
    let log = mesh.pod(WEB.name).log();
    assert!(log.contains("/none.wasm: status 404"), "{log}");
}

fn get(mesh: &Mesh) -> Answer {
    mesh.curl(SLEEP.name, "http://web/get", &[])
}

/// Beside the application of web.
fn site(mesh: &Mesh) -> Process {
    let net = &mesh.pod(WEB.name).net;
    let folder = net.subdir("site");
    let bytes = (0..MODULE.len()).step_by(2).map(|at| &MODULE[at..at + 2]);
    let module: Result<Vec<u8>, _> = bytes.map(|it| u8::from_str_radix(it, 16)).collect();
    let module = module.expect("it is hexadecimal");
    fs::write(folder.join("m.wasm"), module).expect("the scratch folder is writable");
    let mut serve = net.command("python3");
    serve.args([
        "-m",
        "http.server",
        "9999",
        "--bind",
        "127.0.0.1",
        "--directory",
    ]);
    serve.arg(folder);
    net.spawn("site", serve)
}

fn plugin(mesh: &Mesh, path: &str, strategy: &str) {
    let object = format!(
        "apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: hello, namespace: default}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  url: http://127.0.0.1:9999{path}
  failStrategy: {strategy}
"
    );
    mesh.istiod.apply("plugin.yaml", &object);
}
