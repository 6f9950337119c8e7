//! What is shown, act by act.

use std::time::{Duration, Instant};

use anyhow::Context;
use ithildin_spiffe::{SpiffeId, TrustDomain, authority::forge::Forgery};
use tokio::time::sleep;

use super::{
    DataPlane,
    load::Load,
    plain::Client,
    report::{Event, Hop, Report},
    stage::{CLIENT_DOMAIN, EGRESS, HOST, HTTPBIN, INGRESS, SERVER_DOMAIN, Stage, THIRD_DOMAIN},
    visitor::{Visitor, Wanted, message},
};

/// How long everybody has to learn a root before it signs, and before the old one is dropped.
const SETTLE: Duration = Duration::from_secs(2);
/// Between the other rotations.
const BREATH: Duration = Duration::from_millis(300);
/// A change of the federation must show by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Plays all acts in order.
pub(super) async fn play(
    stage: &Stage,
    started: Instant,
    report: &mut Report,
) -> anyhow::Result<()> {
    first_request(stage, started, report).await?;
    rotations(stage, report).await?;
    third_domain(stage, report).await?;
    forgeries(stage, report).await?;
    let last = get(stage, "/status/200").await;
    report.expect(last.is_ok_and(|status| status == 200), || {
        "the last request after all of it".to_owned()
    });
    Ok(())
}

async fn first_request(stage: &Stage, started: Instant, report: &mut Report) -> anyhow::Result<()> {
    let host = format!("{HOST}:{}", stage.egress.port());
    let mut client = Client::connect(stage.egress, &host).await?;
    let response = client.get("/headers").await.context("the first request")?;
    let millis_since_start = started.elapsed().as_millis() as u64;
    let status = response.status().as_u16();
    let server = response.headers().get("server");
    let server = server
        .and_then(|server| server.to_str().ok())
        .unwrap_or("-")
        .to_owned();
    let hops = hops(response.body());
    let seen: Vec<_> = hops
        .iter()
        .map(|hop| (hop.own.as_str(), hop.peer.as_str()))
        .collect();
    report.expect(status == 200, || {
        format!("the first request: status {status}")
    });
    report.expect(seen == [(INGRESS, EGRESS), (HTTPBIN, INGRESS)], || {
        format!("the identities at the hops: {seen:?}")
    });
    report.tell(Event::FirstResponse {
        url: format!("http://{host}/headers"),
        status,
        server,
        millis_since_start,
        hops,
    });
    for (path, wanted) in [("/status/418", 418), ("/nowhere", 404)] {
        let status = get(stage, path).await?;
        report.expect(status == wanted, || {
            format!("{path}: status {status}, not {wanted}")
        });
    }
    Ok(())
}

/// From `x-forwarded-client-cert` as httpbin sees it: one element for each mTLS hop.
fn hops(body: &[u8]) -> Vec<Hop> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let header = body["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    let elements = split_unquoted(header, ',');
    let at = ["the ingress", "httpbin's sidecar"];
    let hop = |(at, element): (&&str, &str)| {
        let field = |name: &str| {
            let fields = split_unquoted(element, ';');
            let field = fields
                .iter()
                .find_map(|field| field.trim().strip_prefix(name));
            field.unwrap_or("-").trim_matches('"').to_owned()
        };
        Hop {
            at: (*at).to_owned(),
            own: field("By="),
            peer: field("URI="),
        }
    };
    at.iter().zip(elements).map(hop).collect()
}

fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    let parts = text.split(|c: char| {
        quoted ^= c == '"';
        c == separator && !quoted
    });
    parts.filter(|part| !part.is_empty()).collect()
}

async fn rotations(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let authority = &stage.authority;
    let host = format!("{HOST}:{}", stage.egress.port());
    report.tell(Event::Act {
        title: "Everything rotates under load",
    });
    let load = Load::start(stage.egress, &host, "/status/200");
    sleep(BREATH).await;
    for (domain, what) in [
        (CLIENT_DOMAIN, "every SVID of domain.test is new"),
        (SERVER_DOMAIN, "every SVID of example.org is new"),
    ] {
        authority.rotate_leaf(domain, None)?;
        report.tell(Event::Rotation { what });
        sleep(BREATH).await;
    }
    authority.rotate_intermediate(SERVER_DOMAIN)?;
    report.tell(Event::Rotation {
        what: "the intermediate of example.org is new, and every SVID below it",
    });
    sleep(BREATH).await;
    authority.rotate_root(SERVER_DOMAIN, SETTLE).await?;
    report.tell(Event::Rotation {
        what: "the root of example.org is new, and everything below it",
    });
    sleep(SETTLE).await;
    authority.drop_old_roots(SERVER_DOMAIN)?;
    report.tell(Event::Rotation {
        what: "the old root of example.org is trusted no longer",
    });
    sleep(SETTLE).await;
    let (held, event) = load.finish().await;
    report.tell(event);
    if let Err(reason) = held {
        report.expect(false, || format!("{reason} during the rotations"));
    }
    Ok(())
}

