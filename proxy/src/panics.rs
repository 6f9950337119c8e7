//! What becomes of a panic, which is always a mistake of ours.
//!
//! A connection's task ends alone. A resource is refused, and the last good one serves. What the whole
//! process hangs on ends the process, so that it is started anew: else it would serve what it last
//! knew for ever, and nobody would be told.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
};

/// Runs a task without which the process is of no use.
pub(crate) async fn essential<T>(task: &'static str, future: impl Future<Output = T>) -> T {
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
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| reason(&*panic).to_owned())
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    let text = || panic.downcast_ref::<String>().map(String::as_str);
    literal.or_else(text).unwrap_or("no reason is given")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let task = async { assert_eq!(essential("harmless", async { 1 }).await, 1) };
        task.await;
        let broken = tokio::spawn(essential("broken", async { panic!("no more") }));
        let _ = broken.await;
        std::process::exit(0);
    }

    #[test]
    fn without_an_essential_task_there_is_no_process() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "panics::tests::aborting_child", "--ignored"])
            .output()
            .unwrap();
        assert_eq!(child.status.code(), None, "it ends by a signal");
    }
}
