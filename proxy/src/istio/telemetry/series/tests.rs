use super::*;
use crate::istio::{
    Node, Workload,
    telemetry::{Changes, Protocol, Reporter},
};

/// A registry that is old enough for series to be idle.
fn registry() -> Arc<MeshRegistry> {
    let began = Instant::now().checked_sub(2 * IDLE);
    let began = began.expect("the machine runs for longer");
    Arc::new(MeshRegistry {
        began,
        ..MeshRegistry::default()
    })
}

fn telemetry(id: u64, registry: &Arc<MeshRegistry>) -> Arc<Telemetry> {
    Arc::new(Telemetry {
        id,
        reporter: Reporter::Destination,
        node: Arc::new(Node::new(None)),
        host_fallback: false,
        changes: Changes::default(),
        expressions: Vec::new(),
        registry: Arc::clone(registry),
    })
}

fn peer(name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: name.into(),
        ..Workload::default()
    })
}

fn of(peer: &Arc<Workload>) -> Labels<'_> {
    Labels {
        peer: Some(peer),
        ..Labels::unknown(Protocol::Http)
    }
}

/// Fills the table with peers that have long names.
fn fill(table: &SeriesTable, telemetry: &Arc<Telemetry>) {
    for i in 0.. {
        let peer = peer(&format!("{i:02000}"));
        if table.series(telemetry, &of(&peer)).labels.labels() != of(&peer) {
            break;
        }
    }
}

fn forget_when_it_was(registry: &MeshRegistry) {
    registry.sweeps.lock().last = None;
    for series in registry.list.lock().iter() {
        series.used.store(0, Relaxed);
    }
}

#[test]
fn what_peers_make_us_keep_is_bounded_in_bytes() {
    let registry = registry();
    let (table, telemetry) = (SeriesTable::default(), telemetry(1, &registry));
    fill(&table, &telemetry);
    let list = registry.list.lock();
    let kept: usize = list.iter().map(|series| series.bytes()).sum();
    assert!(list.len() > 1000);
    assert!(kept < MAX_BYTES + 2 * 4096, "{kept}");
    assert!(list.iter().all(|series| series.bytes() < 4096));
}

#[test]
fn idle_series_make_room_for_new_ones() {
    let registry = registry();
    let (table, telemetry) = (SeriesTable::default(), telemetry(1, &registry));
    let long_lived = peer("long-lived");
    let connection = table.series(&telemetry, &of(&long_lived));
    fill(&table, &telemetry);
    forget_when_it_was(&registry);
    let fresh = peer("fresh");
    let series = table.series(&telemetry, &of(&fresh));
    assert!(series.labels.labels() == of(&fresh), "counted as unknown");
    assert_eq!(registry.list.lock().len(), 2);
    let again = table.series(&telemetry, &of(&long_lived));
    assert!(
        Arc::ptr_eq(&again, &connection),
        "a connection counts in it"
    );
    assert!(table.0.borrow().bytes < 8192);
}

#[test]
fn a_series_that_went_begins_anew() {
    let registry = registry();
    let (table, telemetry) = (SeriesTable::default(), telemetry(1, &registry));
    let peer = peer("a");
    table.series(&telemetry, &of(&peer)).requests.inc();
    forget_when_it_was(&registry);
    registry.sweep();
    let series = table.series(&telemetry, &of(&peer));
    assert_eq!(series.requests.get(), 0);
    assert_eq!(registry.list.lock().len(), 1);
}

#[test]
fn equal_labels_of_two_workers_go_together() {
    let registry = registry();
    let telemetry = telemetry(1, &registry);
    let (one, two) = (SeriesTable::default(), SeriesTable::default());
    let peer = peer("a");
    one.series(&telemetry, &of(&peer));
    forget_when_it_was(&registry);
    two.series(&telemetry, &of(&peer));
    registry.sweep();
    assert_eq!(registry.list.lock().len(), 2);
}

#[test]
fn series_of_a_configuration_that_is_gone_go() {
    let registry = registry();
    let table = SeriesTable::default();
    let (old, new) = (telemetry(1, &registry), telemetry(2, &registry));
    let peer = peer("a");
    for telemetry in [&old, &new] {
        table.series(telemetry, &of(&peer));
    }
    drop(old);
    registry.sweep();
    let left: Vec<_> = registry
        .list
        .lock()
        .iter()
        .map(|series| series.telemetry.id)
        .collect();
    assert_eq!(left, [2]);
}
