//! A proxy as a child process, with its log.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How long a proxy may take to end when it is asked.
const PATIENCE: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(10);

/// A child that ends with us.
pub(super) struct Process {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Must be called from a thread that lives as long as we do: the child ends with it.
    pub(super) fn spawn(name: &str, log: &Path, mut command: Command) -> anyhow::Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("{}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        ithildin_sys::process::die_with_parent(&mut command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        })
    }

    /// An error with the end of its log, if it has ended.
    pub(super) fn check_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            bail!("{} ended with {status}:\n{}", self.name, lines.join("\n"));
        }
        Ok(())
    }

    /// Everything that it printed.
    pub(super) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Asks it to end, then makes it.
    pub(super) async fn stop(mut self) {
        // It may have ended by itself: then there is nobody to signal.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
