//! What the kernel says about this process.

use std::fs;

/// Resident memory.
pub(crate) fn resident_bytes() -> Option<u64> {
    let kib = status("VmRSS:")?;
    Some(kib * 1024)
}

pub(super) fn threads() -> Option<u64> {
    status("Threads:")
}

pub(super) fn open_files() -> Option<u64> {
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// The number behind `key` in `/proc/self/status`.
fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
