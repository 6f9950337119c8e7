//! Requests beside a real Envoy on the same file: the lines of access logs, the headers that routes
//! make, and what `x-forwarded-client-cert` says.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use ithildin_tests::{Process, eventually, net::free_port, peers, process::binary};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Far more than any answer takes.
const LIMIT: Duration = Duration::from_secs(20);

const ENVOY_ARGUMENTS: [&str; 5] = [
    "--use-dynamic-base-id",
    "-l",
    "error",
    "--file-flush-interval-msec",
    "10",
];

const XFCC_MODES: [&str; 5] = [
    "SANITIZE",
    "FORWARD_ONLY",
    "APPEND_FORWARD",
    "SANITIZE_SET",
    "ALWAYS_FORWARD_ONLY",
];

const LOG: &str = "%REQ(:PATH)% %RESPONSE_CODE% sni=%REQUESTED_SERVER_NAME% \
    %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_SUBJECT% \
    %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_PEER_SERIAL% %DOWNSTREAM_PEER_FINGERPRINT_256% \
    %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_LOCAL_SUBJECT% %DOWNSTREAM_TLS_VERSION%";

/// What a client and an upstream see of one proxy, and what it logs.
#[derive(Debug, Default)]
struct Seen {
    answers: Vec<String>,
    log: Vec<String>,
}

#[test]
fn lines_and_headers_are_envoys() {
    let Some(envoy) = peers::envoy("lines_and_headers_are_envoys") else {
        return;
    };
    let lab = Lab::new();
    let ours = lab.plain(&binary("ithildin-proxy"), &[]);
    let theirs = lab.plain(&envoy, &ENVOY_ARGUMENTS);
    let pairs = ours.log.iter().zip(&theirs.log);
    let pairs = pairs.chain(ours.answers.iter().zip(&theirs.answers));
    let different: Vec<_> = pairs.filter(|(ours, theirs)| ours != theirs).collect();
    let show = |(ours, theirs): &(&String, &String)| format!("ours: {ours}\nEnvoy's: {theirs}\n");
    let shown: Vec<_> = different.iter().map(show).collect();
    assert!(different.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn the_clients_certificate_is_told_as_envoy_tells_it() {
    let Some(envoy) = peers::envoy("the_clients_certificate_is_told_as_envoy_tells_it") else {
        return;
    };
    let lab = Lab::new();
    let ours = lab.mutual(&binary("ithildin-proxy"), &[]);
    let theirs = lab.mutual(&envoy, &ENVOY_ARGUMENTS);
    assert_eq!(ours.answers.len(), 2 * XFCC_MODES.len() + 1);
    // Envoy writes a name as it is, whatever fields it goes on with.
    const QUOTED: &str = r#"URI="https://example.org/client;a=b,c""#;
    assert!(ours.answers.iter().any(|xfcc| xfcc.contains(QUOTED)));
    for (ours, theirs) in ours.answers.iter().zip(&theirs.answers) {
        assert_eq!(&ours.replace(QUOTED, &QUOTED.replace('"', "")), theirs);
    }
    assert!(
        ours.answers
            .iter()
            .any(|xfcc| xfcc.contains("Chain=\"-----BEGIN%20"))
    );
    assert_eq!(ours.log, theirs.log);
}

/// Each closes its connection.
const PLAIN: [&str; 18] = [
    "GET /direct?q HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /redirect HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /dead HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /none HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /nothing HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /up/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /up/close HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /up/garbage HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /up/cut HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /up/trailers HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "GET /slow HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
    "POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nconnection: close\r\n\r\nworld",
    "NONSENSE\r\n\r\n",
    "POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "GET /up HTTP/1.1\r\nhost: h\r\n",
    "GET /weighted/x?q HTTP/1.1\r\nhost: h\r\nx-order: client\r\nx-over: o\r\nx-gone: g\r\nconnection: close\r\n\r\n",
    "GET /half HTTP/1.1\r\nhost: h\r\nx-order: client\r\nconnection: close\r\n\r\n",
    "GET /echo HTTP/1.1\r\nhost: h\r\nx-empty: e\r\nconnection: close\r\n\r\n",
];

struct Lab {
    dir: tempfile::TempDir,
    upstream: u16,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        certificates(dir.path());
        let upstream = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = upstream.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in upstream.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        Self {
            dir,
            upstream: port,
        }
    }

    fn plain(&self, program: &Path, arguments: &[&str]) -> Seen {
        let port = free_port();
        let _proxy = self.start(program, arguments, &[port], "");
        let mut seen = Seen::default();
        for (index, request) in PLAIN.iter().enumerate() {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
            stream.write_all(request.as_bytes()).expect("it reads");
            let mut answer = Vec::new();
            // A reset is an end, too.
            let _ = stream.read_to_end(&mut answer);
            drop(stream);
            seen.answers
                .push(compared(&String::from_utf8_lossy(&answer)));
            seen.log = self.log(index + 1);
        }
        fs::remove_file(self.dir.path().join("access.log")).expect("it logged");
        seen
    }

    fn mutual(&self, program: &Path, arguments: &[&str]) -> Seen {
        let ports: Vec<u16> = XFCC_MODES.iter().map(|_| free_port()).collect();
        let plain = free_port();
        let mut listeners = String::new();
        for (mode, port) in XFCC_MODES.iter().zip(&ports) {
            let dir = self.dir.path().display();
            write!(
                listeners,
                r#"  - name: {mode}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    listener_filters: [{{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}]
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {dir}/server.pem}}, private_key: {{filename: {dir}/server.key}}}}]
            validation_context: {{trusted_ca: {{filename: {dir}/ca.pem}}}}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          forward_client_cert_details: {mode}
          set_current_client_cert_details: {{subject: true, cert: true, chain: true, dns: true, uri: true}}
          access_log: [{{name: file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {dir}/access.log, log_format: {{text_format_source: {{inline_string: "{LOG}\n"}}}}}}}}]
          http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: up}}}}]}}]}}
