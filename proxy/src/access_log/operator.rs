//! Command operators: what a format may name, and how each is written.

use std::{borrow::Cow, net::SocketAddr, os::unix::ffi::OsStrExt, time::Duration};

use super::{
    Entry, Expression, Headers, Needs, UpstreamHost,
    filter_state::FilterState,
    grpc_status::{GRPC_STATUS, GrpcFormat},
    lacking::LACKING,
    time::{TimeFormat, write_utc},
};

/// One operator with its arguments, ready to be written.
#[derive(Clone, Debug)]
pub(super) enum Operator {
    StartTime(Option<TimeFormat>),
    RequestHeader(HeaderArgument),
    /// As above, without the query of a path.
    RequestHeaderWithoutQuery(HeaderArgument),
    ResponseHeader(HeaderArgument),
    ResponseTrailer(HeaderArgument),
    /// `%ENVIRONMENT(X)%` and `%HOSTNAME%`: known when the format is compiled.
    Constant(Option<Box<str>>),
    GrpcStatus(GrpcFormat),
    FilterState(FilterState),
    TraceId,
    /// `%CEL(...)%`, as text.
    Expression(Box<Expression>),
    /// One that this proxy lacks, or the part of CEL that it does.
    Lacking(Box<str>),
    Field(Field),
}

/// `X?Y`: the first header, else the alternative. Lower-case.
#[derive(Clone, Debug)]
pub(super) struct HeaderArgument {
    name: Box<str>,
    alternative: Option<Box<str>>,
}

/// How a value is written in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers, and whatever is JSON already: as it is.
    Json,
    Text,
}

/// Declares the operators that take no argument.
macro_rules! fields {
    ($($field:ident = $name:literal),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field { $($field),* }

        fn field(name: &str) -> Option<Field> {
            match name {
                $($name => Some(Field::$field),)*
                _ => None,
            }
        }
    };
}

fields! {
    AccessLogType = "ACCESS_LOG_TYPE",
    Protocol = "PROTOCOL",
    ResponseCode = "RESPONSE_CODE",
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    ResponseFlags = "RESPONSE_FLAGS",
    ResponseFlagsLong = "RESPONSE_FLAGS_LONG",
    BytesReceived = "BYTES_RECEIVED",
    BytesSent = "BYTES_SENT",
    UpstreamWireBytesSent = "UPSTREAM_WIRE_BYTES_SENT",
    UpstreamWireBytesReceived = "UPSTREAM_WIRE_BYTES_RECEIVED",
    DownstreamWireBytesSent = "DOWNSTREAM_WIRE_BYTES_SENT",
    DownstreamWireBytesReceived = "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    Duration = "DURATION",
    RequestDuration = "REQUEST_DURATION",
    RequestTxDuration = "REQUEST_TX_DURATION",
    ResponseDuration = "RESPONSE_DURATION",
    ResponseTxDuration = "RESPONSE_TX_DURATION",
    RouteName = "ROUTE_NAME",
    FilterChainName = "FILTER_CHAIN_NAME",
    RequestedServerName = "REQUESTED_SERVER_NAME",
    ConnectionId = "CONNECTION_ID",
    UpstreamHost = "UPSTREAM_HOST",
    UpstreamCluster = "UPSTREAM_CLUSTER",
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    UpstreamLocalAddressWithoutPort = "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    UpstreamLocalPort = "UPSTREAM_LOCAL_PORT",
    UpstreamRemoteAddress = "UPSTREAM_REMOTE_ADDRESS",
    UpstreamRemoteAddressWithoutPort = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    UpstreamProtocol = "UPSTREAM_PROTOCOL",
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    UpstreamTlsVersion = "UPSTREAM_TLS_VERSION",
    UpstreamTlsCipher = "UPSTREAM_TLS_CIPHER",
    UpstreamPeerUriSan = "UPSTREAM_PEER_URI_SAN",
    UpstreamPeerSubject = "UPSTREAM_PEER_SUBJECT",
    UpstreamPeerDnsSan = "UPSTREAM_PEER_DNS_SAN",
    UpstreamPeerIssuer = "UPSTREAM_PEER_ISSUER",
    UpstreamPeerSerial = "UPSTREAM_PEER_SERIAL",
    UpstreamPeerFingerprint = "UPSTREAM_PEER_FINGERPRINT_256",
    UpstreamLocalUriSan = "UPSTREAM_LOCAL_URI_SAN",
    UpstreamLocalSubject = "UPSTREAM_LOCAL_SUBJECT",
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamRemotePort = "DOWNSTREAM_REMOTE_PORT",
    DownstreamDirectRemoteAddress = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    DownstreamDirectRemoteAddressWithoutPort = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    DownstreamDirectRemotePort = "DOWNSTREAM_DIRECT_REMOTE_PORT",
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    DownstreamLocalAddressWithoutPort = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    DownstreamTlsVersion = "DOWNSTREAM_TLS_VERSION",
    DownstreamTlsCipher = "DOWNSTREAM_TLS_CIPHER",
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    DownstreamPeerDnsSan = "DOWNSTREAM_PEER_DNS_SAN",
    DownstreamPeerSubject = "DOWNSTREAM_PEER_SUBJECT",
    DownstreamPeerIssuer = "DOWNSTREAM_PEER_ISSUER",
    DownstreamPeerSerial = "DOWNSTREAM_PEER_SERIAL",
    DownstreamPeerFingerprint = "DOWNSTREAM_PEER_FINGERPRINT_256",
    DownstreamLocalUriSan = "DOWNSTREAM_LOCAL_URI_SAN",
    DownstreamLocalSubject = "DOWNSTREAM_LOCAL_SUBJECT",
    DownstreamTransportFailureReason = "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
}

