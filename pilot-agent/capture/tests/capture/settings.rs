//! What flags and variables must not hold, and what the user is told then.

use std::{path::PathBuf, time::Duration};

use ithildin_capture::{Backend, DryRun, Error, Probe};

use crate::common::settings;

/// Variables, flags and what the user is told.
type Case = (
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
);

#[test]
fn unsound_settings_are_named_with_their_fix() {
    let many = (1..=65)
        .map(|group| group.to_string())
        .collect::<Vec<_>>()
        .join(",");
    let groups = [("ISTIO_OUTBOUND_OWNER_GROUPS", many.as_str())];
    let cases: &[Case] = &[
        (
            &[],
            "-p 0",
            "--envoy-port: \"0\": write a port from 1 to 65535",
        ),
        (
            &[],
            "-z 65536",
            "--inbound-capture-port (INBOUND_CAPTURE_PORT): \"65536\": write a port from 1 to 65535",
        ),
        (
            &[("INBOUND_TUNNEL_PORT", "hbone")],
            "",
            "--inbound-tunnel-port (INBOUND_TUNNEL_PORT): \"hbone\": write a port from 1 to 65535",
        ),
        (
            &[("PROXY_UID", "-1")],
            "",
            "--proxy-uid (PROXY_UID): \"-1\": write numeric ids or names, with commas between them",
        ),
        (
            &[("PROXY_GID", "1337,a b")],
            "",
            "--proxy-gid (PROXY_GID): \"a b\": write numeric ids or names, with commas between them",
        ),
        (
            &[],
            "-m tproxy",
            "--istio-inbound-interception-mode (ISTIO_INBOUND_INTERCEPTION_MODE): \"tproxy\": write REDIRECT or TPROXY",
        ),
        (
            &[],
            "-m NONE",
            "--istio-inbound-interception-mode (ISTIO_INBOUND_INTERCEPTION_MODE): \"NONE\": NONE means no capture, so do not run this command",
        ),
        (
            &[],
            "-b 80,*",
            "--istio-inbound-ports (ISTIO_INBOUND_PORTS): \"*\": write ports from 1 to 65535, with commas between them",
        ),
        (
            &[],
            "-b 80:http",
            "--istio-inbound-ports (ISTIO_INBOUND_PORTS): \"80:http\": write ports from 1 to 65535, with commas between them",
        ),
        (
            &[],
            "-b 90:80",
            "--istio-inbound-ports (ISTIO_INBOUND_PORTS): \"90:80\": write the lower port of a range first",
        ),
        (
            &[],
            "-d 70000",
            "--istio-local-exclude-ports (ISTIO_LOCAL_EXCLUDE_PORTS): \"70000\": write ports from 1 to 65535, with commas between them",
        ),
        (
            &[("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "25;26")],
            "",
            "--istio-local-outbound-ports-exclude (ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE): \"25;26\": write ports from 1 to 65535, with commas between them",
        ),
        (
            &[],
            "-q 0",
            "--istio-outbound-ports (ISTIO_OUTBOUND_PORTS): \"0\": write ports from 1 to 65535, with commas between them",
        ),
        (
            &[],
            "-c a-name-of-16-chars",
            "--istio-exclude-interfaces (ISTIO_EXCLUDE_INTERFACES): \"a-name-of-16-chars\": names of interfaces have 1 to 15 characters",
        ),
        (
            &[("KUBE_VIRT_INTERFACES", "eth0\n-A")],
            "",
            "--kube-virt-interfaces (KUBE_VIRT_INTERFACES): \"eth0\\n-A\": write names of interfaces, with commas between them",
        ),
        (
            &[],
            "-c +",
            "--istio-exclude-interfaces (ISTIO_EXCLUDE_INTERFACES): \"+\": write names of interfaces, with commas between them",
        ),
        (
            &[],
            "-i 10.0.0.1",
            "--istio-service-cidr (ISTIO_SERVICE_CIDR): \"10.0.0.1\": one address is written with /32",
        ),
        (
            &[],
            "-i 10.0.0.0/8,fd00::1",
            "--istio-service-cidr (ISTIO_SERVICE_CIDR): \"fd00::1\": one address is written with /128",
        ),
        (
            &[],
            "-i 10.0.0.0/33",
            "--istio-service-cidr (ISTIO_SERVICE_CIDR): \"10.0.0.0/33\": a prefix of IPv4 has at most 32 bits",
        ),
        (
            &[],
            "-x fd00::/129",
            "--istio-service-exclude-cidr (ISTIO_SERVICE_EXCLUDE_CIDR): \"fd00::/129\": a prefix of IPv6 has at most 128 bits",
        ),
        (
            &[],
            "-x *",
            "--istio-service-exclude-cidr (ISTIO_SERVICE_EXCLUDE_CIDR): \"*\": to capture nothing, leave --istio-service-cidr empty",
        ),
        (
            &[],
            "-x example.org",
            "--istio-service-exclude-cidr (ISTIO_SERVICE_EXCLUDE_CIDR): \"example.org\": write ranges such as 10.0.0.0/8 or fd00::/8, with commas between them",
        ),
        (
            &[],
            "-t 0x539",
            "--istio-inbound-tproxy-mark (ISTIO_INBOUND_TPROXY_MARK): \"0x539\": write a number from 1 to 4294967295",
        ),
        (
            &[],
            "-t 1338",
            "--istio-inbound-tproxy-mark (ISTIO_INBOUND_TPROXY_MARK): \"1338\": 1338 marks the proxy's own packets, choose another number",
        ),
        (
            &[],
            "-r main",
            "--istio-inbound-tproxy-route-table (ISTIO_INBOUND_TPROXY_ROUTE_TABLE): \"main\": write the number of an unused routing table, such as 133",
        ),
        (
            &[],
            "-r 255",
            "--istio-inbound-tproxy-route-table (ISTIO_INBOUND_TPROXY_ROUTE_TABLE): \"255\": write the number of an unused routing table, such as 133",
        ),
        (
            &[],
            "--redirect-dns=yes",
            "--redirect-dns (REDIRECT_DNS, ISTIO_META_DNS_CAPTURE): \"yes\": write true or false",
        ),
        (
            &[],
            "--probe-timeout 5",
            "--probe-timeout (PROBE_TIMEOUT): \"5\": write a duration such as 5s or 250ms",
        ),
        (
            &[],
            "--force-iptables-binary ebpf",
            "--force-iptables-binary (FORCE_IPTABLES_BINARY): \"ebpf\": write legacy or nft",
        ),
        (
            &[("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "10.0.0.0/8")],
            "",
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: \"10.0.0.0/8\": write a range within 127.0.0.0/8",
        ),
        (
            &[("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/7")],
            "",
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: \"127.0.0.0/7\": write a range within 127.0.0.0/8",
        ),
        (
            &[("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "a,-b")],
            "",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE: \"-b\": write numeric ids or names, with commas between them",
        ),
    ];
    for (variables, flags, expected) in cases {
        let error = settings("10.0.0.1", variables, flags).unwrap_err();
        assert_eq!(error.to_string(), *expected);
        assert_eq!(Error::from(error).exit_code(), 1, "{flags}");
    }
    let error = settings("10.0.0.1", &groups, "").unwrap_err().to_string();
    assert!(
        error.starts_with("ISTIO_OUTBOUND_OWNER_GROUPS: \"1,2,"),
        "{error}"
    );
    assert!(
        error.ends_with("name at most 64 groups, or * and those to exclude"),
        "{error}"
    );
}

#[test]
fn sound_settings_at_the_limits_are_taken() {
    let many = (1..=64)
        .map(|group| group.to_string())
        .collect::<Vec<_>>()
        .join(",");
    for variables in [
        [("ISTIO_OUTBOUND_OWNER_GROUPS", many.as_str())],
        [("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/8")],
        // What Istio's command ignores.
        [("DRY_RUN", "")],
        [("PROBE_TIMEOUT", "soon")],
        [("RECONCILE", "perhaps")],
    ] {
        settings("10.0.0.1", &variables, "-b 1,65535 -c abcdefghijklmno -x=").unwrap();
    }
}

#[test]
fn what_to_do_is_read_from_flags_and_variables() {
    let operation =
        |variables: &[(&str, &str)], flags| settings("10.0.0.1", variables, flags).unwrap().1;
    let default = operation(&[], "");
    assert_eq!(default.dry_run, None);
    assert_eq!(default.validation, None);
    assert_eq!(default.backend, Backend::Iptables);
    assert!(!default.reconcile && !default.cleanup_only && !default.force_apply);

    let all = operation(
        &[
            ("CLEANUP_ONLY", "true"),
            ("CNI_MODE", "1"),
            ("FORCE_IPTABLES_BINARY", "legacy"),
        ],
        "--reconcile --force-apply=true --skip-rule-apply --run-validation --probe-timeout 1m0.5s --iptables-probe-port 16002",
    );
    assert!(
        all.reconcile && all.cleanup_only && all.force_apply && all.skip_rule_apply && all.cni_mode
    );
    assert_eq!(all.backend, Backend::IptablesLegacy);
    let probe = Probe {
        port: 16002,
        timeout: Duration::from_millis(60_500),
        ipv6: false,
    };
    assert_eq!(all.validation, Some(probe));

    let nft = operation(
        &[
            ("NATIVE_NFTABLES", "true"),
            ("FORCE_IPTABLES_BINARY", "nft"),
        ],
        "",
    );
    assert_eq!(nft.backend, Backend::Nftables);

    let file = [("DRY_RUN_FILE_PATH", "/tmp/rules")];
    assert_eq!(operation(&file, "").dry_run, None);
    let dry_run = DryRun {
        file: Some(PathBuf::from("/tmp/rules")),
    };
    assert_eq!(operation(&file, "-n").dry_run, Some(dry_run));
}
