//! Draining listeners on request, all or those of inbound traffic.

use std::{sync::Arc, time::Duration};

use tokio::task::AbortHandle;

use super::thread::{Command, WorkerThread};
use crate::config::{Listener, listener::TrafficDirection};

/// What is drained, and how (Envoy's `/drain_listeners`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Only listeners of inbound traffic; the others go on and follow the configuration.
    pub inbound_only: bool,
    /// Connections are asked to finish at once, and sockets close when the drain time is over.
    pub graceful: bool,
    /// Sockets never close: connections alone are asked to finish.
    pub skip_exit: bool,
}

impl Drain {
    pub(super) fn covers(self, listener: &Listener) -> bool {
        !self.inbound_only || listener.direction == TrafficDirection::Inbound
    }
}

/// Drains the listeners of running workers. Cheap to clone; it does nothing once they have ended.
#[derive(Clone, Debug)]
pub struct Drainer {
    pub(super) workers: Arc<[WorkerThread]>,
    /// The task that binds listeners.
    pub(super) listeners: AbortHandle,
    pub(super) drain_time: Duration,
}

impl Drainer {
    /// Returns at once. Must be called inside a tokio runtime.
    pub fn drain(&self, drain: Drain) {
        if drain.skip_exit {
            return self.send(drain, false);
        }
        if !drain.graceful {
            return self.stop(drain);
        }
        self.send(drain, false);
        let later = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(later.drain_time).await;
            later.stop(drain);
        });
    }

    fn stop(&self, drain: Drain) {
        if !drain.inbound_only {
            // Nothing opens again.
            self.listeners.abort();
        }
        self.send(drain, true);
    }

    fn send(&self, drain: Drain, close: bool) {
        for worker in self.workers.iter() {
            worker.send(Command::Drain { drain, close });
        }
    }
}
