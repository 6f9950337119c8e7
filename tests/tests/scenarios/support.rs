//! What several scenarios ask.

use ithildin_tests::{
    DataPlane, Net,
    authority::Files,
    clusters::{GATEWAY, Workload},
    curl::{Answer, ClientCertificate},
    eventually, peers,
    process::output,
};
use serde_json::Value;

/// curl's exit codes for what is no refusal by TLS: no name, no connection, no end. An alert gives
/// 35, or with TLS 1.3, where it comes after curl's own handshake, 16, 18, 52 or 56.
const CURL_NO_TLS: [i32; 4] = [0, 6, 7, 28];

/// A test `$name` that runs `$scenario(egress, ingress, &identities)`; it says so by its name if a peer
/// is missing.
macro_rules! scenario {
    ($name:ident, $scenario:ident($egress:ident, $ingress:ident, $identities:path)) => {
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            let planes = [DataPlane::$egress, DataPlane::$ingress];
            if !$crate::support::has(test, &planes) {
                return;
            }
            if let Some(identities) = $identities(test) {
                $scenario(planes[0], planes[1], &identities);
            }
        }
    };
}
pub(crate) use scenario;

/// Whether all of these data planes are here.
pub(crate) fn has(test: &str, data_planes: &[DataPlane]) -> bool {
    !data_planes.contains(&DataPlane::Envoy) || peers::envoy(test).is_some()
}

pub(crate) fn certificate(files: &Files) -> ClientCertificate<'_> {
    ClientCertificate {
        chain: &files.chain,
        key: &files.key,
    }
}

/// The request has to end in a TLS alert, or without a word, and not with a status.
#[track_caller]
pub(crate) fn assert_refused(what: &str, answer: &Answer) {
    assert!(
        !CURL_NO_TLS.contains(&answer.exit) && answer.status == 0,
        "{what} was not refused: {answer:?}"
    );
}

/// One header as the service received it.
#[track_caller]
pub(crate) fn received<'a>(echoed: &'a Value, header: &str) -> &'a str {
    let value = echoed["headers"][header].as_str();
    value.unwrap_or_else(|| panic!("no {header} in {echoed}"))
}

/// The gateway has refused somebody for this reason: in its counters, and with the built-in proxy in
/// a line of its log that has all of `words`.
#[track_caller]
pub(crate) fn assert_told(gateway: &Workload, counter: &str, words: &[&str]) {
    let name = format!("listener.0.0.0.0_8080.ssl.{counter}");
    eventually(&format!("{name} counts"), || {
        let count = gateway.agent.stat(&gateway.net, &name);
        if count > 0 { Ok(()) } else { Err(count) }
    });
    if gateway.agent.data_plane == DataPlane::Builtin {
        wait_for_line(|| gateway.log(), words);
    }
}

/// What `openssl s_client -showcerts` says of the gateway, asked with a client certificate.
pub(crate) fn showcerts(from: &Net, client: &Files) -> String {
    let mut command = from.command("openssl");
    command
        .args(["s_client", "-showcerts", "-connect", GATEWAY, "-CAfile"])
        .arg(&client.bundle)
        .arg("-cert")
        .arg(&client.chain)
        .arg("-cert_chain")
        .arg(&client.chain)
        .arg("-key")
        .arg(&client.key);
    output(command)
}

/// The certificates in the output of s_client, each as `openssl x509 -text` prints it, leaf first.
pub(crate) fn certificates(from: &Net, showcerts: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let blocks = showcerts.match_indices("-----BEGIN CERTIFICATE-----");
    let blocks = blocks.filter_map(|(start, _)| {
        let end = showcerts[start..].find(END)?;
        Some(&showcerts[start..start + end + END.len()])
    });
    let mut texts = Vec::new();
    for (index, block) in blocks.enumerate() {
        let file = from.dir().join(format!("shown-{index}.pem"));
        std::fs::write(&file, block).expect("the scratch folder is writable");
        let mut command = from.command("openssl");
        command.args(["x509", "-noout", "-text", "-in"]).arg(&file);
        texts.push(output(command));
    }
    texts
}

/// Waits until `log` has a line with all of `words`.
#[track_caller]
pub(crate) fn wait_for_line(log: impl Fn() -> String, words: &[&str]) -> String {
    eventually(&format!("a log line with {words:?}"), || {
        let text = log();
        let line = text
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned).ok_or(text)
    })
}