async fn third_domain(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let authority = &stage.authority;
    let (third, server) = (
        TrustDomain::parse(THIRD_DOMAIN)?,
        TrustDomain::parse(SERVER_DOMAIN)?,
    );
    let id = SpiffeId::parse("spiffe://third.test/ns/default/sa/visitor")?;
    let svid = authority.mint(THIRD_DOMAIN, &id, None, &[])?;
    let visitor = Visitor::genuine(svid);
    report.tell(Event::Act {
        title: "A third trust domain knocks at the gateway, with a valid SVID of its own",
    });

    expect_visit(stage, report, &visitor, "is not federated", Wanted::Refused).await?;
    authority.federate(&third, &server)?;
    expect_visit(stage, report, &visitor, "joins", Wanted::Admitted).await?;
    let live = visitor.connect(stage).await;
    authority.unfederate(&third, &server)?;
    expect_visit(stage, report, &visitor, "leaves", Wanted::Refused).await?;
    // Envoy does not look again at connections that it has let in.
    if stage.data_plane == DataPlane::Builtin {
        expect_closed(stage, report, live?).await;
    }
    Ok(())
}

async fn expect_visit(
    stage: &Stage,
    report: &mut Report,
    visitor: &Visitor,
    change: &'static str,
    wanted: Wanted,
) -> anyhow::Result<()> {
    let log = stage.ingress_log().len();
    let started = Instant::now();
    let outcome = visitor.until(stage, wanted).await;
    let millis = started.elapsed().as_millis() as u64;
    let held = outcome.is_ok() == (wanted == Wanted::Admitted);
    let observed = match outcome {
        Ok(status) => format!("a request is answered with {status}"),
        Err(error) => {
            let reason = visitor.reason(stage, log).await.unwrap_or(error);
            format!("the handshake is refused: {reason}")
        }
    };
    report.expect(held, || format!("{THIRD_DOMAIN} {change}: {observed}"));
    report.tell(Event::Federation {
        trust_domain: THIRD_DOMAIN.to_owned(),
        change,
        millis,
        observed,
        held,
    });
    Ok(())
}

async fn expect_closed(stage: &Stage, report: &mut Report, live: Client) {
    let started = Instant::now();
    while !live.is_closed() && started.elapsed() < PATIENCE {
        sleep(POLL).await;
    }
    let held = live.is_closed();
    let log = stage.ingress_log();
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("closed a live connection"));
    let observed = match (held, line) {
        (true, Some(line)) => format!("its live connection is closed: {}", message(line)),
        (true, None) => "its live connection is closed".to_owned(),
        (false, _) => "its live connection lives on".to_owned(),
    };
    report.expect(held, || format!("{THIRD_DOMAIN} leaves: {observed}"));
    report.tell(Event::Federation {
        trust_domain: THIRD_DOMAIN.to_owned(),
        change: "leaves",
        millis: started.elapsed().as_millis() as u64,
        observed,
        held,
    });
}

/// The forgeries, what they are, and why a stock Envoy is known to admit them, if it is.
const FORGERIES: [(Forgery, &str, Option<&str>); 5] = [
    (
        Forgery::ForeignId,
        "an ID of example.org, signed by domain.test's CA",
        None,
    ),
    (
        Forgery::TwoUriSans,
        "two URI SANs",
        Some("Envoy's SPIFFE validator looks at the first URI SAN alone"),
    ),
    (Forgery::CaAsLeaf, "a CA certificate as leaf", None),
    (Forgery::Expired, "expired an hour ago", None),
    (Forgery::Revoked, "listed in its CA's CRL", None),
];

async fn forgeries(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.tell(Event::Act {
        title: "Forgeries knock at the gateway, all signed by domain.test's CA",
    });
    let valid = SpiffeId::parse("spiffe://domain.test/ns/default/sa/forger")?;
    let foreign = SpiffeId::parse("spiffe://example.org/ns/default/sa/forger")?;
    let svid = stage.authority.mint(CLIENT_DOMAIN, &valid, None, &[])?;
    let visitor = Visitor::genuine(svid);
    let admitted = visitor.visit(stage).await;
    report.expect(admitted.is_ok(), || {
        format!("a genuine SVID at the gateway: {admitted:?}")
    });
    for (forgery, what, known) in FORGERIES {
        let id = if forgery == Forgery::ForeignId {
            &foreign
        } else {
            &valid
        };
        let visitor = Visitor::forged(&stage.authority, id, forgery)?;
        let log = stage.ingress_log().len();
        let known = known.filter(|_| stage.data_plane == DataPlane::Envoy);
        let outcome = match known {
            Some(_) => visitor.visit(stage).await,
            None => visitor.until(stage, Wanted::Refused).await,
        };
        let refused = outcome.is_err();
        if let Some(why) = known.filter(|_| !refused) {
            report.admit(format!("{} ({why})", forgery.name()));
        }
        report.expect(refused || known.is_some(), || {
            format!("{} was admitted", forgery.name())
        });
        report.tell(Event::Forgery {
            name: forgery.name(),
            what,
            refused,
            peer_saw: match outcome {
                Ok(status) => format!("status {status}"),
                Err(error) => error,
            },
            reason: if refused {
                visitor.reason(stage, log).await
            } else {
                None
            },
            known: known.filter(|_| !refused),
        });
    }
    Ok(())
}

async fn get(stage: &Stage, path: &str) -> anyhow::Result<u16> {
    let host = format!("{HOST}:{}", stage.egress.port());
    let mut client = Client::connect(stage.egress, &host).await?;
    Ok(client.get(path).await?.status().as_u16())
}