/// Operators of things that this proxy does not have: they are accepted and never have a value, as in an Envoy
/// where nothing sets them.
const NEVER_SET: &[&str] = &[
    "CLUSTER_METADATA",
    "UPSTREAM_METADATA",
    "METADATA",
    "UPSTREAM_FILTER_STATE",
    "VIRTUAL_CLUSTER_NAME",
    "LOCAL_REPLY_BODY",
];

impl Operator {
    /// From `NAME` and the text between its parentheses.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let header = || HeaderArgument::parse(name, argument);
        let of_filters =
            |state: Option<FilterState>| state.map_or(Self::Constant(None), Self::FilterState);
        Ok(match name {
            "START_TIME" => Self::StartTime(argument.map(TimeFormat::parse).transpose()?),
            "REQ" | "REQUEST_HEADER" => Self::RequestHeader(header()?),
            "REQ_WITHOUT_QUERY" => Self::RequestHeaderWithoutQuery(header()?),
            "RESP" | "RESPONSE_HEADER" => Self::ResponseHeader(header()?),
            "TRAILER" | "RESPONSE_TRAILER" => Self::ResponseTrailer(header()?),
            "GRPC_STATUS_NUMBER" => Self::GrpcStatus(GrpcFormat::Number),
            "GRPC_STATUS" => Self::GrpcStatus(GrpcFormat::parse(argument)?),
            "DYNAMIC_METADATA" => of_filters(FilterState::of_metadata(argument)),
            "FILTER_STATE" => of_filters(FilterState::of_state(argument)),
            "ENVIRONMENT" => {
                let variable = argument.filter(|variable| !variable.is_empty());
                let variable = variable.ok_or("%ENVIRONMENT% needs the name of a variable")?;
                Self::Constant(std::env::var(variable).ok().map(Into::into))
            }
            "TRACE_ID" => Self::TraceId,
            "HOSTNAME" => Self::Constant(hostname().map(Into::into)),
            // Whether white space is kept makes no difference: ours never has any.
            "RESPONSE_CODE_DETAILS" => Self::Field(Field::ResponseCodeDetails),
            "CEL" => {
                let argument = argument.unwrap_or_default();
                match Expression::parse(argument) {
                    Ok(expression) => Self::Expression(Box::new(expression)),
                    Err(error) => Self::Lacking(format!("CEL({argument}) ({error})").into()),
                }
            }
            name if NEVER_SET.contains(&name) => Self::Constant(None),
            name if LACKING.contains(&name) => Self::Lacking(name.into()),
            name => {
                let field =
                    field(name).ok_or_else(|| format!("unknown command operator %{name}%"))?;
                if argument.is_some() {
                    return Err(format!("%{name}% takes no argument"));
                }
                Self::Field(field)
            }
        })
    }

    /// Adds the response's headers and trailers that it prints.
    pub(super) fn needs(&self, needs: &mut Needs) {
        match self {
            Self::ResponseHeader(header) => {
                header.names().for_each(|name| needs.response_header(name));
            }
            Self::ResponseTrailer(header) => {
                header.names().for_each(|name| needs.response_trailer(name));
            }
            Self::Expression(expression) => {
                let names = expression.response_headers().into_iter();
                names.for_each(|name| needs.response_header(name));
            }
            Self::GrpcStatus(_) => {
                needs.response_header(GRPC_STATUS);
                needs.response_trailer(GRPC_STATUS);
            }
            _ => {}
        }
    }

    /// Appends the value to `out`; `None` if there is none.
    pub(super) fn write(&self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        match self {
            Self::StartTime(None) => write_utc(entry.start, out),
            Self::StartTime(Some(format)) => format.write(entry.start, out)?,
            Self::RequestHeader(header) => {
                out.extend_from_slice(&header.find(|name| request_header(entry, name))?);
            }
            Self::RequestHeaderWithoutQuery(header) => {
                let value = header.find(|name| request_header(entry, name))?;
                let path = value.split(|byte| *byte == b'?').next()?;
                out.extend_from_slice(path);
            }
            Self::ResponseHeader(header) => {
                out.extend_from_slice(&header.find(|name| response_header(entry, name))?);
            }
            Self::ResponseTrailer(header) => {
                let trailers = entry.response_trailers?;
                out.extend_from_slice(&header.find(|name| borrowed(trailers, name))?);
            }
            Self::GrpcStatus(format) => return format.write(entry, out),
            Self::FilterState(state) => return state.write(entry, out),
            Self::TraceId => out.extend_from_slice(entry.span?.trace_hex().as_bytes()),
            Self::Constant(value) => out.extend_from_slice(value.as_deref()?.as_bytes()),
            Self::Expression(expression) => {
                out.extend_from_slice(expression.text(entry)?.as_bytes());
            }
            Self::Lacking(_) => return None,
            Self::Field(field) => return field.write(entry, out),
        }
        Some(Kind::Text)
    }
}

