//! Rules put in place, found in place, replaced and taken away; and what the user is told when that fails.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    common::args,
    net::{APP, Link, Namespace, PROXY},
    tools::{IPTABLES_LEGACY, capture, run, with_each, with_each_iptables},
};

const ALL: &str = "-i * -b *";
const TPROXY: &str =
    "-i * -b * -m TPROXY --dual-stack -c eth9 --drop-invalid --redirect-dns --capture-all-dns";

#[test]
fn a_second_run_changes_nothing() {
    with_each("idempotency", |tool, link| {
        for flags in [ALL, TPROXY] {
            capture(link, tool, &format!("{flags} --reconcile")).unwrap();
            let before = rules(link);
            capture(link, tool, flags).unwrap();
            assert_eq!(rules(link), before, "{tool:?}");
        }
    });
}

#[test]
fn rules_that_differ_are_replaced_only_when_asked() {
    with_each_iptables("reconcile", |tool, link| {
        capture(link, tool, ALL).unwrap();
        let before = rules(link);
        let error = capture(link, tool, &format!("{ALL} -o 25")).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(
            text.contains("use --reconcile (RECONCILE)"),
            "{tool:?}: {text}"
        );
        assert_eq!(rules(link), before, "{tool:?}");

        for flags in [&format!("{ALL} -o 25"), TPROXY, ALL] {
            capture(link, tool, &format!("{flags} --reconcile")).unwrap();
            let after = rules(link);
            assert!(
                !after.contains("-j DROP") || flags == TPROXY,
                "{tool:?}: {after}"
            );
            assert_eq!(
                after.contains("TPROXY"),
                flags == TPROXY,
                "{tool:?}: {after}"
            );
            assert_eq!(
                after.contains("--dport 25 "),
                flags.contains("-o 25"),
                "{tool:?}: {after}"
            );
        }
        assert_eq!(rules(link), before, "{tool:?}");
    });
}

#[test]
fn damaged_rules_are_noticed() {
    with_each_iptables("damage", |tool, link| {
        capture(link, tool, ALL).unwrap();
        let before = rules(link);
        for damage in [
            "-t nat -A ISTIO_INBOUND -p tcp --dport 9 -j RETURN",
            "-t nat -D OUTPUT -j ISTIO_OUTPUT",
            "-t nat -N ISTIO_OTHER",
            "-t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 9",
        ] {
            link.pod.run(&format!("{} {damage}", tool.name));
            assert_ne!(rules(link), before, "{tool:?}");
            capture(link, tool, &format!("{ALL} --reconcile")).unwrap();
            assert_eq!(rules(link), before, "{tool:?}: {damage}");
        }
        // What others add to chains of the kernel is theirs.
        link.pod.run(&format!(
            "{} -t nat -A OUTPUT -p tcp --dport 9 -j ACCEPT",
            tool.name
        ));
        let theirs = rules(link);
        capture(link, tool, &format!("{ALL} --reconcile")).unwrap();
        assert_eq!(rules(link), theirs, "{tool:?}");
    });
}

#[test]
fn force_adds_what_is_missing_and_nothing_twice() {
    with_each("force apply", |tool, link| {
        let flags = format!("{ALL} --force-apply");
        capture(link, tool, &flags).unwrap();
        let before = rules(link);
        // nft replaces its tables as a whole, so that it can be asked again.
        assert_eq!(capture(link, tool, &flags).is_ok(), tool.name == "nft");
        assert_eq!(rules(link), before, "{tool:?}");
    });
}

