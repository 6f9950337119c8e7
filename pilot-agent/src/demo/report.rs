//! What is shown, as it happens: text for people or JSON for programs.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::bail;
use serde::Serialize;

use super::Output;

/// One thing that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    Started {
        data_plane: &'static str,
        folder: PathBuf,
    },
    /// An identity that an authority issued.
    Identity {
        id: String,
        serial: String,
        issuer: String,
        seconds_left: u64,
    },
    ProxyReady {
        name: String,
        millis: u64,
    },
    /// The first request that went all the way.
    FirstResponse {
        url: String,
        status: u16,
        server: String,
        millis_since_start: u64,
        hops: Vec<Hop>,
    },
    /// What comes next.
    Act {
        title: &'static str,
    },
    Rotation {
        what: &'static str,
    },
    Load {
        requests: u64,
        failures: u64,
        seconds: f64,
        median_micros: u64,
        first_failures: Vec<String>,
    },
    /// What a trust domain can do, now that it joined or left.
    Federation {
        trust_domain: String,
        change: &'static str,
        millis: u64,
        observed: String,
        held: bool,
    },
    Forgery {
        name: String,
        what: &'static str,
        refused: bool,
        /// What the one who forges gets to see.
        peer_saw: String,
        /// What the gateway's log says.
        reason: Option<String>,
        /// Why the data plane is known to admit it.
        known: Option<&'static str>,
    },
    Summary {
        held: bool,
        failed: Vec<String>,
        /// What the data plane admits and is known to.
        known: Vec<String>,
    },
    TryIt {
        commands: Vec<String>,
    },
}

/// At a proxy: the identity that it shows, and the one that it saw.
#[derive(Debug, Serialize)]
pub(super) struct Hop {
    pub(super) at: String,
    pub(super) own: String,
    pub(super) peer: String,
}

/// Tells events, and remembers what did not hold.
pub(super) struct Report {
    output: Output,
    failed: Vec<String>,
    known: Vec<String>,
}

impl Report {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            failed: Vec::new(),
            known: Vec::new(),
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        let text = match self.output {
            Output::Text => event.to_string(),
            Output::Json => serde_json::to_string(&event).unwrap_or_default(),
        };
        // Whoever closed our output does not want to see more.
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// Remembers `what` unless it held.
    pub(super) fn expect(&mut self, held: bool, what: impl FnOnce() -> String) {
        if !held {
            self.failed.push(what());
        }
    }

    /// Remembers a known shortcoming of the data plane.
    pub(super) fn admit(&mut self, known: String) {
        self.known.push(known);
    }

    /// Tells how it went; an error if something did not hold.
    pub(super) fn summarise(&mut self) -> anyhow::Result<()> {
        self.tell(Event::Summary {
            held: self.failed.is_empty(),
            failed: self.failed.clone(),
            known: self.known.clone(),
        });
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("did not hold: {}", self.failed.join("; "))
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Started { data_plane, folder } => {
                writeln!(
                    f,
                    "Two clusters, domain.test and example.org, each with an authority of its own; data plane: {data_plane}"
                )?;
                writeln!(f, "  configurations and logs: {}", folder.display())?;
                writeln!(
                    f,
                    "  workload --HTTP--> egress ===mTLS===> ingress ===mTLS===> sidecar --> httpbin"
                )?;
                write!(f, "Identities (from authorities for development)")
            }
            Self::Identity {
                id,
                serial,
                issuer,
                seconds_left,
            } => {
                write!(
                    f,
                    "  {id}\n    serial {serial}, {seconds_left} s left, issued by {issuer}"
                )
            }
            Self::ProxyReady { name, millis } => write!(f, "  {name} is ready after {millis} ms"),
            Self::FirstResponse {
                url,
                status,
                server,
                millis_since_start,
                hops,
            } => {
                write!(
                    f,
                    "First request: {url} -> {status} (server: {server}), {millis_since_start} ms after the start"
                )?;
                hops.iter().try_for_each(|hop| {
                    write!(
                        f,
                        "\n  at {}, which is {}:\n    the peer is {}",
                        hop.at, hop.own, hop.peer
                    )
                })
            }
            Self::Act { title } => write!(f, "{title}"),
            Self::Rotation { what } => write!(f, "  {what}"),
            Self::Load {
                requests,
                failures,
                seconds,
                median_micros,
                first_failures,
            } => {
                write!(
                    f,
                    "  {requests} requests in {seconds:.1} s, median {median_micros} µs, {failures} failed"
                )?;
                first_failures
                    .iter()
                    .try_for_each(|failure| write!(f, "\n    {failure}"))
            }
            Self::Federation {
                trust_domain,
                change,
                millis,
                observed,
                held,
            } => {
                let held = if *held {
                    ""
                } else {
                    "  <-- NOT AS IT SHOULD BE"
                };
                write!(
                    f,
                    "  {trust_domain} {change}: after {millis} ms {observed}{held}"
                )
            }
            Self::Forgery {
                name,
                what,
                refused,
                peer_saw,
                reason,
                known,
            } => {
                let verdict = match (refused, known) {
                    (true, _) => "refused".to_owned(),
                    (false, Some(known)) => format!("admitted: {known}"),
                    (false, None) => "ADMITTED".to_owned(),
                };
                write!(
                    f,
                    "  {name} ({what}): {verdict}\n    the peer saw: {peer_saw}"
                )?;
                match reason {
                    Some(reason) => write!(f, "\n    the gateway says: {reason}"),
                    None => Ok(()),
                }
            }
            Self::Summary {
                held: true, known, ..
            } if known.is_empty() => {
                write!(f, "All of it held.")
            }
            Self::Summary {
                held: true, known, ..
            } => {
                write!(
                    f,
                    "All of it held, but for what the data plane is known to admit: {}",
                    known.join(", ")
                )
            }
            Self::Summary { failed, .. } => {
                write!(f, "Not all of it held:")?;
                failed
                    .iter()
                    .try_for_each(|failed| write!(f, "\n  {failed}"))
            }
            Self::TryIt { commands } => {
                write!(f, "It stays up; try it, and end it with Ctrl-C:")?;
                commands
                    .iter()
                    .try_for_each(|command| write!(f, "\n  {command}"))
            }
        }
    }
}
