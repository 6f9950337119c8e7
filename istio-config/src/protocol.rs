//! What is spoken on a port, as Istio decides it.

/// The protocol of one service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Http2,
    Grpc,
    Https,
    Tls,
    /// TCP, and what is handled as TCP: databases whose server speaks first.
    Tcp,
    Udp,
    /// Not declared: the first bytes decide.
    Unknown,
}

/// Ports whose servers speak first: SMTP, DNS over TCP, MySQL, MongoDB. Waiting for the client's
/// first bytes would stall them.
const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// A protocol by its name in Istio's API, in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// The protocol of a Kubernetes service port: `appProtocol`, else the port's name up to its
    /// first dash, else the number.
    pub(crate) fn of_service_port(
        transport: Option<&str>,
        app_protocol: Option<&str>,
        name: &str,
        number: u16,
    ) -> Self {
        if transport.is_some_and(|transport| transport.eq_ignore_ascii_case("udp")) {
            return Self::Udp;
        }
        if let Some(app) = app_protocol {
            return match app {
                "kubernetes.io/h2c" => Self::Http2,
                "kubernetes.io/ws" => Self::Http,
                "kubernetes.io/wss" => Self::Https,
                _ => Self::parse(app).unwrap_or(Self::Unknown),
            };
        }
        let prefix = name.split('-').next().unwrap_or_default();
        match Self::parse(prefix) {
            Some(Self::Udp) | None if SERVER_FIRST_PORTS.contains(&number) => Self::Tcp,
            Some(Self::Udp) | None => Self::Unknown,
            Some(protocol) => protocol,
        }
    }

    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether HTTP/2 is spoken without asking.
    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ports_get_istios_protocols() {
        for (transport, app, name, number, expected) in [
            (None, None, "http", 80, Protocol::Http),
            (None, None, "http-monitoring", 15014, Protocol::Http),
            (None, None, "http2", 80, Protocol::Http2),
            (None, None, "grpc-xds", 15010, Protocol::Grpc),
            (None, None, "grpc-web", 80, Protocol::Grpc),
            (None, None, "https-dns", 15012, Protocol::Https),
            (None, None, "tcp-echo", 9000, Protocol::Tcp),
            (None, None, "mysql", 3307, Protocol::Tcp),
            (None, None, "status-port", 15021, Protocol::Unknown),
            (None, None, "", 3306, Protocol::Tcp),
            (None, None, "", 80, Protocol::Unknown),
            (Some("UDP"), None, "http", 80, Protocol::Udp),
            (Some("TCP"), Some("http"), "tcp-x", 80, Protocol::Http),
            (None, Some("kubernetes.io/h2c"), "x", 80, Protocol::Http2),
            (None, Some("example.com/own"), "http", 80, Protocol::Unknown),
        ] {
            let protocol = Protocol::of_service_port(transport, app, name, number);
            assert_eq!(
                protocol, expected,
                "{transport:?} {app:?} {name:?} {number}"
            );
        }
    }
}
