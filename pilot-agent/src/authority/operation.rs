//! The operations on a running authority: the command line of `authority ctl` and, as JSON with the
//! name in `op`, the requests on the control socket.

use std::path::PathBuf;

use clap::Subcommand;
use ithildin_spiffe::{SpiffeId, TrustDomain, authority::forge::Forgery};
use serde::{Deserialize, Serialize};

/// What can be asked of a running authority. `authority` is the name of one of its authorities, by
/// default the trust domain of `id`, or the only one there is.
#[derive(Clone, Debug, Serialize, Deserialize, Subcommand)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// Shows trust domains, roots, workloads and federation.
    Status,
    /// Registers a workload and issues its SVID.
    Grant {
        id: SpiffeId,
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
        #[arg(long)]
        #[serde(default)]
        uid: Option<u32>,
        #[arg(long)]
        #[serde(default)]
        gid: Option<u32>,
        #[arg(long)]
        #[serde(default)]
        pid: Option<i32>,
        /// A socket of its own.
        #[arg(long)]
        #[serde(default)]
        socket: Option<PathBuf>,
        #[arg(long)]
        #[serde(default)]
        hint: Option<String>,
        #[arg(long)]
        #[serde(default)]
        dns: Vec<String>,
        /// The life of its SVIDs, such as 30s.
        #[arg(long)]
        #[serde(default)]
        ttl: Option<String>,
        /// Only these federated trust domains.
        #[arg(long)]
        #[serde(default)]
        federates_with: Option<Vec<TrustDomain>>,
    },
    /// Takes a workload's identity away.
    Withdraw {
        id: SpiffeId,
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Issues new SVIDs: to one workload, or to all of one authority, or to all.
    RotateLeaf {
        #[serde(default)]
        id: Option<SpiffeId>,
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Makes a new intermediate and issues all SVIDs anew.
    RotateIntermediate {
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Prepares a root, waits, then activates it. The old root stays in the bundle.
    RotateRoot {
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
        /// How long everybody has to learn the new root before it signs.
        #[arg(long, default_value = "1s")]
        #[serde(default = "default_settle")]
        settle: String,
    },
    /// Makes the next root and publishes it.
    PrepareRoot {
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Signs with the prepared root.
    ActivateRoot {
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Takes all old roots out of the bundle.
    DropOldRoots {
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Federates two trust domains in both directions.
    Federate { a: TrustDomain, b: TrustDomain },
    /// Ends a federation in both directions.
    Unfederate { a: TrustDomain, b: TrustDomain },
    /// Gives the workloads of one trust domain the bundle of another.
    Trust { who: TrustDomain, whom: TrustDomain },
    /// Takes the bundle of another trust domain from the workloads of one.
    Distrust { who: TrustDomain, whom: TrustDomain },
    /// Revokes a certificate by its serial number, or the current SVID of a workload.
    Revoke {
        /// A serial number in hexadecimal, or a SPIFFE ID.
        what: String,
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Issues an SVID for nobody in particular; `--write` of ctl puts it into files.
    Mint {
        id: SpiffeId,
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
        #[arg(long)]
        #[serde(default)]
        ttl: Option<String>,
        #[arg(long)]
        #[serde(default)]
        dns: Vec<String>,
    },
    /// Makes a certificate that must be refused.
    Forge {
        /// What is wrong with it: two-uri-sans, ca-as-leaf, expired, revoked, foreign-id, ...
        forgery: Forgery,
        id: SpiffeId,
        /// Whose CA signs: needed for foreign-id, where it is not that of the ID.
        #[arg(long)]
        #[serde(default)]
        authority: Option<String>,
    },
    /// Shows the bundle of a trust domain.
    Bundle { trust_domain: TrustDomain },
    /// Learns the bundle of a trust domain that somebody else issues for.
    SetBundle {
        trust_domain: TrustDomain,
        /// The roots as PEM text.
        pem: String,
    },
}

fn default_settle() -> String {
    "1s".to_owned()
}
