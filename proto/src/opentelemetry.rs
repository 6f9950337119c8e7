//! OpenTelemetry's messages, as far as they are sent.

/// What is told in logs.
pub mod logs {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.logs.rs"));
}

/// What is told of spans.
pub mod spans {
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.spans.rs"));
}
