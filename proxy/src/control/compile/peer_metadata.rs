//! `istio.metadata_exchange`: what we tell peers of ourselves, and whether we listen to them.

use ithildin_proto::istio::peer_metadata::{
    Config,
    config::{
        DiscoveryMethod, IstioHeaders, PropagationMethod,
        discovery_method::MethodSpecifier as Discovery,
        propagation_method::MethodSpecifier as Propagation,
    },
};

use super::Compiler;
use crate::{
    control::report::{At, no_effect},
    istio::{PeerMetadata, Tell},
};

pub(super) fn filter(config: &Config, compiler: &Compiler, at: &At<'_>) -> Option<PeerMetadata> {
    let Config {
        downstream_discovery,
        upstream_discovery,
        downstream_propagation,
        upstream_propagation,
        shared_with_upstream,
        additional_labels,
    } = config;
    // For filters of upstream requests, of which there are none.
    no_effect!(shared_with_upstream);
    let errors = at.errors();
    let filter = PeerMetadata::new(
        &compiler.node,
        additional_labels,
        [
            discovery("downstream_discovery", downstream_discovery, at),
            discovery("upstream_discovery", upstream_discovery, at),
        ],
        [
            propagation("downstream_propagation", downstream_propagation, at),
            propagation("upstream_propagation", upstream_propagation, at),
        ],
    );
    (at.errors() == errors).then_some(filter)
}

/// Whether the peer's headers are read and taken away.
fn discovery(name: &'static str, methods: &[DiscoveryMethod], at: &At<'_>) -> bool {
    let mut headers = false;
    for (i, DiscoveryMethod { method_specifier }) in methods.iter().enumerate() {
        let at = at.index(name, i);
        match method_specifier {
            Some(Discovery::IstioHeaders(IstioHeaders { .. })) => headers = true,
            // Needs a bootstrap extension that only ambient meshes have; without it, nothing is
            // found, as in Istio.
            Some(Discovery::WorkloadDiscovery(_)) | None => {}
            Some(Discovery::Baggage(_)) => at.field("baggage").error("is not supported"),
            Some(Discovery::UpstreamFilterState(_)) => {
                at.field("upstream_filter_state").error("is not supported");
            }
        }
    }
    headers
}

fn propagation(name: &'static str, methods: &[PropagationMethod], at: &At<'_>) -> Tell {
    let mut tell = Tell::Nobody;
    for (i, PropagationMethod { method_specifier }) in methods.iter().enumerate() {
        let at = at.index(name, i);
        match method_specifier {
            Some(Propagation::IstioHeaders(IstioHeaders {
                skip_external_clusters: true,
            })) => tell = Tell::TheMesh,
            Some(Propagation::IstioHeaders(_)) => tell = Tell::Everybody,
            Some(Propagation::Baggage(_)) => at.field("baggage").error("is not supported"),
            None => {}
        }
    }
    tell
}
