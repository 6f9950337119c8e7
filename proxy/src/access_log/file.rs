//! Log files, each written by a thread of its own.
//!
//! Invariants: a worker that appends a line holds a lock for the copy alone, never during a write;
//! a file that stalls (a pipe that nobody reads) holds up nobody but its own thread.

use std::{
    collections::BTreeMap,
    fs::{File, FileType, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
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

/// How long [`LogWriter::flush`] waits for files that stall.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Created if it is not there; appended to.
    File(PathBuf),
    Stdout,
    Stderr,
}

/// An open log; shared by all loggers with its destination. Its thread ends when it is dropped and
/// everything is written.
#[derive(Debug)]
pub struct LogFile(Arc<Queue>);

/// Opens logs, each once.
#[derive(Debug)]
pub struct LogWriter {
    stats: Arc<FilesystemBlock>,
    files: Mutex<BTreeMap<Destination, Weak<LogFile>>>,
    /// Also of files that are dropped and not written yet.
    queues: Mutex<Vec<Weak<Queue>>>,
}

/// Lines on their way to one destination.
#[derive(Debug)]
struct Queue {
    destination: Destination,
    state: Mutex<State>,
    /// Wakes the writing thread.
    work: Condvar,
    /// Tells who flushes.
    written: Condvar,
    stats: Arc<FilesystemBlock>,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// Bytes taken in, and bytes handed to the system (or lost to an error), since the start.
    taken: u64,
    done: u64,
    /// Somebody does not want to wait for the interval.
    urgent: bool,
    reopen: bool,
    closed: bool,
}

#[derive(Debug)]
enum Output {
    File(File),
    Stdout,
    Stderr,
}

impl LogWriter {
    pub fn new(stats: Arc<FilesystemBlock>) -> Self {
        Self {
            stats,
            files: Mutex::default(),
            queues: Mutex::default(),
        }
    }

    /// The log at `destination`, opened unless it is open already. Does not wait for the reader of
    /// a pipe.
    ///
    /// # Errors
    /// If the file cannot be opened, or its thread not started.
    pub fn open(&self, destination: Destination) -> io::Result<Arc<LogFile>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&destination).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let output = Output::open(&destination)?;
        let queue = Arc::new(Queue {
            destination: destination.clone(),
            state: Mutex::default(),
            work: Condvar::new(),
            written: Condvar::new(),
            stats: Arc::clone(&self.stats),
        });
        let ours = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || ours.run(output))?;
        let mut queues = self.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(&queue));
        let file = Arc::new(LogFile(queue));
        files.insert(destination, Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens every file anew, so that one that was moved away is followed by a new one. A file
    /// that cannot be opened goes on being written as it was.
    pub fn reopen(&self) {
        for file in self.files.lock().values().filter_map(Weak::upgrade) {
            file.0.state.lock().reopen = true;
            file.0.work.notify_one();
        }
        self.flush();
    }

    /// Waits until everything that was logged before is handed to the system, at most a second.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_LIMIT;
        let queues: Vec<_> = self
            .queues
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for queue in queues {
            queue.flush(deadline);
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

impl LogFile {
    /// Queues a line, or drops it if the disk is too slow.
    pub fn append(&self, line: &[u8]) {
        let queue = &*self.0;
        let mut state = queue.state.lock();
        let length = state.buffer.len() + line.len();
        if length > MAX_BUFFER {
            queue.stats.write_dropped.inc();
            return;
        }
        let first = state.buffer.is_empty();
        let urgent = state.buffer.len() < FLUSH_SIZE && length >= FLUSH_SIZE;
        state.buffer.extend_from_slice(line);
        state.taken += line.len() as u64;
        state.urgent |= urgent;
        drop(state);
        queue.stats.write_buffered.inc();
        if first || urgent {
            queue.work.notify_one();
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Queue {
    /// The thread: waits for text, gathers more of it for a moment, writes.
    fn run(&self, mut output: Output) {
        let mut text = Vec::new();
        loop {
            let reopen = {
                let mut state = self.state.lock();
                while state.buffer.is_empty() && !state.reopen && !state.closed {
                    self.work.wait(&mut state);
                }
                self.gather(&mut state);
                state.urgent = false;
                std::mem::swap(&mut state.buffer, &mut text);
                std::mem::take(&mut state.reopen)
            };
            self.write(&mut output, &text);
            if reopen {
                self.reopen(&mut output);
            }
            let mut state = self.state.lock();
            state.done += text.len() as u64;
            self.written.notify_all();
            if state.closed && state.buffer.is_empty() {
                return;
            }
            drop(state);
            text.clear();
            // A burst must not hold its memory for ever.
            text.shrink_to(FLUSH_SIZE);
        }
    }

    fn gather(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        let deadline = Instant::now() + FLUSH_INTERVAL;
        while !state.urgent && !state.reopen && !state.closed {
            if self.work.wait_until(state, deadline).timed_out() {
                self.stats.flushed_by_timer.inc();
                return;
            }
        }
    }

    fn write(&self, output: &mut Output, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        match output.write_all(text) {
            Ok(()) => self.stats.write_completed.inc(),
            Err(error) => {
                self.stats.write_failed.inc();
                tracing::debug!(destination = ?self.destination, %error, "cannot write access log");
            }
        }
    }

    fn reopen(&self, output: &mut Output) {
        match Output::open(&self.destination) {
            Ok(new) => *output = new,
            Err(error) => {
                self.stats.reopen_failed.inc();
                tracing::warn!(destination = ?self.destination, %error, "cannot reopen access log");
            }
        }
    }

    fn flush(&self, deadline: Instant) {
        let mut state = self.state.lock();
        let target = state.taken;
        while state.done < target || state.reopen {
            state.urgent = true;
            self.work.notify_one();
            if self.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

impl Output {
    fn open(destination: &Destination) -> io::Result<Self> {
        match destination {
            Destination::File(path) if path == Path::new("/dev/stdout") => Ok(Self::Stdout),
            Destination::File(path) if path == Path::new("/dev/stderr") => Ok(Self::Stderr),
            Destination::File(path) => {
                let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
                let mut options = OpenOptions::new();
                if kind.as_ref().is_ok_and(FileType::is_fifo) {
                    // To open a pipe for writing alone waits for its reader.
                    options.read(true).write(true);
                } else {
                    options.create(true).append(true);
                }
                Ok(Self::File(options.open(path)?))
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
