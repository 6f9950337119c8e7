//! What the kernel says about this process, under the names that Prometheus' clients use.

use std::{fs, sync::LazyLock};

use prometheus::{Gauge, Opts, core::Collector, proto::MetricFamily};

/// The unit of times in `/proc`: part of the kernel's interface on the architectures that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Its families. What the kernel does not tell is missing.
pub(super) fn families() -> Vec<MetricFamily> {
    let stat = stat();
    let field = |number: usize| stat.as_ref()?.get(number)?.parse::<f64>().ok();
    let cpu = field(UTIME)
        .zip(field(STIME))
        .map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    let started = field(STARTTIME)
        .zip(*BOOT_TIME)
        .map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND);
    let files = fs::read_dir("/proc/self/fd")
        .ok()
        .map(|files| files.count() as f64);
    [
        (
            "cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            cpu,
        ),
        (
            "max_fds",
            "Maximum number of open file descriptors.",
            max_files(),
        ),
        ("open_fds", "Number of open file descriptors.", files),
        (
            "resident_memory_bytes",
            "Resident memory size in bytes.",
            memory("VmRSS:"),
        ),
        (
            "start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            started,
        ),
        ("threads", "Number of threads.", field(THREADS)),
        (
            "virtual_memory_bytes",
            "Virtual memory size in bytes.",
            memory("VmSize:"),
        ),
    ]
    .into_iter()
    .filter_map(|(name, help, value)| family(name, help, value?))
    .flatten()
    .collect()
}

// Places in `/proc/self/stat` behind the name, which may hold anything; see proc_pid_stat(5).
const UTIME: usize = 11;
const STIME: usize = 12;
const THREADS: usize = 17;
const STARTTIME: usize = 19;

/// When the system started, in seconds since 1970.
static BOOT_TIME: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
});

fn stat() -> Option<Vec<String>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Bytes; the kernel tells KiB.
fn memory(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn max_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn family(name: &str, help: &str, value: f64) -> Option<Vec<MetricFamily>> {
    let opts = Opts::new(format!("istio_agent_process_{name}"), help);
    if name.ends_with("_total") {
        let counter = prometheus::Counter::with_opts(opts).ok()?;
        counter.inc_by(value);
        return Some(counter.collect());
    }
    let gauge = Gauge::with_opts(opts).ok()?;
    gauge.set(value);
    Some(gauge.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let families = families();
        let value = |name: &str| {
            let name = format!("istio_agent_process_{name}");
            let family = families
                .iter()
                .find(|family| family.name() == name)
                .unwrap();
            let metric = &family.get_metric()[0];
            if name.ends_with("_total") {
                return metric.get_counter().get_value();
            }
            metric.get_gauge().get_value()
        };
        assert!((1e6..1e12).contains(&value("resident_memory_bytes")));
        assert!(value("virtual_memory_bytes") >= value("resident_memory_bytes"));
        assert!((1.0..1e6).contains(&value("open_fds")));
        assert!(value("max_fds") >= value("open_fds"));
        assert!(value("threads") >= 1.0 && value("cpu_seconds_total") >= 0.0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - value("start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
