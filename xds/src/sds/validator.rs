//! Which validator a node's validation contexts are made for.

use ithildin_proto::pb::{
    envoy::config::core::v3::{Node, node::UserAgentVersionType},
    google::protobuf::value::Kind,
};

/// SPIRE's key in the node metadata; a boolean, or a text that reads as one.
const OPT_OUT: &str = "disable_spiffe_cert_validation";
/// The first Envoy whose SPIFFE validator SPIRE relies on.
const FIRST_ENVOY: (u32, u32) = (1, 18);

/// The shape of a validation context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Validator {
    /// `envoy.tls.cert_validator.spiffe`: each trust domain is bound to its own bundle.
    Spiffe,
    /// `trusted_ca`, with the roots of a single trust domain.
    TrustedCa,
}

impl Validator {
    /// The one for `node`, as SPIRE decides it.
    pub(crate) fn for_node(node: Option<&Node>, disabled: bool) -> Self {
        let disabled = node.and_then(opt_out).unwrap_or(disabled);
        match disabled || node.is_some_and(is_old_envoy) {
            true => Self::TrustedCa,
            false => Self::Spiffe,
        }
    }
}

fn opt_out(node: &Node) -> Option<bool> {
    match node.metadata.as_ref()?.fields.get(OPT_OUT)?.kind.as_ref()? {
        Kind::BoolValue(value) => Some(*value),
        Kind::StringValue(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A node that does not state its version is taken for a recent one.
fn is_old_envoy(node: &Node) -> bool {
    let Some(UserAgentVersionType::UserAgentBuildVersion(build)) = &node.user_agent_version_type
    else {
        return false;
    };
    let version = build.version.as_ref();
    version.is_some_and(|version| (version.major_number, version.minor_number) < FIRST_ENVOY)
}

#[cfg(test)]
mod tests {
    use ithildin_proto::pb::{
        envoy::{config::core::v3::BuildVersion, r#type::v3::SemanticVersion},
        google::protobuf::{Struct, Value},
    };

    use super::*;

    fn node(metadata: Option<Kind>, minor: Option<u32>) -> Node {
        let fields = metadata
            .into_iter()
            .map(|kind| (OPT_OUT.to_owned(), Value { kind: Some(kind) }))
            .collect();
        let version = |minor_number| SemanticVersion {
            major_number: 1,
            minor_number,
            patch: 0,
        };
        Node {
            metadata: Some(Struct { fields }),
            user_agent_version_type: minor.map(|minor| {
                UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
                    version: Some(version(minor)),
                    metadata: None,
                })
            }),
            ..Default::default()
        }
    }

    /// SPIRE's own table.
    #[test]
    fn as_spire_decides() {
        use Validator::{Spiffe, TrustedCa};
        let text = |text: &str| Some(Kind::StringValue(text.into()));
        for (metadata, minor, disabled, expected) in [
            (None, Some(17), false, TrustedCa),
            (None, Some(18), false, Spiffe),
            (None, None, false, Spiffe),
            (None, Some(40), true, TrustedCa),
            (Some(Kind::BoolValue(true)), Some(40), false, TrustedCa),
            (text("true"), None, false, TrustedCa),
            (text("1"), None, false, TrustedCa),
            (Some(Kind::BoolValue(false)), None, true, Spiffe),
            (text("F"), None, true, Spiffe),
            (text("test"), None, false, Spiffe),
            (text("test"), None, true, TrustedCa),
            (Some(Kind::NumberValue(5.0)), None, true, TrustedCa),
            (Some(Kind::NumberValue(5.0)), None, false, Spiffe),
            (Some(Kind::BoolValue(false)), Some(17), true, TrustedCa),
        ] {
            let case = format!("{metadata:?} 1.{minor:?} {disabled}");
            let node = node(metadata, minor);
            assert_eq!(
                Validator::for_node(Some(&node), disabled),
                expected,
                "{case}"
            );
        }
        assert_eq!(Validator::for_node(None, false), Spiffe);
    }
}
