//! Beginnings of prompts on disk, as the daemon sees them: where those of a model lie, how much they may take, whose they are. What is in
//! the files is the worker's.

use cortex_api::worker;
use cortex_hardware::Storage;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Of what is free on the disk, beginnings of prompts take at most this share.
const SHARE: u64 = 4;

/// The folder of all models inside the folder for caches, and what they may take together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptCaches {
    folder: PathBuf,
    bytes: u64,
}

impl PromptCaches {
    /// In a folder whose content may be deleted at any time; 0 bytes keep nothing.
    pub(crate) fn new(cache_folder: &Path, bytes: u64) -> Self {
        Self { folder: cache_folder.join("prompts"), bytes }
    }

    /// Removes what an earlier start has kept, when nothing may be kept any more. More than may be kept is removed by the next worker.
    pub(crate) fn clear_unwanted(&self) {
        if self.bytes == 0 {
            remove(&self.folder);
        }
    }

    /// What a worker is told that loads these weights.
    pub(crate) fn of(&self, weights: &Path) -> Option<worker::PromptCache> {
        if self.bytes == 0 {
            return None;
        }
        let parent = self.folder.parent().filter(|parent| parent.is_dir())?;
        let bytes = self.bytes.min(Storage::of(parent).available / SHARE);
        Some(worker::PromptCache { folder: self.folder_of(weights).to_string_lossy().into_owned(), bytes })
    }

    /// Removes what is kept of prompts to these weights.
    pub(crate) fn forget(&self, weights: &Path) {
        remove(&self.folder_of(weights));
    }

    fn folder_of(&self, weights: &Path) -> PathBuf {
        self.folder.join(format!("{:016x}", number(weights.as_os_str().as_encoded_bytes())))
    }
}

/// Whose beginnings of prompts those of a request are: one number for each API key, 0 where there is none. The key cannot be found from it
/// more easily than by trying keys.
pub fn cache_scope(key: Option<&str>) -> u64 {
    key.map_or(0, |key| number(format!("cortex prompt cache {key}").as_bytes()))
}

fn remove(folder: &Path) {
    if let Err(error) = fs_err::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "what was kept of prompts could not be removed");
    }
}

fn number(bytes: &[u8]) -> u64 {
    Sha256::digest(bytes).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_a_folder_that_can_be_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let caches = PromptCaches::new(scratch.path(), 1 << 30);
        let [one, other] = ["/models/a.gguf", "/models/b.gguf"].map(Path::new);
        let folder = |weights: &Path| PathBuf::from(caches.of(weights).unwrap().folder);
        assert_eq!(folder(one).parent(), Some(scratch.path().join("prompts").as_path()));
        assert_ne!(folder(one), folder(other));
        for weights in [one, other] {
            fs_err::create_dir_all(folder(weights).join("build")).unwrap();
        }
        caches.forget(one);
        assert!(!folder(one).exists() && folder(other).exists());
        caches.forget(one);
    }

    #[test]
    fn nothing_is_kept_without_room() {
        let scratch = tempfile::tempdir().unwrap();
        let weights = Path::new("/models/a.gguf");
        let none = PromptCaches::new(scratch.path(), 0);
        assert_eq!(none.of(weights), None);
        let kept = scratch.path().join("prompts/model/key");
        fs_err::create_dir_all(&kept).unwrap();
        PromptCaches::new(scratch.path(), 9).clear_unwanted();
        assert!(kept.exists());
        none.clear_unwanted();
        none.clear_unwanted();
        assert!(scratch.path().exists() && !scratch.path().join("prompts").exists());
        assert_eq!(PromptCaches::new(&scratch.path().join("none/cache"), 9).of(weights), None);
        assert_eq!(PromptCaches::new(scratch.path(), 9).of(weights).unwrap().bytes, 9);
        assert!(PromptCaches::new(scratch.path(), u64::MAX).of(weights).unwrap().bytes < u64::MAX / SHARE);
    }

    #[test]
    fn keys_have_numbers_of_their_own() {
        assert_eq!(cache_scope(None), 0);
        let [one, other] = ["one", "other"].map(|key| cache_scope(Some(key)));
        assert!(one != other && one != 0);
        assert_eq!(one, cache_scope(Some("one")));
    }
}
