//! The life of the program: load, start, serve until a signal, drain.

use std::{collections::HashMap, path::Path, sync::Arc};

use anyhow::{Context, bail};
use ithildin_proto::{
    from_yaml,
    pb::envoy::config::{
        bootstrap::v3::Bootstrap,
        core::v3::{Node, address, socket_address::PortSpecifier},
        endpoint::v3::lb_endpoint::HostIdentifier,
    },
};
use ithildin_proxy::{Proxy, ProxyOptions, Readiness, access_log::LogWriter, control};
use ithildin_xds::{ResourceSet, SdsClients, ServerAddress};
use prost::Message;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    args::{Args, Mode},
    logging::LogFile,
};

pub(crate) async fn run(args: &Args, log: Option<LogFile>) -> anyhow::Result<()> {
    let bootstrap = load(args)?;
    if bootstrap
        .dynamic_resources
        .as_ref()
        .is_some_and(|dynamic| *dynamic != Default::default())
    {
        bail!("dynamic_resources: is not supported without an agent; use pilot-agent");
    }
    if args.mode == Mode::Validate {
        control::validate(bootstrap)?;
        println!("configuration '{}' OK", source_name(args));
        return Ok(());
    }
    // Signals before anything serves, so that none is lost.
    let mut signals = Signals::new()?;
    let (_resources, receiver) = watch::channel(Arc::new(ResourceSet::default()));
    let proxy = Proxy::start(ProxyOptions {
        secrets: Arc::new(secrets(&bootstrap)),
        bootstrap,
        resources: receiver,
        concurrency: args.workers(),
        drain_time: args.drain_time(),
    })
    .await?;
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
    let mut bootstrap = match &args.config_path {
        Some(path) => read(path)?,
        None if args.config_yaml.is_none() => {
            bail!("one of --config-path and --config-yaml is required");
        }
        None => Bootstrap::default(),
    };
    if let Some(text) = &args.config_yaml {
        let over: Bootstrap = from_yaml(text).context("--config-yaml")?;
        bootstrap.merge(over.encode_to_vec().as_slice())?;
    }
    let node = bootstrap.node.get_or_insert_default();
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &args.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    Ok(bootstrap)
}

fn read(path: &Path) -> anyhow::Result<Bootstrap> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    from_yaml(&text).with_context(|| format!("{shown} is not a bootstrap"))
}

fn source_name(args: &Args) -> String {
    let path = args.config_path.as_ref();
    path.map_or("--config-yaml".into(), |path| path.display().to_string())
}

/// SDS from the servers that static clusters name.
fn secrets(bootstrap: &Bootstrap) -> SdsClients {
    let node: Node = bootstrap.node.clone().unwrap_or_default();
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let addresses: HashMap<String, ServerAddress> = resources
        .clusters
        .iter()
        .filter_map(|cluster| {
            let endpoints = cluster.load_assignment.as_ref()?.endpoints.first()?;
            match endpoints.lb_endpoints.first()?.host_identifier.as_ref()? {
                HostIdentifier::Endpoint(endpoint) => {
                    let address = endpoint.address.as_ref()?.address.as_ref()?;
                    Some((cluster.name.clone(), server_address(address)?))
                }
                HostIdentifier::EndpointName(_) => None,
            }
        })
        .collect();
    SdsClients::new(
        node,
        Arc::new(move |name| addresses.get(name).cloned()),
        Vec::new(),
        Arc::new(control::check_secret),
    )
}

fn server_address(address: &address::Address) -> Option<ServerAddress> {
    match address {
        address::Address::Pipe(pipe) => Some(ServerAddress::Pipe(pipe.path.clone().into())),
        address::Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => Some(ServerAddress::Tcp {
                host: socket.address.clone(),
                port: u16::try_from(*port).ok()?,
            }),
            PortSpecifier::NamedPort(_) => None,
        },
        address::Address::EnvoyInternalAddress(_) => None,
    }
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

/// Until `POST /quitquitquit`; `/drain_listeners` drains meanwhile.
async fn quit(proxy: &Proxy) {
    let mut requested = proxy.requested();
    let mut draining = false;
    loop {
        let now = *requested.borrow_and_update();
        if now.quit {
            return;
        }
        if now.drain && !draining {
            draining = true;
            proxy.drain();
        }
        if requested.changed().await.is_err() {
            return std::future::pending().await;
        }
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
