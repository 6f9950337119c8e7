//! The messages around entries, and what becomes of them.

use std::sync::Arc;

use ithildin_proto::{
    opentelemetry::logs::Resource,
    pb::{
        envoy::service::accesslog::v3::stream_access_logs_message::Identifier,
        opentelemetry::proto::common::v1::KeyValue,
    },
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len, message};

use crate::{
    http::collector::{Fate, Report},
    stats::AccessServiceStats,
};

/// Of `HTTPAccessLogEntries` and `TCPAccessLogEntries`.
pub(super) const LOG_ENTRY: u32 = 1;
/// Of `ScopeLogs`.
pub(super) const LOG_RECORDS: u32 = 2;

/// Of `StreamAccessLogsMessage`.
const IDENTIFIER: u32 = 1;
const HTTP_LOGS: u32 = 2;
const TCP_LOGS: u32 = 3;

/// Of `ExportLogsServiceRequest`.
const RESOURCE_LOGS: u32 = 1;
/// Of `ResourceLogs`.
const RESOURCE: u32 = 1;
const SCOPE_LOGS: u32 = 2;

/// A logger's messages, whose counters are `stats`.
#[derive(Debug)]
pub(crate) struct AccessReport {
    pub(crate) envelope: Envelope,
    pub(crate) stats: Arc<AccessServiceStats>,
}

/// A message that holds entries.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// The field that the message itself is of another.
    outer: Option<u32>,
    /// The fields before the one that holds entries.
    head: Box<[u8]>,
    entries: u32,
}

impl Envelope {
    /// `StreamAccessLogsMessage` with entries of requests.
    pub(crate) fn http(identifier: &Identifier) -> Self {
        Self::stream(identifier, HTTP_LOGS)
    }

    /// The same with entries of connections.
    pub(crate) fn tcp(identifier: &Identifier) -> Self {
        Self::stream(identifier, TCP_LOGS)
    }

    fn stream(identifier: &Identifier, entries: u32) -> Self {
        let mut head = Vec::new();
        message::encode(IDENTIFIER, identifier, &mut head);
        Self {
            outer: None,
            head: head.into(),
            entries,
        }
    }

    /// `ExportLogsServiceRequest`.
    pub(crate) fn open_telemetry(attributes: Vec<KeyValue>) -> Self {
        let mut head = Vec::new();
        message::encode(RESOURCE, &Resource { attributes }, &mut head);
        Self {
            outer: Some(RESOURCE_LOGS),
            head: head.into(),
            entries: SCOPE_LOGS,
        }
    }

    /// Whether it is of Envoy's own protocol.
    fn is_stream(&self) -> bool {
        self.outer.is_none()
    }

    pub(super) fn write(&self, items: &[u8], body: &mut Vec<u8>) {
        let length = encoded_len_varint(items.len() as u64) + items.len();
        let length = self.head.len() + key_len(self.entries) + length;
        if let Some(outer) = self.outer {
            encode_key(outer, WireType::LengthDelimited, body);
            encode_varint(length as u64, body);
        }
        body.reserve(length);
        body.extend_from_slice(&self.head);
        encode_key(self.entries, WireType::LengthDelimited, body);
        encode_varint(items.len() as u64, body);
        body.extend_from_slice(items);
    }
}

impl Report for AccessReport {
    fn write(&self, items: &[u8], body: &mut Vec<u8>) {
        self.envelope.write(items, body);
    }

    fn count(&self, worker: usize, fate: Fate, items: u64) {
        let stats = self.stats.worker(worker);
        let is_stream = self.envelope.is_stream();
        match fate {
            Fate::Due => {}
            Fate::Dropped => stats.logs_dropped.add(items),
            Fate::Sent => {
                stats.logs_written.add(items);
                if is_stream {
                    stats.grpc_entries_flushed.add(items);
                }
            }
            Fate::NoCluster | Fate::Failed | Fate::Refused => {
                stats.logs_dropped.add(items);
                if is_stream {
                    stats.grpc_entries_flush_failed.add(items);
                }
            }
        }
    }
}
