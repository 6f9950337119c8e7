//! Scripts: the same requests to this proxy and to a real Envoy with the same file, and what only we bound.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::SocketAddr,
    path::PathBuf,
};

use http::response::Parts;
use ithildin_proxy::stats::Value;

use crate::{
    like_envoy::{Case, compare_answers, origin},
    support::{Bench, dead_address, exchange, read_head, server},
};

const HEAD: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  clusters:
  - name: origin
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http_protocol_options: {enable_trailers: true}}
    load_assignment: {cluster_name: origin, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ORIGIN}}}}]}]}
  - name: dead
    type: STATIC
    load_assignment: {cluster_name: dead, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: DEAD}}}}]}]}
  listeners:
"#;

const LISTENER: &str = r#"
  - name: NAME
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    per_connection_buffer_limit_bytes: 2000
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: NAME
          delayed_close_timeout: 0.05s
          generate_request_id: false
          http_protocol_options: {enable_trailers: true}
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: LOG_PATH
              log_format:
                text_format_source: {inline_string: "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(ns:k)%\n"}
          http_filters:
FILTERS
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            response_headers_to_add: [{header: {key: x-table, value: "1"}}]
            validate_clusters: false
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - {match: {prefix: /direct}, name: direct, direct_response: {status: 201, body: {inline_string: direct}}}
              - {match: {prefix: /moved}, redirect: {path_redirect: /x}}
              - {match: {prefix: /none}, route: {cluster: none}}
              - {match: {prefix: /dead}, route: {cluster: dead}}
              - {match: {prefix: /other}, name: other, route: {cluster: origin, prefix_rewrite: /rewritten}}
              - match: {prefix: /off}
                route: {cluster: origin}
                typed_per_filter_config: {lua: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute, disabled: true}}
              - match: {prefix: /own}
                route: {cluster: origin}
                typed_per_filter_config:
                  lua:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute
                    filter_context: {who: route}
                    source_code: {inline_string: "function envoy_on_request(h) h:headers():add('x-own', h:filterContext():get('who')) end"}
              - match: {prefix: /named}
                route: {cluster: origin}
                typed_per_filter_config: {lua: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute, name: named}}
              - match: {prefix: /unnamed}
                route: {cluster: origin}
                typed_per_filter_config: {lua: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute, name: nobody}}
              - match: {prefix: /}
                name: main
                route: {cluster: origin}
                metadata: {filter_metadata: {lua: {foo: bar, n: 5.5, l: [1, a, {k: true}], t: {z: 1}}}}
"#;

fn filter(name: &str, script: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "          - name: {name}\n            typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, \
         default_source_code: {{inline_string: {script}}}, filter_context: {{greeting: hello}}, \
         source_codes: {{named: {{inline_string: \"function envoy_on_request(h) h:headers():add('x-named', '1') end\"}}}}}}"
    )
}

fn listener(name: &str, filters: &[String]) -> String {
    LISTENER
        .replace("NAME", name)
        .replace("FILTERS", &filters.join("\n"))
}

/// The scripts of the file, by the names of their listeners.
fn scripts() -> Vec<(String, String)> {
    let text = include_str!("lua_scripts.yaml");
    let mut scripts: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_suffix(": |") {
            Some(name) if !line.starts_with(' ') => scripts.push((name.into(), String::new())),
            _ => {
                let (_, script) = scripts.last_mut().unwrap();
                script.push_str(line.strip_prefix("  ").unwrap_or(line));
                script.push('\n');
            }
        }
    }
    scripts
}

fn yaml(listeners: &[String]) -> String {
    yaml_before(origin(), listeners)
}

fn yaml_before(origin: SocketAddr, listeners: &[String]) -> String {
    let yaml = HEAD
        .replace("ORIGIN", &origin.port().to_string())
        .replace("DEAD", &dead_address().port().to_string());
    yaml + &listeners.concat()
}

fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}{length}Connection: close\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn scripts_do_what_they_do_in_envoy() {
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!("SKIPPED scripts_do_what_they_do_in_envoy: ENVOY_BIN is not set");
        return;
    };
    let scripts = scripts();
    let mut listeners: Vec<_> = scripts
        .iter()
        .map(|(name, script)| listener(name, &[filter("lua", script)]))
        .collect();
    let one = "function envoy_on_request(h) h:headers():add('x-o', 'a') end \
               function envoy_on_response(h) h:headers():add('x-o', 'a') end";
    let two = "function envoy_on_request(h) h:headers():add('x-o', 'b') \
               if h:headers():get('x-deny') then h:respond({[':status'] = '401'}, 'b') end end \
               function envoy_on_response(h) h:headers():add('x-o', h:headers():get(':status')) end";
    listeners.push(listener("two", &[filter("lua", one), filter("lua2", two)]));
    let cases = cases(&scripts);
    let (ours, envoy) = compare_answers(&binary, &yaml(&listeners), &cases).await;
    let expected = envoy.lines(cases.len()).await;
    assert_eq!(expected, ours.lines(cases.len()).await);
    let text = exchange(envoy.admin, &request("GET", "/stats?filter=lua", "", "")).await;
    let counted = |line: &str| line.contains(".lua.") && line.starts_with("http.");
    let mut expected: Vec<_> = text.lines().filter(|it| counted(it)).collect();
    expected.sort_unstable();
    let metrics = ours.proxy.stats().metrics(false);
    let found = metrics.iter().filter(|it| it.name.contains(".lua."));
    let mut found: Vec<_> = found
        .map(|it| match it.value {
            Value::Counter(count) => format!("{}: {count}", it.name),
            _ => it.name.clone(),
        })
        .collect();
    found.sort_unstable();
    assert_eq!(expected, found);
}

/// A script that adds a trailer to those of the request, and one to those of the response.
const TRAILERS: &str = "function envoy_on_request(h) BODY h:trailers():add('x-NAME', h:trailers():get('x-client')) end \
                        function envoy_on_response(h) BODY h:trailers():add('x-NAME', h:trailers():get('x-server')) end";

#[tokio::test]
async fn trailers_pass_through_several_scripts() {
    let end = "\r\n0\r\nx-client: c\r\n";
    let head = "Transfer-Encoding: chunked\r\n";
    let post = request("POST", "/a", head, "");
    let post = post + "5\r\nhello" + end + "\r\n";
    let origin = server(|mut stream| {
        let head = read_head(&mut stream);
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        let body = String::from_utf8(body).unwrap();
        let chunk = format!("{head}{body}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\nx-server: s\r\n\r\n",
            chunk.len()
        );
        stream.write_all(answer.as_bytes()).unwrap();
    });
    // Envoy runs a script of an earlier filter once its body is there, and the next one with what that left.
    let filters = |body: &str| {
        ["one", "two"].map(|name| {
            let script = TRAILERS.replace("NAME", name).replace("BODY", body);
            filter(name, &script)
        })
    };
    let listeners = [
        listener("streamed", &filters("")),
        listener("held", &filters("h:body()")),
    ];
    let yaml = yaml_before(origin, &listeners);
    let bench = Bench::start(&yaml).await;
    for name in ["streamed", "held"] {
        let answer = exchange(bench.address(name), &post).await;
        for line in [
            "x-client: c",
            "x-one: c",
            "x-two: c",
            "x-server: s",
            "x-one: s",
            "x-two: s",
        ] {
            assert!(
                answer.contains(&format!("\r\n{line}\r\n")),
                "{name}: {line}: {answer}"
            );
        }
    }
    let Some(binary) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED trailers_pass_through_several_scripts beside Envoy: ENVOY_BIN is not set"
        );
        return;
    };
    let cases = ["streamed", "held"].map(|name| (name, post.clone()));
    compare_answers(&binary, &yaml, &cases).await;
}

