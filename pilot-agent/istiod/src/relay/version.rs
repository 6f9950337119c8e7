//! Versions under which Envoy tells resources apart.

use ithildin_xds::subscription::Version;

/// Between istiod's version and our count of the changes under it.
const CHANGE: char = '~';

/// The version of a body that is new. When endpoints alone change, istiod sends them under the version of
/// its last push of everything: Envoy must be able to tell the two apart.
pub(super) fn distinct(version: Version, before: &Version) -> Version {
    let Some(rest) = before.strip_prefix(&*version) else {
        return version;
    };
    let number = match rest {
        "" => Some(0),
        rest => rest
            .strip_prefix(CHANGE)
            .and_then(|rest| rest.parse::<u64>().ok()),
    };
    match number {
        Some(number) => format!("{version}{CHANGE}{}", number + 1).into(),
        None => version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_under_one_version_of_istiod_has_a_version_of_its_own() {
        for (sent, before, expected) in [
            ("v/2", "v/1", "v/2"),
            ("v/1", "v/1", "v/1~1"),
            ("v/1", "v/1~1", "v/1~2"),
            ("v/2", "v/1~2", "v/2"),
            ("v/1", "v/10", "v/1"),
            ("v/1", "v/1~x", "v/1"),
            ("", "", "~1"),
        ] {
            assert_eq!(&*distinct(sent.into(), &before.into()), expected);
        }
    }
}
