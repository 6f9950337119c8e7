//! Filters whose modules come late, or never, through the relay to an Envoy of either protocol.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ithildin_proto::{
    from_value, pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::{Node, TypedExtensionConfig},
            },
            extensions::filters::http::rbac::v3::Rbac,
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            },
        },
        google::protobuf::Any,
    },
    unpack,
};
use ithildin_wasm::{Modules, Options};
use ithildin_xds::{
    ResourceKind, TypeUrl,
    ads::{Errand, Follower as _},
    subscription::{DeltaServer, Incoming, Receipt, Server, SotwServer, Update},
};
use prost::Name;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Shared, downstream::EnvoyStream, upstream::Follower};

/// For what should come at once, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const SECRET: &str = "s3cret";

fn extensions() -> TypeUrl {
    TypeUrl::new(&TypedExtensionConfig::type_url())
}

/// A relay with istiod's words put into its mouth.
struct World<M: Server> {
    shared: Arc<Shared>,
    follower: Follower,
    envoy: EnvoyStream<M>,
    site: TcpListener,
    folder: TempDir,
    ask: fn(&TypeUrl, &str) -> M::Request,
    bodies: fn(&M::Response) -> Vec<Any>,
}

impl World<DeltaServer> {
    async fn delta() -> Self {
        let ask = |url: &TypeUrl, nonce: &str| DeltaDiscoveryRequest {
            type_url: url.as_str().to_owned(),
            node: Some(Node::default()),
            resource_names_subscribe: names(url, nonce.is_empty()),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        let bodies = |response: &DeltaDiscoveryResponse| {
            let bodies = response.resources.iter().map(|it| it.resource.clone());
            bodies.map(Option::unwrap).collect()
        };
        Self::new(ask, bodies).await
    }
}

impl World<SotwServer> {
    async fn sotw() -> Self {
        let ask = |url: &TypeUrl, nonce: &str| DiscoveryRequest {
            type_url: url.as_str().to_owned(),
            node: Some(Node::default()),
            resource_names: names(url, true),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        Self::new(ask, |response: &DiscoveryResponse| {
            response.resources.clone()
        })
        .await
    }
}

/// Filters by name, clusters all.
fn names(url: &TypeUrl, is_needed: bool) -> Vec<String> {
    match is_needed && url.kind().is_none() {
        true => vec!["filter".into(), "other".into()],
        false => Vec::new(),
    }
}

impl<M: Server> World<M> {
    async fn new(
        ask: fn(&TypeUrl, &str) -> M::Request,
        bodies: fn(&M::Response) -> Vec<Any>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            attempts: 1,
            ..Options::in_folder(folder.path().to_path_buf())
        };
        let shared = Arc::new(Shared::new(Some(Modules::new(options))));
        let mut world = Self {
            follower: Follower::new(Arc::clone(&shared)),
            envoy: EnvoyStream::new(Arc::clone(&shared)),
            shared,
            site: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            folder,
            ask,
            bodies,
        };
        for url in [ResourceKind::Cluster.into(), extensions()] {
            world.envoy.take(&ask(&url, "")).unwrap();
        }
        world.follower.begin();
        world
    }

    /// istiod sends this.
    fn push(&mut self, url: TypeUrl, nonce: &str, resources: &[(&str, Any)]) {
        let resources = resources.iter().map(|(name, body)| Incoming {
            name: (*name).to_owned(),
            version: nonce.into(),
            body: Some(body.clone()),
        });
        let receipt = Receipt {
            nonce: nonce.into(),
            version: nonce.into(),
            versions: BTreeMap::new(),
            removed: Vec::new(),
        };
        let verdict = self.follower.take(Update {
            url,
            resources: resources.collect(),
            removed: Vec::new(),
            full: false,
            receipt,
        });
        assert_eq!(verdict, None);
    }

    fn push_clusters(&mut self, nonce: &str) {
        let cluster = pack(&Cluster {
            name: "c".into(),
            alt_stat_name: nonce.into(),
            ..Default::default()
        });
        self.push(ResourceKind::Cluster.into(), nonce, &[("c", cluster)]);
    }

    /// A filter that wants its module from the site.
    fn filter(&self, name: &str, version: &str) -> Any {
        let uri = json!({
            "uri": format!("http://{}/m.wasm", self.site.local_addr().unwrap()),
            "cluster": "_", "timeout": "30s",
        });
        let variables = json!({
            "ISTIO_META_WASM_IMAGE_PULL_SECRET": SECRET,
            "ISTIO_META_WASM_IMAGE_PULL_POLICY": "Always",
            "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": version,
        });
        let config = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {"vm_config": {
                "code": {"remote": {"http_uri": uri, "sha256": "nil"}},
                "environment_variables": {"key_values": variables},
            }},
        });
        let extension = json!({"name": name, "typed_config": config});
        pack(&from_value::<TypedExtensionConfig>(extension).unwrap())
    }

    /// Somebody asks the site.
    async fn asked(&self) -> TcpStream {
        let (mut stream, _) = timeout(LIMIT, self.site.accept()).await.unwrap().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(!String::from_utf8_lossy(&head).contains(SECRET));
        stream
    }

    /// What Envoy is sent now, which it accepts.
    fn sent(&mut self) -> Vec<Any> {
        let mut sent = Vec::new();
        while let Some(response) = self.envoy.next() {
            let bodies = (self.bodies)(&response);
            let url = match bodies.first() {
                Some(body) => TypeUrl::new(&body.type_url),
                None => continue,
            };
            let answer = (self.ask)(&url, M::response_nonce(&response));
            self.envoy.take(&answer).unwrap();
            sent.extend(bodies);
        }
        sent
    }

    /// What Envoy is sent when the next filters can be.
    async fn sent_later(&mut self) -> Vec<Any> {
        let mut changes = self.shared.down.subscribe();
        let later = async {
            loop {
                let sent = self.sent();
                if !sent.is_empty() {
                    return sent;
                }
                changes.changed().await.unwrap();
            }
        };
        timeout(LIMIT, later).await.expect("a filter")
    }

    /// istiod's responses that were answered since, and whether they were accepted.
    fn answered(&mut self) -> Vec<(String, bool)> {
        let errands = self.follower.errands().into_iter();
        let judged = errands.filter_map(|errand| match errand {
            Errand::Judge(_, receipt, verdict) => Some((receipt.nonce, verdict.reason().is_none())),
            Errand::Renew(..) | Errand::Restart => None,
        });
        judged.collect()
    }
}

