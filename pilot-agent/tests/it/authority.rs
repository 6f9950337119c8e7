//! `pilot-agent authority`, under attack by others on the same machine.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command, time::Duration};

use crate::lab::{BINARY, Lab, Process, until};

/// Ticks in a second, in what Linux tells user space.
const USER_HZ: f64 = 100.0;

/// Seconds of processor time that the process has used.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which is in brackets: the 12th and 13th are the times in user and kernel mode.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let times = rest.split_whitespace().skip(11).take(2);
    let ticks: f64 = times.map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks / USER_HZ
}

fn status(control: &Path) -> bool {
    let mut command = Command::new(BINARY);
    command.args(["authority", "ctl", "--control"]).arg(control);
    command.arg("status").output().unwrap().status.success()
}

/// Whoever takes all file descriptors neither ends the process, nor has it spin, nor outlasts it.
#[test]
fn want_of_file_descriptors_is_survived() {
    const LIMIT: usize = 64;
    let lab = Lab::new();
    let folder = lab.path("auth");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"")])
        .args([BINARY, "authority", "--trust-domain", "domain.test"])
        .args(["--workload", "spiffe://domain.test/gw", "--dir"])
        .arg(&folder);
    let mut process = Process::spawn(command, &lab.path("authority.log"));
    let control = folder.join("control.sock");
    until("it serves", || {
        control.exists() && lab.workload_api().exists()
    });

    let connect = |path: &Path| UnixStream::connect(path).unwrap();
    let mut taken: Vec<_> = (0..2 * LIMIT)
        .map(|_| connect(&lab.workload_api()))
        .collect();
    let complains = |of: &str| until("it complains", || process.log().contains(of));
    complains("cannot accept connections");
    // Only now there is certainly no descriptor left for this one.
    taken.push(connect(&control));
    complains("cannot accept a control connection");
    let before = processor_time(process.id());
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time(process.id()) - before;
    assert!(used < 0.5, "{used} s of processor time in one second");
    assert!(process.is_alive(), "{}", process.log());
    drop(taken);
    until("it serves again", || status(&control));
    process.terminate();
    assert!(process.ended().success(), "{}", process.log());
}
