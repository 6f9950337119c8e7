//! Two federated trust domains, each with an authority of its own: who gets through the gateway of
//! example.org, who joins and leaves, and who never should.

mod forgeries;

use std::{fs, io::Write, time::Duration};

use ithildin_tests::{
    DataPlane, Identities, Lan, Net, Process,
    authority::Files,
    clusters::{Client, GATEWAY, HTTPBIN, INGRESS, SLEEP, Server},
    eventually_within,
    process::output,
};

use crate::support::{assert_refused, assert_told, certificate, received, scenario, wait_for_line};

/// A change of the federation has to show by then, without a restart.
const WITHIN: Duration = Duration::from_secs(10);
const VISITOR: &str = "spiffe://third.test/ns/default/sa/visitor";

scenario!(
    on_builtin,
    federation(Builtin, Builtin, Identities::federated)
);
scenario!(on_envoy, federation(Envoy, Envoy, Identities::federated));
scenario!(
    from_builtin_to_envoy,
    federation(Builtin, Envoy, Identities::federated)
);
scenario!(
    from_envoy_to_builtin,
    federation(Envoy, Builtin, Identities::federated)
);
scenario!(
    spire_on_builtin,
    federation(Builtin, Builtin, Identities::federated_by_spire)
);
scenario!(
    spire_on_envoy,
    federation(Envoy, Envoy, Identities::federated_by_spire)
);

fn federation(egress: DataPlane, ingress: DataPlane, identities: &Identities) {
    let lan = Lan::new();
    let server = Server::start(&lan, identities, "example.org", &HTTPBIN, ingress);
    let client = Client::start(&lan, identities, "domain.test", egress);
    let outside = lan.host([10, 0, 3, 20].into(), &[]);

    let answer = client.curl("/status/200", &[]);
    assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");
    let request = answer.echoed();
    let hops = received(&request, "x-forwarded-client-cert");
    let seen = [
        format!("URI=spiffe://domain.test{SLEEP}"),
        format!("URI=spiffe://example.org{INGRESS}"),
    ];
    assert!(seen.iter().all(|id| hops.contains(id)), "{hops}");

    let svid = identities.mint("domain.test", "spiffe://domain.test/ns/default/sa/curl");
    let answer = server.knock(&outside, "/status/200", certificate(&svid), &["--http2"]);
    assert_eq!(
        (answer.exit, answer.status, answer.version.as_str()),
        (0, 200, "2"),
        "{answer:?}"
    );

    third_domain(&outside, &server, identities);
    forgeries::all_refused(&outside, &server, identities);
    let answer = client.curl("/status/200", &[]);
    assert_eq!(answer.status, 200, "after all refusals: {answer:?}");
    server_leaves(&server, &client, identities);
}

/// A third domain joins and leaves while everything runs.
fn third_domain(outside: &Net, server: &Server, identities: &Identities) {
    let visitor = identities.mint("third.test", VISITOR);
    let knock = || server.knock(outside, "/status/200", certificate(&visitor), &[]);
    assert_refused("a domain that is not federated", &knock());
    assert_told(
        &server.gateway,
        "fail_verify_error",
        &[VISITOR, "no bundle for its trust domain third.test"],
    );
    identities.federate("third.test", "example.org");
    eventually_within(WITHIN, "the third domain is let in", || {
        knock().expect_status(200)
    });
    let mut live = Live::open(outside, &visitor);
    identities.unfederate("third.test", "example.org");
    eventually_within(WITHIN, "the third domain is out", || {
        let answer = knock();
        if answer.exit != 0 {
            Ok(())
        } else {
            Err(answer)
        }
    });
    // Envoy does not look again at connections that it has let in.
    if server.gateway.agent.data_plane == DataPlane::Builtin {
        live.process.wait(WITHIN);
        let words = ["closed a live connection", VISITOR, "third.test"];
        wait_for_line(|| server.gateway.log(), &words);
    }
}

/// The client's domain trusts the server's no longer: its workload gets an error, and finds the
/// server's ID and domain in its own sidecar's log.
fn server_leaves(server: &Server, client: &Client, identities: &Identities) {
    identities.unfederate("example.org", "domain.test");
    // Envoy keeps the connections that it has: only new ones are refused.
    if client.sleep.agent.data_plane == DataPlane::Envoy {
        return;
    }
    let words = [
        server.gateway.id.as_str(),
        "no bundle for its trust domain example.org",
    ];
    // The other side may have been told first.
    eventually_within(
        WITHIN,
        "nothing leaves for a domain without a bundle",
        || {
            let answer = client.curl("/status/200", &[]).expect_status(503)?;
            let log = client.sleep.log();
            let told = |line: &str| words.iter().all(|word| line.contains(word));
            let text = answer.body.contains("upstream connect error");
            if text && log.lines().any(told) {
                Ok(())
            } else {
                Err(answer)
            }
        },
    );
    identities.federate("example.org", "domain.test");
    eventually_within(WITHIN, "federated again", || {
        client.curl("/status/200", &[]).expect_status(200)
    });
}

/// A connection that has carried a request and stays open.
struct Live {
    process: Process,
    // The end of its input would be the end of the connection.
    _input: fs::File,
}

impl Live {
    fn open(from: &Net, svid: &Files) -> Self {
        let input = from.dir().join("live.input");
        let mut make = from.command("mkfifo");
        make.arg(&input);
        output(make);
        let script = format!(
            "exec openssl s_client -quiet -connect {GATEWAY} -cert {} -cert_chain {} -key {} < {}",
            svid.chain.display(),
            svid.chain.display(),
            svid.key.display(),
            input.display()
        );
        let mut command = from.command("sh");
        command.args(["-c", &script]);
        let mut process = from.spawn("live", command);
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .open(&input)
            .expect("the pipe opens");
        let request = "GET /status/200 HTTP/1.1\r\nhost: app.example.org\r\n\r\n";
        file.write_all(request.as_bytes())
            .expect("the pipe takes a request");
        process.wait_for_log(&["HTTP/1.1 200"]);
        Self {
            process,
            _input: file,
        }
    }
}
