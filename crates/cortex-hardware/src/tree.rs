//! Folders as the kernel shows them, for tests.

use tempfile::TempDir;

/// A root folder with these files.
pub(crate) fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = root.path().join(path);
        fs_err::create_dir_all(path.parent().expect("a folder above")).expect("made");
        fs_err::write(path, text).expect("written");
    }
    root
}
