use super::*;

fn table() -> Table {
    let kubernetes = |namespace: &str, shortname: &str, ips: &[&str]| NameInfo {
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        registry: KUBERNETES.to_owned(),
        shortname: shortname.to_owned(),
        namespace: namespace.to_owned(),
        ..NameInfo::default()
    };
    let external = |ips: &[&str]| NameInfo {
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        registry: "External".to_owned(),
        ..NameInfo::default()
    };
    let mut set = kubernetes("ns1", "set", &["15.15.15.15"]);
    #[allow(deprecated)]
    set.alt_hosts
        .push("set.ns1.svc.clusterset.local".to_owned());
    let hosts = [
        ("www.example.com", external(&["192.0.2.1"])),
        (
            "page.ns1.svc.cluster.local",
            kubernetes("ns1", "page", &["10.0.0.1"]),
        ),
        (
            "reviews.ns2.svc.cluster.local",
            kubernetes("ns2", "reviews", &["10.0.0.2"]),
        ),
        (
            "details.ns2.svc.cluster.remote",
            kubernetes("ns2", "details", &["10.0.0.3", "10.0.0.4"]),
        ),
        ("set.ns1.svc.cluster.local", set),
        ("Dual.Example.Com", external(&["192.0.2.2", "2001:db8::2"])),
        ("*.wildcard", external(&["192.0.2.3"])),
        ("*.b.wildcard", external(&["192.0.2.4"])),
        ("*.mesh.example.net", external(&["192.0.2.5"])),
        // A variant of another host is hidden by a host of that name.
        ("reviews.ns2", external(&["192.0.2.6"])),
        ("no-address.example.com", external(&["auto", ""])),
        ("not..a.name", external(&["192.0.2.7"])),
    ];
    let table = hosts.map(|(host, info)| (host.to_owned(), info)).into();
    let source = NameTable {
        table,
        name_info: None,
    };
    let place = Place {
        namespace: "ns1".to_owned(),
        domain: "ns1.svc.cluster.local".to_owned(),
        search: Some("ns1.svc.cluster.local".to_owned()),
    };
    Table::new(Arc::new(source), &place)
}

#[test]
fn names_are_found_in_all_their_forms() {
    let table = table();
    // The question, the alias, an address.
    let cases = [
        ("www.example.com.", "", "192.0.2.1"),
        ("WWW.Example.COM.", "", "192.0.2.1"),
        (
            "www.example.com.ns1.svc.cluster.local.",
            "www.example.com.",
            "192.0.2.1",
        ),
        ("page.ns1.svc.cluster.local.", "", "10.0.0.1"),
        ("page.ns1.svc.", "", "10.0.0.1"),
        ("page.ns1.", "", "10.0.0.1"),
        ("page.", "", "10.0.0.1"),
        ("Page.NS1.ns1.svc.cluster.local.", "page.ns1.", "10.0.0.1"),
        ("reviews.ns2.svc.", "", "10.0.0.2"),
        ("reviews.ns2.svc.cluster.local.", "", "10.0.0.2"),
        ("reviews.ns2.", "", "192.0.2.6"),
        ("details.ns2.svc.cluster.remote.", "", "10.0.0.3"),
        ("set.ns1.svc.clusterset.local.", "", "15.15.15.15"),
        ("dual.example.com.", "", "192.0.2.2"),
        ("foo.wildcard.", "", "192.0.2.3"),
        ("a.b.wildcard.", "", "192.0.2.4"),
        ("a.b.c.wildcard.", "", "192.0.2.3"),
        ("foo.bar.mesh.example.net.", "", "192.0.2.5"),
        (
            "foo.wildcard.ns1.svc.cluster.local.",
            "*.wildcard.",
            "192.0.2.3",
        ),
        (
            "a.b.wildcard.ns1.svc.cluster.local.",
            "*.b.wildcard.",
            "192.0.2.4",
        ),
    ];
    for (question, alias, address) in cases {
        let found = table.lookup(&Name::from_ascii(question).unwrap());
        let found = found.unwrap_or_else(|| panic!("{question} is not found"));
        let named = found.alias.map(|name| name.to_ascii()).unwrap_or_default();
        assert_eq!(named, alias, "{question}");
        let first = found.addresses.v4.first().map(ToString::to_string);
        assert_eq!(first.as_deref(), Some(address), "{question}");
    }
}