#[test]
fn cleanup_leaves_nothing_of_ours_and_all_of_others() {
    with_each("cleanup", |tool, link| {
        if tool.name != "nft" {
            link.pod.run(&format!(
                "{} -t nat -A PREROUTING -p tcp --dport 9 -j ACCEPT",
                tool.name
            ));
        }
        let before = everything(link);
        for flags in [ALL, TPROXY, "-i 10.0.0.0/8 -b 80 -k eth0 -c eth8 -u 3"] {
            capture(link, tool, flags).unwrap();
            assert_ne!(everything(link), before, "{tool:?}");
            // With the settings of the run, as Istio's start script does.
            capture(link, tool, &format!("{flags} --cleanup-only")).unwrap();
            assert_eq!(everything(link), before, "{tool:?}: {flags}");
        }
        // Without them.
        for flags in [ALL, TPROXY] {
            capture(link, tool, flags).unwrap();
            run(&link.pod, &format!("--cleanup-only {}", tool.flags)).unwrap();
            assert_eq!(everything(link), before, "{tool:?}: {flags}");
        }
        // And again, with nothing there.
        capture(link, tool, "--cleanup-only").unwrap();
        assert_eq!(everything(link), before, "{tool:?}");
    });
}

#[test]
fn the_variant_with_rules_is_chosen() {
    with_each_iptables("detection", |tool, link| {
        let harmless = "-t filter -A INPUT -p tcp --dport 9 -j ACCEPT";
        link.pod.run(&format!("{} {harmless}", tool.name));
        run(&link.pod, ALL).unwrap();
        let saved = link.pod.run(&format!("{}-save -t nat", tool.name));
        assert!(saved.contains("ISTIO_OUTPUT"), "{tool:?}: {saved}");
        // The other variant gets none, in this run and in the next.
        let before = rules(link);
        assert_eq!(
            before.matches("-A OUTPUT -j ISTIO_OUTPUT").count(),
            1,
            "{before}"
        );
        run(&link.pod, ALL).unwrap();
        assert_eq!(rules(link), before, "{tool:?}");
    });
}

#[test]
fn without_rules_of_either_variant_nft_is_chosen_each_time() {
    with_each_iptables("detection without rules", |tool, link| {
        // As a tool leaves its tables behind that has been used.
        link.pod.run(&format!("{} -t nat -F", tool.name));
        for _ in 0..2 {
            run(&link.pod, ALL).unwrap();
            let saved = link.pod.run("iptables-nft-save -t nat");
            assert!(saved.contains("ISTIO_OUTPUT"), "{tool:?}: {saved}");
            let legacy = link.pod.run("iptables-legacy-save");
            assert!(!legacy.contains("ISTIO_"), "{tool:?}: {legacy}");
        }
    });
}

#[test]
fn validation_tells_whether_traffic_is_redirected() {
    with_each("validation", |tool, link| {
        let validation = |timeout| {
            let validate = format!("--skip-rule-apply --run-validation --probe-timeout {timeout}");
            link.pod.enter_as(PROXY, || {
                ithildin_capture::run_with(&args(&validate), &|_| None)
            })
        };
        let error = validation("400ms").unwrap_err();
        assert_eq!(error.exit_code(), 126);
        let text = error.to_string();
        assert!(
            text.contains("127.0.0.6:15002") && text.contains("not redirected"),
            "{text}"
        );

        capture(link, tool, ALL).unwrap();
        validation("10s").unwrap();
        // The proxy's own listeners do not disturb.
        let other = link.pod.listen("127.0.0.1", 15001);
        validation("10s").unwrap();
        drop(other);
    });
}

#[test]
fn without_the_capability_the_user_is_told() {
    with_each("missing capability", |tool, link| {
        let flags = format!("{ALL} {}", tool.flags);
        let result = link
            .pod
            .enter_as(APP, || ithildin_capture::run_with(&args(&flags), &|_| None));
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(text.contains("NET_ADMIN"), "{tool:?}: {text}");
    });
}

