//! Where tokens stand.

use std::collections::BTreeMap;

use http::HeaderName;
use ithildin_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtHeader, JwtProvider as ProviderProto,
};

use super::jwt::header_name;
use crate::{
    config::jwt::{HeaderLocation, Issuers, Locations, NamedLocation},
    control::report::At,
};

/// Where nothing else is configured.
const DEFAULT_HEADER: (&str, &str) = ("authorization", "Bearer ");
const DEFAULT_PARAMETER: &str = "access_token";

/// All places of some providers; a place that several have is for the tokens of each. Errors are
/// reported at `at`, if it is there.
pub(super) fn locations(providers: &[&ProviderProto], at: Option<&At<'_>>) -> Locations {
    let mut places = Places::default();
    for provider in providers {
        places.add(provider, at);
    }
    let named = |list: BTreeMap<String, Vec<Box<str>>>| {
        let list = list.into_iter().map(|(name, issuers)| NamedLocation {
            name: name.into(),
            issuers: Issuers::new(issuers),
        });
        list.collect()
    };
    let headers = places.headers.into_values();
    Locations {
        headers: headers
            .map(|place| HeaderLocation {
                header: place.header,
                prefix: place.prefix,
                issuers: Issuers::new(place.issuers),
            })
            .collect(),
        parameters: named(places.parameters),
        cookies: named(places.cookies),
    }
}

/// In the order of their names, as Envoy has them.
#[derive(Default)]
struct Places {
    headers: BTreeMap<String, HeaderPlace>,
    parameters: BTreeMap<String, Vec<Box<str>>>,
    cookies: BTreeMap<String, Vec<Box<str>>>,
}

struct HeaderPlace {
    header: HeaderName,
    prefix: Box<str>,
    issuers: Vec<Box<str>>,
}

impl Places {
    fn add(&mut self, provider: &ProviderProto, at: Option<&At<'_>>) {
        let issuer = provider.issuer.as_str();
        let ProviderProto {
            from_headers,
            from_params,
            from_cookies,
            ..
        } = provider;
        for (i, config) in from_headers.iter().enumerate() {
            let JwtHeader { name, value_prefix } = config;
            let header = match at {
                Some(at) => header_name(name, &at.index("from_headers", i).field("name")),
                None => HeaderName::from_bytes(name.as_bytes()).ok(),
            };
            if let Some(header) = header {
                self.header(header, value_prefix, issuer);
            }
        }
        for name in from_params {
            add(&mut self.parameters, name, issuer);
        }
        for name in from_cookies {
            add(&mut self.cookies, name, issuer);
        }
        if from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
            let (name, prefix) = DEFAULT_HEADER;
            self.header(HeaderName::from_static(name), prefix, issuer);
            add(&mut self.parameters, DEFAULT_PARAMETER, issuer);
        }
    }

    fn header(&mut self, header: HeaderName, prefix: &str, issuer: &str) {
        let key = format!("{header}{prefix}");
        let place = self.headers.entry(key).or_insert_with(|| HeaderPlace {
            header,
            prefix: prefix.into(),
            issuers: Vec::new(),
        });
        place.issuers.push(issuer.into());
    }
}

fn add(places: &mut BTreeMap<String, Vec<Box<str>>>, name: &str, issuer: &str) {
    places
        .entry(name.to_owned())
        .or_default()
        .push(issuer.into());
}
