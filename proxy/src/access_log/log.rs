//! One access logger: filter, format, file.

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

impl AccessLog {
    pub fn new(filter: Option<Filter>, format: Format, file: Arc<LogFile>) -> Self {
        Self {
            filter,
            format,
            file,
        }
    }

    /// Logs `entry`, if the filter admits it. Never blocks on the disk.
    pub fn log(&self, entry: &Entry<'_>) {
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !filter.admits(entry))
        {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format.render(entry, line);
            self.file.append(line);
        });
    }
}