impl HeaderArgument {
    fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let argument = argument.unwrap_or_default();
        let (first, alternative) = match argument.split_once('?') {
            Some((first, alternative)) => (first, Some(alternative)),
            None => (argument, None),
        };
        if first.is_empty() || alternative.is_some_and(|it| it.is_empty() || it.contains('?')) {
            return Err(format!(
                "%{name}% needs a header name, or two as in %{name}(X?Y)%"
            ));
        }
        let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
        Ok(Self {
            name: lower(first),
            alternative: alternative.map(lower),
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.name).chain(self.alternative.as_deref())
    }

    fn find<'a>(&self, get: impl Fn(&str) -> Option<Cow<'a, [u8]>>) -> Option<Cow<'a, [u8]>> {
        get(&self.name).or_else(|| get(self.alternative.as_deref()?))
    }
}

fn borrowed<'a>(headers: &'a dyn Headers, name: &str) -> Option<Cow<'a, [u8]>> {
    headers.get(name).map(Cow::Borrowed)
}

fn request_header<'a>(entry: &Entry<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    let pseudo = match name {
        ":method" => entry.method,
        ":path" => entry.path,
        ":authority" | "host" => entry.authority,
        ":scheme" => entry.scheme,
        name => return borrowed(entry.request_headers?, name),
    };
    pseudo.map(Cow::Borrowed)
}

