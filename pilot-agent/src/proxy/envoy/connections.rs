//! Which of Envoy's connections are the workload's, from its statistics.

use crate::proxy::settings::Ports;

/// Connections of the workload: not those of metrics, probes and admin, nor the same by worker.
///
/// Istio's agent knows our own listeners by their IPv4 names alone, and so waits for the kubelet in a Pod
/// of IPv6; here the port decides. And it waits for ever on a gauge that has fallen below zero.
pub(super) fn active(stats: &str, ports: &Ports) -> u64 {
    stats
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name.strip_prefix("listener.")?, value)))
        .filter(|(name, _)| !is_ours(name, ports))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        // Below zero: gauges wrap around.
        .filter(|count| i64::try_from(*count).is_ok())
        .fold(0, u64::saturating_add)
}

fn is_ours(name: &str, ports: &Ports) -> bool {
    if name.contains("worker_")
        || name.starts_with("admin.")
        || name.starts_with("envoy_internal_")
        || name.starts_with("prometheus.")
    {
        return true;
    }
    let wildcard = name
        .strip_prefix("0.0.0.0_")
        .or_else(|| name.strip_prefix("[__]_"))
        .or_else(|| name.strip_prefix("[::]_"));
    let Some((port, _)) = wildcard.and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let own = [
        Some(ports.health),
        Some(ports.prometheus),
        ports.secure_metrics,
        ports.secure_merged_metrics,
    ];
    port.parse::<u16>()
        .is_ok_and(|port| own.contains(&Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        admin: 15000,
        status: 15020,
        health: 15021,
        prometheus: 15090,
        secure_metrics: Some(15091),
        secure_merged_metrics: None,
    };

    /// istio#49229, istio#60728: gauges below zero, and listeners of tunnels inside Envoy.
    #[test]
    fn connections_of_the_workload() {
        let stats = "\
listener.0.0.0.0_8080.downstream_cx_active: 2
listener.0.0.0.0_8080.worker_0.downstream_cx_active: 2
listener.0.0.0.0_15090.downstream_cx_active: 10
listener.0.0.0.0_15021.downstream_cx_active: 10
listener.0.0.0.0_15091.downstream_cx_active: 10
listener.[__]_15021.downstream_cx_active: 10
listener.[__]_15090.downstream_cx_active: 10
listener.admin.downstream_cx_active: 1
listener.admin.main_thread.downstream_cx_active: 1
listener.envoy_internal_connect_originate.downstream_cx_active: 7
listener.[__]_8081.downstream_cx_active: 3
listener.10.0.0.1_15021.downstream_cx_active: 4
http.stats.downstream_cx_active: 9
";
        assert_eq!(active(stats, &PORTS), 9);
        assert_eq!(active("", &PORTS), 0);
        let wrapped = "listener.0.0.0.0_15006.downstream_cx_active";
        for below in ["-1", "18446744073709551615"] {
            assert_eq!(active(&format!("{wrapped}: {below}\n"), &PORTS), 0);
        }
        assert_eq!(
            active("listener.\nlistener.x: y\nlistener.0.0.0.0_: 1\n", &PORTS),
            1
        );
    }
}
