//! Load inside a namespace, by `ithildin-test-peer load`.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{Net, Process, eventually, process::binary};

/// Requests that go on until [`Load::finish`].
pub struct Load {
    process: Process,
}

/// What came of them.
#[derive(Debug)]
pub struct Tally {
    pub requests: u64,
    pub failed: u64,
    /// The first few, in words.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

/// How long the last requests may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Load {
    /// Sends `GET path` for `host` to `address` from `net`.
    pub fn start(net: &Net, address: &str, host: &str, path: &str) -> Self {
        let program: &Path = &binary("ithildin-test-peer");
        let mut command = net.command(program);
        command.args(["load", address, host, path]);
        Self {
            process: net.spawn("load", command),
        }
    }

    /// How many have been sent, as far as it has told.
    pub fn sent(&self) -> u64 {
        let log = self.process.log();
        let last = log.lines().rev().find_map(|line| line.split_once(' '));
        last.and_then(|(number, _)| number.parse().ok())
            .unwrap_or(0)
    }

    /// How many of them have failed, as far as it has told.
    pub fn failed(&self) -> u64 {
        let log = self.process.log();
        let last = log.lines().rev().find_map(|line| {
            let (_, rest) = line.split_once(" requests, ")?;
            rest.strip_suffix(" failed")?.parse().ok()
        });
        last.unwrap_or(0)
    }

    /// Waits until more than `count` have been sent.
    pub fn wait_beyond(&self, count: u64) {
        eventually("load goes on", || {
            let sent = self.sent();
            if sent > count { Ok(()) } else { Err(sent) }
        });
    }

    /// Ends it and counts.
    pub fn finish(mut self) -> Tally {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait(PATIENCE);
        let log = self.process.log();
        let last = log.lines().next_back().unwrap_or_default();
        let tally: Value = serde_json::from_str(last)
            .unwrap_or_else(|error| panic!("load ended with {last:?}: {error}"));
        let number = |field: &str| tally[field].as_u64().unwrap_or_default();
        let failures = tally["failures"].as_array().into_iter().flatten();
        Tally {
            requests: number("requests"),
            failed: number("failed"),
            failures: failures.map(ToString::to_string).collect(),
            slowest: Duration::from_millis(number("slowest_millis")),
        }
    }
}
