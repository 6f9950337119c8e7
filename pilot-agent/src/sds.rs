//! `pilot-agent sds`: the SDS server alone, for an Envoy that somebody else runs.

use std::{fmt, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use ithildin_spiffe::{
    SvidSelector,
    workload_api::{SourceOptions, WorkloadApiSource, WorkloadEndpoint},
};
use ithildin_xds::{
    SdsOptions, SdsServer,
    sds::{ALL_BUNDLES, DEFAULT_BUNDLE, DEFAULT_SVID, SecretName, SecretNames},
    serve::Socket,
};
use tokio::signal::unix::{SignalKind, signal};
use tonic::service::Routes;
use tracing::info;

use crate::svid;

/// Serve this process's SPIFFE identities to Envoy over SDS
///
/// Envoy asks for `default` (the certificate), `ROOTCA` (every trust domain, each bound to its own
/// bundle), a SPIFFE ID, or a trust domain's SPIFFE ID. Rotation, federation and withdrawal reach it at
/// once. The socket is open to this user only, unless --socket-mode says otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the Workload API is: unix:///path or tcp://ip:port
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ENDPOINT")]
    workload_api: WorkloadEndpoint,
    /// Where to serve: unix:///path or tcp://127.0.0.1:port
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Listen,
    /// Permission bits of the Unix socket, in octal
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    socket_mode: u32,
    /// Which SVID `default` is: a SPIFFE ID, hint:<hint>, trust-domain:<name>, or default for the first
    #[arg(long, value_name = "SELECTOR", default_value = "default", value_parser = svid::parse)]
    svid: SvidSelector,
    /// Name of the default certificate; null disables it
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SVID)]
    default_svid_name: SecretName,
    /// Name of the validation context; null disables it
    #[arg(long, value_name = "NAME", default_value = DEFAULT_BUNDLE)]
    default_bundle_name: SecretName,
    /// Second name of the validation context; null disables it
    #[arg(long, value_name = "NAME", default_value = ALL_BUNDLES)]
    default_all_bundles_name: SecretName,
    /// Serve trusted_ca with the own bundle alone instead of Envoy's SPIFFE validator
    #[arg(long)]
    disable_spiffe_cert_validation: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let source = WorkloadApiSource::start(args.workload_api.clone(), SourceOptions::default());
    let options = SdsOptions {
        names: SecretNames {
            default_svid: args.default_svid_name,
            default_bundle: args.default_bundle_name,
            all_bundles: args.default_all_bundles_name,
        },
        svid: args.svid,
        disable_spiffe_cert_validation: args.disable_spiffe_cert_validation,
        ..SdsOptions::default()
    };
    let socket = match &args.listen {
        Listen::Unix(path) => Socket::unix(path, args.socket_mode),
        Listen::Tcp(addr) => Socket::tcp(*addr),
    }
    .context("--listen")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    info!(workload_api = %args.workload_api, listen = %args.listen, "serving SDS");
    let service = SdsServer::new(source, options).into_service();
    socket.serve(Routes::new(service), stop).await?;
    info!("SDS has ended");
    Ok(())
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    match WorkloadEndpoint::parse(text) {
        Ok(WorkloadEndpoint::Unix(path)) => Ok(Listen::Unix(path)),
        Ok(WorkloadEndpoint::Tcp(addr)) => Ok(Listen::Tcp(addr)),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is not an octal mode such as 0660")),
    }
}
