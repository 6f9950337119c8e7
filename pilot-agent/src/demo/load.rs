//! Requests without a pause, counted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::{plain::Client, report::Event};

/// Workloads that send at once.
const CLIENTS: usize = 4;
/// Between two requests of one of them: enough load to hit each rotation, and little CPU.
const PAUSE: Duration = Duration::from_millis(1);
/// How many failures are told in full.
const TOLD_FAILURES: usize = 3;

/// Load that goes on until it is finished.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Tally>,
    started: Instant,
}

#[derive(Default)]
struct Tally {
    micros: Vec<u64>,
    failures: Vec<String>,
}

impl Load {
    pub(super) fn start(address: SocketAddr, host: &str, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(send(address, host.to_owned(), path, Arc::clone(&stop)));
        }
        Self {
            stop,
            clients,
            started: Instant::now(),
        }
    }

    /// Ends the load; an error if not every request was answered, or if there was none. Then what there
    /// is to tell.
    pub(super) async fn finish(mut self) -> (Result<(), String>, Event) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        while let Some(client) = self.clients.join_next().await {
            match client {
                Ok(tally) => {
                    all.micros.extend(tally.micros);
                    all.failures.extend(tally.failures);
                }
                Err(error) => all.failures.push(error.to_string()),
            }
        }
        all.micros.sort_unstable();
        let failures = all.failures.len() as u64;
        let held = match (failures, all.micros.is_empty()) {
            (0, false) => Ok(()),
            (0, true) => Err("no request was made".to_owned()),
            (failures, _) => Err(format!("{failures} requests failed")),
        };
        let event = Event::Load {
            requests: all.micros.len() as u64 + failures,
            failures,
            seconds: self.started.elapsed().as_secs_f64(),
            median_micros: all.micros.get(all.micros.len() / 2).copied().unwrap_or(0),
            first_failures: all.failures.into_iter().take(TOLD_FAILURES).collect(),
        };
        (held, event)
    }
}

async fn send(
    address: SocketAddr,
    host: String,
    path: &'static str,
    stop: Arc<AtomicBool>,
) -> Tally {
    let mut tally = Tally::default();
    let mut client: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        match exchange(&mut client, address, &host, path).await {
            Ok(()) => tally.micros.push(started.elapsed().as_micros() as u64),
            Err(error) => {
                client = None;
                tally.failures.push(format!("{error:#}"));
                sleep(10 * PAUSE).await;
            }
        }
        sleep(PAUSE).await;
    }
    tally
}

async fn exchange(
    client: &mut Option<Client>,
    address: SocketAddr,
    host: &str,
    path: &str,
) -> anyhow::Result<()> {
    let open = match client {
        Some(open) => open,
        None => client.insert(Client::connect(address, host).await?),
    };
    let response = open.get(path).await?;
    if !response.status().is_success() {
        let body = String::from_utf8_lossy(response.body());
        anyhow::bail!("status {}: {body}", response.status().as_u16());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn neither_failures_nor_nothing_at_all_hold() {
        let nobody = (Ipv4Addr::LOCALHOST, 1).into();
        let load = Load {
            stop: Arc::default(),
            clients: JoinSet::new(),
            started: Instant::now(),
        };
        assert_eq!(load.finish().await.0.unwrap_err(), "no request was made");
        let load = Load::start(nobody, "host", "/");
        sleep(20 * PAUSE).await;
        let held = load.finish().await.0;
        assert!(held.unwrap_err().ends_with("requests failed"));
    }
}
