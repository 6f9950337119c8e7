//! Children that do not outlive us, priority, and the limit of open files.

use std::{io, os::unix::process::CommandExt, process::Command};

use rustix::process::{self, Resource, Rlimit, Signal};

/// Makes the child of `command` die (SIGKILL) when we die, even by `kill -9`.
///
/// The kernel ties this to the *thread* that spawns: spawn from a thread that lives as long as the
/// process, such as the one that drives the runtime, and not from a pool that shrinks. A set-user-ID
/// program clears the tie when it starts.
///
/// Spawning fails if we are gone before the tie is in place.
#[expect(
    unsafe_code,
    reason = "the standard library offers no safe hook before exec"
)]
pub fn die_with_parent(command: &mut Command) {
    let parent = process::getpid();
    let tie = move || {
        process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    };
    // SAFETY: between fork and exec `tie` makes two system calls and nothing else: it neither
    // allocates nor takes a lock, and both error values are plain codes.
    unsafe {
        command.pre_exec(tie);
    }
}

/// Sets the nice value of this process: -20 is served first, 19 last.
///
/// # Errors
/// `PermissionDenied` when it is lowered without CAP_SYS_NICE.
pub fn set_nice(nice: i32) -> io::Result<()> {
    Ok(process::setpriority_process(None, nice)?)
}

/// Raises the soft limit of open files to the hard limit, and returns the limit in force.
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_open_files() -> io::Result<u64> {
    let limit = process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let raised = raise_open_files().unwrap();
        let limit = process::getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.maximum.unwrap_or(u64::MAX), raised);
    }

    #[test]
    fn nice_is_set() {
        set_nice(1).unwrap();
        assert_eq!(process::getpriority_process(None).unwrap(), 1);
    }
}
