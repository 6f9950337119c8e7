//! The DNS proxy of the agent, where it is asked for.

use std::sync::Arc;

use ithildin_dns::{DnsProxy, Options, ResolvConf};
use ithildin_proto::nds::NameTable;
use tokio::sync::watch;

use super::settings::Settings;

/// Starts it, if the settings say so; `names` are what it answers.
///
/// # Errors
/// The file of upstream servers, or the address that cannot be listened on.
pub(super) fn start(
    settings: &Settings,
    names: watch::Receiver<Option<Arc<NameTable>>>,
) -> anyhow::Result<Option<DnsProxy>> {
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
    Ok(Some(DnsProxy::start(options, names)?))
}