"#
            )
            .expect("writing to a string does not fail");
        }
        let all = [&[plain], &ports[..]].concat();
        let _proxy = self.start(program, arguments, &all, &listeners);
        let mut seen = Seen::default();
        for port in ports {
            for more in [&[][..], &["-H", "x-forwarded-client-cert: By=x;Hash=y"]] {
                seen.answers
                    .push(self.xfcc(&format!("https://localhost:{port}"), more));
            }
        }
        let forged = ["-H", "x-forwarded-client-cert: By=x;Hash=y"];
        seen.answers
            .push(self.xfcc(&format!("http://localhost:{plain}"), &forged));
        seen.log = self.log(2 * XFCC_MODES.len() + 1);
        seen.log.pop();
        fs::remove_file(self.dir.path().join("access.log")).expect("it logged");
        seen
    }

    /// The header as the upstream sees it.
    fn xfcc(&self, url: &str, arguments: &[&str]) -> String {
        let file = |name: &str| self.dir.path().join(name);
        let out = Command::new("curl")
            .args(["-sS", "-k", "--noproxy", "*", "--max-time"])
            .arg(LIMIT.as_secs().to_string())
            .arg("--cert")
            .arg(file("client.pem"))
            .arg("--key")
            .arg(file("client.key"))
            .args(arguments)
            .arg(format!("{url}/echo"))
            .output()
            .expect("curl starts");
        let body = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(body.starts_with("GET /echo"), "{url}: {out:?}");
        let lines = body
            .lines()
            .filter(|line| line.starts_with("x-forwarded-client-cert"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn start(&self, program: &Path, arguments: &[&str], ports: &[u16], more: &str) -> Process {
        let dir = self.dir.path();
        let text = include_str!("requests.yaml")
            .replace("TLS\n", more)
            .replace("DIR", &dir.to_string_lossy())
            .replace("plain-port", &ports[0].to_string())
            .replace("upstream-port", &self.upstream.to_string());
        let file = dir.join("proxy.yaml");
        fs::write(&file, text).expect("the scratch folder is writable");
        let mut command = Command::new(program);
        command
            .args(["--concurrency", "1"])
            .args(arguments)
            .arg("-c")
            .arg(file);
        let process = Process::spawn("proxy", dir, command);
        for port in ports {
            eventually("the proxy listens", || {
                TcpStream::connect(("127.0.0.1", *port)).map(drop)
            });
        }
        process
    }

    /// The access log's lines, once there are `count`.
    fn log(&self, count: usize) -> Vec<String> {
        let read = || {
            let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= count {
                Ok(lines)
            } else {
                Err(text)
            }
        };
        eventually(&format!("{count} lines"), read)
    }
}

/// An answer without what differs from run to run, or between the two by design: the order of
/// headers of different names.
fn compared(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let mut headers: Vec<_> = lines
        .filter(|line| !line.starts_with("date:"))
        .map(|line| match line.split_once("service-time: ") {
            Some((name, _)) => name,
            None => line,
        })
        .collect();
    headers.sort_by_key(|line| line.split(':').next());
    // The body of an echo is a head.
    let mut echoed: Vec<_> = body.lines().collect();
    echoed.sort_by_key(|line| line.split(':').next());
    format!("{status}\n{}\n\n{}", headers.join("\n"), echoed.join("\n"))
}

/// The upstream: one request, answered by its path.
fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let close = "HTTP/1.1 200 OK\r\ncontent-type: text/h\r\nx-secret: s\r\nconnection: close\r\n";
    let answer = match head.split(' ').nth(1).unwrap_or_default() {
        "/up/close" => return,
        "/up/garbage" => "NOPE\r\n\r\n".to_owned(),
        "/up/cut" => format!("{close}content-length: 100\r\n\r\nabc"),
        "/up/trailers" => {
            format!("{close}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-last: end\r\n\r\n")
        }
        "/slow" => {
            // Until the proxy gives up.
            let _ = stream.read(&mut byte);
            return;
        }
        path if path.starts_with("/echo") || path == "/half" => {
            format!("{close}content-length: {}\r\n\r\n{head}", head.len())
        }
        _ => format!("{close}content-length: 5\r\n\r\nhello"),
    };
    // A proxy that goes away is what some of these are about.
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// A CA, a server, and a client whose names need care.
fn certificates(dir: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "the ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = ca.self_signed(&ca_key).expect("a root");
    fs::write(dir.join("ca.pem"), root.pem()).expect("the scratch folder is writable");
    let issuer = Issuer::new(ca, ca_key);
    for (name, id, subject, hosts) in [
        (
            "server",
            "spiffe://example.org/server",
            "server",
            &["localhost"][..],
        ),
        (
            "client",
            "https://example.org/client;a=b,c",
            "a \"quoted\", name; with\\ + signs",
            &["one.test", "*.two.test"],
        ),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CountryName, "US");
        leaf.distinguished_name
            .push(DnType::OrganizationName, "SPIRE");
        leaf.distinguished_name.push(DnType::CommonName, subject);
        leaf.subject_alt_names = vec![SanType::URI(id.try_into().expect("ids are ascii"))];
        for host in hosts {
            let host = (*host).try_into().expect("hosts are ascii");
            leaf.subject_alt_names.push(SanType::DnsName(host));
        }
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = leaf.signed_by(&key, &issuer).expect("a leaf");
        for (kind, text) in [("pem", certificate.pem()), ("key", key.serialize_pem())] {
            fs::write(dir.join(format!("{name}.{kind}")), text).expect("it is writable");
        }
    }
}
