//! The authority's configuration from a YAML file and flags.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use ithildin_proto::yaml;
use ithildin_spiffe::{
    SpiffeId, TrustDomain,
    authority::{AuthorityConfig, KeyType, TrustDomainConfig, WorkloadConfig},
};
use serde_json::Value;

use super::ServeArgs;

/// Reads the file, then adds what the flags say. Each trust domain gets a socket.
pub(super) fn load(args: &ServeArgs) -> anyhow::Result<AuthorityConfig> {
    let mut config = match &args.config {
        Some(path) => read(path)?,
        None => AuthorityConfig::default(),
    };
    add_trust_domains(&mut config, args)?;
    for workload in &args.workloads {
        let name = workload.id.trust_domain();
        let domain = config
            .trust_domains
            .iter_mut()
            .find(|domain| domain.name == name);
        let Some(domain) = domain else {
            bail!(
                "--workload {}: there is no --trust-domain {name}",
                workload.id
            );
        };
        domain.workloads.push(workload.clone());
    }
    for pair in &args.federate {
        add_federation(&mut config, pair)?;
    }
    for domain in &mut config.trust_domains {
        domain.svid_ttl = args.svid_ttl.unwrap_or(domain.svid_ttl);
        domain.intermediate = args.intermediate.or(domain.intermediate);
        if domain.socket.is_none() {
            domain.socket = Some(args.dir.join(domain.authority()).join("agent.sock"));
        }
    }
    if config.trust_domains.is_empty() {
        bail!("there is no trust domain; give --trust-domain NAME or --config FILE");
    }
    config.check()?;
    Ok(config)
}

fn read(path: &Path) -> anyhow::Result<AuthorityConfig> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let mut documents =
        yaml::documents(&text).map_err(|error| anyhow::anyhow!("{shown}: {error}"))?;
    if documents.len() != 1 {
        bail!("{shown}: has {} YAML documents, not one", documents.len());
    }
    let document: Value = documents.remove(0);
    let config = serde_path_to_error::deserialize(document);
    config.map_err(|error| anyhow::anyhow!("{shown}: {}: {}", error.path(), error.inner()))
}

fn add_trust_domains(config: &mut AuthorityConfig, args: &ServeArgs) -> anyhow::Result<()> {
    if args.sockets.len() > args.trust_domains.len() {
        bail!("--socket is given more often than --trust-domain");
    }
    let mut sockets = args.sockets.iter();
    for name in &args.trust_domains {
        let mut domain = TrustDomainConfig::new(name.clone());
        domain.socket = sockets.next().cloned();
        config.trust_domains.push(domain);
    }
    Ok(())
}

/// `A,B`, or nothing for all pairs.
fn add_federation(config: &mut AuthorityConfig, pair: &str) -> anyhow::Result<()> {
    if !pair.is_empty() {
        let (a, b) = pair
            .split_once(',')
            .with_context(|| format!("--federate {pair}: write two trust domains as A,B"))?;
        let parse = |name: &str| {
            TrustDomain::parse(name).with_context(|| format!("--federate {pair}: {name:?}"))
        };
        config.federation.push((parse(a)?, parse(b)?));
        return Ok(());
    }
    let names: Vec<_> = config
        .trust_domains
        .iter()
        .map(|domain| domain.name.clone())
        .collect();
    for (index, a) in names.iter().enumerate() {
        for b in names[index + 1..].iter().filter(|b| *b != a) {
            config.federation.push((a.clone(), b.clone()));
        }
    }
    Ok(())
}

/// `ID[,uid=N][,gid=N][,pid=N][,socket=PATH][,hint=TEXT][,dns=NAME][,ttl=DURATION]`.
pub(super) fn parse_workload(text: &str) -> Result<WorkloadConfig, String> {
    let mut parts = text.split(',');
    let id = parts.next().unwrap_or_default();
    let id = SpiffeId::parse(id).map_err(|error| format!("{id:?} {error}"))?;
    let mut workload = WorkloadConfig::new(id);
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not of the form KEY=VALUE"))?;
        let number = || format!("{key}: {value:?} is not a number");
        match key {
            "uid" => workload.selector.uid = Some(value.parse().map_err(|_| number())?),
            "gid" => workload.selector.gid = Some(value.parse().map_err(|_| number())?),
            "pid" => workload.selector.pid = Some(value.parse().map_err(|_| number())?),
            "socket" => workload.socket = Some(value.into()),
            "hint" => workload.hint = Some(value.to_owned()),
            "dns" => workload.dns.push(value.to_owned()),
            "ttl" => {
                let ttl = ithildin_spiffe::authority::parse_duration(value);
                workload.ttl = Some(ttl.map_err(|error| error.to_string())?);
            }
            _ => {
                return Err(format!(
                    "{key:?} is not one of uid, gid, pid, socket, hint, dns, ttl"
                ));
            }
        }
    }
    Ok(workload)
}

/// A key type as the YAML file names it.
pub(super) fn parse_key_type(text: &str) -> Result<KeyType, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}
