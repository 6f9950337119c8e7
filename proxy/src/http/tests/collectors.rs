//! Collectors: what is gathered for them, when it is sent, and what becomes of it.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use parking_lot::Mutex;

use super::{
    super::collector::{Batch, Collector, Collectors, Fate, MAX_GATHERED, Report, Speaks},
    support::{Act, Origin, ok, send},
};
use crate::{
    testing,
    worker::{Published, Worker},
};

/// What was counted.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<Vec<(Fate, u64)>>>);

impl Report for Counts {
    fn write(&self, items: &[u8], body: &mut Vec<u8>) {
        body.extend_from_slice(b"[");
        body.extend_from_slice(items);
        body.extend_from_slice(b"]");
    }

    fn count(&self, worker: usize, fate: Fate, items: u64) {
        assert_eq!(worker, 0);
        self.0.lock().push((fate, items));
    }
}

struct Lab {
    worker: Rc<Worker>,
    collector: Arc<Collector>,
    counts: Counts,
}

const BATCH: Batch = Batch {
    interval: Duration::from_millis(20),
    bytes: 100,
    items: 10,
};

impl Lab {
    fn new(address: SocketAddr, batch: Batch) -> Self {
        let clusters = vec![testing::cluster("collector", &[address])];
        let published = Published::new(testing::snapshot(Vec::new(), clusters));
        let counts = Counts::default();
        let collector = Collector {
            cluster: "collector".into(),
            authority: Bytes::from_static(b"a.test"),
            path: Bytes::from_static(b"/spans"),
            speaks: Speaks::Http(vec![(CONTENT_TYPE, Bytes::from_static(b"text/plain"))]),
            timeout: Duration::from_secs(60),
            batch,
            report: Box::new(counts.clone()),
        };
        Self {
            worker: Worker::new(0, published, Arc::default()),
            collector: Arc::new(collector),
            counts,
        }
    }

    fn collector_mut(&mut self) -> &mut Collector {
        Arc::get_mut(&mut self.collector).unwrap()
    }

    fn tell(&self, text: &str) {
        let add = |items: &mut Vec<u8>| items.extend_from_slice(text.as_bytes());
        self.collector.tell(&self.worker, add);
    }

    async fn counted(&self, expected: &[(Fate, u64)]) {
        let counted = || *self.counts.0.lock() == expected;
        testing::eventually(&format!("{expected:?}"), counted).await;
        let nothing = || self.worker.reported.is_whole() && self.worker.gathered.is_empty();
        testing::eventually("nothing is held", nothing).await;
    }
}

