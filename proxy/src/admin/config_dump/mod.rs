//! `/config_dump`: the bootstrap and every resource, as Envoy prints them.
//!
//! What a control plane sent is shown as it was received. A resource whose newest form is refused
//! shows that form and what is wrong with it beside the one that serves.

mod endpoints;
mod select;

use std::{sync::Arc, time::SystemTime};

use http::StatusCode;
use ithildin_proto::{
    Printer, pack,
    pb::envoy::{
        config::{
            bootstrap::v3::{Bootstrap, bootstrap::StaticResources},
            listener::v3::{FilterChain, Listener, filter},
            route::v3::RouteConfiguration,
        },
        extensions::{
            filters::network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
            transport_sockets::tls::v3::Secret,
        },
    },
    unpack,
};
use prost::{Message, Name};
use serde_json::{Map, Value, json};

use self::select::section_type;
pub(super) use self::select::{Selection, whole_name};
use super::AdminState;
use crate::control::{Held, HeldSecret, Inventory, Refused, Source};

/// What `wanted` selects, or a status and why it cannot be.
pub(super) async fn config_dump(
    state: &AdminState,
    wanted: &Selection,
) -> Result<Value, (StatusCode, String)> {
    // Without the control task nothing is dynamic any more.
    let inventory = state.inventory.get().await.unwrap_or_default();
    let mut bootstrap = state.bootstrap.read();
    let dump = Dump {
        loaded: state.bootstrap.loaded,
        // Much memory while it lives; dropped with this call.
        printer: Printer::new(),
        inventory,
    };
    let mut configs = vec![json!({
        "@type": section_type("Bootstrap"),
        "bootstrap": dump.printer.json(&bootstrap),
        "last_updated": time(dump.loaded),
    })];
    let statics = take_statics(&mut bootstrap);
    configs.push(dump.clusters(&statics));
    if wanted.include_eds {
        configs.push(dump.endpoints(&statics, state));
    }
    configs.extend([
        dump.listeners(&statics),
        // There are none, and who reads dumps by place expects their section.
        section("ScopedRoutes").into(),
        dump.routes(&statics),
        dump.secrets(&statics),
    ]);
    wanted.apply(configs)
}

struct Dump {
    loaded: SystemTime,
    printer: Printer,
    inventory: Inventory,
}

impl Dump {
    fn clusters(&self, statics: &StaticResources) -> Value {
        let mut section = section("Clusters");
        let version = &self.inventory.clusters_version;
        set_version(&mut section, version, !self.inventory.clusters.is_empty());
        self.fixed(
            &mut section,
            "static_clusters",
            "cluster",
            &statics.clusters,
        );
        let held = &self.inventory.clusters;
        let active = held.iter().filter(|held| held.active.is_some());
        let active = active.map(|held| self.flat("cluster", held, held.active.as_ref(), true));
        insert(&mut section, "dynamic_active_clusters", active.collect());
        let warming = held
            .iter()
            .filter(|held| held.warming.is_some() || held.active.is_none());
        let warming = warming.map(|held| {
            let told = held.active.is_some();
            self.flat("cluster", held, held.warming.as_ref(), !told)
        });
        insert(&mut section, "dynamic_warming_clusters", warming.collect());
        section.into()
    }

