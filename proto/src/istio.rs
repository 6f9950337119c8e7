//! Istio's own messages: configuration of the filters that istiod adds to Envoy's.

/// `istio.alpn`.
pub mod alpn {
    include!(concat!(
        env!("OUT_DIR"),
        "/istio.envoy.config.filter.http.alpn.v2alpha1.rs"
    ));
}

/// `istio.metadata_exchange` between TCP proxies.
pub mod metadata_exchange {
    include!(concat!(
        env!("OUT_DIR"),
        "/envoy.tcp.metadataexchange.config.rs"
    ));
}

/// `istio.metadata_exchange` in HTTP headers.
pub mod peer_metadata {
    include!(concat!(env!("OUT_DIR"), "/io.istio.http.peer_metadata.rs"));
}

/// Messages as JSON, in both of their names.
pub mod typed_struct {
    pub mod udpa {
        include!(concat!(env!("OUT_DIR"), "/udpa.r#type.v1.rs"));
    }

    pub mod xds {
        include!(concat!(env!("OUT_DIR"), "/xds.r#type.v3.rs"));
    }
}

/// `istio.stats`.
pub mod stats {
    include!(concat!(env!("OUT_DIR"), "/stats.rs"));
}
