//! Transport sockets of outbound clusters.

use ithildin_proto::pb::{
    envoy::config::{
        cluster::v3::{
            Cluster,
            cluster::{DiscoveryType, TransportSocketMatch},
        },
        core::v3::TransportSocket,
    },
    google::protobuf::Struct,
};

use super::{
    Target,
    http::{file_sans, http2},
};
use crate::{
    build::{
        Build, tls,
        wire::{structure, text},
    },
    model::{ClientTlsMode, ClientTlsSettings},
    mtls::MtlsMode,
};

/// What decides the transport sockets.
pub(super) enum UpstreamTls<'a> {
    Plaintext,
    /// What a rule says.
    Rule(&'a ClientTlsSettings),
    /// mTLS where the endpoint can do it.
    Auto,
    /// mTLS always, as every endpoint can do it and the destination is not chosen by us.
    AutoEverywhere,
}

impl Build<'_> {
    pub(super) fn upstream_tls<'t>(
        &self,
        target: &Target<'t>,
        discovery: DiscoveryType,
    ) -> UpstreamTls<'t> {
        if let Some(tls) = target.settings.tls {
            return match tls.mode {
                ClientTlsMode::Disable => UpstreamTls::Plaintext,
                _ => UpstreamTls::Rule(tls),
            };
        }
        let service = target.service;
        let disabled = self.mtls.of_namespace(&service.namespace) == MtlsMode::Disable;
        if service.external || !self.mesh.auto_mtls() || disabled {
            UpstreamTls::Plaintext
        } else if discovery == DiscoveryType::OriginalDst {
            let everywhere =
                !service.endpoints.is_empty() && service.endpoints.iter().all(|e| e.mesh_tls);
            if everywhere {
                UpstreamTls::AutoEverywhere
            } else {
                UpstreamTls::Plaintext
            }
        } else {
            UpstreamTls::Auto
        }
    }

    pub(super) fn apply_tls(
        &self,
        cluster: &mut Cluster,
        target: &Target<'_>,
        tls: &UpstreamTls<'_>,
    ) {
        match tls {
            UpstreamTls::Plaintext => {}
            UpstreamTls::Auto => {
                let mutual = self.mesh_socket(target, None);
                cluster.transport_socket_matches = by_endpoint(mutual);
            }
            UpstreamTls::AutoEverywhere => {
                cluster.transport_socket = Some(self.mesh_socket(target, None));
            }
            UpstreamTls::Rule(rule) if rule.mode == ClientTlsMode::IstioMutual => {
                cluster.transport_socket = Some(self.mesh_socket(target, Some(rule)));
            }
            UpstreamTls::Rule(rule) => {
                let certificate = rule
                    .client_certificate
                    .as_deref()
                    .zip(rule.private_key.as_deref());
                let files = tls::ClientFiles {
                    certificate,
                    roots: rule.ca_certificates.as_deref(),
                };
                cluster.transport_socket = Some(tls::from_files(
                    &self.node.sds_cluster,
                    &files,
                    rule.sni.clone().unwrap_or_default(),
                    file_sans(rule, target.service).iter().cloned(),
                    http2(target),
                ));
            }
        }
    }

    pub(super) fn mesh_socket(
        &self,
        target: &Target<'_>,
        rule: Option<&ClientTlsSettings>,
    ) -> TransportSocket {
        let subset = target.subset.map_or("", |subset| subset.name.as_str());
        let own_sni = format!(
            "outbound_.{}_.{subset}_.{}",
            target.port.number, target.service.host
        );
        let sni = rule.and_then(|rule| rule.sni.clone()).unwrap_or(own_sni);
        let sans: Vec<String> = match rule {
            Some(rule) if !rule.subject_alt_names.is_empty() => rule.subject_alt_names.clone(),
            _ => target
                .service
                .identities(&self.trust_domains())
                .into_iter()
                .collect(),
        };
        tls::istio_mutual(&self.node.sds_cluster, sni, sans, http2(target))
    }
}

fn by_endpoint(mutual: TransportSocket) -> Vec<TransportSocketMatch> {
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(structure([("tlsMode", text("istio"))])),
            transport_socket: Some(mutual),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(tls::plaintext()),
        },
    ]
}