async fn reply(mut stream: TcpStream, status: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
}

fn is_cluster(body: &Any) -> bool {
    body.type_url == Cluster::type_url()
}

#[tokio::test]
async fn everything_else_overtakes_a_module_that_is_late() {
    late(World::delta().await).await;
    late(World::sotw().await).await;
}

async fn late<M: Server>(mut world: World<M>) {
    let filter = world.filter("filter", "1");
    world.push(extensions(), "e1", &[("filter", filter.clone())]);
    let late = world.asked().await;
    for nonce in ["c1", "c2"] {
        world.push_clusters(nonce);
        let sent = world.sent();
        assert!(sent.len() == 1 && is_cluster(&sent[0]), "{nonce}: {sent:?}");
        assert_eq!(world.answered(), [(nonce.to_owned(), true)]);
    }
    // The same once more, and another filter with the same module: nobody else asks the site.
    let other = world.filter("other", "1");
    world.push(extensions(), "e2", &[("filter", filter), ("other", other)]);
    assert!(world.sent().is_empty() && world.answered().is_empty());
    reply(late, "200 OK", MODULE).await;
    let mut sent = world.sent_later().await;
    while world.answered().is_empty() {
        sent = world.sent_later().await;
    }
    assert_eq!(
        world.shared.modules.as_ref().unwrap().counts().fetches["success"],
        1
    );
    for body in sent {
        let text = String::from_utf8_lossy(&body.value).into_owned();
        assert!(
            text.contains(&world.folder.path().display().to_string()),
            "{text}"
        );
        assert!(
            !text.contains(SECRET) && !text.contains("ISTIO_META"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn without_its_module_a_filter_lets_nothing_pass_until_there_is_one() {
    missing(World::delta().await).await;
    missing(World::sotw().await).await;
}

async fn missing<M: Server>(mut world: World<M>) {
    let rules = |body: &Any| {
        let extension: TypedExtensionConfig = unpack(body).unwrap();
        let rbac: Rbac = unpack(&extension.typed_config?).ok()?;
        rbac.rules
    };
    let filter = world.filter("filter", "1");
    world.push(extensions(), "e1", &[("filter", filter)]);
    reply(world.asked().await, "404 Not Found", b"").await;
    let sent = world.sent_later().await;
    assert!(rules(&sent[0]).is_some_and(|rules| rules.policies.is_empty()));
    // A module that is missing is no mistake of the configuration.
    assert_eq!(world.answered(), [("e1".to_owned(), true)]);
    let filter = world.filter("filter", "2");
    world.push(extensions(), "e2", &[("filter", filter)]);
    reply(world.asked().await, "200 OK", MODULE).await;
    let sent = world.sent_later().await;
    assert_eq!(rules(&sent[0]), None);
    assert_eq!(world.answered(), [("e2".to_owned(), true)]);
}

#[tokio::test]
async fn what_is_no_filter_any_more_waits_for_no_module() {
    let mut world = World::delta().await;
    let filter = world.filter("filter", "1");
    world.push(extensions(), "e1", &[("filter", filter)]);
    let late = world.asked().await;
    let other = pack(&TypedExtensionConfig {
        name: "filter".into(),
        typed_config: Some(pack(&Rbac::default())),
    });
    world.push(extensions(), "e2", &[("filter", other.clone())]);
    assert_eq!(world.sent(), [other]);
    assert_eq!(world.answered(), [("e2".to_owned(), true)]);
    reply(late, "200 OK", MODULE).await;
    let here = async {
        let modules = world.shared.modules.clone().unwrap();
        while modules.counts().entries == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, here).await.unwrap();
    assert!(world.sent().is_empty());
}

#[tokio::test]
async fn a_filter_that_cannot_be_read_is_refused() {
    let mut world = World::delta().await;
    let broken = pack(&TypedExtensionConfig {
        name: "filter".into(),
        typed_config: Some(Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm".into(),
            value: vec![0xff],
        }),
    });
    world.push(extensions(), "e1", &[("filter", broken)]);
    assert!(world.sent().is_empty());
    assert_eq!(world.answered(), [("e1".to_owned(), false)]);
}
