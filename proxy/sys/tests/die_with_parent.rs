//! A child tied to its parent is gone after `kill -9` of the parent; one that is not tied stays.
//!
//! The test runs itself in a second role: as the parent that spawns the child and then hangs.

#![expect(clippy::unwrap_used, reason = "outside test functions, yet test code")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const ROLE: &str = "ITHILDIN_TEST_PARENT_ROLE";
const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn a_tied_child_dies_with_kill_9_of_its_parent() {
    if let Ok(role) = env::var(ROLE) {
        return be_the_parent(&role);
    }
    let (parent, child) = start_parent("tied");
    kill(parent);
    let deadline = Instant::now() + DEADLINE;
    while is_running(child) {
        assert!(Instant::now() < deadline, "the child outlived its parent");
        thread::yield_now();
    }
}

#[test]
fn a_free_child_outlives_its_parent() {
    if env::var(ROLE).is_ok() {
        return;
    }
    let (parent, child) = start_parent("free");
    kill(parent);
    assert!(is_running(child));
    kill_process(child, Signal::KILL).unwrap();
}

#[test]
fn a_live_parent_keeps_its_child() {
    if env::var(ROLE).is_ok() {
        return;
    }
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    ithildin_sys::process::die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

fn be_the_parent(role: &str) {
    let mut command = Command::new("sleep");
    command.arg("600");
    if role == "tied" {
        ithildin_sys::process::die_with_parent(&mut command);
    }
    let mut child = command.spawn().unwrap();
    println!("child {}", child.id());
    child.wait().unwrap();
}

fn start_parent(role: &str) -> (Child, Pid) {
    let mut parent = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "a_tied_child_dies_with_kill_9_of_its_parent",
            "--nocapture",
        ])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let child = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("child ")?.1.trim().parse().ok())
        .and_then(Pid::from_raw)
        .expect("the parent names its child");
    (parent, child)
}

fn kill(mut parent: Child) {
    parent.kill().unwrap();
    parent.wait().unwrap();
}

/// A zombie that nobody reaped has run its course.
fn is_running(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}