/// Each is ended and its request answered, or refused and its request goes on with what was changed before.
const BOUNDED: [(&str, &str, &str); 17] = [
    (
        "endless",
        "while true do pcall(function() while true do end end) end",
        "the script ran for too long",
    ),
    (
        "greedy",
        "local t = {} for i = 1, 1e9 do t[i] = string.rep('x', 1e6) .. i end",
        "needs too much memory",
    ),
    (
        "waits",
        "while true do h:trailers() end",
        "the script ran for too long",
    ),
    (
        "chunks",
        "while true do for chunk in h:bodyChunks() do end end",
        "the script ran for too long",
    ),
    (
        "calls",
        "for i = 1, 100 do pcall(h.httpCall, h, 'origin', {[':method'] = 'GET', [':path'] = '/', [':authority'] = 'a'}, nil, 5000, true) end \
         h:httpCall('origin', {[':method'] = 'GET', [':path'] = '/', [':authority'] = 'a'}, nil, 5000)",
        "",
    ),
    (
        "headers",
        "local t = {[':status'] = '200'} for i = 1, 2000 do t['x-' .. i] = 'v' end h:respond(t)",
        "there are too many headers",
    ),
    (
        "metadata",
        "local v = string.rep('x', 3e5) for i = 1, 9 do h:streamInfo():dynamicMetadata():set('n', 'k' .. i, v) end",
        "there is too much metadata",
    ),
    (
        "split",
        "h:headers():add('x-a', 'a\\r\\nevil: 1')",
        "invalid value of header \"x-a\"",
    ),
    (
        "bare",
        "h:headers():replace('x-a', 'a\\nevil: 1')",
        "invalid value of header \"x-a\"",
    ),
    (
        "zero",
        "h:headers():add('x-a', 'a\\0evil')",
        "invalid value of header \"x-a\"",
    ),
    (
        "name",
        "h:headers():add('x-a\\r\\nevil', '1')",
        "invalid header name",
    ),
    (
        "space",
        "h:headers():add('evil x', '1')",
        "invalid header name",
    ),
    (
        "path",
        "h:headers():replace(':path', '/ HTTP/1.1\\r\\nevil: 1')",
        "invalid value of :path",
    ),
    (
        "method",
        "h:headers():replace(':method', 'GET /evil')",
        "invalid value of :method",
    ),
    (
        "host",
        "h:headers():replace(':authority', 'a\\r\\nevil: 1')",
        "invalid value of :authority",
    ),
    (
        "reply",
        "h:respond({[':status'] = 200, ['x-a'] = 'a\\r\\nevil: 1'}, 'b')",
        "invalid value of header \"x-a\"",
    ),
    (
        "call",
        "h:httpCall('origin', {[':method'] = 'GET', [':path'] = '/', [':authority'] = 'a', ['x-a'] = 'a\\r\\nevil: 1'}, nil, 5000)",
        "invalid value of header \"x-a\"",
    ),
];

