//! The metrics of the mesh.

/// One of Istio's standard metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MeshMetric {
    Requests,
    RequestDuration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    TcpOpened,
    TcpClosed,
    TcpSent,
    TcpReceived,
}

impl MeshMetric {
    pub const ALL: [Self; 10] = [
        Self::Requests,
        Self::RequestDuration,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::RequestMessages,
        Self::ResponseMessages,
        Self::TcpOpened,
        Self::TcpClosed,
        Self::TcpSent,
        Self::TcpReceived,
    ];

    /// The name in configurations; `istio_` stands before it in expositions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_total",
            Self::RequestDuration => "request_duration_milliseconds",
            Self::RequestBytes => "request_bytes",
            Self::ResponseBytes => "response_bytes",
            Self::RequestMessages => "request_messages_total",
            Self::ResponseMessages => "response_messages_total",
            Self::TcpOpened => "tcp_connections_opened_total",
            Self::TcpClosed => "tcp_connections_closed_total",
            Self::TcpSent => "tcp_sent_bytes_total",
            Self::TcpReceived => "tcp_received_bytes_total",
        }
    }
}
