//! Expected behaviour is Envoy's; `tests/serving/outlier.rs` compares with a real one.

use super::*;
use crate::stats::OutlierBlock;

struct Hosts {
    detector: Detector,
    monitors: Vec<Monitor>,
    stats: Arc<ClusterStats>,
}

impl Hosts {
    fn new(count: usize, settings: OutlierDetection) -> Self {
        let stats = Arc::new(ClusterStats::new("test".into(), false, 2));
        Self {
            detector: Detector::new(settings, Arc::clone(&stats), Arc::default()),
            monitors: (0..count).map(|_| Monitor::new(2)).collect(),
            stats,
        }
    }

    fn record(&self, host: usize, outcomes: &[Outcome]) {
        for (i, outcome) in outcomes.iter().enumerate() {
            // Rows are counted across workers.
            self.detector.record(&self.monitors[host], i % 2, *outcome);
        }
    }

    /// Sweeps so many seconds after the start.
    fn sweep(&self, seconds: u64) -> bool {
        let now = self.detector.created + Duration::from_secs(seconds);
        let hosts: Vec<_> = self.monitors.iter().collect();
        self.detector.wants_sweep(now) && self.detector.sweep(&hosts, now)
    }

    fn ejected(&self) -> Vec<usize> {
        let hosts = self.monitors.iter().enumerate();
        let ejected = hosts.filter(|(_, host)| host.is_ejected());
        ejected.map(|(index, _)| index).collect()
    }

    fn stats(&self) -> &OutlierBlock {
        self.stats.outlier()
    }
}

fn all_may_go() -> OutlierDetection {
    OutlierDetection {
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    }
}

const OK: Outcome = Outcome::Response(200);
const BROKEN: Outcome = Outcome::Response(500);
const GATEWAY: Outcome = Outcome::Response(503);

#[test]
fn a_row_of_failures_ejects() {
    type Row<'a> = (&'a str, &'a [Outcome], bool);
    let table: &[Row<'_>] = &[
        ("five", &[BROKEN; 5], true),
        ("mixed", &[BROKEN, GATEWAY, BROKEN, GATEWAY, BROKEN], true),
        ("four", &[BROKEN; 4], false),
        (
            "broken row",
            &[BROKEN, BROKEN, BROKEN, OK, BROKEN, BROKEN],
            false,
        ),
        ("connections", &[Outcome::Failed; 5], true),
        ("timeouts", &[Outcome::TimedOut; 5], true),
        // To have a connection says nothing before the response.
        (
            "connected",
            &[BROKEN, Outcome::Connected, BROKEN, BROKEN, BROKEN, BROKEN],
            true,
        ),
        (
            "opened",
            &[
                Outcome::Failed,
                Outcome::Failed,
                Outcome::Failed,
                Outcome::Failed,
                Outcome::Opened,
            ],
            false,
        ),
        ("client errors", &[Outcome::Response(404); 9], false),
    ];
    for (name, outcomes, ejected) in table {
        let hosts = Hosts::new(2, all_may_go());
        hosts.record(0, outcomes);
        assert_eq!(hosts.sweep(1), *ejected, "{name}");
        assert_eq!(hosts.ejected(), vec![0; usize::from(*ejected)], "{name}");
    }
}

#[test]
fn gateway_failures_have_a_row_of_their_own() {
    let mut settings = all_may_go();
    settings.consecutive_5xx = 0;
    settings.consecutive_gateway_failure = 3;
    settings.enforcing.consecutive_gateway_failure = 100;
    let hosts = Hosts::new(2, settings);
    hosts.record(0, &[GATEWAY, GATEWAY, BROKEN, GATEWAY, GATEWAY]);
    assert!(!hosts.sweep(1));
    hosts.record(0, &[GATEWAY]);
    assert!(hosts.sweep(1));
    let stats = hosts.stats();
    assert_eq!(
        stats.ejections_enforced_consecutive_gateway_failure.get(),
        1
    );
    assert_eq!(stats.ejections_enforced_total.get(), 1);
    assert_eq!(
        stats.ejections_total.get(),
        0,
        "the old counter is of 5xx only"
    );
    assert_eq!(stats.ejections_active.get(), 1);
}

#[test]
fn local_origin_failures_count_apart_once_split() {
    let mut settings = all_may_go();
    settings.split_local_origin = true;
    settings.consecutive_local_origin_failure = 2;
    let hosts = Hosts::new(2, settings);
    hosts.record(0, &[Outcome::Failed, Outcome::Connected, Outcome::TimedOut]);
    // Responses do not end the row.
    hosts.record(0, &[BROKEN, OK]);
    assert!(!hosts.sweep(1));
    hosts.record(0, &[Outcome::Failed]);
    assert!(hosts.sweep(1));
    let stats = hosts.stats();
    assert_eq!(
        stats
            .ejections_enforced_consecutive_local_origin_failure
            .get(),
        1
    );
    assert_eq!(stats.ejections_detected_consecutive_5xx.get(), 0);
}

