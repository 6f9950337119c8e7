//! Tells that a certificate from files expires: nobody but its owner can renew it.

use std::time::{Duration, SystemTime};

use ithildin_spiffe::x509::PemPair;
use tracing::{error, warn};

/// The share of a certificate's life that is left when its owner is told: cert-manager and Istio
/// renew well before.
const SHARE_LEFT: f64 = 0.1;
/// Long lives are told of no earlier than this.
const MOST_LEFT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was told about the certificate that is in force.
#[derive(Debug, Default)]
pub(super) struct ExpiryNotice {
    pair: Option<PemPair>,
    told: Told,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    #[default]
    Nothing,
    Soon,
    Expired,
}

impl ExpiryNotice {
    /// The certificate that is in force now; `None` if nothing expires.
    pub(super) fn of(&mut self, pair: Option<PemPair>) {
        if self.pair != pair {
            *self = Self {
                pair,
                told: Told::Nothing,
            };
        }
    }

    /// Says once that it expires soon, and once that it has expired.
    pub(super) fn tell(&mut self, name: &str, now: SystemTime) {
        let Some(pair) = &self.pair else {
            return;
        };
        let due = due(pair, now);
        if due <= self.told {
            return;
        }
        self.told = due;
        let left = pair.not_after.duration_since(now).unwrap_or_default();
        match due {
            Told::Expired => error!(
                name,
                "the certificate of a secret's file has expired; peers will refuse it until the file is renewed"
            ),
            _ => warn!(
                name,
                valid_for = ?left,
                "the certificate of a secret's file expires soon and was not renewed"
            ),
        }
    }
}

fn due(pair: &PemPair, now: SystemTime) -> Told {
    let Ok(left) = pair.not_after.duration_since(now) else {
        return Told::Expired;
    };
    let life = pair.not_after.duration_since(pair.not_before);
    let early = life.unwrap_or_default().mul_f64(SHARE_LEFT).min(MOST_LEFT);
    match left <= early {
        true => Told::Soon,
        false => Told::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_end_is_told_once_before_and_once_after() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let pair = |not_after| PemPair {
            id: None,
            not_before: at(0),
            not_after: at(not_after),
        };
        let mut notice = ExpiryNotice::default();
        notice.tell("x", at(0));
        assert_eq!(notice.told, Told::Nothing);
        notice.of(Some(pair(1000)));
        for (now, told) in [
            (0, Told::Nothing),
            (899, Told::Nothing),
            (900, Told::Soon),
            (1000, Told::Soon),
            (1001, Told::Expired),
        ] {
            notice.tell("x", at(now));
            assert_eq!(notice.told, told, "{now}");
        }
        notice.of(Some(pair(1000)));
        assert_eq!(notice.told, Told::Expired, "the same certificate");
        notice.of(Some(pair(2000)));
        assert_eq!(notice.told, Told::Nothing, "it was renewed");
        let year = 365 * 24 * 3600;
        assert_eq!(due(&pair(year), at(year - 8 * 24 * 3600)), Told::Nothing);
        assert_eq!(due(&pair(year), at(year - 6 * 24 * 3600)), Told::Soon);
    }
}