/// On a thread of its own, as a worker is.
async fn on_a_worker(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn items_are_told_together_when_it_is_time_or_they_are_many() {
    on_a_worker(async {
        let origin = Origin::start(|_| ok("")).await;
        let lab = Lab::new(origin.address, BATCH);
        lab.tell("a");
        lab.tell("b");
        lab.counted(&[(Fate::Due, 2), (Fate::Sent, 2)]).await;
        let slow = Batch {
            interval: Duration::from_secs(3600),
            ..BATCH
        };
        let many = Lab::new(origin.address, slow);
        (0..10).for_each(|_| many.tell("c"));
        many.counted(&[(Fate::Sent, 10)]).await;
        many.tell(&"d".repeat(100));
        many.counted(&[(Fate::Sent, 10), (Fate::Sent, 1)]).await;
        let requests = origin.requests();
        let parts = requests.iter().map(|it| it.split_once("\r\n\r\n").unwrap());
        let parts: Vec<_> = parts.collect();
        let expected = ["[ab]", "[cccccccccc]", &format!("[{}]", "d".repeat(100))];
        assert_eq!(parts.iter().map(|it| it.1).collect::<Vec<_>>(), expected);
        for (head, body) in parts {
            assert!(
                head.starts_with("POST /spans HTTP/1.1\r\nhost: a.test\r\n"),
                "{head}"
            );
            assert!(head.contains("\r\ncontent-type: text/plain"), "{head}");
            assert!(
                head.contains(&format!("\r\ncontent-length: {}", body.len())),
                "{head}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_meanwhile_comes_waits_for_the_next_report() {
    on_a_worker(async {
        let origin = Origin::start(|_| Act::Hang).await;
        let mut lab = Lab::new(origin.address, Batch { items: 1, ..BATCH });
        lab.collector_mut().timeout = Duration::from_millis(200);
        lab.tell("a");
        testing::eventually("a request", || origin.requests().len() == 1).await;
        lab.tell("b");
        lab.tell("c");
        // After a failure there is a pause, however much there is.
        lab.counted(&[(Fate::Failed, 1), (Fate::Due, 2), (Fate::Failed, 2)])
            .await;
    })
    .await;
}

#[tokio::test]
async fn what_has_no_room_is_dropped() {
    on_a_worker(async {
        let lab = Lab::new(ithildin_sys::port::refusing().unwrap(), BATCH);
        let long = "x".repeat(MAX_GATHERED - 1);
        lab.tell(&long);
        lab.tell("yz");
        lab.tell("y");
        lab.tell("z");
        lab.counted(&[(Fate::Dropped, 1), (Fate::Dropped, 1), (Fate::Failed, 2)])
            .await;
        // Nothing is told of what is all dropped.
        let none = Lab::new(ithildin_sys::port::refusing().unwrap(), BATCH);
        none.tell(&"x".repeat(MAX_GATHERED + 1));
        none.counted(&[(Fate::Dropped, 1)]).await;
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_fails_is_not_asked_again_at_once() {
    on_a_worker(async {
        let slow = Batch {
            interval: Duration::from_secs(3600),
            items: 1,
            ..BATCH
        };
        let lab = Lab::new(ithildin_sys::port::refusing().unwrap(), slow);
        lab.tell("a");
        let failed = || *lab.counts.0.lock() == [(Fate::Failed, 1)];
        testing::eventually("a failure", failed).await;
        lab.tell("b");
        // In that time it would have failed as well.
        let other = Lab::new(ithildin_sys::port::refusing().unwrap(), slow);
        other.tell("c");
        let other_failed = || *other.counts.0.lock() == [(Fate::Failed, 1)];
        testing::eventually("another failure", other_failed).await;
        assert!(failed(), "it waits");
        lab.worker.gathered.flush(Duration::from_secs(60)).await;
        lab.counted(&[(Fate::Failed, 1), (Fate::Failed, 1)]).await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_larger_than_what_is_gathered_is_sent_before() {
    on_a_worker(async {
        let origin = Origin::start(|_| ok("")).await;
        let batch = Batch {
            interval: Duration::from_secs(3600),
            bytes: usize::MAX,
            items: u64::MAX,
        };
        let lab = Lab::new(origin.address, batch);
        let half = "x".repeat(MAX_GATHERED / 2);
        lab.tell(&half);
        lab.counted(&[(Fate::Sent, 1)]).await;
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_not_there_is_asked_once() {
    on_a_worker(async {
        let origin = Origin::start(|_| send("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")).await;
        let lab = Lab::new(origin.address, Batch { items: 1, ..BATCH });
        lab.tell("a");
        lab.counted(&[(Fate::Refused, 1)]).await;
        assert_eq!(origin.requests().len(), 1);
        let mut nobody = Lab::new(origin.address, Batch { items: 1, ..BATCH });
        nobody.collector_mut().cluster = "nobody".into();
        nobody.tell("a");
        nobody.counted(&[(Fate::NoCluster, 1)]).await;
        // A method of gRPC.
        let mut plain = Lab::new(origin.address, Batch { items: 1, ..BATCH });
        plain.collector_mut().speaks = Speaks::Grpc(Vec::new());
        plain.tell("a");
        plain.counted(&[(Fate::Failed, 1)]).await;
        assert_eq!(origin.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_worker_waits_for_no_time() {
    on_a_worker(async {
        let slow = Batch {
            interval: Duration::from_secs(3600),
            ..BATCH
        };
        let origin = Origin::start(|_| ok("")).await;
        let lab = Lab::new(origin.address, slow);
        lab.tell("a");
        lab.worker.gathered.flush(Duration::from_secs(60)).await;
        lab.counted(&[(Fate::Sent, 1)]).await;
        let dead = Lab::new(ithildin_sys::port::refusing().unwrap(), slow);
        dead.tell("a");
        dead.worker.gathered.flush(Duration::from_secs(60)).await;
        dead.counted(&[(Fate::Failed, 1)]).await;
    })
    .await;
}

#[test]
fn equal_configurations_share_a_collector() {
    let make = || {
        let address = testing::ANY;
        Arc::into_inner(Lab::new(address, BATCH).collector).unwrap()
    };
    let collectors = Collectors::default();
    let first = collectors.shared(b"a", make);
    assert!(Arc::ptr_eq(&first, &collectors.shared(b"a", make)));
    let other = collectors.shared(b"b", make);
    assert!(!Arc::ptr_eq(&first, &other));
    assert_eq!(collectors.len(), 2);
    drop(first);
    let _third = collectors.shared(b"c", make);
    assert_eq!(collectors.len(), 2, "what nobody has is forgotten");
}
