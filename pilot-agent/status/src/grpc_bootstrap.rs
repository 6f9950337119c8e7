//! Readiness of a workload without a proxy, whose gRPC library reads a bootstrap file that the agent writes.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

/// The largest bootstrap.
const MAX_SIZE: u64 = 1 << 20;
/// The certificates' files of the provider `file_watcher`.
const FILES: [&str; 3] = [
    "certificate_file",
    "private_key_file",
    "ca_certificate_file",
];

/// What is missing for a gRPC library to start with the bootstrap at `path`; none if all is there.
pub fn missing(path: &Path) -> Option<String> {
    let bootstrap = match read(path) {
        Ok(bootstrap) => bootstrap,
        Err(error) => return Some(format!("failed loading {}: {error}", path.display())),
    };
    let providers = bootstrap
        .get("certificate_providers")
        .and_then(Value::as_object)?;
    let mut watchers = providers.values().filter(|provider| {
        provider.get("plugin_name").and_then(Value::as_str) == Some("file_watcher")
    });
    let config = watchers.next()?.get("config")?;
    FILES
        .iter()
        .filter_map(|name| config.get(name).and_then(Value::as_str))
        .find(|file| !Path::new(file).exists())
        .map(|file| format!("{file} does not exist"))
}

fn read(path: &Path) -> io::Result<Value> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_SIZE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_grpc_library_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bootstrap.json");
        assert!(missing(&path).unwrap().starts_with("failed loading"));
        fs::write(&path, "{").unwrap();
        assert!(missing(&path).unwrap().starts_with("failed loading"));
        fs::write(&path, "{}").unwrap();
        assert_eq!(missing(&path), None);
        let key = folder.path().join("key.pem");
        let provider = json!({"plugin_name": "file_watcher", "config": {"private_key_file": key}});
        let bootstrap = json!({"certificate_providers": {"default": provider}});
        fs::write(&path, bootstrap.to_string()).unwrap();
        assert!(missing(&path).unwrap().ends_with("key.pem does not exist"));
        fs::write(&key, "").unwrap();
        assert_eq!(missing(&path), None);
    }
}
