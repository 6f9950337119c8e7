//! Access loggers: filter, format, file; and all those of one place.

use std::{cell::RefCell, sync::Arc};

use super::{Entry, Filter, Format, LogFile};

thread_local! {
    /// A worker formats one line at a time; the memory is kept.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One access logger.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<Filter>,
    format: Format,
    file: Arc<LogFile>,
}

/// The loggers of a listener, a connection manager or a TCP proxy.
#[derive(Debug, Default)]
pub struct AccessLogs {
    loggers: Vec<AccessLog>,
    needs: Needs,
}

/// What formats print of a message that is gone when its line is written, by lower-case name.
#[derive(Debug, Default)]
pub struct Needs {
    pub response_headers: Vec<Box<str>>,
    pub response_trailers: Vec<Box<str>>,
}

impl AccessLogs {
    pub fn new(loggers: Vec<AccessLog>) -> Self {
        let mut needs = Needs::default();
        for logger in &loggers {
            logger.format.needs(&mut needs);
            if let Some(filter) = &logger.filter {
                filter.needs(&mut needs);
            }
        }
        Self { loggers, needs }
    }

    pub fn is_empty(&self) -> bool {
        self.loggers.is_empty()
    }

    /// What must be kept for [`log`](Self::log) while a message passes.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Writes one line to each logger whose filter admits `entry`. Never blocks on the disk.
    pub fn log(&self, entry: &Entry<'_>) {
        for logger in &self.loggers {
            logger.log(entry);
        }
    }
}

impl AccessLog {
    pub fn new(filter: Option<Filter>, format: Format, file: Arc<LogFile>) -> Self {
        Self {
            filter,
            format,
            file,
        }
    }

    fn log(&self, entry: &Entry<'_>) {
        let admitted = |filter: &Filter| filter.admits(entry);
        if !self.filter.as_ref().is_none_or(admitted) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format.render(entry, line);
            self.file.append(line);
        });
    }
}

impl Needs {
    pub(super) fn response_header(&mut self, name: &str) {
        add(&mut self.response_headers, name);
    }

    pub(super) fn response_trailer(&mut self, name: &str) {
        add(&mut self.response_trailers, name);
    }
}

fn add(names: &mut Vec<Box<str>>, name: &str) {
    if !names.iter().any(|known| **known == *name) {
        names.push(name.into());
    }
}
