//! The names that requests bring to a cluster, resolved off the data path.
//!
//! Invariants: there are `max_hosts` names at most; one that nobody holds any more is forgotten when it would be
//! asked for anew, or for the sake of another; one that stops resolving keeps its last addresses.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hickory_resolver::TokioResolver;
use tokio::sync::{mpsc, watch};

use super::{
    compile::{DnsSpec, ForwardSpec},
    dns,
};
use crate::config::forward::{Known, Question, Resolution};

/// Answers until the cluster has gone.
pub(super) async fn serve(
    resolver: Arc<TokioResolver>,
    spec: ForwardSpec,
    mut questions: mpsc::Receiver<Question>,
) {
    let mut names = Names {
        resolver,
        spec,
        known: HashMap::new(),
        count: 0,
        lookups: FuturesUnordered::new(),
    };
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                Some(Question { name, answer }) => {
                    // Who asked may have gone.
                    let _ = answer.send(names.known(name));
                }
                None => return,
            },
            Some(found) = names.lookups.next() => names.found(found),
        }
    }
}

struct Names {
    resolver: Arc<TokioResolver>,
    spec: ForwardSpec,
    known: HashMap<Arc<str>, Entry>,
    /// How many there ever were.
    count: u64,
    /// One for each name: it runs, or waits for its time.
    lookups: FuturesUnordered<BoxFuture<'static, Found>>,
}

struct Entry {
    known: watch::Sender<Resolution>,
    /// A name that was forgotten and comes back is another one to the lookup of before.
    id: u64,
}

struct Found {
    name: Arc<str>,
    id: u64,
    addresses: Result<Vec<IpAddr>, Arc<str>>,
    refresh: Duration,
}

impl Names {
    /// What a name leads to; `None` if there are too many.
    fn known(&mut self, name: Arc<str>) -> Option<Known> {
        if let Some(entry) = self.known.get(&name) {
            return Some(entry.known.subscribe());
        }
        if self.known.len() >= self.spec.max_hosts {
            self.known.retain(|_, it| it.known.receiver_count() > 0);
        }
        if self.known.len() >= self.spec.max_hosts {
            return None;
        }
        let (sender, known) = watch::channel(Resolution::Pending);
        self.count += 1;
        let id = self.count;
        let entry = Entry { known: sender, id };
        self.known.insert(Arc::clone(&name), entry);
        self.look_up(name, id, Duration::ZERO);
        Some(known)
    }

    fn look_up(&mut self, name: Arc<str>, id: u64, delay: Duration) {
        let resolver = Arc::clone(&self.resolver);
        let spec: DnsSpec = self.spec.dns.clone();
        self.lookups.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            let (addresses, refresh) = dns::one(&resolver, &name, &spec).await;
            Found {
                name,
                id,
                addresses,
                refresh,
            }
        }));
    }

    fn found(&mut self, found: Found) {
        let Found {
            name,
            id,
            addresses,
            refresh,
        } = found;
        let entry = self.known.get(&name).filter(|entry| entry.id == id);
        let Some(Entry { known, .. }) = entry else {
            return;
        };
        if known.receiver_count() == 0 {
            self.known.remove(&name);
            return;
        }
        known.send_if_modified(|known| renew(known, &name, addresses));
        self.look_up(name, id, refresh);
    }
}

