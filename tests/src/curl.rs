//! curl, as a user would run it.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{Net, clusters};

/// One answer, or why there is none.
#[derive(Debug)]
pub struct Answer {
    /// curl's exit code: 0 if there was an answer.
    pub exit: i32,
    pub status: u16,
    /// `2`, `1.1`.
    pub version: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What curl says of a failure.
    pub error: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The request as a service of the tests has seen it and told it.
    #[track_caller]
    pub fn echoed(&self) -> Value {
        let body = serde_json::from_str(&self.body);
        body.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The address of the service that answered.
    #[track_caller]
    pub fn address(&self) -> String {
        let address = self.echoed()["address"].as_str().map(str::to_owned);
        address.unwrap_or_default()
    }

    /// `Ok` with itself for a status, so that it can be polled for.
    pub fn expect_status(self, status: u16) -> Result<Self, Self> {
        if self.exit == 0 && self.status == status {
            Ok(self)
        } else {
            Err(self)
        }
    }
}

/// A client certificate in PEM files.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificate<'a> {
    pub chain: &'a Path,
    pub key: &'a Path,
}

/// `curl URL` inside `net` with further arguments.
pub fn get(net: &Net, url: &str, arguments: &[&str]) -> Answer {
    run(net, url, None, arguments)
}

/// The same over mTLS; the server's certificate is not verified by name, as `-k` says.
pub fn get_mtls(net: &Net, url: &str, cert: ClientCertificate<'_>, arguments: &[&str]) -> Answer {
    run(net, url, Some(cert), arguments)
}

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(20);

fn run(net: &Net, url: &str, cert: Option<ClientCertificate<'_>>, arguments: &[&str]) -> Answer {
    let mut command = net.command("curl");
    command
        .args(["-sS", "-k", "-i", "--noproxy", "*", "--max-time"])
        .arg(LIMIT.as_secs().to_string());
    if let Some(cert) = cert {
        command
            .env("OPENSSL_CONF", clusters::data("openssl.cnf"))
            .arg("--cert")
            .arg(cert.chain)
            .arg("--key")
            .arg(cert.key);
    }
    let out = command
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut answer = parse(&text);
    answer.exit = out.status.code().unwrap_or(-1);
    answer.error = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    answer
}

fn parse(text: &str) -> Answer {
    let mut rest = text;
    let (head, body) = loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let interim = head.split(' ').nth(1).is_some_and(|s| s.starts_with('1'));
        if !interim || body.is_empty() {
            break (head, body);
        }
        rest = body;
    };
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let version = words.next().unwrap_or_default().trim_start_matches("HTTP/");
    Answer {
        exit: 0,
        status: words.next().and_then(|s| s.parse().ok()).unwrap_or(0),
        version: version.to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
        error: String::new(),
    }
}