fn response_header<'a>(entry: &Entry<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    match name {
        ":status" => Some(entry.response_code?.to_string().into_bytes().into()),
        name => borrowed(entry.response_headers?, name),
    }
}

impl Field {
    fn write(self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        if let Some(number) = self.number(entry) {
            out.extend_from_slice(itoa::Buffer::new().format(number?).as_bytes());
            return Some(Kind::Json);
        }
        match self {
            // Also where what is unset is left out.
            Self::ResponseFlags | Self::ResponseFlagsLong if entry.flags.is_empty() => {
                out.push(b'-');
            }
            Self::ResponseFlags => join(entry.flags.codes(), out),
            Self::ResponseFlagsLong => join(entry.flags.long_names(), out),
            Self::UpstreamHost | Self::UpstreamRemoteAddress => match entry.upstream.host? {
                UpstreamHost::Socket(address) => write_address(address, out),
                UpstreamHost::Pipe(path) => out.extend_from_slice(path.as_os_str().as_bytes()),
            },
            Self::UpstreamRemoteAddressWithoutPort => match entry.upstream.host? {
                UpstreamHost::Socket(address) => write_ip(address, out),
                UpstreamHost::Pipe(path) => out.extend_from_slice(path.as_os_str().as_bytes()),
            },
            Self::UpstreamLocalAddress => write_address(entry.upstream.local?, out),
            Self::UpstreamLocalAddressWithoutPort => write_ip(entry.upstream.local?, out),
            Self::DownstreamRemoteAddress => write_address(entry.downstream.remote?, out),
            Self::DownstreamRemoteAddressWithoutPort => write_ip(entry.downstream.remote?, out),
            Self::DownstreamDirectRemoteAddress => {
                write_address(entry.downstream.direct_remote?, out);
            }
            Self::DownstreamDirectRemoteAddressWithoutPort => {
                write_ip(entry.downstream.direct_remote?, out);
            }
            Self::DownstreamLocalAddress => write_address(entry.downstream.local?, out),
            Self::DownstreamLocalAddressWithoutPort => write_ip(entry.downstream.local?, out),
            field if field.is_prose() => {
                let text = field.text(entry)?.bytes();
                out.extend(text.map(|byte| if byte == b' ' { b'_' } else { byte }));
            }
            field => out.extend_from_slice(field.text(entry)?.as_bytes()),
        }
        Some(Kind::Text)
    }

    /// Whether it may hold spaces, which would be taken for the end of its column.
    fn is_prose(self) -> bool {
        matches!(
            self,
            Self::ResponseCodeDetails
                | Self::ConnectionTerminationDetails
                | Self::UpstreamTransportFailureReason
                | Self::DownstreamTransportFailureReason
        )
    }

    /// `None` for a field that is not a number; `Some(None)` for one without a value.
    fn number(self, entry: &Entry<'_>) -> Option<Option<u64>> {
        let durations = &entry.durations;
        let port = |address: Option<SocketAddr>| Some(u64::from(address?.port()));
        Some(match self {
            Self::ResponseCode => Some(entry.response_code.unwrap_or(0).into()),
            Self::BytesReceived => Some(entry.bytes.received),
            Self::BytesSent => Some(entry.bytes.sent),
            Self::UpstreamWireBytesSent => entry.bytes.upstream_sent,
            Self::UpstreamWireBytesReceived => entry.bytes.upstream_received,
            Self::DownstreamWireBytesSent => entry.bytes.downstream_sent,
            Self::DownstreamWireBytesReceived => entry.bytes.downstream_received,
            Self::Duration => durations.total.map(millis),
            Self::RequestDuration => durations.request.map(millis),
            Self::RequestTxDuration => durations.request_sent.map(millis),
            Self::ResponseDuration => durations.response.map(millis),
            Self::ResponseTxDuration => durations
                .response_sent
                .zip(durations.response)
                .map(|(sent, response)| millis(sent.saturating_sub(response))),
            Self::ConnectionId => Some(entry.downstream.connection_id),
            Self::UpstreamRequestAttemptCount => Some(entry.attempts.into()),
            Self::UpstreamLocalPort => port(entry.upstream.local),
            Self::UpstreamRemotePort => match entry.upstream.host {
                Some(UpstreamHost::Socket(address)) => port(Some(address)),
                _ => None,
            },
            Self::DownstreamRemotePort => port(entry.downstream.remote),
            Self::DownstreamDirectRemotePort => port(entry.downstream.direct_remote),
            Self::DownstreamLocalPort => port(entry.downstream.local),
            _ => return None,
        })
    }

