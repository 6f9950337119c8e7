//! Where a request goes: its route, the filters in front of it, and what the route says.

use std::{borrow::Cow, sync::Arc};

use super::{
    body::Source,
    client::Client,
    counts::Upgrade,
    exchange::Exchange,
    failure::LocalReply,
    filters::{Verdict, Way},
    prepare, redirect,
    request::Request,
};
use crate::config::{
    HttpManager, Snapshot,
    route::{Clusters, Route, RouteAction, RouteTable},
};

impl Exchange<'_> {
    /// Takes the request to the end of its response; an error is what to answer in its place.
    pub(super) async fn route_and_forward(
        &mut self,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<(), LocalReply> {
        let manager = self.context.manager;
        prepare::request(self.context, &mut self.request)?;
        let table = manager
            .routes
            .load_full()
            .ok_or_else(LocalReply::no_route)?;
        let snapshot = self.context.worker.snapshot();
        let mut first = 0;
        loop {
            let next = self.route_from(first, &table, &snapshot, source, client);
            match next.await? {
                None => return Ok(()),
                Some(next) => first = next,
            }
        }
    }

    /// Finds the request's route, takes it through the filters from `first` on, and to its end;
    /// `Some` if a filter wants the route found again before the next one.
    async fn route_from(
        &mut self,
        first: usize,
        table: &Arc<RouteTable>,
        snapshot: &Snapshot,
        source: &mut Source<'_, '_>,
        client: &mut Client<'_, '_>,
    ) -> Result<Option<usize>, LocalReply> {
        let found = self.find_route(table);
        let cluster = self.note_route(found.as_ref().ok(), table);
        let cluster = cluster.as_deref();
        if let Some(tracing) = &self.context.manager.tracing {
            match self.trace.take() {
                None => self.begin_trace(tracing),
                Some(trace) => self.reroute_trace(tracing, trace),
            }
        }
        // Logs, metrics and spans name it, also where a filter answers in its place.
        let target = cluster.and_then(|name| snapshot.clusters.get(name));
        self.outcome.cluster = target.map(|cluster| Arc::clone(&cluster.name));
        let is_told = self.trace.as_ref().is_some_and(|trace| trace.is_sampled());
        let is_named = is_told || self.filters.telemetry.is_some();
        self.outcome.target = target.filter(|_| is_named).cloned();
        // Who is denied learns nothing of the routes.
        if !self.context.manager.filters.is_empty() {
            let route = found.as_ref().ok();
            let route = route.map(|(host, route)| (&**table, *host, &**route));
            let way = Way::new(snapshot, route, self.outcome.weighted, cluster);
            match self.filter_request(&way, first, source, client).await {
                Verdict::Pass => {}
                Verdict::Reroute(next) => return Ok(Some(next)),
                Verdict::Reply(reply) => return Err(reply),
                Verdict::Gone => {
                    self.client_gone();
                    return Ok(None);
                }
            }
        }
        let (host, route) = found.inspect_err(|reply| self.count_routeless(reply))?;
        self.check_upgrade(&route.action)?;
        self.context.stats.rq_total.inc();
        let _upgrade = Upgrade::new(self.context.stats, &self.request);
        match &route.action {
            RouteAction::Direct { status, body } => {
                self.context.stats.rq_direct_response.inc();
                Err(redirect::direct(*status, body, &self.request))
            }
            RouteAction::Redirect(to) => {
                self.context.stats.rq_direct_response.inc();
                Err(redirect::reply(to, &route.matches, &mut self.request))
            }
            RouteAction::Forward(forward) => {
                let way = (&**table, &table.hosts[host], &*route);
                let target = target.ok_or_else(|| {
                    self.context.stats.no_cluster.inc();
                    LocalReply::no_cluster(forward.cluster_not_found.as_u16())
                })?;
                self.forward(way, (snapshot, target), forward, source, client)
                    .await?;
                Ok(None)
            }
        }
    }

    /// The virtual host's index in the table, and the route.
    fn find_route(&self, table: &RouteTable) -> Result<(usize, Arc<Route>), LocalReply> {
        let authority = std::str::from_utf8(&self.request.authority).unwrap_or_default();
        let found = table
            .virtual_host(authority)
            .ok_or_else(LocalReply::no_route);
        let (index, host) = found?;
        if host.require_tls && self.request.scheme != Some("https") {
            return Err(redirect::to_https(&self.request));
        }
        let route = host.route(&self.request).cloned();
        let route = route.ok_or_else(LocalReply::no_route)?;
        Ok((index, route))
    }

    /// Notes what was found for the log, and chooses the cluster.
    fn note_route<'f>(
        &mut self,
        found: Option<&'f (usize, Arc<Route>)>,
        table: &Arc<RouteTable>,
    ) -> Option<Cow<'f, str>> {
        let chosen = found.and_then(|(_, route)| choose_cluster(&route.action, &self.request));
        let outcome = &mut self.outcome;
        outcome.route = found.map(|(_, route)| Arc::clone(route));
        outcome.host = found.map(|(host, _)| (Arc::clone(table), *host));
        outcome.weighted = chosen.as_ref().and_then(|(_, weighted)| *weighted);
        chosen.map(|(name, _)| name)
    }

    fn check_upgrade(&self, action: &RouteAction) -> Result<(), LocalReply> {
        let manager = self.context.manager;
        if !self.request.asks_for_tunnel() || is_allowed(&self.request, manager, action) {
            return Ok(());
        }
        self.context.stats.downstream_rq_ws_on_non_ws_route.inc();
        Err(LocalReply::upgrade_failed())
    }
}

/// Whether a connection may change to what the request asks for: the route has the last word.
fn is_allowed(request: &Request, manager: &HttpManager, action: &RouteAction) -> bool {
    let upgrade = request.upgrade.as_deref().unwrap_or(b"connect");
    let is_it = |name: &str| name.as_bytes().eq_ignore_ascii_case(upgrade);
    let of_route = match action {
        RouteAction::Forward(forward) => forward.upgrades.iter().find(|(name, _)| is_it(name)),
        RouteAction::Redirect(_) | RouteAction::Direct { .. } => None,
    };
    match of_route {
        Some((_, enabled)) => *enabled,
        None => manager.upgrades.iter().any(|name| is_it(name)),
    }
}

/// The cluster of a route that forwards: its name, and its index among weighted ones.
fn choose_cluster<'c>(
    action: &'c RouteAction,
    request: &Request,
) -> Option<(Cow<'c, str>, Option<usize>)> {
    let RouteAction::Forward(forward) = action else {
        return None;
    };
    Some(match &forward.clusters {
        Clusters::One(name) => (Cow::Borrowed(name), None),
        Clusters::Weighted { total, entries } => {
            let mut at = fastrand::u32(..(*total).max(1));
            for (index, entry) in entries.iter().enumerate() {
                if at < entry.weight {
                    return Some((Cow::Borrowed(&entry.name), Some(index)));
                }
                at -= entry.weight;
            }
            (Cow::Borrowed(""), None)
        }
        Clusters::Header(name) => {
            let value = request.headers.get(name.as_str());
            let name = value.and_then(|value| std::str::from_utf8(value).ok());
            (Cow::Owned(name.unwrap_or_default().to_owned()), None)
        }
    })
}
