//! `version`: as `istioctl version` prints a client's.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::json;

use crate::proxy::ISTIO_VERSION;

/// Print the version
///
/// The tag names the Istio release whose agent this one stands in for.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The version alone
    #[arg(short, long)]
    short: bool,
    /// As YAML or JSON
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, where the build names it.
const REVISION: &str = match option_env!("ITHILDIN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
const UNKNOWN: &str = "unknown";

pub(super) fn run(args: &Args) -> io::Result<()> {
    io::stdout().write_all(text(args).as_bytes())
}

fn text(args: &Args) -> String {
    let tag = format!("istio-{ISTIO_VERSION}");
    // There is no Go in it.
    let go = "none";
    match (args.output, args.short) {
        (Some(Format::Json), _) => {
            let version = json!({"clientVersion": {
                "version": VERSION,
                "revision": REVISION,
                "golang_version": go,
                "status": UNKNOWN,
                "tag": tag,
            }});
            format!("{version:#}\n")
        }
        (Some(Format::Yaml), _) => format!(
            "clientVersion:\n  golang_version: {go}\n  revision: {REVISION}\n  status: {UNKNOWN}\n  \
             tag: {tag}\n  version: {VERSION}\n\n"
        ),
        (None, true) => format!("client version: {VERSION}\n"),
        (None, false) => format!(
            "client version: version.BuildInfo{{Version:{VERSION:?}, GitRevision:{REVISION:?}, \
             GolangVersion:{go:?}, BuildStatus:{UNKNOWN:?}, GitTag:{tag:?}}}\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_tell_the_same() {
        let of = |short, output| text(&Args { short, output });
        assert_eq!(of(true, None), format!("client version: {VERSION}\n"));
        let long = of(false, None);
        assert!(
            long.starts_with("client version: version.BuildInfo{Version:\""),
            "{long}"
        );
        let json: serde_json::Value = serde_json::from_str(&of(true, Some(Format::Json))).unwrap();
        let yaml = ithildin_proto::yaml::documents(&of(false, Some(Format::Yaml))).unwrap();
        assert_eq!(yaml, std::slice::from_ref(&json));
        assert_eq!(json["clientVersion"]["version"], VERSION);
    }
}
