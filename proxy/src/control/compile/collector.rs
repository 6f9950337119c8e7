//! Where collectors are, and how they are spoken to.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderName,
    header::{CONTENT_TYPE, USER_AGENT},
};
use ithildin_proto::pb::envoy::config::core::v3::{
    GrpcService as GrpcProto, HeaderValueOption, HttpService as HttpProto,
    grpc_service::TargetSpecifier, header_value_option::HeaderAppendAction,
};

use super::{Compiler, ext_authz_service, headers, jwt_keys};
use crate::{
    access_log::{Entry, Unset},
    config::route::{AppendAction, HeaderAddition, HeaderText},
    control::report::At,
    http::collector::{Batch, Collector, Report, Speaks},
};

/// How long an answer may take where the configuration does not say; Envoy's for spans. What comes meanwhile waits
/// for it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// As OpenTelemetry's exporters name themselves.
const EXPORTER: &str = concat!("OTel-OTLP-Exporter-Ithildin/", env!("CARGO_PKG_VERSION"));

/// Where a service is.
pub(super) struct Place {
    cluster: Arc<str>,
    authority: Bytes,
    path: Bytes,
    speaks: Speaks,
    timeout: Option<Duration>,
}

impl Place {
    /// A path of plain HTTP.
    pub(super) fn post(
        cluster: &str,
        authority: Bytes,
        path: Bytes,
        media_type: &'static str,
    ) -> Self {
        let media_type = Bytes::from_static(media_type.as_bytes());
        Self {
            cluster: cluster.into(),
            authority,
            path,
            speaks: Speaks::Http(vec![(CONTENT_TYPE, media_type)]),
            timeout: None,
        }
    }

    /// The collector there, which all of one `key` share.
    pub(super) fn collector(
        self,
        key: Vec<u8>,
        batch: Batch,
        report: Box<dyn Report>,
        compiler: &Compiler,
    ) -> Arc<Collector> {
        let Self {
            cluster,
            authority,
            path,
            speaks,
            timeout,
        } = self;
        compiler.collectors.shared(&key, || Collector {
            cluster: (&*cluster).into(),
            authority,
            path,
            speaks,
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            batch,
            report,
        })
    }
}

/// A method of gRPC.
pub(super) fn grpc(config: &GrpcProto, path: &'static str, at: &At<'_>) -> Option<Place> {
    let mut config = config.clone();
    let GrpcProto {
        timeout,
        initial_metadata,
        retry_policy,
        target_specifier,
    } = &mut config;
    let mut retries = retry_policy.take().is_some();
    match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => retries |= target.retry_policy.take().is_some(),
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            at.field("google_grpc")
                .warn("is not supported; name a cluster in envoy_grpc. Nobody is told of anything");
            return None;
        }
        None => {}
    }
    if retries {
        at.field("retry_policy")
            .warn("is not supported; what a service does not get is dropped");
    }
    let metadata = std::mem::take(initial_metadata).into_iter();
    let metadata = metadata.map(|header| HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    });
    let mut fields = Vec::new();
    add_all(
        "initial_metadata",
        &metadata.collect::<Vec<_>>(),
        &mut fields,
        at,
    );
    let timeout = at.limit("timeout", timeout, None);
    let service = ext_authz_service::grpc(&config, at)?;
    Some(Place {
        cluster: service.cluster,
        authority: service.authority,
        path: Bytes::from_static(path.as_bytes()),
        speaks: Speaks::Grpc(fields),
        timeout,
    })
}

/// A path of plain HTTP that takes OpenTelemetry's messages.
pub(super) fn otlp(config: &HttpProto, at: &At<'_>) -> Option<Place> {
    let fields = vec![
        (CONTENT_TYPE, Bytes::from_static(b"application/x-protobuf")),
        (USER_AGENT, Bytes::from_static(EXPORTER.as_bytes())),
    ];
    http(config, fields, at)
}

/// A path of plain HTTP that takes JSON.
pub(super) fn json(config: &HttpProto, at: &At<'_>) -> Option<Place> {
    let fields = vec![(CONTENT_TYPE, Bytes::from_static(b"application/json"))];
    http(config, fields, at)
}

fn http(config: &HttpProto, mut fields: Vec<(HeaderName, Bytes)>, at: &At<'_>) -> Option<Place> {
    let HttpProto {
        http_uri,
        request_headers_to_add,
        // Environment and host name, which they are for, are always there.
        formatters: _,
    } = config;
    add_all(
        "request_headers_to_add",
        request_headers_to_add,
        &mut fields,
        at,
    );
    let at = at.field("http_uri");
    let (cluster, timeout) = ext_authz_service::server(http_uri.as_ref(), &at)?;
    let uri = http_uri.as_ref().map_or("", |it| &it.uri);
    let uri = match uri.contains("://") {
        true => Cow::Borrowed(uri),
        // Envoy asks for no scheme, and istiod writes none.
        false => Cow::Owned(format!("http://{uri}")),
    };
    let (authority, path) = jwt_keys::target(&uri, &at.field("uri"))?;
    Some(Place {
        cluster,
        authority,
        path,
        speaks: Speaks::Http(fields),
        timeout,
    })
}

fn add_all(
    field: &'static str,
    options: &[HeaderValueOption],
    fields: &mut Vec<(HeaderName, Bytes)>,
    at: &At<'_>,
) {
    for addition in headers::additions(field, options, at).add {
        add(&addition, fields);
    }
}

/// Adds a field whose value is the same for all requests: its operators are told of none.
fn add(addition: &HeaderAddition, fields: &mut Vec<(HeaderName, Bytes)>) {
    let value = match &addition.value {
        HeaderText::Literal(value) => value.clone(),
        HeaderText::Template(template) => {
            let mut value = Vec::new();
            template.render(
                &Entry::new(SystemTime::UNIX_EPOCH),
                Unset::Empty,
                &mut value,
            );
            // A variable may hold anything, such as the end of the file that it comes from.
            value.retain(|byte| !byte.is_ascii_control() || *byte == b'\t');
            value.into()
        }
    };
    let present = fields.iter().any(|(name, _)| *name == addition.name);
    let wanted = match addition.action {
        AppendAction::AppendOrAdd | AppendAction::OverwriteOrAdd => true,
        AppendAction::AddIfAbsent => !present,
        AppendAction::OverwriteIfExists => present,
    };
    if !wanted || (value.is_empty() && !addition.keep_empty) {
        return;
    }
    if addition.action != AppendAction::AppendOrAdd {
        fields.retain(|(name, _)| *name != addition.name);
    }
    fields.push((addition.name.clone(), value));
}
