//! The bootstrap of a workload without a proxy: its gRPC library speaks xDS to our socket, and takes certificates from
//! the files of `OUTPUT_CERTS`.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};

use crate::proxy::settings::{ConfigSource, Settings};

/// For the workload, which runs as another user.
const MODE: u32 = 0o644;
/// How often the library reads the certificates anew. Istio's agent has the same.
const REFRESH: &str = "900s";
/// What istiod calls the listener of a gRPC server, by its address.
const SERVER_LISTENER: &str = "xds.istio.io/grpc/lds/inbound/%s";

/// Writes the file that `GRPC_XDS_BOOTSTRAP` names, and returns its path. Only istiod has configuration for such
/// workloads, so a folder of Istio's resources makes none.
///
/// # Errors
/// A file that cannot be written.
pub(in crate::proxy) fn write(settings: &Settings, xds: &Path) -> anyhow::Result<Option<PathBuf>> {
    if settings.source != ConfigSource::Istiod {
        return Ok(None);
    }
    let path = &settings.istiod.grpc_bootstrap;
    let text = serde_json::to_vec_pretty(&content(settings, xds))?;
    replace(path, &text).with_context(|| format!("GRPC_XDS_BOOTSTRAP {}", path.display()))?;
    Ok(Some(path.clone()))
}

fn content(settings: &Settings, xds: &Path) -> Value {
    let mut node = settings.node_json();
    // istiod sends other resources to such clients. It is not in the environment where an Envoy runs beside them.
    node["metadata"]["GENERATOR"] = "grpc".into();
    let mut bootstrap = json!({
        "xds_servers": [{
            "server_uri": format!("unix://{}", xds.display()),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": node["id"],
            "metadata": node["metadata"],
            "locality": node["locality"],
        },
        "server_listener_resource_name_template": SERVER_LISTENER,
    });
    if let Some(folder) = &settings.ca.output {
        bootstrap["certificate_providers"] = json!({"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": folder.join("cert-chain.pem"),
                "private_key_file": folder.join("key.pem"),
                "ca_certificate_file": folder.join("root-cert.pem"),
                "refresh_interval": REFRESH,
            },
        }});
    }
    bootstrap
}

/// In one step: the workload may be reading it.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = PathBuf::from(format!("{}.new", path.display()));
    // Left by an agent that was killed while it wrote.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new)?;
    file.write_all(text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::proxy::{args, settings::Host};

    fn settings(env: &[(&str, &str)], file: &Path) -> Settings {
        let args = args::tests::parse(&["--dataPlane=envoy"]).unwrap();
        let file = file.display().to_string();
        let given = [("INSTANCE_IP", "10.0.0.7"), ("GRPC_XDS_BOOTSTRAP", &file)];
        let env = given.iter().chain(env).copied().collect();
        Settings::resolve_on(&args, &env, &Host::default()).unwrap()
    }

    #[test]
    fn what_a_grpc_library_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/bootstrap.json");
        let xds = Path::new("/etc/istio/proxy/XDS");
        write(&settings(&[("OUTPUT_CERTS", "/certs")], &file), xds).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let read = || -> Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
        let written = read();
        let server = &written["xds_servers"][0];
        assert_eq!(server["server_uri"], "unix:///etc/istio/proxy/XDS");
        assert_eq!(server["channel_creds"], json!([{"type": "insecure"}]));
        assert_eq!(server["server_features"], json!(["xds_v3"]));
        let id = written["node"]["id"].as_str().unwrap();
        assert!(id.starts_with("sidecar~10.0.0.7~"), "{id}");
        assert_eq!(written["node"]["metadata"]["GENERATOR"], "grpc");
        assert_eq!(
            written["certificate_providers"]["default"]["config"],
            json!({
                "certificate_file": "/certs/cert-chain.pem",
                "private_key_file": "/certs/key.pem",
                "ca_certificate_file": "/certs/root-cert.pem",
                "refresh_interval": "900s",
            })
        );
        // Written anew, with what is configured then, whatever was left behind.
        fs::write(folder.path().join("new/bootstrap.json.new"), "left").unwrap();
        write(&settings(&[], &file), xds).unwrap();
        assert_eq!(read()["certificate_providers"], Value::Null);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(&settings(&[], folder.path()), Path::new("/XDS")).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with("GRPC_XDS_BOOTSTRAP "), "{error}");
    }
}
