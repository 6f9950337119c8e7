//! Ejecting hosts and taking them back, on the control runtime.

use std::{sync::atomic::Ordering, time::Instant};

use super::{Detector, Kind, Monitor, SuccessRates};
use crate::stats::{OutlierBlock, SharedCounter};

impl Detector {
    /// Looks over all `hosts` of the cluster; whether any was ejected or taken back.
    pub fn sweep(&self, hosts: &[&Monitor], now: Instant) -> bool {
        let mut sweeping = self.sweeping.lock();
        let mut changed = false;
        for host in hosts {
            for kind in host.alarms() {
                changed |= !host.is_ejected() && self.detected(kind, host, hosts, now);
            }
        }
        if sweeping.due.is_some_and(|due| due <= now) {
            sweeping.due = None;
            self.used.store(false, Ordering::Relaxed);
            for host in hosts.iter().filter(|host| host.is_ejected()) {
                changed |= self.take_back(host, now);
            }
            let rates;
            (rates, changed) = self.compare(hosts, now, changed);
            sweeping.rates = rates;
            for host in hosts.iter().filter(|host| !host.is_ejected()) {
                let mut history = host.history.lock();
                history.backoff = history.backoff.saturating_sub(1);
            }
        }
        let remembered = |host: &&Monitor| host.is_ejected() || host.history.lock().backoff > 0;
        if sweeping.due.is_none()
            && (self.used.load(Ordering::Relaxed) || hosts.iter().any(remembered))
        {
            sweeping.due = Some(self.next_tick(now));
        }
        self.stats.outlier().ejections_active.set(active(hosts));
        changed
    }

    /// Whether the host was ejected for it.
    fn detected(&self, kind: Kind, host: &Monitor, hosts: &[&Monitor], now: Instant) -> bool {
        let stats = self.stats.outlier();
        kind.counters(stats).0.inc();
        match kind {
            Kind::Consecutive5xx => stats.ejections_consecutive_5xx.inc(),
            Kind::SuccessRate => stats.ejections_success_rate.inc(),
            _ => {}
        }
        self.eject(kind, host, hosts, now)
    }

