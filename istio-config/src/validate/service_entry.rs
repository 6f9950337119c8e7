//! ServiceEntry and WorkloadEntry.

use std::collections::BTreeSet;

use super::Check;
use crate::{
    error::ConfigError,
    host,
    model::{Object, Resolution, ServiceEntry, WorkloadEntry},
    protocol::Protocol,
};

/// Scheme of endpoints on Unix sockets.
const UNIX: &str = "unix://";

type Checker<'a> = Check<'a, ServiceEntry>;

pub(crate) fn service_entry(object: &Object<ServiceEntry>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let spec = &object.spec;
    check.required(!spec.hosts.is_empty(), "spec.hosts");
    for (index, name) in spec.hosts.iter().enumerate() {
        let field = format!("spec.hosts[{index}]");
        check.require(name != "*", &field, "\"*\" is not a service");
        check.host(name, &field);
    }
    check.export_to(&spec.export_to);
    ports(&mut check);
    addresses(&mut check);
    resolution(&mut check);
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        inline_endpoint(&mut check, endpoint, &format!("spec.endpoints[{index}]"));
    }
    check.finish()
}

pub(crate) fn workload_entry(object: &Object<WorkloadEntry>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let address = &object.spec.address;
    if address.is_empty() {
        check.error("spec.address", "required");
    } else if !address.starts_with(UNIX) && !host::is_address(address) && !host::is_fqdn(address) {
        check.error("spec.address", format!("invalid address {address:?}"));
    }
    check.finish()
}

fn ports(check: &mut Checker<'_>) {
    let spec = &check.object.spec;
    check.required(!spec.ports.is_empty(), "spec.ports");
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        if port.number == 0 {
            check.error(format!("{at}.number"), "required");
        } else if !numbers.insert(port.number) {
            check.error(
                format!("{at}.number"),
                format!("{} is used by another port", port.number),
            );
        }
        if port.name.is_empty() {
            check.error(format!("{at}.name"), "required");
        } else if !names.insert(&port.name) {
            check.error(
                format!("{at}.name"),
                format!("{:?} is used by another port", port.name),
            );
        }
        let known = port.protocol.is_empty() || Protocol::parse(&port.protocol).is_some();
        check.require(
            known,
            &format!("{at}.protocol"),
            &format!("unknown protocol {:?}", port.protocol),
        );
    }
}

fn addresses(check: &mut Checker<'_>) {
    let spec = &check.object.spec;
    for (index, address) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        if address.contains('/') {
            check.error(field, "address ranges are not supported");
        } else if !host::is_address(address) {
            check.error(field, format!("{address:?} is not an IP address"));
        }
    }
}

fn resolution(check: &mut Checker<'_>) {
    let spec = &check.object.spec;
    let selector = spec.workload_selector.is_some();
    check.require(
        !selector || spec.endpoints.is_empty(),
        "spec.workloadSelector",
        "excludes endpoints",
    );
    match spec.resolution {
        Resolution::None => check.require(
            spec.endpoints.is_empty() && !selector,
            "spec.resolution",
            "NONE sends traffic to where it was going: endpoints need STATIC or DNS",
        ),
        Resolution::Static => check.require(
            !spec.endpoints.is_empty() || selector,
            "spec.endpoints",
            "required with resolution STATIC",
        ),
        Resolution::Dns => {
            check.require(
                !selector,
                "spec.workloadSelector",
                "not supported with resolution DNS",
            );
            let resolvable = !spec.endpoints.is_empty()
                || spec.hosts.iter().all(|name| !host::is_wildcard(name));
            check.require(
                resolvable,
                "spec.hosts",
                "a wildcard cannot be resolved: resolution DNS needs endpoints then",
            );
        }
        Resolution::DnsRoundRobin | Resolution::DynamicDns => {
            check.error(
                "spec.resolution",
                "not supported, expected NONE, STATIC or DNS",
            );
        }
    }
}

fn inline_endpoint(check: &mut Checker<'_>, endpoint: &WorkloadEntry, at: &str) {
    let spec = &check.object.spec;
    let field = format!("{at}.address");
    let address = &endpoint.address;
    if address.is_empty() {
        check.error(field, "required");
    } else if let Some(path) = address.strip_prefix(UNIX) {
        check.require(path.starts_with('/'), &field, "expected unix:///path");
        check.require(
            spec.resolution == Resolution::Static,
            &field,
            "Unix sockets need resolution STATIC",
        );
    } else if !host::is_address(address) {
        let dns = spec.resolution == Resolution::Dns && host::is_fqdn(address);
        check.require(
            dns,
            &field,
            &format!("{address:?} is not an IP address, as resolution STATIC needs it"),
        );
    }
    for name in endpoint.ports.keys() {
        check.require(
            spec.ports.iter().any(|port| port.name == *name),
            &format!("{at}.ports.{name}"),
            "no port of spec.ports has this name",
        );
    }
}
