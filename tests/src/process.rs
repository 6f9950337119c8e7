//! Child processes that end with the test, and their logs.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, eventually_within};

/// A running child. Dropping it kills it; if the test is failing, its log is printed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether the child only waits for the first process of a PID namespace.
    is_holder: bool,
}

/// What a command of [`Process::contained`] begins with: a PID namespace, which ends with its first process.
/// That has to end with its parent, also after a change of user, which takes [`DIE_WITH_PARENT`].
pub const CONTAINER: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--"];

/// The argument of `setpriv` without which a process of another user outlives its parent.
pub const DIE_WITH_PARENT: [&str; 2] = ["--pdeathsig", "KILL"];

impl Process {
    /// Starts `command` with its output in `dir/NAME.log`.
    pub fn spawn(name: &str, dir: &Path, mut command: Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log file opens");
        // Another user may open it again, as an Envoy does that logs to /dev/stdout.
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).expect("it is ours");
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file handle clones"))
            .stderr(file);
        ithildin_sys::process::die_with_parent(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {:?} does not start: {e}", command.get_program()));
        Self {
            name: name.to_owned(),
            child,
            log,
            is_holder: false,
        }
    }

    /// The same for a command in a [`CONTAINER`]: signals go to its first process, whose end is the end of
    /// whatever it has started.
    pub fn contained(name: &str, dir: &Path, command: Command) -> Self {
        let mut process = Self::spawn(name, dir, command);
        process.is_holder = true;
        process
    }

    /// Of a [`CONTAINER`], that of its first process.
    pub fn pid(&self) -> u32 {
        let contents = self.contents();
        contents.map_or(self.child.id(), |pid| {
            pid.as_raw_nonzero().get().cast_unsigned()
        })
    }

    /// Everything that the process has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line that has all of `words`, and returns it.
    pub fn wait_for_log(&mut self, words: &[&str]) -> String {
        let what = format!("{}: a log line with {words:?}", self.name);
        let log = self.log.clone();
        eventually(&what, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
                .ok_or(text)
        })
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.contents().unwrap_or(Pid::from_child(&self.child));
        kill_process(pid, signal).expect("our own child can be signalled");
    }

    /// Waits for the end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let name = self.name.clone();
        let child = &mut self.child;
        eventually_within(patience, &format!("{name}: ends"), || {
            child.try_wait().ok().flatten().ok_or("still running")
        })
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        // The holder waits until the whole namespace is gone.
        let killed = self
            .contents()
            .is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
        if !killed {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// The first process of the namespace that the child holds.
    fn contents(&self) -> Option<Pid> {
        let pid = self.child.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = self.is_holder.then(|| fs::read_to_string(children));
        let first = children?.ok()?.split_whitespace().next()?.parse().ok()?;
        Pid::from_raw(first)
    }

    /// SIGTERM, then the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(20))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the last lines of {}:", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// A binary of this workspace, built beside the running test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests run in target/PROFILE/deps")
        .join(name);
    assert!(
        path.exists(),
        "{} is not built: run ./tests/run, or `cargo build --bins` before `cargo test`",
        path.display()
    );
    path
}

/// Runs `command` to its end and returns its standard output; panics with all output if it fails.
pub fn output(mut command: Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// What `command` makes of `input`; panics if it fails.
pub fn filter(mut command: Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{:?} does not start: {e}", command.get_program()));
    // Taken, so that the child sees its end.
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("the child reads");
    drop(stdin);
    let out = child.wait_with_output().expect("a child can be waited for");
    assert!(out.status.success(), "{command:?}: {}", out.status);
    out.stdout
}

/// Whether `program` is on the PATH.
pub fn on_path(program: impl AsRef<OsStr>) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|dir| dir.join(program.as_ref()).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For how long the process sleeps, by which it is known, among those of other runs, too.
    fn left_behind() -> String {
        format!("31415926{}", std::process::id())
    }

    fn is_running() -> bool {
        let sought = format!("sleep\0{}\0", left_behind()).into_bytes();
        let processes = fs::read_dir("/proc").expect("/proc is mounted");
        processes.flatten().any(|entry| {
            let command = fs::read(entry.path().join("cmdline"));
            command.is_ok_and(|command| command == sought)
        })
    }

    /// A process that would outlive its parent, which is another user's.
    fn start(dir: &Path) -> Process {
        fs::create_dir(dir).unwrap();
        let [unshare, arguments @ ..] = CONTAINER;
        let left_behind = left_behind();
        let script =
            format!("(setsid sleep {left_behind} &) && echo started && exec sleep infinity");
        let mut command = Command::new(unshare);
        command.args(arguments).arg("setpriv").args(DIE_WITH_PARENT);
        command.args(["--reuid", "1337", "sh", "-c", &script]);
        let mut process = Process::contained("container", dir, command);
        process.wait_for_log(&["started"]);
        eventually("it sleeps", || is_running().then_some(()).ok_or("not yet"));
        process
    }

    #[test]
    fn a_container_takes_along_what_it_started() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED a_container_takes_along_what_it_started: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let process = start(&dir.path().join("killed"));
        drop(process);
        assert!(!is_running());
        // As if the test were killed: nobody tells the contents.
        let mut process = start(&dir.path().join("orphaned"));
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        eventually("all have ended", || {
            (!is_running()).then_some(()).ok_or("running")
        });
    }
}
