//! `istio.stats` on TCP: one session, counted once it is known who the other end is.

use std::{rc::Rc, sync::Arc, time::SystemTime};

use crate::{
    access_log::{Entry, ResponseFlags},
    config::{Cluster, cluster::Endpoint},
    http::telemetry::{is_service_of_its_own, principals},
    istio::{
        Telemetry, Workload,
        telemetry::{Labels, Protocol, Reporter, Series, ServiceName},
    },
    upstream::{Link, TcpLease},
    worker::{Connection, Worker},
};

/// What is counted of one session; its end is, when this is dropped.
pub(super) struct Report {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    telemetry: Option<Arc<Telemetry>>,
    cluster: Option<Arc<Cluster>>,
    endpoint: Option<Arc<Endpoint>>,
    link: Option<Rc<Link>>,
    downstream: Option<Arc<Workload>>,
    upstream: Option<Arc<Workload>>,
    pub(super) flags: ResponseFlags,
    /// Once it has begun.
    series: Option<Arc<Series>>,
    /// From downstream, and to it; those that are counted already.
    passed: (u64, u64),
    counted: (u64, u64),
}

impl Report {
    pub(super) fn new(worker: &Rc<Worker>, connection: &Rc<Connection>) -> Self {
        Self {
            worker: Rc::clone(worker),
            telemetry: connection.chain.telemetry.clone(),
            connection: Rc::clone(connection),
            cluster: None,
            endpoint: None,
            link: None,
            downstream: None,
            upstream: None,
            flags: ResponseFlags::NONE,
            series: None,
            passed: (0, 0),
            counted: (0, 0),
        }
    }

    pub(super) fn to(&mut self, cluster: &Arc<Cluster>) {
        if self.telemetry.is_some() {
            self.cluster = Some(Arc::clone(cluster));
        }
    }

    pub(super) fn connected(&mut self, lease: &TcpLease) {
        if self.telemetry.is_some() {
            self.endpoint = Some(Arc::clone(lease.endpoint()));
            self.link = lease.link().cloned();
        }
    }

    /// Bytes so far, and who the ends are: `None` while a peer may yet tell.
    pub(super) fn update(
        &mut self,
        passed: (u64, u64),
        downstream: Option<&Option<Arc<Workload>>>,
        upstream: Option<&Option<Arc<Workload>>>,
    ) {
        let Some(telemetry) = &self.telemetry else {
            return;
        };
        self.passed = passed;
        if self.series.is_none() {
            let known = match telemetry.reporter {
                Reporter::Source => upstream.is_some(),
                Reporter::Destination => downstream.is_some(),
                Reporter::Waypoint => upstream.is_some() && downstream.is_some(),
            };
            if !known {
                return;
            }
            self.downstream = downstream.cloned().flatten();
            self.upstream = upstream.cloned().flatten();
            self.begin();
        }
        self.count();
    }

    fn begin(&mut self) {
        let Some(telemetry) = &self.telemetry else {
            return;
        };
        let is_source = telemetry.reporter == Reporter::Source;
        let endpoint = self.endpoint.as_ref();
        let upstream = (self.upstream.as_ref()).or_else(|| endpoint?.workload.as_ref());
        let session = match is_source {
            true => self.link.as_ref().and_then(|link| link.tls.as_ref()),
            false => self.connection.tls.as_ref(),
        };
        let (peer_principal, own_principal) = principals(session);
        let peer = match is_source {
            true => upstream,
            false => self.downstream.as_ref(),
        };
        let values = self.label_values(telemetry);
        let labels = Labels {
            protocol: Protocol::Tcp,
            code: 0,
            grpc_status: None,
            flags: self.flags,
            mutual_tls: (!is_source)
                .then_some(!peer_principal.is_empty() && !own_principal.is_empty()),
            peer,
            upstream: upstream.filter(|_| telemetry.reporter == Reporter::Waypoint),
            peer_principal,
            own_principal,
            service: service(self.cluster.as_deref()),
            values: &values,
        };
        let series = self.worker.mesh.series(telemetry, &labels);
        series.tcp_opened.inc();
        self.series = Some(series);
    }

    /// What expressions say of a connection.
    fn label_values(&self, telemetry: &Telemetry) -> Vec<Box<str>> {
        if telemetry.expressions.is_empty() {
            return Vec::new();
        }
        let mut entry = Entry::new(SystemTime::now());
        entry.flags = self.flags;
        entry.downstream = self.connection.log_info();
        entry.upstream.cluster = self.cluster.as_ref().map(|it| &*it.name);
        entry.upstream.tls = self.link.as_ref().and_then(|link| link.tls.as_ref());
        entry.downstream_peer = self.downstream.as_deref();
        entry.upstream_peer = self.upstream.as_deref();
        let expressions = telemetry.expressions.iter();
        expressions
            .map(|it| it.text(&entry).map_or_else(|| "unknown".into(), Into::into))
            .collect()
    }

    fn count(&mut self) {
        if let Some(series) = &self.series {
            series.tcp_received.add(self.passed.0 - self.counted.0);
            series.tcp_sent.add(self.passed.1 - self.counted.1);
            self.counted = self.passed;
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.series.is_none() {
            self.begin();
        }
        self.count();
        if let Some(series) = &self.series {
            series.tcp_closed.inc();
        }
    }
}

fn service(cluster: Option<&Cluster>) -> ServiceName<'_> {
    let Some(cluster) = cluster else {
        return ServiceName::default();
    };
    match &cluster.mesh.service {
        _ if is_service_of_its_own(&cluster.name) => ServiceName {
            name: &cluster.name,
            ..ServiceName::default()
        },
        Some(known) => ServiceName {
            host: &known.host,
            name: &known.name,
            namespace: &known.namespace,
        },
        None => ServiceName::default(),
    }
}
