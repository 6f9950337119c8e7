//! The proxy as a library: what `ithildin-proxy` and `pilot-agent` start, watch and stop.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ithildin_panics::essential;
use ithildin_proto::pb::envoy::config::{
    bootstrap::v3::Bootstrap,
    core::v3::{SocketAddress, address::Address, socket_address::PortSpecifier},
};
use ithildin_xds::{ResourceSet, SecretSubscriber};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    access_log::LogWriter,
    admin::{AdminServer, AdminState, Commands, Requested, StoredBootstrap},
    control::{ConfigErrors, Control, ControlState, overload, statistics},
    runtime::{Drain, ListenerReport, Runtime, RuntimeError, RuntimeOptions},
    stats::Registry,
    worker::Published,
};

/// What a proxy runs on.
pub struct ProxyOptions {
    /// The process-wide part of the configuration: node, admin, static resources. Static resources are
    /// served beside `resources`; an error in one of them fails the start.
    pub bootstrap: Bootstrap,
    /// Dynamic resources, each time whole. A resource that is refused keeps its last good form.
    pub resources: watch::Receiver<Arc<ResourceSet>>,
    pub secrets: Arc<dyn SecretSubscriber>,
    /// Worker threads (`--concurrency`); at least 1.
    pub concurrency: usize,
    /// How long draining connections may live on (`--drain-time-s`; Envoy's default is 600 s).
    pub drain_time: Duration,
}

/// Whether the proxy serves its whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet; each text names one thing that is waited for.
    Waiting(Arc<[Arc<str>]>),
    Ready,
    Draining,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot listen on the admin address {address}: {source}")]
    Admin {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// A running proxy.
pub struct Proxy {
    control: Control,
    stats: Arc<Registry>,
    logs: Arc<LogWriter>,
    runtime: Runtime,
    readiness: watch::Sender<Readiness>,
    follow: JoinHandle<()>,
    count: JoinHandle<()>,
    admin: Option<AdminServer>,
    commands: Commands,
}

impl Proxy {
    /// Starts workers and control tasks on the calling tokio runtime.
    ///
    /// # Errors
    /// Everything that is wrong with the static resources, at once; or why the threads do not start.
    pub fn start(options: ProxyOptions) -> impl Future<Output = Result<Self, StartError>> {
        // Boxed: who starts a proxy may live long, and would hold the room for a bootstrap as long.
        Box::pin(Self::begin(options))
    }

    async fn begin(options: ProxyOptions) -> Result<Self, StartError> {
        let started = Instant::now();
        let shape = statistics::shape(&options.bootstrap)?;
        let stats = Arc::new(Registry::new(options.concurrency).shaped(shape));
        let logs = Arc::new(LogWriter::new(Arc::clone(&stats.filesystem)));
        let resources = options.resources.clone();
        let admin_address = admin_address(&options.bootstrap)?;
        let max_connections = max_connections(&options.bootstrap)?;
        let bootstrap = Arc::new(StoredBootstrap::new(&options.bootstrap));
        let control = Control::start(
            options.bootstrap,
            options.resources,
            options.secrets,
            Arc::clone(&stats),
            Some(Arc::clone(&logs)),
        )?;
        let runtime = Runtime::start(
            RuntimeOptions {
                workers: options.concurrency,
                drain_time: options.drain_time,
                max_connections: Some(max_connections),
            },
            Arc::clone(control.published()),
        )?;
        let readiness = watch::Sender::new(Readiness::Waiting(["start".into()].into()));
        let following = follow_readiness(
            control.state(),
            runtime.listeners(),
            Arc::clone(control.published()),
            readiness.clone(),
        );
        let follow = tokio::spawn(essential("readiness", following));
        let count = tokio::spawn(count_listeners(runtime.listeners(), Arc::clone(&stats)));
        let commands = Commands::default();
        let admin = AdminState {
            bootstrap,
            published: Arc::clone(control.published()),
            resources,
            control: control.state(),
            inventory: control.inventory(),
            listeners: runtime.listeners(),
            readiness: readiness.subscribe(),
            stats: Arc::clone(&stats),
            logs: Arc::clone(&logs),
            commands: commands.clone(),
            started,
            drainer: runtime.drainer(),
            drain_time: options.drain_time,
            counted: Arc::default(),
        };
        let admin = start_admin(admin_address, admin).await?;
        Ok(Self {
            admin,
            commands,
            control,
            stats,
            logs,
            runtime,
            readiness,
            follow,
            count,
        })
    }

    /// The state now and each later one. Once ready it stays so until the proxy drains: later
    /// changes warm while what was there serves.
    pub fn ready(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// What is refused, warming and published: for admin, and for whoever tells a control plane.
    pub fn state(&self) -> watch::Receiver<Arc<ControlState>> {
        self.control.state()
    }

    /// Where each listener accepts, or why it does not.
    pub fn listeners(&self) -> watch::Receiver<Arc<ListenerReport>> {
        self.runtime.listeners()
    }

    /// Stops accepting and asks live connections to finish; returns at once.
    pub fn drain(&self) {
        self.follow.abort();
        self.readiness.send_replace(Readiness::Draining);
        self.runtime.drain();
    }

    /// Drains some listeners or in some other way; what is not drained goes on and follows the configuration.
    /// Returns at once. Must be called inside a tokio runtime.
    pub fn drain_listeners(&self, drain: Drain) {
        self.runtime.drainer().drain(drain);
    }

    /// Drains for at most `deadline`, closes the rest, and ends the threads.
    pub async fn shutdown(self, deadline: Duration) {
        self.drain();
        self.count.abort();
        self.runtime.shutdown(deadline).await;
        // A reader of a log that stalls is not waited for long.
        let logs = self.logs;
        let flushed = tokio::task::spawn_blocking(move || logs.flush());
        let _ = flushed.await;
    }

    /// All statistics.
    pub fn stats(&self) -> &Arc<Registry> {
        &self.stats
    }

    /// The access logs, to reopen or flush them.
    pub fn logs(&self) -> &Arc<LogWriter> {
        &self.logs
    }

    /// Downstream connections at this instant.
    pub fn active_connections(&self) -> u64 {
        self.runtime.active_connections()
    }

    /// Where the admin server listens, if the bootstrap has one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::address)
    }

    /// What operators ask for on the admin server. Whoever runs the proxy drains it or ends it.
    pub fn requested(&self) -> watch::Receiver<Requested> {
        self.commands.subscribe()
    }
}

async fn start_admin(
    address: Option<SocketAddr>,
    state: AdminState,
) -> Result<Option<AdminServer>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    AdminServer::start(address, state)
        .await
        .map(Some)
        .map_err(|source| StartError::Admin { address, source })
}

