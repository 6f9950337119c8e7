//! The program's own log: levels as Envoy's arguments give them, to standard error or to a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use ithildin_proxy::log_levels;
use parking_lot::RwLock;
use tracing_subscriber::{
    EnvFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::args::Args;

/// A log file that can be opened anew, after it was moved away.
#[derive(Clone)]
pub(crate) struct LogFile {
    path: Arc<PathBuf>,
    file: Arc<RwLock<File>>,
}

/// Starts logging. The result is the log file, if there is one.
pub(crate) fn start(args: &Args) -> anyhow::Result<Option<LogFile>> {
    let (filter, reload) = reload::Layer::new(filter(args)?);
    log_levels::manage(args.log_level, move |directives| {
        let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
        reload.reload(filter).map_err(|error| error.to_string())
    });
    let registry = tracing_subscriber::registry().with(filter);
    match &args.log_path {
        None => {
            let lines = fmt::layer().with_writer(io::stderr);
            // Colours are for people; what collects logs would keep their codes.
            let lines = match io::stderr().is_terminal() {
                true => lines,
                false => lines.with_ansi(false),
            };
            registry.with(lines).init();
            Ok(None)
        }
        Some(path) => {
            let file = LogFile::open(path)?;
            let lines = fmt::layer().with_ansi(false).with_writer(file.clone());
            registry.with(lines).init();
            Ok(Some(file))
        }
    }
}

fn filter(args: &Args) -> anyhow::Result<EnvFilter> {
    let mut directives = args.log_level.filter().to_owned();
    let components = args.component_log_level.split(',');
    for entry in components.filter(|entry| !entry.is_empty()) {
        let (component, level) = entry
            .split_once(':')
            .with_context(|| format!("--component-log-level: {entry:?} is not component:level"))?;
        let level = match level {
            "warning" => "warn",
            "critical" => "error",
            other => other,
        };
        directives.push_str(&format!(",ithildin_proxy::{component}={level}"));
    }
    EnvFilter::try_new(&directives)
        .with_context(|| format!("--component-log-level: {:?}", args.component_log_level))
}

impl LogFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = append(path).with_context(|| format!("--log-path: cannot open {path:?}"))?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            file: Arc::new(RwLock::new(file)),
        })
    }

    pub(crate) fn reopen(&self) {
        match append(&self.path) {
            Ok(file) => *self.file.write() = file,
            Err(error) => tracing::error!(path = ?self.path, %error, "cannot reopen the log file"),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.file.read()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.file.read()).flush()
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