    fn eject(&self, kind: Kind, host: &Monitor, hosts: &[&Monitor], now: Instant) -> bool {
        let (settings, stats) = (&self.settings, self.stats.outlier());
        let ejected = active(hosts);
        let percent = 100.0 * (ejected + 1) as f64 / hosts.len().max(1) as f64;
        let one = settings.always_eject_one_host && ejected == 0;
        if percent > f64::from(settings.max_ejection_percent) && !one {
            stats.ejections_overflow.inc();
            return false;
        }
        if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
            stats.ejections_total.inc();
        }
        if fastrand::u32(0..100) >= settings.enforcing.of(kind) {
            return false;
        }
        stats.ejections_enforced_total.inc();
        kind.counters(stats).1.inc();
        let mut history = host.history.lock();
        history.ejected_at = Some(now);
        history.jitter = settings.max_ejection_time_jitter.mul_f64(fastrand::f64());
        let base = settings.base_ejection_time;
        if base.saturating_mul(history.backoff) < settings.max_ejection_time.saturating_add(base) {
            history.backoff += 1;
        }
        host.set_ejected(true);
        true
    }

    /// Whether the host may serve again.
    fn take_back(&self, host: &Monitor, now: Instant) -> bool {
        let settings = &self.settings;
        let history = host.history.lock();
        let base = settings.base_ejection_time.saturating_mul(history.backoff);
        let time = base.min(settings.max_ejection_time) + history.jitter;
        let since = history
            .ejected_at
            .map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < time) {
            return false;
        }
        host.forget();
        host.set_ejected(false);
        true
    }

    /// Compares the success of the hosts in the last interval.
    fn compare(&self, hosts: &[&Monitor], now: Instant, changed: bool) -> (SuccessRates, bool) {
        let least = self.settings.success_rate.request_volume;
        let least = least.min(self.settings.failure_percentage.request_volume);
        let mut judged = [Vec::new(), Vec::new()];
        for host in hosts {
            let volumes = host.take_volumes();
            let mut rates = [None, None];
            for (i, (total, success)) in volumes.into_iter().enumerate() {
                let rate = 100.0 * success as f64 / total.max(1) as f64;
                if !host.is_ejected() && total > 0 && total >= u64::from(least) {
                    rates[i] = Some(rate);
                    judged[i].push(Judged { host, total, rate });
                }
            }
            let mut history = host.history.lock();
            [history.external, history.local] = rates;
        }
        let [external, local] = judged;
        let kinds = (Kind::SuccessRate, Kind::FailurePercentage);
        let (external, first) = self.judge(&external, kinds, hosts, now);
        let kinds = (
            Kind::LocalOriginSuccessRate,
            Kind::LocalOriginFailurePercentage,
        );
        let (local, second) = match self.settings.split_local_origin {
            true => self.judge(&local, kinds, hosts, now),
            false => (None, false),
        };
        (SuccessRates { external, local }, changed | first | second)
    }

    fn judge(
        &self,
        judged: &[Judged<'_>],
        (by_rate, by_percentage): (Kind, Kind),
        hosts: &[&Monitor],
        now: Instant,
    ) -> (Option<(f64, f64)>, bool) {
        let mut changed = false;
        let mut eject = |kind, of: &Judged<'_>| {
            changed |= !of.host.is_ejected() && self.detected(kind, of.host, hosts, now);
        };
        let settings = self.settings.success_rate;
        let volume = |it: &&Judged<'_>, least: u32| it.total >= u64::from(least);
        let valid = judged
            .iter()
            .filter(|it| volume(it, settings.request_volume));
        let rates: Vec<f64> = valid.clone().map(|it| it.rate).collect();
        let mut found = None;
        if !rates.is_empty() && rates.len() >= settings.minimum_hosts as usize {
            let (average, deviation) = spread(&rates);
            let threshold = average - settings.stdev_factor * deviation;
            found = Some((average, threshold));
            valid
                .filter(|it| it.rate < threshold)
                .for_each(|it| eject(by_rate, it));
        }
        let settings = self.settings.failure_percentage;
        let valid = judged
            .iter()
            .filter(|it| volume(it, settings.request_volume));
        if valid.clone().count() >= settings.minimum_hosts as usize {
            let failing = |it: &&Judged<'_>| 100.0 - it.rate >= f64::from(settings.threshold);
            valid
                .filter(failing)
                .for_each(|it| eject(by_percentage, it));
        }
        (found, changed)
    }
}

/// A host with enough requests in the last interval.
struct Judged<'h> {
    host: &'h Monitor,
    total: u64,
    /// Percent.
    rate: f64,
}

/// Average and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let average = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - average).powi(2));
    (average, (squares.sum::<f64>() / count).sqrt())
}

fn active(hosts: &[&Monitor]) -> i64 {
    let ejected = hosts.iter().filter(|host| host.is_ejected());
    i64::try_from(ejected.count()).unwrap_or(i64::MAX)
}

impl Kind {
    /// `ejections_detected_*` and `ejections_enforced_*`.
    fn counters(self, of: &OutlierBlock) -> (&SharedCounter, &SharedCounter) {
        match self {
            Self::Consecutive5xx => (
                &of.ejections_detected_consecutive_5xx,
                &of.ejections_enforced_consecutive_5xx,
            ),
            Self::ConsecutiveGatewayFailure => (
                &of.ejections_detected_consecutive_gateway_failure,
                &of.ejections_enforced_consecutive_gateway_failure,
            ),
            Self::ConsecutiveLocalOriginFailure => (
                &of.ejections_detected_consecutive_local_origin_failure,
                &of.ejections_enforced_consecutive_local_origin_failure,
            ),
            Self::SuccessRate => (
                &of.ejections_detected_success_rate,
                &of.ejections_enforced_success_rate,
            ),
            Self::LocalOriginSuccessRate => (
                &of.ejections_detected_local_origin_success_rate,
                &of.ejections_enforced_local_origin_success_rate,
            ),
            Self::FailurePercentage => (
                &of.ejections_detected_failure_percentage,
                &of.ejections_enforced_failure_percentage,
            ),
            Self::LocalOriginFailurePercentage => (
                &of.ejections_detected_local_origin_failure_percentage,
                &of.ejections_enforced_local_origin_failure_percentage,
            ),
        }
    }
}
