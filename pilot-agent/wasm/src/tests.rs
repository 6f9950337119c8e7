//! Modules from stand-ins of sites and registries, by everything that can go wrong on the way.

mod registry;
mod stand_in;

use std::{fs, path::Path, time::Duration};

use stand_in::{MODULE, Reply, StandIn, gzip, tar};
use tempfile::TempDir;

use crate::{FetchError, Modules, Options, PullPolicy, Request, file::sha256};

/// For what should come at once, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);

struct Lab {
    folder: TempDir,
    options: Options,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            attempts: 1,
            ..Options::in_folder(folder.path().to_path_buf())
        };
        Self { folder, options }
    }

    fn modules(&self) -> Modules {
        Modules::new(self.options.clone())
    }

    /// The error of a fetch that leaves nothing behind.
    async fn refused(&self, request: &Request) -> String {
        let error = self.modules().get(request).await.expect_err("an error");
        // A fetch that is given up leaves its file to the thread that writes it.
        let gone = async {
            while !files(self.folder.path()).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(LIMIT, gone).await;
        assert!(gone.is_ok(), "{:?}", files(self.folder.path()));
        error.to_string()
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}

fn request(url: &str) -> Request {
    Request {
        url: url.to_owned(),
        checksum: None,
        resource: "ns.filter".into(),
        resource_version: "1".into(),
        pull_secret: None,
        policy: PullPolicy::Unspecified,
        timeout: LIMIT,
    }
}

#[tokio::test]
async fn a_module_is_fetched_once_for_all_who_ask() {
    let (lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    let modules = lab.modules();
    assert!(files(lab.folder.path()).is_empty());
    let request = request(&site.url("/m"));
    let get = || modules.get(&request);
    let (a, b, c) = tokio::join!(get(), get(), get());
    let path = a.unwrap().path().to_path_buf();
    assert!(b.unwrap().path() == path && c.unwrap().path() == path);
    assert_eq!(site.count("/m"), 1);
    let place = format!(
        "{}/{}.wasm",
        sha256(site.url("/m").as_bytes()),
        sha256(MODULE)
    );
    assert_eq!(path, lab.folder.path().join(place));
    assert_eq!(fs::read(&path).unwrap(), MODULE);
    let counts = modules.counts();
    assert_eq!((counts.entries, counts.fetches["success"]), (1, 1));
}

#[tokio::test]
async fn the_policy_says_whether_it_is_asked_for_again() {
    let (lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    let modules = lab.modules();
    let mut request = request(&site.url("/m"));
    for (policy, version, asked) in [
        (PullPolicy::Always, "1", 1),
        (PullPolicy::Always, "1", 1),
        (PullPolicy::IfNotPresent, "2", 1),
        (PullPolicy::Unspecified, "3", 1),
        (PullPolicy::Always, "4", 2),
        (PullPolicy::Always, "4", 2),
    ] {
        request.policy = policy;
        request.resource_version = version.into();
        modules.get(&request).await.unwrap();
        assert_eq!(site.count("/m"), asked, "{policy:?} {version}");
    }
    // A fetch that fails leaves the version unknown: it is tried again.
    request.resource_version = "5".into();
    site.reply("/m", Reply::status(404));
    for _ in 0..2 {
        assert!(modules.get(&request).await.is_err());
    }
    assert_eq!(site.count("/m"), 4);
    request.checksum = Some(sha256(MODULE));
    modules.get(&request).await.unwrap();
    assert_eq!(site.count("/m"), 4, "it is here by its checksum");
}

#[tokio::test]
async fn what_a_module_comes_in_is_taken_off() {
    let (lab, site) = (Lab::new(), StandIn::start().await);
    let archive = tar(&[("a/", b""), ("a/anything.wasm", MODULE), ("b", b"x")]);
    for (path, body) in [
        ("/gz", gzip(MODULE)),
        ("/tar", archive.clone()),
        ("/tgz", gzip(&archive)),
        ("/twice", gzip(&gzip(MODULE))),
    ] {
        site.reply(path, Reply::ok(&body));
        let mut request = request(&site.url(path));
        request.checksum = Some(sha256(MODULE));
        let module = lab.modules().get(&request).await.unwrap();
        assert_eq!(fs::read(module.path()).unwrap(), MODULE, "{path}");
    }
    let lab = Lab::new();
    for (path, body, reason) in [
        ("/empty", Vec::new(), "not a Wasm module"),
        ("/text", b"<html>".to_vec(), "not a Wasm module"),
        ("/head", b"\0asm".to_vec(), "not a Wasm module"),
        ("/none", tar(&[("a/", b"")]), "an empty archive"),
        ("/cut.tar", archive[..1030].to_vec(), "the archive: "),
        ("/cut.gz", gzip(&archive)[..20].to_vec(), "the archive: "),
    ] {
        site.reply(path, Reply::ok(&body));
        let error = lab.refused(&request(&site.url(path))).await;
        assert!(error.contains(reason), "{path}: {error}");
    }
    let mut broken = archive;
    broken[0] = b'x';
    site.reply("/sum", Reply::ok(&broken));
    let error = lab.refused(&request(&site.url("/sum"))).await;
    assert!(error.contains("a broken header"), "{error}");
}

#[tokio::test]
async fn the_checksum_is_what_was_asked_for() {
    let (lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    let mut request = request(&site.url("/m"));
    request.checksum = Some("a".repeat(64));
    let error = lab.refused(&request).await;
    assert_eq!(
        error,
        format!("the checksum is {}, not {}", sha256(MODULE), "a".repeat(64))
    );
    for checksum in ["../../x", "", "A"] {
        request.checksum = Some(checksum.into());
        let error = lab.refused(&request).await;
        assert!(error.contains("no SHA-256"), "{error}");
    }
    assert_eq!(site.count("/m"), 1);
}

#[tokio::test]
async fn size_and_time_are_bounded() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    lab.options.max_bytes = 1000;
    let large = [MODULE, &[0; 993]].concat();
    let bomb = gzip(&[MODULE, &[0; 1_000_000]].concat());
    assert!(bomb.len() < 10_000);
    site.reply("/large", Reply::ok(&large));
    site.reply("/bomb", Reply::ok(&gzip(&large)));
    site.reply("/cut", Reply::Cut(MODULE.to_vec()));
    site.reply("/stall", Reply::Stall);
    for (path, reason) in [
        ("/large", "larger than 1000 bytes"),
        ("/bomb", "larger than 1000 bytes"),
        ("/cut", "the body ends early"),
    ] {
        let error = lab.refused(&request(&site.url(path))).await;
        assert!(error.contains(reason), "{path}: {error}");
    }
    let patience = lab.options.request_timeout;
    lab.options.request_timeout = Duration::from_millis(300);
    let error = lab.refused(&request(&site.url("/stall"))).await;
    assert!(error.contains("nothing within 300ms"), "{error}");
    lab.options.request_timeout = patience;
    let exact = &large[..1000];
    site.reply("/exact", Reply::ok(exact));
    lab.modules()
        .get(&request(&site.url("/exact")))
        .await
        .unwrap();
    // The whole fetch has its own limit.
    let mut hurried = request(&site.url("/stall"));
    hurried.timeout = Duration::from_millis(50);
    let error = lab.modules().get(&hurried).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout(limit) if limit == hurried.timeout));
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    lab.options.attempts = 2;
    for (path, reply, asked) in [
        ("/503", Reply::status(503), 2),
        ("/cut", Reply::Cut(MODULE.to_vec()), 2),
        ("/404", Reply::status(404), 1),
        ("/501", Reply::status(501), 1),
        ("/text", Reply::ok(b"text"), 1),
    ] {
        site.reply(path, reply);
        lab.refused(&request(&site.url(path))).await;
        assert_eq!(site.count(path), asked, "{path}");
    }
    let error = lab.refused(&request("http://127.0.0.1:1/m")).await;
    assert!(error.contains("no connection to 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn redirects_lead_where_they_may() {
    let (lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    site.reply("/a", Reply::redirect("/b"));
    site.reply("/b", Reply::redirect(&site.url("/m")));
    lab.modules().get(&request(&site.url("/a"))).await.unwrap();
    let lab = Lab::new();
    site.reply("/loop", Reply::redirect("/loop"));
    for (path, to, reason) in [
        ("/loop", "/loop", "more than 10 redirects"),
        ("/file", "file:///etc/passwd", "no URL"),
        ("/ftp", "ftp://127.0.0.1/m", "neither http nor https"),
        ("/none", "", "no URL"),
        (
            "/cloud",
            "http://169.254.169.254/latest",
            "an address of the link",
        ),
        ("/alibaba", "http://100.100.100.200/", "keeps its metadata"),
        // What name servers may say too: a name that is no address, and means one.
        (
            "/name",
            "http://2852039166/latest",
            "an address of the link",
        ),
    ] {
        site.reply(path, Reply::redirect(to));
        let error = lab.refused(&request(&site.url(path))).await;
        assert!(error.contains(reason), "{path}: {error}");
    }
}

#[tokio::test]
async fn addresses_that_tell_secrets_are_never_asked() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    lab.options.blocked = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let port = site.address.port();
    for url in [
        format!("http://localhost:{port}/m"),
        format!("http://127.0.0.1:{port}/m"),
        format!("http://[::ffff:127.0.0.1]:{port}/m"),
        format!("oci://localhost:{port}/m:1"),
        "http://169.254.169.254/m".into(),
        "http://[fe80::1]/m".into(),
        "http://[fd00:ec2::254]/m".into(),
        "http://0xa9fea9fe/m".into(),
        "https://100.100.100.200/m".into(),
        "oci://169.254.169.254/m:1".into(),
    ] {
        let error = lab.refused(&request(&url)).await;
        assert!(
            error.contains("it is never asked for modules"),
            "{url}: {error}"
        );
    }
    assert!(site.heard("").is_empty());
}

#[tokio::test]
async fn what_is_no_url_of_a_module_is_refused() {
    let lab = Lab::new();
    for (url, reason) in [
        ("", "no URL"),
        ("m.wasm", "none of http"),
        ("file:///etc/passwd", "no URL"),
        ("ftp://a.test/m", "none of http"),
        ("http://", "no URL"),
        ("http://user:word@127.0.0.1/m", "a pull secret instead"),
        ("oci://", "no image"),
        ("oci://r.test/../m", "no image"),
    ] {
        let error = lab.refused(&request(url)).await;
        assert!(error.contains(reason), "{url}: {error}");
        assert!(!error.contains("word"), "{error}");
    }
}

#[tokio::test]
async fn tls_is_verified_unless_the_host_is_named() {
    let (mut lab, site) = (Lab::new(), StandIn::with_tls().await);
    site.reply("/m", Reply::ok(MODULE));
    let plain = StandIn::start().await;
    site.reply("/down", Reply::redirect(&plain.url("/m")));
    plain.reply("/m", Reply::ok(MODULE));
    let url = |path: &str| format!("https://{}{path}", site.address);
    let error = lab.refused(&request(&url("/m"))).await;
    assert!(error.contains("no TLS with"), "{error}");
    lab.options.insecure.insert(site.address.to_string());
    let error = lab.refused(&request(&url("/down"))).await;
    assert!(error.contains("it gives up TLS"), "{error}");
    lab.modules().get(&request(&url("/m"))).await.unwrap();
    lab.options.insecure = ["*".to_owned()].into();
    lab.modules().get(&request(&url("/down"))).await.unwrap();
}

#[tokio::test]
async fn what_nobody_uses_is_deleted() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    lab.options.expiry = Duration::from_millis(100);
    lab.options.purge_interval = Duration::from_millis(20);
    for path in ["/held", "/m"] {
        site.reply(path, Reply::ok(MODULE));
    }
    let modules = lab.modules();
    let held = modules.get(&request(&site.url("/held"))).await.unwrap();
    let path = modules
        .get(&request(&site.url("/m")))
        .await
        .unwrap()
        .path()
        .to_path_buf();
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert!(held.path().exists());
    // It is fetched again, as it was.
    let again = modules.get(&request(&site.url("/m"))).await.unwrap();
    assert!(again.path() == path && path.exists());
    assert_eq!((site.count("/m"), site.count("/held")), (2, 1));
}

#[tokio::test]
async fn what_an_agent_before_has_left() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    let mut known = request(&site.url("/m"));
    known.checksum = Some(sha256(MODULE));
    let path = lab
        .modules()
        .get(&known)
        .await
        .unwrap()
        .path()
        .to_path_buf();
    let unfinished = path.with_file_name(".fetch-x");
    let foreign = lab.folder.path().join("envoy.prof");
    for file in [&unfinished, &foreign] {
        fs::write(file, "x").unwrap();
    }
    lab.modules().get(&known).await.unwrap();
    assert_eq!(site.count("/m"), 1, "the file proves what it is");
    assert!(!unfinished.exists() && foreign.exists());
    fs::write(&path, "something else").unwrap();
    lab.modules().get(&known).await.unwrap();
    assert_eq!(site.count("/m"), 2);
    assert_eq!(fs::read(&path).unwrap(), MODULE);
    // Nobody asks for it any more.
    lab.options.expiry = Duration::from_millis(50);
    lab.options.purge_interval = Duration::from_millis(20);
    site.reply("/other", Reply::ok(MODULE));
    let modules = lab.modules();
    let _other = modules.get(&request(&site.url("/other"))).await.unwrap();
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert!(foreign.exists());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let (mut lab, site) = (Lab::new(), StandIn::start().await);
    site.reply("/m", Reply::ok(MODULE));
    // Root writes to any folder but to one that is none.
    let file = lab.folder.path().join("file");
    fs::write(&file, "").unwrap();
    lab.options.folder = file.clone();
    let error = lab
        .modules()
        .get(&request(&site.url("/m")))
        .await
        .unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    assert_eq!(site.count("/m"), 0);
}
