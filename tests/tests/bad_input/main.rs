//! Bad input for running proxies with traffic through them: broken Istio resources, messages of the
//! Workload API and secrets. Each gives the error that its user sees; none ends a process, and none
//! fails a request.

mod resources;
mod secrets;
mod workload_api;

use std::{
    thread,
    time::{Duration, Instant},
};

use ithildin_tests::Load;

/// A mistake, and the words by which its user finds it, all in one line of the log.
struct Case<T> {
    name: &'static str,
    bad: T,
    told: Vec<String>,
}

fn case<T>(name: &'static str, bad: T, told: &[&str]) -> Case<T> {
    Case {
        name,
        bad,
        told: told.iter().map(ToString::to_string).collect(),
    }
}

/// How long a mistake may take to be told.
const WITHIN: Duration = Duration::from_secs(15);

/// Waits until `log` has a line with all of `words` behind its first `from` bytes; or else what is
/// there.
fn wait_for_words(
    name: &str,
    words: &[String],
    from: usize,
    log: impl Fn() -> String,
) -> Option<String> {
    let started = Instant::now();
    loop {
        let news = log().split_off(from);
        let told = |line: &str| words.iter().all(|word| line.contains(word.as_str()));
        if news.lines().any(told) {
            return None;
        }
        if started.elapsed() > WITHIN {
            return Some(format!("{name}: no line with {words:?} in:\n{news}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// All requests so far have been answered well, and they go on.
fn finish(load: Load, cases: usize, untold: &[String], what: &str) {
    load.wait_beyond(load.sent());
    let tally = load.finish();
    println!(
        "{what}: {cases} cases, {} requests, {} failed",
        tally.requests, tally.failed
    );
    assert_eq!(tally.failed, 0, "{what}: {tally:?}");
    assert!(tally.requests > 0, "{what}: {tally:?}");
    assert!(untold.is_empty(), "{what}: {}", untold.join("\n"));
}
