//! The DNS proxy of the agent, where it is asked for.
//!
//! It has a thread of its own: a configuration that takes long to compile delays no answer.

use std::{io, sync::Arc, thread};

use ithildin_dns::{DnsProxy, Options, ResolvConf, Status};
use ithildin_proto::nds::NameTable;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
};

use super::settings::Settings;

/// The running proxy; dropped, it and its thread end.
pub(super) struct Dns {
    proxy: DnsProxy,
    _running: oneshot::Sender<()>,
}

impl Dns {
    pub(super) fn status(&self) -> Status {
        self.proxy.status()
    }
}

/// Starts it, if the settings say so; `names` are what it answers.
///
/// # Errors
/// The file of upstream servers, or the address that cannot be listened on.
pub(super) fn start(
    settings: &Settings,
    names: watch::Receiver<Option<Arc<NameTable>>>,
) -> anyhow::Result<Option<Dns>> {
    let dns = &settings.dns;
    if !dns.enabled {
        return Ok(None);
    }
    // The last part of the node id is the domain, as `default.svc.cluster.local`.
    let domain = settings.node_id.rsplit('~').next().unwrap_or_default();
    let options = Options {
        host: dns.address.host.clone(),
        port: dns.address.port,
        namespace: settings.node.namespace.clone(),
        domain: domain.to_owned(),
        resolver: ResolvConf::read(&dns.resolv_conf)?,
        parallel: dns.parallel,
        timeout: dns.timeout,
        forward_before_table: dns.replaces_resolver,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let proxy = {
        // Its sockets and tasks are this runtime's, which runs them from here on.
        let _ours = runtime.enter();
        DnsProxy::start(options, names)?
    };
    let running = run(runtime)?;
    Ok(Some(Dns {
        proxy,
        _running: running,
    }))
}

/// Runs it on a thread until the sender goes.
fn run(runtime: Runtime) -> io::Result<oneshot::Sender<()>> {
    let (running, ended) = oneshot::channel();
    thread::Builder::new().name("dns".into()).spawn(move || {
        // The sender's end is the answer.
        let _ = runtime.block_on(ended);
    })?;
    Ok(running)
}