    fn endpoints(&self, statics: &StaticResources, state: &AdminState) -> Value {
        let mut section = section("Endpoints");
        let snapshot = state.published.current.load();
        let clusters = statics.clusters.iter();
        let fixed = clusters.filter_map(|cluster| {
            let assignment = cluster.load_assignment.as_ref()?;
            let live = snapshot.clusters.get(&*cluster.name);
            let assignment = match live.and_then(|live| endpoints::without_eds(cluster, live)) {
                Some(assignment) => assignment,
                None => endpoints::as_served(assignment, None),
            };
            Some(json!({"endpoint_config": self.printer.json(&pack(&assignment))}))
        });
        insert(&mut section, "static_endpoint_configs", fixed.collect());
        let held = self.inventory.endpoints.iter();
        let dynamic = held.map(|held| {
            let live = endpoints::cluster_of(&held.name, &self.inventory.clusters, &snapshot);
            let source = held.active.as_ref().map(|source| Source {
                message: source
                    .message
                    .as_ref()
                    .map(|it| Arc::new(endpoints::as_served(it, live.as_deref()))),
                stamp: source.stamp.clone(),
            });
            self.flat("endpoint_config", held, source.as_ref(), true)
        });
        let active = self.inventory.clusters.iter();
        let active = active.filter_map(|held| held.active.as_ref()?.message.as_ref());
        let without_eds = active.filter_map(|config| {
            let live = snapshot.clusters.get(&*config.name)?;
            let assignment = endpoints::without_eds(config, live)?;
            Some(json!({"endpoint_config": self.printer.json(&pack(&assignment))}))
        });
        let dynamic = dynamic.chain(without_eds).collect();
        insert(&mut section, "dynamic_endpoint_configs", dynamic);
        section.into()
    }

    fn listeners(&self, statics: &StaticResources) -> Value {
        let mut section = section("Listeners");
        let version = &self.inventory.listeners_version;
        let dynamic = !self.inventory.listeners.is_empty();
        set_version(&mut section, version, dynamic);
        self.fixed(
            &mut section,
            "static_listeners",
            "listener",
            &statics.listeners,
        );
        let dynamic = self.inventory.listeners.iter().map(|held| {
            let mut entry = Map::new();
            entry.insert("name".to_owned(), held.name.as_str().into());
            for (state, source) in [
                ("active_state", &held.active),
                ("warming_state", &held.warming),
            ] {
                if let Some(source) = source {
                    let form = self.form("listener", source);
                    entry.insert(state.to_owned(), form.into());
                }
            }
            if let Some(refused) = &held.refused {
                entry.insert("error_state".to_owned(), self.failure(refused));
            }
            entry.into()
        });
        insert(&mut section, "dynamic_listeners", dynamic.collect());
        section.into()
    }

    fn routes(&self, statics: &StaticResources) -> Value {
        let mut section = section("Routes");
        let dynamic = self.inventory.listeners.iter();
        let dynamic = dynamic.filter_map(|held| {
            let source = held.active.as_ref()?;
            Some((source.message.as_deref()?, source.stamp.at))
        });
        let listeners = statics.listeners.iter().map(|it| (it, self.loaded));
        let inline = listeners.chain(dynamic).flat_map(|(listener, at)| {
            let tables = inline_routes(listener).into_iter();
            tables.map(move |table| (table, at))
        });
        let inline = inline.map(|(table, at)| {
            json!({"route_config": self.printer.json(&pack(&table)), "last_updated": time(at)})
        });
        insert(&mut section, "static_route_configs", inline.collect());
        let held = self.inventory.routes.iter();
        let dynamic = held.map(|it| self.flat("route_config", it, it.active.as_ref(), true));
        insert(&mut section, "dynamic_route_configs", dynamic.collect());
        section.into()
    }

    /// Keys are redacted by the printer.
    fn secrets(&self, statics: &StaticResources) -> Value {
        let mut section = section("Secrets");
        let fixed = statics
            .secrets
            .iter()
            .map(|secret| json!({"name": secret.name, "secret": self.printer.json(&pack(secret))}));
        insert(&mut section, "static_secrets", fixed.collect());
        let (active, warming): (Vec<_>, Vec<_>) = self
            .inventory
            .secrets
            .iter()
            .partition(|held| held.secret.is_some());
        for (list, secrets) in [
            ("dynamic_active_secrets", active),
            ("dynamic_warming_secrets", warming),
        ] {
            let secrets = secrets.into_iter().map(|held| self.secret(held));
            insert(&mut section, list, secrets.collect());
        }
        section.into()
    }

