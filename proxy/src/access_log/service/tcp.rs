//! `envoy.data.accesslog.v3.TCPAccessLogEntry`.

use ithildin_proto::pb::envoy::data::accesslog::v3::{ConnectionProperties, TcpAccessLogEntry};

use super::Common;
use crate::access_log::Entry;

pub(super) fn entry(common: &Common, entry: &Entry<'_>) -> TcpAccessLogEntry {
    TcpAccessLogEntry {
        common_properties: Some(common.properties(entry)),
        connection_properties: Some(ConnectionProperties {
            received_bytes: entry.bytes.received,
            sent_bytes: entry.bytes.sent,
        }),
    }
}
