//! Somebody with a certificate, genuine or forged, at the gateway; and what the gateway says about it.

use std::time::{Duration, Instant};

use ithildin_spiffe::{
    PrivateKey, SpiffeId, TrustDomain, X509Svid,
    authority::{Authority, forge::Forgery},
};
use rustls::pki_types::CertificateDer;
use tokio::time::sleep;

use super::{
    DataPlane,
    acts::{PATIENCE, POLL},
    plain::Client,
    stage::{CLIENT_DOMAIN, HOST, SERVER_DOMAIN, Stage},
    tls,
};

/// How long to wait for the line in the gateway's log.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// For so long the log takes only so many lines.
const LOG_WINDOW: Duration = Duration::from_secs(1);

/// How a visit is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Admitted,
    Refused,
}

/// Somebody with a certificate, at the gateway's door.
pub(super) struct Visitor {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
}

impl Visitor {
    pub(super) fn genuine(svid: X509Svid) -> Self {
        Self {
            chain: svid.chain,
            key: svid.key,
        }
    }

    pub(super) fn forged(
        authority: &Authority,
        id: &SpiffeId,
        forgery: Forgery,
    ) -> anyhow::Result<Self> {
        let forged = authority.forge(CLIENT_DOMAIN, id, forgery)?;
        Ok(Self {
            chain: forged.chain,
            key: forged.key,
        })
    }

    /// A connection that has carried a request.
    pub(super) async fn connect(&self, stage: &Stage) -> anyhow::Result<Client> {
        let bundle = stage
            .authority
            .bundle(&TrustDomain::parse(SERVER_DOMAIN)?)?;
        let mut client =
            tls::connect(stage.ingress, HOST, self.chain.clone(), &self.key, &bundle).await?;
        // With TLS 1.3 a refusal arrives after our own handshake is done.
        client.get("/status/200").await?;
        Ok(client)
    }

    /// One request; an error if it is refused.
    pub(super) async fn visit(&self, stage: &Stage) -> Result<u16, String> {
        let visit = async {
            let mut client = self.connect(stage).await?;
            anyhow::Ok(client.get("/status/200").await?.status().as_u16())
        };
        visit
            .await
            .map_err(|error: anyhow::Error| innermost(&error))
    }

    /// Visits until the outcome is as wanted; the last outcome, when patience ends.
    pub(super) async fn until(&self, stage: &Stage, wanted: Wanted) -> Result<u16, String> {
        let started = Instant::now();
        loop {
            let outcome = self.visit(stage).await;
            let as_wanted = outcome.is_ok() == (wanted == Wanted::Admitted);
            if as_wanted || started.elapsed() > PATIENCE {
                return outcome;
            }
            sleep(POLL).await;
        }
    }

    /// The gateway's own words about the refusal of this visitor, logged after the first `log` bytes.
    ///
    /// Its log takes only so many lines a second, so that a visitor may have to knock again to be told. Envoy
    /// tells nobody.
    pub(super) async fn reason(&self, stage: &Stage, log: usize) -> Option<String> {
        if stage.data_plane == DataPlane::Envoy {
            return None;
        }
        let started = Instant::now();
        let mut knocked = started;
        loop {
            sleep(POLL).await;
            let text = stage.ingress_log();
            let news = text.get(log..).unwrap_or_default();
            if let Some(line) = news.lines().rev().find(|line| line.contains("rule=")) {
                return Some(message(line));
            }
            if started.elapsed() > LOG_PATIENCE {
                return None;
            }
            if knocked.elapsed() > LOG_WINDOW {
                let _ = self.visit(stage).await;
                knocked = Instant::now();
            }
        }
    }
}

/// The cause below hyper's and our own words: TLS names the alert.
fn innermost(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

/// What a log line says, without its time, level, module and fields but for the rule.
pub(super) fn message(line: &str) -> String {
    let text = line.split_once(" WARN ").map_or(line, |(_, rest)| rest);
    let text = text.split_once(": ").map_or(text, |(_, rest)| rest);
    let end = [" listener=", " side="]
        .iter()
        .filter_map(|field| text.find(field))
        .min();
    let rule = line
        .split_once("rule=\"")
        .and_then(|(_, rest)| rest.split('"').next());
    let text = text[..end.unwrap_or(text.len())].trim();
    let known = [
        "downstream tls handshake failed: ",
        "closed a live connection: ",
    ];
    let text = known
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    match rule {
        Some(rule) => format!("{text} [{rule}]"),
        None => text.to_owned(),
    }
}
