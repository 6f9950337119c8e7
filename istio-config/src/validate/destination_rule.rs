//! DestinationRule.

use std::collections::BTreeSet;

use super::Check;
use crate::{
    error::ConfigError,
    host,
    model::{
        ClientTlsMode, ClientTlsSettings, ConnectionPool, DestinationRule, H2Upgrade, Object,
        OutlierDetection, TrafficPolicy,
    },
};

type Checker<'a> = Check<'a, DestinationRule>;

pub(crate) fn destination_rule(object: &Object<DestinationRule>) -> Vec<ConfigError> {
    let mut check = Check::new(object);
    let spec = &object.spec;
    if spec.host.is_empty() {
        check.error("spec.host", "required");
    } else {
        check.host(&spec.host, "spec.host");
    }
    check.export_to(&spec.export_to);
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(&mut check, policy, "spec.trafficPolicy");
    }
    let mut names = BTreeSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let at = format!("spec.subsets[{index}]");
        let name = format!("{at}.name");
        if subset.name.is_empty() {
            check.error(name, "required");
        } else if !host::is_label(&subset.name) {
            check.error(name, format!("invalid name {:?}", subset.name));
        } else if !names.insert(&subset.name) {
            check.error(name, format!("{:?} is used by another subset", subset.name));
        }
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&mut check, policy, &format!("{at}.trafficPolicy"));
        }
    }
    check.finish()
}

fn traffic_policy(check: &mut Checker<'_>, policy: &TrafficPolicy, at: &str) {
    blocks(
        check,
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        at,
    );
    let mut ports = BTreeSet::new();
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let at = format!("{at}.portLevelSettings[{index}]");
        let number = port.port.number;
        if number == 0 {
            check.error(format!("{at}.port.number"), "required");
        } else if !ports.insert(number) {
            check.error(
                format!("{at}.port.number"),
                format!("{number} is set by another entry"),
            );
        }
        blocks(
            check,
            port.connection_pool.as_ref(),
            port.outlier_detection.as_ref(),
            port.tls.as_ref(),
            &at,
        );
    }
}

fn blocks(
    check: &mut Checker<'_>,
    pool: Option<&ConnectionPool>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    at: &str,
) {
    if let Some(pool) = pool {
        check.require(
            !(pool.http.use_client_protocol && pool.http.h2_upgrade_policy == H2Upgrade::Upgrade),
            &format!("{at}.connectionPool.http"),
            "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other",
        );
    }
    if let Some(outlier) = outlier {
        for (field, percent) in [
            ("maxEjectionPercent", outlier.max_ejection_percent),
            ("minHealthPercent", outlier.min_health_percent),
        ] {
            check.require(
                percent.is_none_or(|percent| percent <= 100),
                &format!("{at}.outlierDetection.{field}"),
                "expected 0 to 100",
            );
        }
    }
    if let Some(tls) = tls {
        client_tls(check, tls, &format!("{at}.tls"));
    }
}

fn client_tls(check: &mut Checker<'_>, tls: &ClientTlsSettings, at: &str) {
    let name = tls.mode.name();
    let certificate = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
    ];
    for (field, value) in certificate {
        let field = format!("{at}.{field}");
        match (tls.mode, value) {
            (ClientTlsMode::Mutual, None) => check.error(field, "required with mode MUTUAL"),
            (ClientTlsMode::Mutual, Some(_)) | (_, None) => {}
            (_, Some(_)) => check.error(field, format!("cannot be set with mode {name}")),
        }
    }
    let own_roots = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    check.require(
        own_roots || tls.ca_certificates.is_none(),
        &format!("{at}.caCertificates"),
        &format!("cannot be set with mode {name}"),
    );
    check.require(
        !tls.insecure_skip_verify,
        &format!("{at}.insecureSkipVerify"),
        "a peer is never trusted unverified: set caCertificates instead",
    );
    if tls.mode == ClientTlsMode::Disable {
        let plaintext = "has no effect with mode DISABLE";
        check.require(tls.sni.is_none(), &format!("{at}.sni"), plaintext);
        check.require(
            tls.subject_alt_names.is_empty(),
            &format!("{at}.subjectAltNames"),
            plaintext,
        );
    }
}
