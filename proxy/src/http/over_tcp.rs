//! CONNECT that ends here: the bytes inside go to the upstream as they are
//! (`upgrade_configs` with `connect_config`).

use std::{pin::pin, sync::Arc};

use bytes::BytesMut;

use super::{
    client::{Client, Response, Switch},
    exchange::{Broken, Exchange},
    headers::Headers,
    matching,
    meter::WireCount,
    request::BodyLength,
    retry::Budget,
    timeouts::Clock,
    tunnel::End,
    wire::Wire,
};
use crate::{config::Cluster, upstream::LbRequest};

impl Exchange<'_> {
    pub(super) async fn over_tcp(
        &mut self,
        cluster: &Arc<Cluster>,
        client: &mut Client<'_, '_>,
        clock: &Clock,
        retries: &Budget<'_>,
    ) -> Result<(), Broken> {
        let authority = std::str::from_utf8(&self.asked).unwrap_or_default();
        let (host, port) = matching::host_and_port(authority);
        let request = LbRequest {
            named: Self::named(cluster, &host, port),
            excluded: retries.excluded(),
            selection_attempts: retries.selection_attempts(),
            avoid_priorities_every: retries.avoid_priorities_every(),
            hash: retries.hash(),
            original_destination: self.original_destination(cluster),
            downstream_end: Some(self.context.connection.end()),
            ..LbRequest::default()
        };
        let lease = self.context.worker.upstreams.tcp(cluster, &request);
        let lease = Self::unless_gone(client, pin!(lease)).await;
        let mut lease = lease.ok_or(Broken::Client)?.map_err(Broken::Unavailable)?;
        self.outcome.endpoint = Some(Arc::clone(lease.endpoint()));
        self.outcome.upstream = lease.link().cloned();
        let buffers = &self.context.worker.buffers;
        let wire = Wire::new(&mut lease.stream, BytesMut::new(), buffers);
        let _count = WireCount {
            meter: self.meter,
            wire: &wire,
        };
        self.count_code(cluster, 200);
        let answer = Response {
            status: 200,
            headers: Headers::default(),
            body: BodyLength::Empty,
            protocol: None,
            switch: Some(Switch::Tunnel),
        };
        self.enter_tunnel(answer, End::Wire(&wire), client, clock)
            .await
    }
}
