//! The development authority as a process, and what tests ask of it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Process, eventually, process::binary};

/// Longer than any operation takes, but for those that settle.
const LIMIT: Duration = Duration::from_secs(30);

/// `pilot-agent authority`. Each workload that it knows has a socket of its own.
pub struct Authority {
    process: Process,
    // After the process, whose log is there.
    dir: TempDir,
}

/// A certificate chain and its key in PEM files, and the bundle of its trust domain.
#[derive(Clone, Debug)]
pub struct Files {
    pub dir: PathBuf,
    pub chain: PathBuf,
    pub key: PathBuf,
    pub bundle: PathBuf,
}

impl Files {
    /// The names that [`Authority`] and [`crate::peer::serve`] use in `dir`.
    pub fn in_dir(dir: PathBuf) -> Self {
        Self {
            chain: dir.join("svid.pem"),
            key: dir.join("key.pem"),
            bundle: dir.join("bundle.pem"),
            dir,
        }
    }
}

impl Authority {
    /// Starts it with `config`, the YAML of `pilot-agent authority --config`.
    pub fn start(config: &str) -> Self {
        let dir = TempDir::with_prefix("authority-").expect("a scratch folder can be made");
        let file = dir.path().join("authority.yaml");
        fs::write(&file, config).expect("the scratch folder is writable");
        let mut command = Command::new(binary("pilot-agent"));
        command.args(["authority", "--config"]).arg(&file);
        command.arg("--dir").arg(dir.path());
        let mut process = Process::spawn("authority", dir.path(), command);
        process.wait_for_log(&["the development authority is ready"]);
        Self { dir, process }
    }

    /// The agent's socket of `authority`: the Workload API and SDS.
    pub fn agent_socket(&self, authority: &str) -> PathBuf {
        self.dir.path().join(authority).join("agent.sock")
    }

    /// Registers `id` of `authority` and returns the socket that only this workload uses, in a folder of
    /// its own.
    pub fn workload(&self, authority: &str, id: &str) -> PathBuf {
        let name = id.rsplit('/').next().unwrap_or("workload");
        let folder = self.dir.path().join(format!("{authority}-{name}"));
        fs::create_dir_all(&folder).expect("the scratch folder is writable");
        let socket = folder.join("socket");
        self.call(json!({"op": "grant", "id": id, "authority": authority, "socket": socket}));
        socket
    }

    /// One operation; panics if it is refused.
    pub fn call(&self, operation: Value) -> Value {
        let answer = self.ask(&operation);
        let answer = answer.unwrap_or_else(|error| panic!("{operation}: {error}"));
        assert!(answer["error"].is_null(), "{operation}: {answer}");
        answer
    }

    /// Issues an SVID for `id` into files.
    pub fn mint(&self, authority: &str, id: &str, ttl: &str) -> Files {
        let operation = json!({"op": "mint", "id": id, "authority": authority, "ttl": ttl});
        self.files(&self.call(operation))
    }

    /// Makes a certificate for `id` that must be refused, signed by `authority`.
    pub fn forge(&self, authority: &str, id: &str, forgery: &str) -> Files {
        let operation =
            json!({"op": "forge", "forgery": forgery, "id": id, "authority": authority});
        self.files(&self.call(operation))
    }

    /// The roots of `trust_domain` as PEM.
    pub fn bundle(&self, trust_domain: &str) -> String {
        let answer = self.call(json!({"op": "bundle", "trust_domain": trust_domain}));
        answer["bundle"].as_str().unwrap_or_default().to_owned()
    }

    /// Stops it, as a SPIRE agent that is killed.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn files(&self, answer: &Value) -> Files {
        let dir = TempDir::new_in(self.dir.path()).expect("the scratch folder is writable");
        let files = Files::in_dir(dir.keep());
        for (field, path) in [
            ("chain", &files.chain),
            ("key", &files.key),
            ("bundle", &files.bundle),
        ] {
            if let Some(text) = answer[field].as_str() {
                fs::write(path, text).expect("the scratch folder is writable");
            }
        }
        files
    }

    fn ask(&self, operation: &Value) -> std::io::Result<Value> {
        post(&self.dir.path().join("control.sock"), operation)
    }
}

/// `POST /` with JSON over a Unix socket.
fn post(socket: &Path, body: &Value) -> std::io::Result<Value> {
    let mut stream = eventually("the control socket", || UnixStream::connect(socket));
    stream.set_read_timeout(Some(LIMIT))?;
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: authority\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}
