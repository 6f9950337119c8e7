//! Keeps what is resident small once the start is done.

use std::{iter, time::Duration};

use tracing::debug;

/// What a start sets in motion, such as the first pushes and an Envoy's own questions, is over by then.
const FIRST_REST: Duration = Duration::from_secs(5);

/// Code that is needed again costs one minor fault for 16 pages of it: rarely enough not to be seen.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Gives back what the start took, and then, ever more seldom, the code that nobody needed since. Never ends.
pub(super) async fn keep_small() {
    give_back();
    for rest in rests() {
        tokio::time::sleep(rest).await;
        ithildin_sys::code::let_go();
    }
}

fn rests() -> impl Iterator<Item = Duration> {
    iter::successors(Some(FIRST_REST), |rest| Some((*rest * 2).min(LONGEST_REST)))
}

fn give_back() {
    let given_back =
        ithildin_sys::alloc::keep_nothing().and_then(|()| ithildin_sys::alloc::purge());
    if let Err(error) = given_back {
        debug!(%error, "cannot purge the allocator");
    }
    ithildin_sys::code::let_go();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_longer_up_to_ten_minutes_and_never_end() {
        let seconds: Vec<_> = rests().take(10).map(|rest| rest.as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }
}