#[tokio::test]
async fn what_a_script_does_has_bounds() {
    let mut listeners = Vec::new();
    for (name, code, _) in BOUNDED {
        let script = format!(
            "function envoy_on_request(h) h:headers():add('x-before', '1') \
             if h:headers():get('x-catch') then local ok, e = pcall(function() {code} end) h:headers():add('x-tell', tostring(e)) else {code} end \
             h:headers():add('x-behind', '1') end \
             function envoy_on_response(h) h:headers():add('x-count', '1') end"
        );
        listeners.push(listener(name, &[filter("lua", &script)]));
    }
    let answers = "function envoy_on_response(h) h:headers():add('x-a', 'a\\r\\nevil: 1') end";
    listeners.push(listener("answers", &[filter("lua", answers)]));
    let framing = "function envoy_on_request(h) local hs = h:headers() hs:add('transfer-encoding', 'chunked') \
                   hs:replace('content-length', '99') hs:add('connection', 'x') hs:add('upgrade', 'y') end \
                   function envoy_on_response(h) local hs = h:headers() hs:replace('content-length', '1') \
                   hs:add('transfer-encoding', 'chunked') end";
    listeners.push(listener("framing", &[filter("lua", framing)]));
    let last = "function envoy_on_request(h) h:streamInfo():drainConnectionUponCompletion() \
                h:respond({[':status'] = '200'}, 'b') end";
    listeners.push(listener("last", &[filter("lua", last)]));
    let missing = "function envoy_on_request(h) for _, n in ipairs({'importPublicKey', 'stats', 'route'}) do \
                   local ok, e = pcall(h[n], h) h:headers():add('x-tell', e) end end";
    listeners.push(listener("missing", &[filter("lua", missing)]));
    let bench = Bench::start(&yaml(&listeners)).await;
    for (name, _, words) in BOUNDED {
        let address = bench.address(name);
        let answer = exchange(address, &request("GET", "/a", "", "")).await;
        if ["endless", "greedy", "waits", "chunks", "calls"].contains(&name) {
            assert!(answer.starts_with("HTTP/1.1 500 "), "{name}: {answer}");
            continue;
        }
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n"),
            "{name}: {answer}"
        );
        let goes_on = answer.contains("x-before: 1\r\n") && answer.contains("x-count: 1\r\n");
        assert!(goes_on && !answer.contains("x-behind"), "{name}: {answer}");
        assert!(!answer.contains("evil"), "{name}: {answer}");
        let caught = exchange(address, &request("GET", "/a", "x-catch: 1\r\n", "")).await;
        assert!(caught.contains(words), "{name}: {caught}");
    }
    let answer = exchange(bench.address("answers"), &request("GET", "/a", "", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("evil"),
        "{answer}"
    );
    let alive = request("GET", "/a", "", "").replace("Connection: close\r\n", "");
    let answer = exchange(bench.address("last"), &alive).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let answer = exchange(
        bench.address("framing"),
        &request("POST", "/a", "", "12345"),
    )
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        body.contains("content-length: 5\r\n") && body.ends_with("\r\n\r\n12345"),
        "{answer}"
    );
    for word in ["transfer-encoding", "upgrade", "connection: x"] {
        assert!(!answer.contains(word), "{answer}");
    }
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    let answer = exchange(bench.address("missing"), &request("GET", "/a", "", "")).await;
    for name in ["importPublicKey", "stats", "route"] {
        assert!(
            answer.contains(&format!("x-tell: {name} is not supported")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none_over_http2_whatever_a_script_makes() {
    let makes = "function envoy_on_response(h) h:body(true):setBytes('made') end";
    let asks = "function envoy_on_request(h) h:headers():replace(':method', 'GET') end";
    let empties = "function envoy_on_response(h) h:headers():replace(':status', '204') end";
    let unchanged = "function envoy_on_response(h) h:headers():replace(':status', '304') h:body(true):setBytes('made') end";
    let scripts = [
        ("makes", makes),
        ("asks", asks),
        ("empties", empties),
        ("unchanged", unchanged),
    ];
    let listeners = scripts.map(|(name, script)| listener(name, &[filter("lua", script)]));
    let bench = Bench::start(&yaml(&listeners)).await;
    for (name, method, status, has_body) in [
        ("makes", "GET", 200, true),
        ("makes", "HEAD", 200, false),
        ("asks", "HEAD", 200, false),
        ("empties", "GET", 204, false),
        ("unchanged", "GET", 304, false),
    ] {
        let (head, body) = over_http2(bench.address(name), method).await;
        assert_eq!(head.status.as_u16(), status, "{name} {method}");
        assert_eq!(body.is_some(), has_body, "{name} {method}: {body:?}");
        let length = head.headers.contains_key("content-length");
        assert!(!length || status != 204, "{name} {method}");
    }
}

/// The answer's head, and its body unless the head ended the stream.
async fn over_http2(address: SocketAddr, method: &str) -> (Parts, Option<Vec<u8>>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri("http://a.test/a");
    let (answer, _) = client
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let (head, mut stream) = answer.await.unwrap().into_parts();
    let mut body = (!stream.is_end_stream()).then(Vec::new);
    while let Some(part) = stream.data().await {
        let body = body.as_mut().expect("the head ended the stream");
        body.extend_from_slice(&part.unwrap());
    }
    connection.abort();
    (head, body)
}

fn cases(scripts: &[(String, String)]) -> Vec<Case> {
    let long = "x".repeat(3000);
    let mut cases: Vec<(String, String)> = Vec::new();
    for (name, _) in scripts {
        let name = name.as_str();
        cases.push((
            name.into(),
            request("GET", "/a?b=c", "X-Rm: 1\r\nX-Rep: a\r\nX-MIXed: 0\r\n", ""),
        ));
        cases.push((
            name.into(),
            request("POST", "/a", "x-rep: a\r\nX-Rep: b\r\n", "12345"),
        ));
        // Envoy tells HEAD the length of what it would have sent, which is ours to leave out.
        cases.push((name.into(), request("GET", "/other/y", "", "")));
        cases.push((name.into(), request("GET", "/none", "", "")));
        cases.push((name.into(), request("GET", "/dead", "", "")));
        cases.push((name.into(), request("GET", "/off", "", "")));
        cases.push((name.into(), request("POST", "/own", "", "1")));
        cases.push((name.into(), request("GET", "/named", "", "")));
        cases.push((name.into(), request("GET", "/unnamed", "", "")));
        cases.push((
            name.into(),
            request("GET", "/grpc", "content-type: application/grpc\r\n", ""),
        ));
        if name != "chunks" {
            cases.push((name.into(), request("POST", "/a", "", &long)));
        }
    }
    for fields in ["", "x-deny: 1\r\n"] {
        cases.push(("two".into(), request("GET", "/a", fields, "")));
        cases.push(("two".into(), request("GET", "/off", fields, "")));
    }
    cases
        .into_iter()
        .map(|(name, request)| (&*name.leak(), request))
        .collect()
}