#[test]
fn what_is_not_enforced_is_only_counted() {
    let mut settings = all_may_go();
    settings.enforcing.consecutive_5xx = 0;
    let hosts = Hosts::new(2, settings);
    hosts.record(0, &[BROKEN; 5]);
    assert!(!hosts.sweep(1));
    let stats = hosts.stats();
    assert_eq!(stats.ejections_detected_consecutive_5xx.get(), 1);
    assert_eq!(stats.ejections_enforced_total.get(), 0);
    // The next row counts again.
    hosts.record(0, &[BROKEN; 5]);
    hosts.sweep(1);
    assert_eq!(stats.ejections_detected_consecutive_5xx.get(), 2);
}

#[test]
fn no_more_than_the_percentage_is_ejected() {
    for (percent, one, count, expected) in [
        (10, false, 4, 0),
        (10, true, 4, 1),
        (25, false, 4, 1),
        (50, false, 4, 2),
        (67, false, 3, 2),
        (100, false, 4, 4),
        (0, false, 4, 0),
    ] {
        let mut settings = all_may_go();
        settings.max_ejection_percent = percent;
        settings.always_eject_one_host = one;
        let hosts = Hosts::new(count, settings);
        (0..count).for_each(|host| hosts.record(host, &[BROKEN; 5]));
        hosts.sweep(1);
        assert_eq!(hosts.ejected().len(), expected, "{percent} {one} {count}");
        let overflow = hosts.stats().ejections_overflow.get();
        assert_eq!(
            overflow,
            (count - expected) as u64,
            "{percent} {one} {count}"
        );
    }
}

#[test]
fn a_host_comes_back_and_stays_away_longer_each_time() {
    let settings = OutlierDetection {
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(3),
        max_ejection_time: Duration::from_secs(5),
        ..all_may_go()
    };
    let hosts = Hosts::new(2, settings);
    let mut now = 0;
    let mut away = Vec::new();
    for _ in 0..3 {
        hosts.record(0, &[BROKEN; 5]);
        assert!(hosts.sweep(now));
        let since = now;
        while !hosts.ejected().is_empty() {
            now += 1;
            hosts.sweep(now);
            assert!(now - since < 20, "it never comes back");
        }
        away.push(now - since);
        // Its record is clean.
        hosts.record(0, &[BROKEN; 4]);
        assert!(!hosts.sweep(now));
        hosts.record(0, &[OK]);
    }
    // The backoff falls by one in the sweep that takes it back.
    assert_eq!(away, [3, 3, 3]);
    assert_eq!(hosts.stats().ejections_active.get(), 0);
}

#[test]
fn an_idle_cluster_is_left_alone() {
    let hosts = Hosts::new(2, all_may_go());
    assert!(
        !hosts
            .detector
            .wants_sweep(hosts.detector.created + Duration::from_secs(60))
    );
    hosts.record(0, &[OK]);
    hosts.sweep(1);
    assert_eq!(
        hosts.detector.due(),
        Some(hosts.detector.created + Duration::from_secs(10))
    );
    hosts.sweep(10);
    assert_eq!(hosts.detector.due(), None, "nothing happened since");
}

#[test]
fn success_rates_are_compared() {
    let mut settings = all_may_go();
    settings.consecutive_5xx = 0;
    settings.success_rate.request_volume = 10;
    let hosts = Hosts::new(5, settings);
    for host in 0..4 {
        hosts.record(host, &[OK; 10]);
    }
    hosts.record(
        4,
        &[OK, BROKEN, OK, BROKEN, OK, BROKEN, OK, BROKEN, OK, BROKEN],
    );
    assert!(!hosts.sweep(1), "only at the end of an interval");
    assert!(hosts.sweep(10));
    assert_eq!(hosts.ejected(), [4]);
    assert_eq!(hosts.monitors[4].success_rates(), (Some(50.0), None));
    let (average, threshold) = hosts.detector.rates().external.expect("enough hosts");
    assert!((average - 90.0).abs() < 1e-9, "{average}");
    assert!(
        (threshold - (90.0 - 1.9 * 20.0)).abs() < 1e-9,
        "{threshold}"
    );
    assert_eq!(hosts.stats().ejections_enforced_success_rate.get(), 1);

    // Too few requests.
    let hosts = Hosts::new(5, settings);
    (0..5).for_each(|host| hosts.record(host, &[OK; 9]));
    hosts.sweep(1);
    assert!(!hosts.sweep(10));
    assert_eq!(hosts.detector.rates(), SuccessRates::default());
}

#[test]
fn failure_percentages_are_compared() {
    let mut settings = all_may_go();
    settings.consecutive_5xx = 0;
    settings.enforcing.failure_percentage = 100;
    settings.failure_percentage = FailurePercentage {
        threshold: 60,
        minimum_hosts: 2,
        request_volume: 5,
    };
    let hosts = Hosts::new(2, settings);
    hosts.record(0, &[OK, OK, BROKEN, BROKEN, BROKEN]);
    hosts.record(1, &[OK, OK, OK, BROKEN, BROKEN]);
    hosts.sweep(1);
    assert!(hosts.sweep(10));
    assert_eq!(hosts.ejected(), [0]);
    assert_eq!(hosts.stats().ejections_enforced_failure_percentage.get(), 1);
}
