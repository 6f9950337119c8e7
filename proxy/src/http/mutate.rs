//! What routes do to headers: operations of each level and rewrites, in Envoy's order.
//!
//! Within a level: removals, then all values are computed, then replacements, then additions.
//! Levels: weighted cluster, route, virtual host, route configuration
//! (`most_specific_header_mutations_wins` is off).

use bytes::Bytes;
use ithildin_http1::Known;

use super::{exchange::Exchange, headers::Headers, request::Request};
use crate::{
    access_log::Unset,
    config::{
        HttpManager,
        route::{
            AppendAction, Forward, HeaderMutations, HeaderText, PathMatch, Route, RouteTable,
            VirtualHost, WeightedCluster,
        },
    },
};

impl Exchange<'_> {
    /// Makes the request the one that the upstream gets.
    pub(super) fn rewrite_request(
        &mut self,
        (table, host, route): (&RouteTable, &VirtualHost, &Route),
        forward: &Forward,
    ) {
        if let Some(cluster) = self.weighted_cluster(route) {
            self.mutate_request(&cluster.request_headers);
            if let Some(host) = &cluster.host_rewrite {
                self.request.authority = host.clone();
            }
        }
        for mutations in [
            &route.request_headers,
            &host.request_headers,
            &table.request_headers,
        ] {
            self.mutate_request(mutations);
        }
        if let Some(host) = &forward.host_rewrite {
            let append = forward.append_x_forwarded_host;
            rewrite_host(self.context.manager, &mut self.request, host, append);
        }
        rewrite_path(self.context.manager, &mut self.request, route, forward);
    }

    /// Applies the operations of the request's route to the headers of its response.
    pub(super) fn rewrite_response(&self, headers: &mut Headers) {
        let (Some(route), Some((table, host))) = (&self.outcome.route, &self.outcome.host) else {
            return;
        };
        if let Some(cluster) = self.weighted_cluster(route) {
            self.mutate_response(&cluster.response_headers, headers);
        }
        for mutations in [
            &route.response_headers,
            &table.hosts[*host].response_headers,
            &table.response_headers,
        ] {
            self.mutate_response(mutations, headers);
        }
    }

    fn weighted_cluster<'r>(&self, route: &'r Route) -> Option<&'r WeightedCluster> {
        route.weighted_cluster(self.outcome.weighted?)
    }

    pub(super) fn mutate_request(&mut self, mutations: &HeaderMutations) {
        remove(mutations, &mut self.request.headers);
        let values = self.values(mutations, None);
        add(mutations, values, &mut self.request.headers);
    }

    pub(super) fn mutate_response(&self, mutations: &HeaderMutations, headers: &mut Headers) {
        remove(mutations, headers);
        let values = self.values(mutations, Some(headers));
        add(mutations, values, headers);
    }

    /// Applies operations to a request of our own about this one.
    pub(super) fn mutate_question(&self, mutations: &HeaderMutations, headers: &mut Headers) {
        let values = self.values(mutations, None);
        add(mutations, values, headers);
    }

    /// The value of each addition; `None` where it is empty and must not be.
    fn values(&self, of: &HeaderMutations, response: Option<&Headers>) -> Vec<Option<Bytes>> {
        let value = |text: &HeaderText| match text {
            HeaderText::Literal(text) => text.clone(),
            HeaderText::Template(template) => {
                let mut text = Vec::new();
                template.render(&self.entry(response), Unset::Empty, &mut text);
                // The names in a certificate may hold anything.
                text.retain(|byte| !byte.is_ascii_control() || *byte == b'\t');
                text.into()
            }
        };
        of.add
            .iter()
            .map(|addition| {
                let value = value(&addition.value);
                (addition.keep_empty || !value.is_empty()).then_some(value)
            })
            .collect()
    }
}

fn remove(mutations: &HeaderMutations, headers: &mut Headers) {
    for name in &mutations.remove {
        headers.remove(name.as_str());
    }
}

fn add(mutations: &HeaderMutations, values: Vec<Option<Bytes>>, headers: &mut Headers) {
    let mut additions = Vec::new();
    let mut replacements = Vec::new();
    for (addition, value) in mutations.add.iter().zip(values) {
        let Some(value) = value else {
            continue;
        };
        let present = headers.get(addition.name.as_str()).is_some();
        match addition.action {
            AppendAction::AppendOrAdd => additions.push((&addition.name, value)),
            AppendAction::AddIfAbsent if present => {}
            AppendAction::AddIfAbsent => additions.push((&addition.name, value)),
            AppendAction::OverwriteIfExists if !present => {}
            AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists => {
                replacements.push((&addition.name, value));
            }
        }
    }
    for (name, value) in replacements {
        headers.remove(name.as_str());
        headers.append(name.clone(), value);
    }
    for (name, value) in additions {
        headers.append(name.clone(), value);
    }
}

/// Sends the request under another name, and tells the one that the client used.
pub(super) fn rewrite_host(
    manager: &HttpManager,
    request: &mut Request,
    host: &Bytes,
    append: bool,
) {
    let old = std::mem::replace(&mut request.authority, host.clone());
    let headers = &mut request.headers;
    if !manager.suppress_envoy_headers {
        headers.set(Known::XEnvoy, "x-envoy-original-host", old.clone());
    }
    if append {
        let value = match headers.joined("x-forwarded-host") {
            Some(before) => [&before[..], b",", &old].concat().into(),
            None => old,
        };
        headers.set(Known::XForwardedHost, "x-forwarded-host", value);
    }
}

fn rewrite_path(manager: &HttpManager, request: &mut Request, route: &Route, forward: &Forward) {
    let (path, query) = match memchr::memchr(b'?', &request.path) {
        Some(at) => request.path.split_at(at),
        None => (&request.path[..], &b""[..]),
    };
    let new = match (&forward.prefix_rewrite, &forward.regex_rewrite) {
        (Some(prefix), _) => {
            let matched = match &route.matches.path {
                PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) | PathMatch::Exact(p) => {
                    p.len()
                }
                // An expression matches the whole path.
                PathMatch::Regex(_) => path.len(),
                PathMatch::Connect => return,
            };
            let rest = path.get(matched..).unwrap_or_default();
            [prefix.as_bytes(), rest, query].concat()
        }
        (None, Some((regex, substitution))) => {
            let replaced = regex.replace_all(path, substitution.as_bytes());
            [&replaced[..], query].concat()
        }
        (None, None) => return,
    };
    let old = std::mem::replace(&mut request.path, Bytes::from(new));
    if !manager.suppress_envoy_headers {
        let name = "x-envoy-original-path";
        request.headers.set(Known::XEnvoy, name, old);
    }
}
