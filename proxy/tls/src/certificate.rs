//! Reading certificates: what the verifier needs of them, and what admin pages and headers show.

use std::{
    fmt::Write,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    parse_x509_certificate,
    time::ASN1Time,
    x509::{AttributeTypeAndValue, X509Name},
};

/// A certificate for people: `/certs`, access logs and `x-forwarded-client-cert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Lower-case hexadecimal without separators.
    pub serial: String,
    /// RFC 2253: the last component first, `CN=web,O=SPIRE,C=US`.
    pub subject: String,
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub ip_sans: Vec<IpAddr>,
}

/// Describes a DER certificate; `None` if it cannot be parsed.
pub fn describe(der: &[u8]) -> Option<Description> {
    let certificate = parse(der).ok()?;
    let sans = Sans::of(&certificate).ok()?;
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Some(Description {
        serial: serial_number(&certificate),
        subject: rfc2253(certificate.subject()),
        issuer: rfc2253(certificate.issuer()),
        not_before: not_before(&certificate),
        not_after: not_after(&certificate),
        uri_sans: owned(&sans.uris),
        dns_sans: owned(&sans.dns),
        ip_sans: sans.ips,
    })
}

/// The subject alternative names of a certificate, by type.
#[derive(Debug, Default)]
pub(crate) struct Sans<'a> {
    pub(crate) uris: Vec<&'a str>,
    pub(crate) dns: Vec<&'a str>,
    pub(crate) emails: Vec<&'a str>,
    pub(crate) ips: Vec<IpAddr>,
}

impl<'a> Sans<'a> {
    /// Fails on a name that cannot be read: what it says might matter.
    pub(crate) fn of(certificate: &X509Certificate<'a>) -> Result<Self, String> {
        let mut sans = Self::default();
        let extension = certificate
            .subject_alternative_name()
            .map_err(|error| format!("subject alternative names: {error}"))?;
        let Some(extension) = extension else {
            return Ok(sans);
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => sans.uris.push(uri),
                GeneralName::DNSName(name) => sans.dns.push(name),
                GeneralName::RFC822Name(email) => sans.emails.push(email),
                GeneralName::IPAddress(bytes) => sans.ips.push(ip(bytes)?),
                GeneralName::Invalid(..) => {
                    return Err("subject alternative names: one is unreadable".to_owned());
                }
                _ => {}
            }
        }
        Ok(sans)
    }
}

/// As Envoy writes it: two digits a byte, without the zero that DER puts before some.
pub fn serial_number(certificate: &X509Certificate<'_>) -> String {
    hex(&certificate.serial.to_bytes_be())
}

/// The names that a server's certificate is for, in lower case: its DNS names or, if it has no alternative
/// names at all, its common name, as Envoy has it. What cannot be read has none.
pub(crate) fn server_names(der: &[u8]) -> Vec<String> {
    let Ok(certificate) = parse(der) else {
        return Vec::new();
    };
    let names = match certificate.subject_alternative_name() {
        Ok(None) => {
            let common = certificate.subject().iter_common_name();
            common.take(1).filter_map(|it| it.as_str().ok()).collect()
        }
        _ => Sans::of(&certificate).unwrap_or_default().dns,
    };
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// Parses exactly one certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(format!("{} bytes follow the certificate", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn not_before(certificate: &X509Certificate<'_>) -> SystemTime {
    system_time(&certificate.validity().not_before)
}

pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    system_time(&certificate.validity().not_after)
}

/// Times before 1970 become 1970.
pub(crate) fn system_time(time: &ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// RFC 3339 in UTC, for log lines.
pub(crate) fn time_text(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let Ok(time) = ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} s after 1970");
    };
    let date = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

/// RFC 2253 as OpenSSL prints it (`XN_FLAG_RFC2253`), which is Envoy's form.
pub(crate) fn rfc2253(name: &X509Name<'_>) -> String {
    let components: Vec<_> = name.iter().collect();
    let mut text = String::new();
    for component in components.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (index, attribute) in component.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let name = ATTRIBUTE_NAMES.iter().find(|(known, _)| *known == oid);
    match (name, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => {
            text.push_str(name);
            text.push('=');
            push_escaped(text, value);
        }
        _ => {
            text.push_str(&oid);
            text.push_str("=#");
            text.push_str(&hex(attribute.as_slice()));
        }
    }
}

/// OpenSSL's short names (RFC 4519, RFC 2985).
const ATTRIBUTE_NAMES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if index == 0 => text.push_str("\\#"),
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            0x20..0x7f => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

fn ip(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(v6.into());
    }
    Err("subject alternative names: an IP address is of odd length".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, SerialNumber};

    use super::*;
    use crate::testing::{spiffe_root, svid_params};

    #[test]
    fn a_certificate_is_described_as_envoy_does() {
        let ca = spiffe_root("example.org");
        let mut params = svid_params("spiffe://example.org/web");
        params.serial_number = Some(SerialNumber::from(0x0a_b1_ff_u64));
        params
            .distinguished_name
            .push(DnType::CommonName, " a,b\"c+d<e>f;g\\h#\u{e9} ");
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![2, 5, 4, 45]), "id");
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![1, 2, 3, 4]), "x");
        for name in ["web.example.org", "*.web.example.org"] {
            let name = rcgen::SanType::DnsName(name.try_into().unwrap());
            params.subject_alt_names.push(name);
        }
        let address = rcgen::SanType::IpAddress([10, 0, 0, 1].into());
        params.subject_alt_names.push(address);
        let description = describe(&ca.sign(&params).0).unwrap();
        assert_eq!(description.serial, "0ab1ff");
        params.serial_number = Some(SerialNumber::from(0xff_u64));
        let description = describe(&ca.sign(&params).0).unwrap();
        assert_eq!(description.serial, "ff");
        assert_eq!(
            description.subject,
            "1.2.3.4=#78,x500UniqueIdentifier=id,\
             CN=\\ a\\,b\\\"c\\+d\\<e\\>f\\;g\\\\h#\\C3\\A9\\ ,O=SPIRE,C=US"
        );
        assert_eq!(description.issuer, "O=spiffe://example.org");
        assert_eq!(description.uri_sans, ["spiffe://example.org/web"]);
        assert_eq!(
            description.dns_sans,
            ["web.example.org", "*.web.example.org"]
        );
        assert_eq!(description.ip_sans, [IpAddr::from([10, 0, 0, 1])]);
        let day = Duration::from_secs(24 * 3600);
        let lifetime = description.not_after.duration_since(description.not_before);
        assert_eq!(lifetime.unwrap(), day + Duration::from_secs(10));
        assert_eq!(describe(b"rubbish"), None);
    }

    #[test]
    fn times_are_told_in_utc() {
        let time = |seconds| time_text(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_795_324_613), "2026-11-22T05:16:53Z");
    }
}
