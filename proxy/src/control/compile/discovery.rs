//! Where the endpoints of a cluster come from.

use std::{sync::Arc, time::Duration};

use ithildin_proto::pb::envoy::{
    config::cluster::v3::{
        Cluster as ClusterProto,
        cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
    },
    extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig as ForwardConfig,
};
use tokio::sync::mpsc;

use super::{
    Compiler, ads_source,
    dns::{self, DnsSpec},
    endpoints::{self, Placement},
    forward::{self, ForwardSpec},
};
use crate::{
    config::{
        cluster::{ClusterKind, EndpointSet},
        forward::{Forward, Question},
    },
    control::{any, report::At},
};

/// Names that workers have asked for and the control runtime has not heard of yet; one is taken in no time.
const QUESTIONS: usize = 1024;

/// Where endpoints come from.
#[derive(Debug)]
pub(in crate::control) enum Discovery {
    /// They stand in the configuration, or there are none.
    Fixed,
    Eds {
        name: Arc<str>,
        /// `None`: they are waited for as long as it takes.
        timeout: Option<Duration>,
    },
    Dns(DnsSpec),
    /// Requests bring names, whose addresses workers ask for; taken by who answers them.
    Forward(Option<Questions>),
}

/// How names are found, and what asks for them.
#[derive(Debug)]
pub(in crate::control) struct Questions {
    pub(in crate::control) spec: ForwardSpec,
    pub(in crate::control) asked: mpsc::Receiver<Question>,
}

/// The endpoints that are known, and how others are found.
pub(super) struct Source {
    pub(super) discovery: Discovery,
    pub(super) endpoints: EndpointSet,
    /// Who is asked for the names that requests bring.
    pub(super) forward: Option<Forward>,
}

pub(super) fn kind(config: &ClusterProto, at: &At<'_>) -> Option<ClusterKind> {
    let value = match &config.cluster_discovery_type {
        None => DiscoveryType::Static as i32,
        Some(ClusterDiscoveryType::Type(value)) => *value,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let config = custom.typed_config.as_ref();
            if config.is_some_and(any::is::<ForwardConfig>) {
                return Some(ClusterKind::Forward);
            }
            at.field("cluster_type")
                .error(format_args!("{:?} is not supported", custom.name));
            return None;
        }
    };
    Some(match at.enumeration("type", value)? {
        DiscoveryType::Static => ClusterKind::Static,
        DiscoveryType::StrictDns => ClusterKind::StrictDns,
        DiscoveryType::LogicalDns => ClusterKind::LogicalDns,
        DiscoveryType::Eds => ClusterKind::Eds,
        DiscoveryType::OriginalDst => ClusterKind::OriginalDst,
    })
}

/// The configuration of a dynamic forward proxy, and where it stands.
pub(super) fn custom<'a>(config: &ClusterProto, at: &'a At<'a>) -> Option<(ForwardConfig, At<'a>)> {
    let Some(ClusterDiscoveryType::ClusterType(custom)) = &config.cluster_discovery_type else {
        return None;
    };
    let typed = custom.typed_config.as_ref();
    let typed = typed.filter(|it| any::is::<ForwardConfig>(it))?;
    let at = at.field("cluster_type.typed_config");
    Some((any::read(typed, &at)?, at))
}

pub(super) fn source(
    config: &ClusterProto,
    kind: ClusterKind,
    custom: Option<(ForwardConfig, At<'_>)>,
    placement: &Placement,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Source> {
    let found = discovery(config, kind, placement, compiler, at);
    let asked = custom.and_then(|(custom, at)| questions(&custom, &at));
    let (discovery, endpoints) = found?;
    if kind != ClusterKind::Forward {
        return Some(Source {
            discovery,
            endpoints,
            forward: None,
        });
    }
    let (forward, questions) = asked?;
    Some(Source {
        discovery: Discovery::Forward(Some(questions)),
        endpoints,
        forward: Some(forward),
    })
}

fn discovery(
    config: &ClusterProto,
    kind: ClusterKind,
    placement: &Placement,
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<(Discovery, EndpointSet)> {
    let assignment_at = at.field("load_assignment");
    let assignment = config.load_assignment.as_ref();
    if config.eds_cluster_config.is_some() && kind != ClusterKind::Eds {
        at.field("eds_cluster_config")
            .error("may only be set with type EDS");
    }
    let provided = matches!(
        kind,
        ClusterKind::Eds | ClusterKind::OriginalDst | ClusterKind::Forward
    );
    if assignment.is_some() && provided {
        assignment_at.error("may only be set with types STATIC, STRICT_DNS and LOGICAL_DNS");
    }
    match kind {
        ClusterKind::Static => {
            let none = EndpointSet::default();
            let set = match assignment {
                Some(config) => {
                    let workers = compiler.stats.workers();
                    endpoints::fixed(config, placement, workers, &none, &assignment_at)?
                }
                None => none,
            };
            Some((Discovery::Fixed, set))
        }
        ClusterKind::OriginalDst => Some((Discovery::Fixed, EndpointSet::default())),
        ClusterKind::Forward => Some((Discovery::Forward(None), EndpointSet::default())),
        ClusterKind::Eds => {
            let eds = eds(config, &at.field("eds_cluster_config"))?;
            Some((eds, EndpointSet::default()))
        }
        ClusterKind::StrictDns | ClusterKind::LogicalDns => {
            let Some(assignment) = assignment else {
                assignment_at.error("is required");
                return None;
            };
            let targets = endpoints::dns_targets(assignment, placement, &assignment_at);
            let logical = kind == ClusterKind::LogicalDns;
            if logical && targets.len() != 1 {
                assignment_at.error("LOGICAL_DNS clusters must have exactly one endpoint");
            }
            let spec = dns::spec(config, targets, logical, at)?;
            Some((Discovery::Dns(spec), EndpointSet::default()))
        }
    }
}

fn eds(config: &ClusterProto, at: &At<'_>) -> Option<Discovery> {
    let Some(EdsClusterConfig {
        eds_config,
        service_name,
    }) = &config.eds_cluster_config
    else {
        at.error("is required with type EDS");
        return None;
    };
    let timeout = ads_source(eds_config.as_ref(), &at.field("eds_config"))?;
    let name = if service_name.is_empty() {
        &config.name
    } else {
        service_name
    };
    Some(Discovery::Eds {
        name: name.as_str().into(),
        timeout,
    })
}

/// Both ends of what workers ask the control runtime.
fn questions(config: &ForwardConfig, at: &At<'_>) -> Option<(Forward, Questions)> {
    let (spec, limits) = forward::cluster(config, at)?;
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let forward = Forward {
        questions,
        host_ttl: limits.host_ttl,
        query_timeout: limits.query_timeout,
        max_pending: limits.max_pending,
    };
    Some((forward, Questions { spec, asked }))
}
