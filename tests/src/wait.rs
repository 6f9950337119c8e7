//! Waiting for a state by polling it.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// Long enough for a busy two-core machine; a test that needs it all is slow, not broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a state.
const STEP: Duration = Duration::from_millis(25);

/// Polls `check` until it is `Ok`; panics with `what` and the last `Err` when patience ends.
pub fn eventually<T, E: Debug>(what: &str, check: impl FnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, what, check)
}

/// [`eventually`] with another patience, for states that must come soon.
pub fn eventually_within<T, E: Debug>(
    patience: Duration,
    what: &str,
    mut check: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > patience => {
                panic!("{what}: not within {patience:?}; last: {error:?}")
            }
            Err(_) => thread::sleep(STEP),
        }
    }
}