    fn text<'a>(self, entry: &Entry<'a>) -> Option<&'a str> {
        let (downstream, upstream) = (entry.downstream.tls, entry.upstream.tls);
        let text = match self {
            Self::AccessLogType => Some(entry.occasion.as_str()),
            Self::Protocol => Some(entry.protocol?.as_str()),
            Self::ResponseCodeDetails => entry.response_code_details,
            Self::ConnectionTerminationDetails => entry.connection_termination_details,
            Self::RouteName => entry.route_name,
            Self::FilterChainName => entry.filter_chain,
            Self::RequestedServerName => entry.downstream.server_name,
            Self::UpstreamCluster | Self::UpstreamClusterRaw => entry.upstream.cluster,
            Self::UpstreamProtocol => Some(entry.upstream.protocol?.as_str()),
            Self::UpstreamTransportFailureReason => entry.upstream.transport_failure,
            Self::UpstreamTlsVersion => Some(upstream?.version),
            Self::UpstreamTlsCipher => Some(upstream?.cipher),
            Self::UpstreamPeerUriSan => Some(&*upstream?.peer_text()?.uri_sans),
            Self::UpstreamPeerSubject => Some(&*upstream?.peer_text()?.description.subject),
            Self::UpstreamPeerDnsSan => Some(&*upstream?.peer_text()?.dns_sans),
            Self::UpstreamPeerIssuer => Some(&*upstream?.peer_text()?.description.issuer),
            Self::UpstreamPeerSerial => Some(&*upstream?.peer_text()?.description.serial),
            Self::UpstreamPeerFingerprint => Some(&*upstream?.peer_text()?.fingerprint),
            Self::UpstreamLocalUriSan => Some(&*upstream?.own_text()?.uri_sans),
            Self::UpstreamLocalSubject => Some(&*upstream?.own_text()?.description.subject),
            Self::DownstreamTlsVersion => Some(downstream?.version),
            Self::DownstreamTlsCipher => Some(downstream?.cipher),
            Self::DownstreamPeerUriSan => Some(&*downstream?.peer_text()?.uri_sans),
            Self::DownstreamPeerDnsSan => Some(&*downstream?.peer_text()?.dns_sans),
            Self::DownstreamPeerSubject => Some(&*downstream?.peer_text()?.description.subject),
            Self::DownstreamPeerIssuer => Some(&*downstream?.peer_text()?.description.issuer),
            Self::DownstreamPeerSerial => Some(&*downstream?.peer_text()?.description.serial),
            Self::DownstreamPeerFingerprint => Some(&*downstream?.peer_text()?.fingerprint),
            Self::DownstreamLocalUriSan => Some(&*downstream?.own_text()?.uri_sans),
            Self::DownstreamLocalSubject => Some(&*downstream?.own_text()?.description.subject),
            Self::DownstreamTransportFailureReason => entry.downstream.transport_failure,
            _ => None,
        };
        text.filter(|text| !text.is_empty())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn join(parts: impl Iterator<Item = &'static str>, out: &mut Vec<u8>) {
    for (index, part) in parts.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "{address}").expect("writing to a Vec does not fail");
}

fn write_ip(address: SocketAddr, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "{}", address.ip()).expect("writing to a Vec does not fail");
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}