    fn secret(&self, held: &HeldSecret) -> Value {
        let mut entry = Map::new();
        entry.insert("name".to_owned(), (*held.status.name).into());
        let version = match &held.stamp {
            Some(stamp) => {
                entry.insert("last_updated".to_owned(), time(stamp.at));
                stamp.version_info()
            }
            None => "uninitialized".into(),
        };
        set_version(&mut entry, &version, true);
        let secret = match &held.secret {
            Some(secret) => pack(&***secret),
            // As Envoy: its readers expect one.
            None => pack(&Secret {
                name: held.status.name.to_string(),
                r#type: None,
            }),
        };
        entry.insert("secret".to_owned(), self.printer.json(&secret));
        if let Some(error) = &held.status.error {
            entry.insert("error_state".to_owned(), json!({ "details": &**error }));
        }
        entry.into()
    }

    /// Resources of the bootstrap.
    fn fixed<M: Message + Name>(
        &self,
        section: &mut Map<String, Value>,
        list: &str,
        field: &str,
        all: &[M],
    ) {
        let entries = all.iter().map(|message| {
            json!({field: self.printer.json(&pack(message)), "last_updated": time(self.loaded)})
        });
        insert(section, list, entries.collect());
    }

    /// A resource whose state and failure stand side by side.
    fn flat<M: Message + Name>(
        &self,
        field: &str,
        held: &Held<M>,
        source: Option<&Source<M>>,
        with_failure: bool,
    ) -> Value {
        let mut entry = source.map_or_else(Map::new, |source| self.form(field, source));
        if let Some(refused) = held.refused.as_ref().filter(|_| with_failure) {
            entry.insert("error_state".to_owned(), self.failure(refused));
        }
        entry.into()
    }

    fn form<M: Message + Name>(&self, field: &str, source: &Source<M>) -> Map<String, Value> {
        let mut entry = Map::new();
        set_version(&mut entry, &source.stamp.version_info(), true);
        if let Some(message) = &source.message {
            let message = self.printer.json(&pack(&**message));
            entry.insert(field.to_owned(), message);
        }
        entry.insert("last_updated".to_owned(), time(source.stamp.at));
        entry
    }

    /// `envoy.admin.v3.UpdateFailureState`.
    fn failure<M: Message + Name>(&self, refused: &Refused<M>) -> Value {
        let Refused { source, reason } = refused;
        let mut state = Map::new();
        if let Some(message) = &source.message {
            let message = self.printer.json(&pack(&**message));
            state.insert("failed_configuration".to_owned(), message);
        }
        state.insert("last_update_attempt".to_owned(), time(source.stamp.at));
        state.insert("details".to_owned(), (**reason).into());
        set_version(&mut state, &source.stamp.version_info(), true);
        state.into()
    }
}

/// An empty one is left out, as protobuf's JSON does.
fn set_version(entry: &mut Map<String, Value>, version: &str, known: bool) {
    if known && !version.is_empty() {
        entry.insert("version_info".to_owned(), version.into());
    }
}

fn take_statics(bootstrap: &mut Bootstrap) -> StaticResources {
    bootstrap.static_resources.take().unwrap_or_default()
}

/// The tables that stand in a listener itself.
fn inline_routes(listener: &Listener) -> Vec<RouteConfiguration> {
    let chains = listener.filter_chains.iter();
    let chains = chains.chain(&listener.default_filter_chain);
    chains.flat_map(chain_routes).collect()
}

fn chain_routes(chain: &FilterChain) -> impl Iterator<Item = RouteConfiguration> {
    chain.filters.iter().filter_map(|filter| {
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return None;
        };
        match unpack::<HttpConnectionManager>(config)
            .ok()?
            .route_specifier?
        {
            RouteSpecifier::RouteConfig(table) => Some(table),
            RouteSpecifier::Rds(_) | RouteSpecifier::ScopedRoutes(_) => None,
        }
    })
}

fn section(name: &str) -> Map<String, Value> {
    let mut section = Map::new();
    section.insert("@type".to_owned(), section_type(name).into());
    section
}

/// An empty list is left out, as protobuf's JSON does.
fn insert(section: &mut Map<String, Value>, list: &str, entries: Vec<Value>) {
    if !entries.is_empty() {
        section.insert(list.to_owned(), entries.into());
    }
}

/// RFC 3339 in milliseconds.
fn time(at: SystemTime) -> Value {
    match jiff::Timestamp::try_from(at) {
        Ok(at) => format!("{at:.3}").into(),
        Err(_) => Value::Null,
    }
}
