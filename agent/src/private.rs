//! What the agent keeps on disk is for its own user alone: it tells what processes did, and who the node is.

use std::{
    fs::{DirBuilder, Permissions, set_permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

/// Makes the directory where it is not there, and closes one that others could enter: kubelet makes a volume's 0755.
///
/// # Errors
/// As of mkdir(2), stat(2) and chmod(2).
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if path.metadata()?.permissions().mode() & 0o077 != 0 {
        set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_closed_to_others_whoever_made_it() {
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let new = place.path().join("a/b");
        directory(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        directory(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
    }
}
