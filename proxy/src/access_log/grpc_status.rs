//! `%GRPC_STATUS%`: how a gRPC request ended.

use super::{Entry, operator::Kind};

pub(super) const GRPC_STATUS: &str = "grpc-status";

/// How `%GRPC_STATUS%` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcFormat {
    Camel,
    Snake,
    Number,
}

/// Names of gRPC status codes, by code.
const GRPC_CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl GrpcFormat {
    pub(super) fn parse(argument: Option<&str>) -> Result<Self, String> {
        match argument.unwrap_or("CAMEL_STRING") {
            "CAMEL_STRING" => Ok(Self::Camel),
            "SNAKE_STRING" => Ok(Self::Snake),
            "NUMBER" => Ok(Self::Number),
            other => Err(format!("%GRPC_STATUS% cannot be written as {other:?}")),
        }
    }

    /// As the response says; `None` if it says nothing.
    pub(super) fn write(self, entry: &Entry<'_>, out: &mut Vec<u8>) -> Option<Kind> {
        let told = (entry.response_trailers.and_then(|it| it.get(GRPC_STATUS)))
            .or_else(|| entry.response_headers?.get(GRPC_STATUS))?;
        let code = std::str::from_utf8(told)
            .ok()
            .and_then(|it| it.parse::<usize>().ok());
        let names = code.and_then(|code| GRPC_CODES.get(code));
        match (self, names) {
            (Self::Camel, Some((name, _))) | (Self::Snake, Some((_, name))) => {
                out.extend_from_slice(name.as_bytes());
                Some(Kind::Text)
            }
            _ => {
                out.extend_from_slice(told);
                Some(Kind::Json)
            }
        }
    }
}
