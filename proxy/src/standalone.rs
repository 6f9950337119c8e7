//! The life of the program: load, start, serve until a signal, drain.

use std::{fmt::Display, sync::Arc};

use anyhow::{Context, anyhow, bail};
use ithildin_proto::{from_yaml, pb::envoy::config::bootstrap::v3::Bootstrap};
use ithildin_proxy::{Proxy, ProxyOptions, Readiness, StartError, access_log::LogWriter, control};
use ithildin_xds::{ResourceSet, SdsClients, bootstrap};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    args::{Args, Mode},
    logging::LogFile,
};

pub(crate) async fn run(args: &Args, log: Option<LogFile>) -> anyhow::Result<()> {
    let config = load(args)?;
    if config
        .dynamic_resources
        .as_ref()
        .is_some_and(|dynamic| *dynamic != Default::default())
    {
        bail!("dynamic_resources: is not supported without an agent; use pilot-agent");
    }
    if args.mode == Mode::Validate {
        control::validate(config).map_err(|errors| refused(args, &errors))?;
        println!("configuration '{}' OK", source_name(args));
        return Ok(());
    }
    // Signals before anything serves, so that none is lost.
    let mut signals = Signals::new()?;
    let (_resources, receiver) = watch::channel(Arc::new(ResourceSet::default()));
    let proxy = Proxy::start(ProxyOptions {
        secrets: Arc::new(secrets(&config)),
        bootstrap: config,
        resources: receiver,
        concurrency: args.workers(),
        drain_time: args.drain_time(),
    })
    .await
    .map_err(|error| match error {
        StartError::Config(errors) => refused(args, &errors),
        other => other.into(),
    })?;
    if let (Some(path), Some(address)) = (&args.admin_address_path, proxy.admin_address()) {
        std::fs::write(path, address.to_string())
            .with_context(|| format!("--admin-address-path: cannot write {path:?}"))?;
    }
    let logs = Arc::clone(proxy.logs());
    tokio::select! {
        () = ready(&proxy, args.mode) => {}
        () = signals.stop(log.as_ref(), &logs) => {}
        () = quit(&proxy) => {}
    }
    tracing::info!("draining");
    tokio::select! {
        () = proxy.shutdown(args.drain_time()) => {}
        () = signals.stop(log.as_ref(), &logs) => tracing::warn!("a second signal: not waiting for connections"),
    }
    Ok(())
}

/// The bootstrap of both arguments, with the node that the command line gives.
fn load(args: &Args) -> anyhow::Result<Bootstrap> {
    let mut config = match &args.config_path {
        Some(path) => bootstrap::read(path)?,
        None if args.config_yaml.is_none() => {
            bail!("one of --config-path and --config-yaml is required");
        }
        None => Bootstrap::default(),
    };
    if let Some(text) = &args.config_yaml {
        let over: Bootstrap = from_yaml(text).context("--config-yaml")?;
        bootstrap::merge(&mut config, &over);
    }
    let node = config.node.get_or_insert_default();
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &args.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    Ok(config)
}

/// The errors have a line each; they name fields, and this the file.
fn refused(args: &Args, errors: &impl Display) -> anyhow::Error {
    anyhow!(
        "configuration '{}' is refused:\n{errors}",
        source_name(args)
    )
}

fn source_name(args: &Args) -> String {
    let path = args.config_path.as_ref();
    path.map_or("--config-yaml".into(), |path| path.display().to_string())
}

/// SDS from the servers that static clusters name.
fn secrets(config: &Bootstrap) -> SdsClients {
    let servers = bootstrap::servers(config);
    SdsClients::new(
        config.node.clone().unwrap_or_default(),
        Arc::new(move |name| servers.get(name).cloned()),
        Vec::new(),
        Arc::new(control::check_secret),
    )
}

/// How many of the things that are waited for a log line names.
const SHOWN: usize = 5;

/// Logs what is waited for. Returns only with [`Mode::InitOnly`], once all is warm.
async fn ready(proxy: &Proxy, mode: Mode) {
    let mut readiness = proxy.ready();
    loop {
        let now = readiness.borrow_and_update().clone();
        match now {
            Readiness::Waiting(what) => {
                let shown = &what[..what.len().min(SHOWN)];
                let more = what.len() - shown.len();
                tracing::info!(waiting_for = ?shown, more, "starting");
            }
            Readiness::Ready => {
                tracing::info!("all is warm: serving");
                if mode == Mode::InitOnly {
                    return;
                }
            }
            Readiness::Draining => {}
        }
        if readiness.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Until `POST /quitquitquit`.
async fn quit(proxy: &Proxy) {
    let mut requested = proxy.requested();
    if requested.wait_for(|now| now.quit).await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    /// Until the next SIGTERM or SIGINT; SIGUSR1 meanwhile opens the logs anew.
    async fn stop(&mut self, log: Option<&LogFile>, access_logs: &LogWriter) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => {
                    access_logs.reopen();
                    if let Some(log) = log {
                        log.reopen();
                    }
                }
            }
        }
    }
}
