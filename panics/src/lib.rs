//! What becomes of a panic, which is always a mistake of ours.
//!
//! A connection's task ends alone. A resource is refused, and the last good one serves. What the whole
//! process hangs on ends the process, so that it is started anew: else it would serve what it last
//! knew for ever, and nobody would be told.
//!
//! Essential is who follows identities, configuration, names or readiness, and who accepts. One whose end
//! harms nobody but one peer, or that only reports, is not.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
};

/// Runs a task without which the process is of no use: if it panics, the process aborts and its last line
/// names the `task`. A task that is dropped, or that ends in order, ends alone.
pub async fn essential<T>(task: &'static str, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| {
            let reason = reason(&*panic);
            tracing::error!(task, reason, "panicked: the process ends");
            std::process::abort();
        })
    })
    .await
}

/// Does what an outside text may have broken. Nothing of it is used after a panic.
///
/// # Errors
/// The panic's words.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| reason(&*panic).to_owned())
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = || panic.downcast_ref::<String>().map(String::as_str);
    literal.or_else(text).unwrap_or("no reason is given")
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Output},
    };

    use super::*;

    const SIGABRT: i32 = 6;

    #[test]
    fn what_panics_is_told() {
        assert_eq!(contained(|| 1), Ok(1));
        assert_eq!(contained(|| panic!("plain")), Err::<(), _>("plain".into()));
        let number = 2;
        let formatted = contained(|| panic!("number {number}"));
        assert_eq!(formatted, Err::<(), _>("number 2".into()));
    }

    #[tokio::test]
    #[ignore = "runs in a child process of its own"]
    async fn aborting_child() {
        tracing_subscriber::fmt().with_ansi(false).init();
        let broken = tokio::spawn(essential("the broken one", async { panic!("no more") }));
        let _ = broken.await;
        std::process::exit(0);
    }

    #[tokio::test]
    #[ignore = "runs in a child process of its own"]
    async fn surviving_child() {
        assert_eq!(essential("done", async { 1 }).await, 1);
        let dropped = tokio::spawn(essential("dropped", std::future::pending::<()>()));
        dropped.abort();
        assert!(dropped.await.is_err_and(|error| error.is_cancelled()));
        let alone = tokio::spawn(async { panic!("one connection") });
        assert!(alone.await.is_err_and(|error| error.is_panic()));
        std::process::exit(0);
    }

    fn child(name: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .output()
            .unwrap()
    }

    #[test]
    fn without_an_essential_task_there_is_no_process() {
        let child = child("tests::aborting_child");
        assert_eq!(child.status.signal(), Some(SIGABRT));
        let log = String::from_utf8_lossy(&child.stdout);
        let line = r#"panicked: the process ends task="the broken one" reason="no more""#;
        assert!(log.contains(line), "{log}");
    }

    #[test]
    fn what_ends_otherwise_ends_alone() {
        let child = child("tests::surviving_child");
        assert_eq!(child.status.code(), Some(0), "{child:?}");
    }
}
