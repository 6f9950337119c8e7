//! Access loggers: a filter, with a format and a file, or with a service; and all those of one place.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{Entry, Filter, Format, LogFile, Template, service::Service};
use crate::worker::Worker;

thread_local! {
    /// A worker formats one line at a time; the memory is kept.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One access logger.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<Filter>,
    outlet: Outlet,
}

#[derive(Debug)]
enum Outlet {
    File { format: Format, file: Arc<LogFile> },
    Service(Service),
}

/// The loggers of a listener, a connection manager or a TCP proxy.
#[derive(Debug, Default)]
pub struct AccessLogs {
    loggers: Vec<AccessLog>,
    needs: Needs,
}

/// What loggers tell of a message that is gone when they do, by lower-case name.
#[derive(Debug, Default)]
pub struct Needs {
    pub response_headers: Vec<Box<str>>,
    pub response_trailers: Vec<Box<str>>,
    /// Whether the size of heads is told.
    pub heads: bool,
    /// Whether anybody is told when what happened.
    pub times: bool,
}

impl AccessLogs {
    pub fn new(loggers: Vec<AccessLog>) -> Self {
        let mut needs = Needs {
            times: !loggers.is_empty(),
            ..Needs::default()
        };
        for logger in &loggers {
            match &logger.outlet {
                Outlet::File { format, .. } => format.needs(&mut needs),
                Outlet::Service(service) => service.needs(&mut needs),
            }
            if let Some(filter) = &logger.filter {
                filter.needs(&mut needs);
            }
        }
        Self { loggers, needs }
    }

    /// The same, with what `templates` print, and what a span tells of gRPC, kept as well.
    pub fn and_spans<'t>(mut self, templates: impl IntoIterator<Item = &'t Template>) -> Self {
        self.needs.times = true;
        for template in templates {
            template.needs(&mut self.needs);
        }
        for name in ["grpc-status", "grpc-message"] {
            self.needs.response_header(name);
            self.needs.response_trailer(name);
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.loggers.is_empty()
    }

    /// What must be kept for [`log`](Self::log) while a message passes.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Hands `entry` to each logger whose filter admits it. Waits neither for a disk nor for a service.
    pub fn log(&self, worker: &Rc<Worker>, entry: &Entry<'_>) {
        for logger in &self.loggers {
            logger.log(worker, entry);
        }
    }
}

impl AccessLog {
    pub fn to_file(filter: Option<Filter>, format: Format, file: Arc<LogFile>) -> Self {
        let outlet = Outlet::File { format, file };
        Self { filter, outlet }
    }

    pub(crate) fn to_service(filter: Option<Filter>, service: Service) -> Self {
        let outlet = Outlet::Service(service);
        Self { filter, outlet }
    }

    fn log(&self, worker: &Rc<Worker>, entry: &Entry<'_>) {
        let admitted = |filter: &Filter| filter.admits(entry);
        if !self.filter.as_ref().is_none_or(admitted) {
            return;
        }
        match &self.outlet {
            Outlet::File { format, file } => LINE.with_borrow_mut(|line| {
                line.clear();
                format.render(entry, line);
                file.append(line);
            }),
            Outlet::Service(service) => service.log(worker, entry),
        }
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
