use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_socket_is_ours_only_if_we_marked_that_very_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    assert_eq!(socket(&path), SocketPath::Nothing);
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(socket(&path), SocketPath::Somebodys);
    claim(&path).unwrap();
    assert_eq!(socket(&path), SocketPath::Ours);
    // It is dead now and still ours.
    drop(listener);
    assert_eq!(socket(&path), SocketPath::Ours);
    // Another one in its place is not, though the mark is still there. The first is kept, so that the
    // system does not give its number away.
    fs::rename(&path, dir.path().join("old")).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(socket(&path), SocketPath::Somebodys);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a plain file").unwrap();
    assert_eq!(socket(&path), SocketPath::Nothing);
}

#[test]
fn a_link_to_nowhere_is_somebodys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert_eq!(socket(&path), SocketPath::Somebodys);
}

#[test]
fn folders() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(folder(&dir.path().join("socket")), SocketFolder::Writable);
    assert_eq!(
        folder(&dir.path().join("none/socket")),
        SocketFolder::Absent
    );
    // A file system that nobody can write to, as a CSI mount is.
    assert_eq!(
        folder(Path::new("/proc/self/socket")),
        SocketFolder::NotOurs
    );
}

#[test]
fn files_count_if_they_are_there_and_not_our_own_output() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let files = CertificateFiles {
        chain: at("cert-chain.pem"),
        key: at("key.pem"),
        root: at("root-cert.pem"),
    };
    assert_eq!(present(&files, None), FileIdentity::default());
    fs::write(&files.chain, "x").unwrap();
    assert_eq!(
        present(&files, None),
        FileIdentity::default(),
        "a chain without a key"
    );
    fs::write(&files.key, "x").unwrap();
    let found = present(&files, None);
    assert!(found.certificate.is_some() && found.roots.is_none());
    fs::write(&files.root, "x").unwrap();
    assert!(present(&files, None).roots.is_some());
    assert_eq!(present(&files, Some(dir.path())), FileIdentity::default());
    let other = tempfile::tempdir().unwrap();
    assert!(present(&files, Some(other.path())).roots.is_some());
    assert!(present(&files, Some(Path::new("/nowhere"))).roots.is_some());
}
