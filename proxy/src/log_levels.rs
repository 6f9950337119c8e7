//! The log levels of the process, under Envoy's logger names: what `/logging` reads and changes.
//!
//! Logging belongs to the program, not to a proxy in it: the program says once how levels are
//! changed.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::OnceLock,
};

use parking_lot::Mutex;

/// A level in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

/// Why a level is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    #[error("unknown logger name")]
    Name,
    #[error("unknown logger level")]
    Level,
    #[error("this program's log levels cannot be changed")]
    Fixed,
}

/// Envoy's loggers that have a counterpart here, and the modules that each stands for.
const LOGGERS: &[(&str, &[&str])] = &[
    ("access_log", &["ithildin_proxy::access_log"]),
    ("admin", &["ithildin_proxy::admin"]),
    ("client", &["ithildin_proxy::upstream"]),
    ("config", &["ithildin_proxy::control", "ithildin_xds"]),
    ("conn_handler", &["ithildin_proxy::runtime"]),
    ("connection", &["ithildin_proxy::io", "ithildin_tls"]),
    ("dns", &["ithildin_proxy::control::dns"]),
    ("filter", &["ithildin_proxy::tcp"]),
    ("http", &["ithildin_proxy::http"]),
    ("http2", &["ithildin_proxy::http::http2"]),
    ("main", &["ithildin_proxy::server"]),
    ("pool", &["ithildin_proxy::upstream::pool"]),
    ("rbac", &["ithildin_proxy::rbac"]),
    ("router", &["ithildin_proxy::http::attempts"]),
    ("secret", &["ithildin_proxy::control::secrets"]),
    (
        "upstream",
        &[
            "ithildin_proxy::outlier",
            "ithildin_proxy::control::outliers",
        ],
    ),
];

/// Takes directives of `tracing_subscriber::EnvFilter`.
type Apply = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

struct Levels {
    all: LogLevel,
    /// Those that differ.
    own: BTreeMap<&'static str, LogLevel>,
    apply: Apply,
}

static PROCESS: OnceLock<Mutex<Levels>> = OnceLock::new();

/// Says which level the program logs at, and how that is changed: by directives of
/// `tracing_subscriber::EnvFilter`. Only the first call counts.
pub fn manage(level: LogLevel, apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) {
    let levels = Levels {
        all: level,
        own: BTreeMap::new(),
        apply: Box::new(apply),
    };
    let _ = PROCESS.set(Mutex::new(levels));
}

/// Changes the level of all loggers.
pub(crate) fn set_all(level: &str) -> Result<(), LogLevelError> {
    let level = LogLevel::parse(level)?;
    change(|levels| {
        levels.all = level;
        levels.own.clear();
    })
}

/// Changes the levels of some loggers, all or none.
pub(crate) fn set(changes: &[(&str, &str)]) -> Result<(), LogLevelError> {
    let mut known = Vec::new();
    for (name, level) in changes {
        let level = LogLevel::parse(level)?;
        let found = LOGGERS.iter().find(|(logger, _)| logger == name);
        known.push((found.ok_or(LogLevelError::Name)?.0, level));
    }
    change(|levels| levels.own.extend(known))
}

/// `name: level`, one a line.
pub(crate) fn text() -> String {
    let levels = PROCESS.get().map(|levels| levels.lock());
    let level_of = |name| match &levels {
        Some(levels) => *levels.own.get(name).unwrap_or(&levels.all),
        None => LogLevel::Info,
    };
    let mut text = "active loggers:\n".to_owned();
    for (name, _) in LOGGERS {
        let written = writeln!(text, "  {name}: {}", level_of(name));
        written.expect("writing to a String does not fail");
    }
    text
}

fn change(apply: impl FnOnce(&mut Levels)) -> Result<(), LogLevelError> {
    let mut levels = PROCESS.get().ok_or(LogLevelError::Fixed)?.lock();
    apply(&mut levels);
    let directives = directives(&levels);
    (levels.apply)(&directives).map_err(|error| {
        tracing::warn!(%error, directives, "cannot change log levels");
        LogLevelError::Fixed
    })
}

fn directives(levels: &Levels) -> String {
    let mut directives = levels.all.filter().to_owned();
    for (name, modules) in LOGGERS {
        let Some(level) = levels.own.get(name) else {
            continue;
        };
        for module in *modules {
            let written = write!(directives, ",{module}={}", level.filter());
            written.expect("writing to a String does not fail");
        }
    }
    directives
}

impl LogLevel {
    const ALL: [Self; 7] = [
        Self::Trace,
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Off,
    ];

    /// The name of the level in `tracing`.
    pub fn filter(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warn",
            Self::Error | Self::Critical => "error",
            Self::Off => "off",
        }
    }

    /// Envoy's name of a level.
    ///
    /// # Errors
    /// If there is no such level.
    pub fn parse(text: &str) -> Result<Self, LogLevelError> {
        let text = if text == "warn" { "warning" } else { text };
        let mut all = Self::ALL.into_iter();
        all.find(|level| level.to_string() == text)
            .ok_or(LogLevelError::Level)
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
            other => other.filter(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn levels_change_for_all_or_by_name() {
        let seen = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&seen);
        manage(LogLevel::Info, move |directives| {
            *sink.lock() = directives.to_owned();
            Ok(())
        });
        set(&[("rbac", "debug"), ("http", "critical")]).unwrap();
        assert_eq!(
            *seen.lock(),
            "info,ithildin_proxy::http=error,ithildin_proxy::rbac=debug"
        );
        let levels = text();
        assert!(
            levels.starts_with("active loggers:\n  access_log: info\n"),
            "{levels}"
        );
        assert!(levels.contains("  rbac: debug\n"), "{levels}");
        assert!(levels.contains("  http: critical\n"), "{levels}");
        // All or none.
        assert_eq!(
            set(&[("rbac", "off"), ("nope", "off")]),
            Err(LogLevelError::Name)
        );
        assert_eq!(set(&[("rbac", "loud")]), Err(LogLevelError::Level));
        assert_eq!(set_all("loud"), Err(LogLevelError::Level));
        assert_eq!(text(), levels);
        set_all("warn").unwrap();
        assert_eq!(*seen.lock(), "warn");
        assert!(text().contains("  rbac: warning\n"));
    }
}