#[test]
fn a_search_domain_is_not_appended_twice() {
    let table = table();
    for (name, is_nobodys) in [
        ("page.ns1.svc.cluster.local.ns1.svc.cluster.local.", true),
        ("PAGE.ns1.svc.cluster.local.NS1.svc.cluster.local.", true),
        ("reviews.ns2.svc.cluster.local.svc.cluster.local.", true),
        ("reviews.ns2.svc.cluster.local.cluster.local.", true),
        ("reviews.ns2.svc.cluster.local.local.", false),
        ("page.svc.cluster.local.", false),
        ("page.ns1.svc.cluster.local.", false),
        ("page.ns1.ns1.svc.cluster.local.", false),
        (
            "elsewhere.ns1.svc.cluster.local.ns1.svc.cluster.local.",
            false,
        ),
        ("www.example.com.ns1.svc.cluster.local.", false),
    ] {
        assert_eq!(
            table.is_nobodys(&Name::from_ascii(name).unwrap()),
            is_nobodys,
            "{name}"
        );
    }
}

#[test]
fn other_names_are_for_others() {
    let table = table();
    for question in [
        ".",
        "com.",
        "example.com.",
        "mail.example.com.",
        "wildcard.",
        "reviews.",
        "details.ns2.",
        "details.ns2.svc.",
        // Not the first search domain.
        "www.example.com.svc.cluster.local.",
        "ns1.svc.cluster.local.",
        // A full name needs no search domain.
        "page.ns1.svc.cluster.local.ns1.svc.cluster.local.",
        "no-address.example.com.",
        "www.example.com.ns1.svc.cluster.local.ns1.svc.cluster.local.",
    ] {
        let found = table.lookup(&Name::from_ascii(question).unwrap());
        assert!(found.is_none(), "{question}: {found:?}");
    }
}

#[test]
fn without_a_place_there_are_full_names_only() {
    let source = Arc::clone(&table().source);
    let table = Table::new(source, &Place::default());
    let lookup = |name: &str| table.lookup(&Name::from_ascii(name).unwrap());
    assert!(lookup("page.ns1.svc.cluster.local.").is_some());
    for name in [
        "page.",
        "page.ns1.",
        "page.ns1.svc.",
        "page.ns1.ns1.svc.cluster.local.",
    ] {
        assert!(lookup(name).is_none(), "{name}");
    }
}

#[test]
fn the_dump_is_what_istiod_sent() {
    let dump = table().dump();
    let hosts = dump["table"].as_object().unwrap();
    assert_eq!(hosts.len(), 12);
    let expected = json!({
        "ips": ["15.15.15.15"],
        "registry": "Kubernetes",
        "shortname": "set",
        "namespace": "ns1",
        "altHosts": ["set.ns1.svc.clusterset.local"],
    });
    assert_eq!(hosts["set.ns1.svc.cluster.local"], expected);
    let nothing = Table::new(Arc::default(), &Place::default());
    assert_eq!(nothing.dump(), json!({}));
}

#[test]
fn a_short_name_of_two_hosts_has_the_same_addresses_after_each_push() {
    let host = |label: &str, ip: &str| {
        let info = NameInfo {
            ips: vec![ip.to_owned()],
            registry: KUBERNETES.to_owned(),
            shortname: "page".to_owned(),
            namespace: "ns1".to_owned(),
            ..NameInfo::default()
        };
        (format!("{label}.ns1.svc.cluster.local"), info)
    };
    let place = Place {
        namespace: "ns1".to_owned(),
        domain: "ns1.svc.cluster.local".to_owned(),
        search: None,
    };
    for _ in 0..20 {
        // A map of its own each time: each has another order.
        let hosts = ('a'..='j').map(|label| host(&label.to_string(), "10.0.0.2"));
        let first = host("Aa", "10.0.0.1");
        let source = NameTable {
            table: hosts.chain([first]).collect(),
            name_info: None,
        };
        let table = Table::new(Arc::new(source), &place);
        let found = table.lookup(&Name::from_ascii("page.ns1").unwrap());
        let addresses = &found.expect("a variant").addresses.v4;
        assert_eq!(addresses[..], [Ipv4Addr::new(10, 0, 0, 1)]);
    }
}
