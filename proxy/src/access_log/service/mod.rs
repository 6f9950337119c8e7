//! Loggers that are services: an entry becomes a message, which the worker gathers with others and sends
//! ([`Collector`]).
//!
//! Invariants: an entry holds no more of a message than its loggers ask for; text of peers is made UTF-8, as
//! Protobuf has it.

mod common;
mod http;
mod metadata;
mod open_telemetry;
mod peers;
mod report;
mod tcp;
#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc};

use prost::encoding::message::encode;

use self::report::{LOG_ENTRY, LOG_RECORDS};
pub(crate) use self::{
    common::Common,
    http::HttpEntries,
    open_telemetry::{Records, Value},
    peers::Peer,
    report::{AccessReport, Envelope},
};
use super::{Entry, Needs};
use crate::{config::custom_tag::CustomTag, http::collector::Collector, worker::Worker};

/// One logger.
#[derive(Debug)]
pub(crate) struct Service {
    collector: Arc<Collector>,
    entries: Entries,
}

/// What its entries look like.
#[derive(Debug)]
pub(crate) enum Entries {
    /// `envoy.data.accesslog.v3.HTTPAccessLogEntry`.
    Http(HttpEntries),
    /// `envoy.data.accesslog.v3.TCPAccessLogEntry`.
    Tcp(Common),
    /// `opentelemetry.proto.logs.v1.LogRecord`.
    OpenTelemetry(Records),
}

impl Service {
    pub(crate) fn new(collector: Arc<Collector>, entries: Entries) -> Self {
        Self { collector, entries }
    }

    /// Adds what is told of messages that are gone then.
    pub(super) fn needs(&self, needs: &mut Needs) {
        match &self.entries {
            Entries::Http(entries) => entries.needs(needs),
            Entries::Tcp(common) => common.needs(needs),
            Entries::OpenTelemetry(records) => records.needs(needs),
        }
    }

    pub(super) fn log(&self, worker: &Rc<Worker>, entry: &Entry<'_>) {
        self.collector
            .tell(worker, |items| self.entries.append(entry, items));
    }
}

impl Entries {
    /// Appends the field of the message that holds entries.
    fn append(&self, entry: &Entry<'_>, items: &mut Vec<u8>) {
        match self {
            Self::Http(entries) => encode(LOG_ENTRY, &entries.entry(entry), items),
            Self::Tcp(common) => encode(LOG_ENTRY, &tcp::entry(common, entry), items),
            Self::OpenTelemetry(records) => encode(LOG_RECORDS, &records.record(entry), items),
        }
    }
}

/// Of tags that have a text. What a route says is not known of an entry.
fn tag_pairs(tags: &[CustomTag], entry: &Entry<'_>) -> impl Iterator<Item = (String, String)> {
    tags.iter().filter_map(|tag| {
        let text = tag.text(entry, None)?;
        Some((tag.name.to_string(), text.into_owned()))
    })
}

/// Each byte that is not UTF-8 becomes an exclamation mark, as in Envoy.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}