#[test]
fn the_lock_of_others_is_waited_for() {
    with_each_iptables("lock", |tool, link| {
        if tool.name != IPTABLES_LEGACY.name {
            return;
        }
        let held = Duration::from_secs(1);
        let mut other = Command::new("flock")
            .args(["/run/xtables.lock", "sh", "-c", "echo held; sleep 1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = other.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        let start = Instant::now();
        capture(link, tool, ALL).unwrap();
        assert!(start.elapsed() >= held / 2, "{:?}", start.elapsed());
        assert!(rules(link).contains("ISTIO_OUTPUT"));
        other.wait().unwrap();
    });
}

#[test]
fn another_namespace_is_entered() {
    with_each("network namespace", |tool, link| {
        let flags = format!(
            "{ALL} --cni-mode --network-namespace {} {}",
            link.pod.path(),
            tool.flags
        );
        let before = rules_of(&link.outside);
        run(&link.outside, &flags).unwrap();
        assert_eq!(rules_of(&link.outside), before, "{tool:?}");
        assert!(rules(link).to_lowercase().contains("istio"), "{tool:?}");
        let error = run(
            &link.outside,
            &format!("{ALL} --network-namespace /nowhere"),
        )
        .unwrap_err();
        let expected = "--network-namespace (NETWORK_NAMESPACE): cannot enter \"/nowhere\": No such file or directory";
        assert!(error.to_string().starts_with(expected), "{error}");
    });
}

#[test]
fn a_dry_run_writes_and_applies_nothing() {
    with_each("dry run", |tool, link| {
        let before = everything(link);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        let path = file.display().to_string();
        let flags = format!("{ALL} -m TPROXY -n {}", tool.flags);
        let environment = |name: &str| (name == "DRY_RUN_FILE_PATH").then(|| path.clone());
        link.pod
            .enter(|| ithildin_capture::run_with(&args(&flags), &environment))
            .unwrap();
        assert_eq!(everything(link), before, "{tool:?}");
        let text = fs::read_to_string(&file).unwrap();
        match tool.name {
            "nft" => assert!(
                text.contains("add table inet istio-proxy-mangle\n"),
                "{text}"
            ),
            _ => {
                assert!(
                    text.starts_with("iptables-save\nip6tables-save\n* mangle\n-N ISTIO_DIVERT\n"),
                    "{text}"
                );
                assert!(text.ends_with("COMMIT\niptables-save\n"), "{text}");
            }
        }
    });
}

/// The rules of the Pod, without what counts packets.
fn rules(link: &Link) -> String {
    rules_of(&link.pod)
}

fn rules_of(namespace: &Namespace) -> String {
    let mut text = String::new();
    for command in [
        "iptables-nft-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "nft -s list ruleset",
    ] {
        let native = command.starts_with("nft");
        let saved = namespace.run(command);
        let lines = saved.lines().filter(|line| {
            !line.starts_with('#') && (!line.starts_with(':') || line.starts_with(":ISTIO"))
        });
        // What iptables-nft has made is told by iptables-nft.
        let lines = lines.filter(|line| !native || line.contains("istio"));
        text.extend(lines.flat_map(|line| [line, "\n"]));
    }
    text.replace("*nat\nCOMMIT\n", "")
        .replace("*mangle\nCOMMIT\n", "")
        .replace("*raw\nCOMMIT\n", "")
        .replace("*filter\nCOMMIT\n", "")
}

/// Rules, routes and addresses.
fn everything(link: &Link) -> String {
    let mut text = rules(link);
    for command in [
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -o addr show dev lo",
    ] {
        text += &link.pod.run(command);
    }
    // The kernel adds its own addresses of the link when it likes.
    let lines = text.lines().filter(|line| !line.contains("fe80::"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_pod_whose_rules_cannot_be_replaced_stays_closed_until_a_run_succeeds() {
    const DROP: &str = "-A OUTPUT -p tcp -j DROP";
    with_each_iptables("a replacement that fails", |tool, link| {
        capture(link, tool, ALL).unwrap();
        let before = rules(link);
        // The rules can be removed, and those with a user that does not exist cannot be added.
        let refused = format!("{ALL} -u no-such-user --reconcile");
        let error = capture(link, tool, &refused).unwrap_err().to_string();
        assert!(error.contains("stays dropped"), "{tool:?}: {error}");
        assert!(rules(link).contains(DROP), "{tool:?}: {}", rules(link));

        capture(link, tool, ALL).unwrap();
        assert_eq!(rules(link), before, "{tool:?}");
    });
}
