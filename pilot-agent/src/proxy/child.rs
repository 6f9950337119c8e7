//! Envoy as a child process that never outlives us.

use std::{
    io,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
};
use tokio::sync::{oneshot, watch};

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    /// Its number until it is reaped: from then on that may be another's. Kernels before 5.3 have nothing
    /// else to name a process by.
    unreaped: Arc<Mutex<Option<Pid>>>,
    pub(super) pid: u32,
    /// How it ended, once it did.
    ended: watch::Receiver<Option<Arc<str>>>,
}

impl Child {
    /// Starts `command`. It dies with us, even by `kill -9`.
    pub(super) async fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null());
        ithildin_sys::process::die_with_parent(&mut command);
        let (started_sender, started) = oneshot::channel();
        let (ended_sender, ended) = watch::channel(None);
        let unreaped = Arc::new(Mutex::new(None));
        let reaped = Arc::clone(&unreaped);
        // The kernel kills the child when the thread that spawned it ends: this one waits for it.
        std::thread::Builder::new()
            .name("child".into())
            .spawn(move || supervise(command, started_sender, &reaped, &ended_sender))?;
        let started = started
            .await
            .context("the thread that starts the child has ended")?;
        let pid = started.with_context(|| {
            format!(
                "cannot start {program:?}; set ENVOY_BIN, or binaryPath in PROXY_CONFIG, to Envoy's binary"
            )
        })?;
        Ok(Self {
            unreaped,
            pid: pid.as_raw_pid().unsigned_abs(),
            ended,
        })
    }

    /// Waits for the end, and says how it was.
    pub(super) async fn ended(&self) -> Arc<str> {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        let end = end.ok().and_then(|end| end.clone());
        end.unwrap_or_else(|| "it ended unseen".into())
    }

    /// Ends it at once. It may be gone already.
    pub(super) fn kill(&self) {
        if let Some(pid) = *self.unreaped.lock() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn supervise(
    mut command: Command,
    started: oneshot::Sender<io::Result<Pid>>,
    unreaped: &Mutex<Option<Pid>>,
    ended: &watch::Sender<Option<Arc<str>>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    *unreaped.lock() = Some(pid);
    let _ = started.send(Ok(pid));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Any other error is one of `wait` too, which tells of it.
    while let Err(Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
    *unreaped.lock() = None;
    let end: Arc<str> = match child.wait() {
        Ok(status) => status.to_string().into(),
        Err(error) => error.to_string().into(),
    };
    ended.send_replace(Some(end));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn its_end_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        let child = Child::spawn(command).await.unwrap();
        let end = tokio::time::timeout(LIMIT, child.ended()).await.unwrap();
        assert_eq!(&*end, "exit status: 3");
        child.kill();
    }

    #[tokio::test]
    async fn it_is_killed_when_it_is_dropped() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = Child::spawn(command).await.unwrap();
        let mut ended = child.ended.clone();
        drop(child);
        let end = tokio::time::timeout(LIMIT, ended.wait_for(Option::is_some)).await;
        let end = end.unwrap().unwrap().clone().unwrap();
        assert!(end.contains("9"), "{end}");
    }

    #[tokio::test]
    async fn a_missing_binary_says_what_to_set() {
        let error = Child::spawn(Command::new("/nonexistent/envoy"))
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("/nonexistent/envoy") && text.contains("ENVOY_BIN"),
            "{text}"
        );
    }
}
