//! Which of several SVIDs is ours, as the command line says it.

use ithildin_spiffe::{SpiffeId, SvidSelector, TrustDomain};

/// Parses `default`, a SPIFFE ID, `hint:<hint>` or `trust-domain:<name>`.
pub(crate) fn parse(text: &str) -> Result<SvidSelector, String> {
    if text == "default" {
        return Ok(SvidSelector::Default);
    }
    if let Some(hint) = text.strip_prefix("hint:") {
        return Ok(SvidSelector::Hint(hint.to_owned()));
    }
    if let Some(name) = text.strip_prefix("trust-domain:") {
        let domain = TrustDomain::parse(name).map_err(|error| format!("{name:?} {error}"))?;
        return Ok(SvidSelector::TrustDomain(domain));
    }
    let id = SpiffeId::parse(text).map_err(|error| {
        format!("{text:?} {error}; write a SPIFFE ID, hint:<hint>, trust-domain:<name> or default")
    })?;
    Ok(SvidSelector::Id(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        assert_eq!(parse("default"), Ok(SvidSelector::Default));
        assert_eq!(parse("hint:web"), Ok(SvidSelector::Hint("web".into())));
        let domain = TrustDomain::parse("a.test").unwrap();
        assert_eq!(
            parse("trust-domain:a.test"),
            Ok(SvidSelector::TrustDomain(domain))
        );
        let id = SpiffeId::parse("spiffe://a.test/w").unwrap();
        assert_eq!(parse("spiffe://a.test/w"), Ok(SvidSelector::Id(id)));
        for bad in ["", "web", "trust-domain:A", "spiffe://a.test/../w"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