/// As the bootstrap says; else half of the files that we may open, since a connection often takes
/// one of ours upstream.
fn max_connections(bootstrap: &Bootstrap) -> Result<u64, ConfigErrors> {
    if let Some(most) = overload::max_connections(bootstrap)? {
        return Ok(most);
    }
    let files = ithildin_sys::process::raise_open_files().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files stays as it is");
        u64::MAX
    });
    Ok(files / 2)
}

/// The bootstrap's admin address, if it has one.
fn admin_address(bootstrap: &Bootstrap) -> Result<Option<SocketAddr>, ConfigErrors> {
    let admin = bootstrap.admin.as_ref();
    let Some(address) = admin.and_then(|admin| admin.address.as_ref()) else {
        return Ok(None);
    };
    let invalid = |message: &str| ConfigErrors::one("admin.address".into(), message);
    let Some(Address::SocketAddress(SocketAddress {
        address,
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..
    })) = &address.address
    else {
        return Err(invalid("must be a socket_address with a port_value"));
    };
    let ip = address
        .parse::<IpAddr>()
        .map_err(|_| invalid("must be an ip address"))?;
    let port = u16::try_from(*port).map_err(|_| invalid("port_value is above 65535"))?;
    Ok(Some(SocketAddr::new(ip, port)))
}

async fn follow_readiness(
    mut state: watch::Receiver<Arc<ControlState>>,
    mut listeners: watch::Receiver<Arc<ListenerReport>>,
    published: Arc<Published>,
    readiness: watch::Sender<Readiness>,
) {
    loop {
        let now = {
            let state = state.borrow_and_update();
            let report = listeners.borrow_and_update();
            judge(&state, &report, published.current.load().version)
        };
        let ready = now == Readiness::Ready;
        if *readiness.borrow() != now {
            readiness.send_replace(now);
        }
        if ready {
            return;
        }
        let open = tokio::select! {
            changed = state.changed() => changed.is_ok(),
            changed = listeners.changed() => changed.is_ok(),
        };
        if !open {
            return;
        }
    }
}

/// `listener_manager.listener_create_*` and `listener_stopped`: sockets that workers opened, could
/// not open, and closed.
async fn count_listeners(mut reports: watch::Receiver<Arc<ListenerReport>>, stats: Arc<Registry>) {
    let counters = &stats.listener_manager;
    let workers = stats.workers() as u64;
    let mut known: BTreeMap<Arc<str>, (u64, bool)> = BTreeMap::new();
    loop {
        let report = Arc::clone(&reports.borrow_and_update());
        let mut now = BTreeMap::new();
        for listener in &report.listeners {
            let state = (listener.generation, listener.bound.is_ok());
            if known.remove(&listener.name) != Some(state) {
                match state.1 {
                    true => counters.listener_create_success.add(workers),
                    false => counters.listener_create_failure.add(workers),
                }
            }
            now.insert(Arc::clone(&listener.name), state);
        }
        counters.listener_stopped.add(known.len() as u64);
        known = now;
        if reports.changed().await.is_err() {
            return;
        }
    }
}

fn judge(state: &ControlState, report: &ListenerReport, published: u64) -> Readiness {
    let mut waiting: Vec<Arc<str>> = state.waiting.to_vec();
    if !state.started && waiting.is_empty() {
        waiting.push("the first configuration".into());
    }
    for listener in &report.listeners {
        if let Err(error) = &listener.bound {
            waiting.push(format!("listener {:?}: {error}", listener.name).into());
        }
    }
    if waiting.is_empty() && report.version != Some(published) {
        waiting.push("listening sockets".into());
    }
    if waiting.is_empty() {
        Readiness::Ready
    } else {
        Readiness::Waiting(waiting.into())
    }
}
