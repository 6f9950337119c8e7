//! `DataSource`: bytes that stand in the configuration, in a file or in the environment.

use std::{path::Path, sync::Arc};

use ithildin_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use ithildin_sys::file::read_regular;

use super::report::{At, refuse};

/// The largest file: ten times the roots of the web.
const MAX_FILE_BYTES: usize = 4 << 20;

/// The bytes now. A file is read once, as Envoy reads it without `watched_directory`.
pub(in crate::control) fn read(source: &DataSource, at: &At<'_>) -> Option<Vec<u8>> {
    let DataSource {
        watched_directory,
        specifier,
    } = source;
    refuse!(at; watched_directory);
    match specifier {
        Some(Specifier::InlineBytes(bytes)) => Some(bytes.clone()),
        Some(Specifier::InlineString(text)) => Some(text.as_bytes().to_vec()),
        Some(Specifier::Filename(path)) => match read_regular(Path::new(path), MAX_FILE_BYTES) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                at.field("filename")
                    .error(format_args!("cannot read {path:?}: {error}"));
                None
            }
        },
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var_os(name) {
            Some(value) => Some(value.into_encoded_bytes()),
            None => {
                at.field("environment_variable")
                    .error(format_args!("the variable {name:?} is not set"));
                None
            }
        },
        None => {
            at.error(
                "one of filename, inline_bytes, inline_string and environment_variable is required",
            );
            None
        }
    }
}

/// The file's name, if it is one.
pub(in crate::control) fn file(source: &DataSource) -> Option<Arc<str>> {
    match &source.specifier {
        Some(Specifier::Filename(path)) => Some(path.as_str().into()),
        _ => None,
    }
}
