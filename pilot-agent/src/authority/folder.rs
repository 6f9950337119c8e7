//! The folder for sockets at a well-known place that everybody can write to.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, bail};

/// Others may look for sockets in it, and only we may put them there.
const MODE: u32 = 0o755;

/// Makes the folder, or checks that it is ours: whoever owns it could put sockets of his own into the
/// place of ours, and hand out identities or take orders.
pub(super) fn claim(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match DirBuilder::new().mode(MODE).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("cannot create {shown}")),
    }
    // Of a link itself, not of what it leads to.
    let metadata = fs::symlink_metadata(folder).with_context(|| shown.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own {
        bail!(
            "{shown} is not a folder of this user, but of user {}; choose another one with --dir",
            metadata.uid()
        );
    }
    if metadata.mode() & 0o022 != 0 {
        bail!("{shown} can be written to by other users; choose another one with --dir");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_folder_of_our_own_is_claimed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("sockets");
        claim(&folder).unwrap();
        let mode = fs::metadata(&folder).unwrap().mode();
        assert_eq!(mode & 0o022, 0);
        claim(&folder).expect("a second time too");

        let link = parent.path().join("link");
        symlink(&folder, &link).unwrap();
        let error = claim(&link).unwrap_err().to_string();
        assert!(error.contains("--dir"), "{error}");

        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let error = claim(&folder).unwrap_err().to_string();
        assert!(error.contains("written to by other users"), "{error}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();

        const NOBODY: u32 = 65534;
        if std::os::unix::fs::chown(&folder, Some(NOBODY), None).is_err() {
            println!("only_a_folder_of_our_own_is_claimed: the rest is skipped, it needs root");
            return;
        }
        let error = claim(&folder).unwrap_err().to_string();
        assert!(error.contains("user 65534"), "{error}");
    }
}