/// Whether that changes anything.
fn renew(known: &mut Resolution, name: &str, addresses: Result<Vec<IpAddr>, Arc<str>>) -> bool {
    let new = match addresses {
        Ok(addresses) if addresses.is_empty() => Err(format!("{name:?} has no address").into()),
        other => other,
    };
    match (&*known, new) {
        (Resolution::Addresses(known), Ok(new)) if **known == *new => return false,
        (Resolution::Addresses(_), Err(error)) => {
            tracing::warn!(%error, "a name keeps its addresses");
            return false;
        }
        (_, Ok(new)) => *known = Resolution::Addresses(new.into()),
        (_, Err(error)) => *known = Resolution::Failed(error),
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{net::UdpSocket, sync::oneshot};

    use super::*;

    fn spec(max_hosts: usize) -> ForwardSpec {
        ForwardSpec {
            dns: DnsSpec::test(),
            max_hosts,
        }
    }

    async fn ask(questions: &mpsc::Sender<Question>, name: &str) -> Option<Known> {
        let (answer, known) = oneshot::channel();
        let name = name.into();
        questions.send(Question { name, answer }).await.unwrap();
        known.await.unwrap()
    }

    #[tokio::test]
    async fn names_are_resolved_and_there_are_so_many_at_most() {
        let (questions, asked) = mpsc::channel(4);
        let serving = serve(dns::resolver(&[]), spec(2), asked);
        let asking = async move {
            let mut first = ask(&questions, "10.0.0.1").await.unwrap();
            let resolved = first.wait_for(|it| !matches!(it, Resolution::Pending));
            let resolved = resolved.await.unwrap().clone();
            let expected: IpAddr = [10, 0, 0, 1].into();
            assert!(matches!(resolved, Resolution::Addresses(it) if *it == [expected]));
            let second = ask(&questions, "10.0.0.2").await.unwrap();
            assert!(ask(&questions, "10.0.0.1").await.is_some());
            assert!(ask(&questions, "10.0.0.3").await.is_none());
            drop(second);
            assert!(ask(&questions, "10.0.0.3").await.is_some());
        };
        // It ends when nobody can ask any more.
        tokio::join!(serving, asking);
    }

    /// A name server that knows every name but one, and has another address for it each time.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let mut last = 0;
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = &buffer[12..length];
                let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_known = !question.starts_with(b"\x06nobody");
                // A response; of one answer, or NXDOMAIN (RFC 1035, section 4.1).
                let mut answer = buffer[..2].to_vec();
                answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1]);
                answer.extend([0, u8::from(is_known), 0, 0, 0, 0]);
                answer.extend(&question[..end]);
                if is_known {
                    last = u8::wrapping_add(last, 1);
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, last]);
                }
                let _ = socket.send_to(&answer, from).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn answers_of_the_cluster_s_own_name_server_are_renewed() {
        let (questions, asked) = mpsc::channel(4);
        let mut spec = spec(2);
        spec.dns.servers = vec![name_server().await];
        spec.dns.min_ttl = Duration::from_millis(20);
        let serving = serve(dns::resolver(&spec.dns.servers), spec, asked);
        let asking = async move {
            let mut known = ask(&questions, "a.forward.test").await.unwrap();
            let third: IpAddr = [10, 0, 0, 3].into();
            let is_renewed =
                |it: &Resolution| matches!(it, Resolution::Addresses(it) if it[0] >= third);
            assert!(known.wait_for(is_renewed).await.is_ok());
            let mut nobody = ask(&questions, "nobody.forward.test").await.unwrap();
            let failed = |it: &Resolution| matches!(it, Resolution::Failed(_));
            assert!(nobody.wait_for(failed).await.is_ok());
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn a_name_that_comes_back_has_one_lookup() {
        let mut names = Names {
            resolver: dns::resolver(&[]),
            spec: spec(1),
            known: HashMap::new(),
            count: 0,
            lookups: FuturesUnordered::new(),
        };
        for name in ["10.0.0.1", "10.0.0.2", "10.0.0.1"] {
            assert!(names.known(name.into()).is_some());
        }
        let known = names.known("10.0.0.1".into());
        for _ in 0..3 {
            let found = names.lookups.next().await.unwrap();
            names.found(found);
        }
        assert_eq!((names.lookups.len(), names.known.len()), (1, 1));
        drop(known);
    }

    #[test]
    fn a_name_that_stops_resolving_keeps_its_addresses() {
        let address: IpAddr = [10, 0, 0, 1].into();
        let mut known = Resolution::Pending;
        assert!(renew(&mut known, "a", Err("no".into())));
        assert!(matches!(known, Resolution::Failed(_)));
        assert!(renew(&mut known, "a", Ok(vec![address])));
        assert!(!renew(&mut known, "a", Ok(vec![address])));
        assert!(!renew(&mut known, "a", Err("no".into())));
        assert!(!renew(&mut known, "a", Ok(Vec::new())));
        assert!(matches!(known, Resolution::Addresses(_)));
    }
}
