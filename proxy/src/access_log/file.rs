//! Log files, and the one thread that writes them.
//!
//! Invariant: a worker that appends a line holds a lock for the copy alone, never during a write.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::stats::FilesystemBlock;

/// Largest amount of text that waits for the disk, in bytes for each file; what comes on top is
/// dropped and counted.
const MAX_BUFFER: usize = 1 << 20;

/// Size at which a buffer is written at once, in bytes; Envoy's figure.
const FLUSH_SIZE: usize = 64 << 10;

/// How long lines are gathered before they are written. Short enough for a person who follows the
/// file, long enough that busy workers wake the thread rarely.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Created if it is not there; appended to.
    File(PathBuf),
    Stdout,
    Stderr,
}

/// An open log; shared by all loggers with its destination.
#[derive(Debug)]
pub struct LogFile {
    destination: Destination,
    buffer: Mutex<Vec<u8>>,
    /// Held by the writing thread while it writes.
    output: Mutex<Output>,
    shared: Arc<Shared>,
}

/// Opens logs and writes them on a thread of its own, until it is dropped; then everything that is
/// buffered is written.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    files: Mutex<BTreeMap<Destination, Weak<LogFile>>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    stats: Arc<FilesystemBlock>,
}

#[derive(Debug, Default)]
struct State {
    /// Files with text to write, in order of their first line.
    dirty: Vec<Weak<LogFile>>,
    /// Somebody does not want to wait for the interval.
    urgent: bool,
    stop: bool,
    /// Counts the rounds that are finished, for [`LogWriter::flush`].
    rounds: u64,
}

#[derive(Debug)]
enum Output {
    File(File),
    Stdout,
    Stderr,
}

impl LogWriter {
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(stats: Arc<FilesystemBlock>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            stats,
        });
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared)
            })?;
        Ok(Self {
            shared,
            files: Mutex::default(),
            thread: Some(thread),
        })
    }

    /// The log at `destination`, opened unless it is open already.
    pub fn open(&self, destination: Destination) -> io::Result<Arc<LogFile>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&destination).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let file = Arc::new(LogFile {
            output: Mutex::new(Output::open(&destination)?),
            destination: destination.clone(),
            buffer: Mutex::default(),
            shared: Arc::clone(&self.shared),
        });
        files.insert(destination, Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens every file anew, so that one that was moved away is followed by a new one. A file
    /// that cannot be opened goes on being written as it was.
    pub fn reopen(&self) {
        self.flush();
        let files: Vec<_> = self
            .files
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for file in files {
            match Output::open(&file.destination) {
                Ok(output) => *file.output.lock() = output,
                Err(error) => {
                    self.shared.stats.reopen_failed.inc();
                    tracing::warn!(destination = ?file.destination, %error, "cannot reopen access log");
                }
            }
        }
    }

    /// Waits until everything that was logged before is handed to the system, at most a second.
    pub fn flush(&self) {
        let mut state = self.shared.state.lock();
        let deadline = std::time::Instant::now() + Duration::from_secs(1);
        // The round that runs now may have taken its buffers already.
        let target = state.rounds + 2;
        while state.rounds < target {
            state.urgent = true;
            self.shared.wake.notify_all();
            if self
                .shared
                .wake
                .wait_until(&mut state, deadline)
                .timed_out()
            {
                break;
            }
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by its hook.
            let _ = thread.join();
        }
    }
}

impl LogFile {
    /// Queues a line, or drops it if the disk is too slow.
    pub fn append(self: &Arc<Self>, line: &[u8]) {
        let stats = &self.shared.stats;
        let (first, urgent) = {
            let mut buffer = self.buffer.lock();
            let length = buffer.len() + line.len();
            if length > MAX_BUFFER {
                stats.write_dropped.inc();
                return;
            }
            let first = buffer.is_empty();
            let urgent = buffer.len() < FLUSH_SIZE && length >= FLUSH_SIZE;
            buffer.extend_from_slice(line);
            (first, urgent)
        };
        stats.write_buffered.inc();
        if first || urgent {
            let mut state = self.shared.state.lock();
            if first {
                state.dirty.push(Arc::downgrade(self));
            }
            state.urgent |= urgent;
            drop(state);
            self.shared.wake.notify_all();
        }
    }

    fn write_out(&self, spare: &mut Vec<u8>) {
        spare.clear();
        std::mem::swap(&mut *self.buffer.lock(), spare);
        match self.output.lock().write_all(spare) {
            Ok(()) => self.shared.stats.write_completed.inc(),
            Err(error) => {
                self.shared.stats.write_failed.inc();
                tracing::debug!(destination = ?self.destination, %error, "cannot write access log");
            }
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // The thread only knows it weakly; what it has not written yet is written here.
        let rest = std::mem::take(&mut *self.buffer.lock());
        if !rest.is_empty() && self.output.lock().write_all(&rest).is_err() {
            self.shared.stats.write_failed.inc();
        }
    }
}

impl Output {
    fn open(destination: &Destination) -> io::Result<Self> {
        match destination {
            Destination::File(path) if path == Path::new("/dev/stdout") => Ok(Self::Stdout),
            Destination::File(path) if path == Path::new("/dev/stderr") => Ok(Self::Stderr),
            Destination::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                Ok(Self::File(file))
            }
            Destination::Stdout => Ok(Self::Stdout),
            Destination::Stderr => Ok(Self::Stderr),
        }
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(text),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(text),
        }
    }
}

/// The thread: waits for text, gathers more of it for a moment, writes.
fn run(shared: &Shared) {
    let mut spare = Vec::new();
    loop {
        let (dirty, stop) = {
            let mut state = shared.state.lock();
            while state.dirty.is_empty() && !state.urgent && !state.stop {
                shared.wake.wait(&mut state);
            }
            let deadline = std::time::Instant::now() + FLUSH_INTERVAL;
            while !state.urgent && !state.stop {
                if shared.wake.wait_until(&mut state, deadline).timed_out() {
                    shared.stats.flushed_by_timer.inc();
                    break;
                }
            }
            state.urgent = false;
            (std::mem::take(&mut state.dirty), state.stop)
        };
        for file in dirty.iter().filter_map(Weak::upgrade) {
            file.write_out(&mut spare);
        }
        // A burst must not hold its memory for ever.
        spare.shrink_to(FLUSH_SIZE);
        let mut state = shared.state.lock();
        state.rounds += 1;
        shared.wake.notify_all();
        if stop && state.dirty.is_empty() {
            return;
        }
    }
}
