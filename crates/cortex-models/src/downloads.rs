//! Downloaded models on disk: how a finished pull becomes one, and what is remembered of where it came from.

use crate::{
    ErrorKind, Model, ModelId, ModelStore, PullPlan, Role, StoreError,
    files::Files,
    models_list::{Entry, ModelsList},
    weights::{self, WeightsError},
};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The file beside downloaded weights that says where they came from, and which files are ours to remove.
pub(crate) const MANIFEST: &str = "download.json";

/// Where a downloaded model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its id.
    pub id: ModelId,
    /// `author/repo`, or the host of a URL.
    pub repository: String,
    /// The branch that was asked for.
    pub revision: String,
    /// What that branch was: 40 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The names that it got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its files.
    pub files: Vec<ManifestFile>,
}

/// A file of a downloaded model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its name in the folder.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal digits, as it was computed.
    pub sha256: String,
    /// Whether the source promised this digest; without a promise it only tells later changes.
    pub promised: bool,
}

/// Why finished files did not become a model.
#[derive(Debug, thiserror::Error)]
pub enum TakeInError {
    /// They are no model that can be used.
    #[error("what was downloaded cannot be used: {0}")]
    BadFile(#[source] WeightsError),
    /// The id belongs to another model by now.
    #[error("the id `{id}` belongs to another model, {}", path.display())]
    Taken {
        /// The id.
        id: ModelId,
        /// Its file.
        path: PathBuf,
    },
    /// The disk.
    #[error("cannot {action}: {source}")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// The system's reason, with the path.
        source: io::Error,
    },
    /// The list.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TakeInError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadFile(_) => ErrorKind::Invalid,
            Self::Taken { .. } => ErrorKind::Conflict,
            Self::Disk { .. } => ErrorKind::Unavailable,
            Self::Store(error) => error.kind(),
        }
    }
}

/// What of it is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// No model has the id.
    No,
    /// The same commit was downloaded.
    Same,
    /// Another commit was downloaded, of this branch.
    Older(String),
    /// It is something else.
    Other(PathBuf),
}

impl ModelStore {
    /// Where a model was downloaded from; `None` when it was not.
    pub fn manifest(&self, model: &Model) -> Option<Manifest> {
        let folder = model.weights()?.parent()?;
        if !self.0.layout.is_download(folder) {
            return None;
        }
        read_manifest(folder)
    }

    /// What of a plan is there already.
    pub(crate) fn known(&self, plan: &PullPlan) -> Known {
        let Ok(model) = self.resolve(plan.id.as_str()) else { return Known::No };
        if model.id != plan.id {
            // Only a name of another model.
            return Known::Other(model.path.clone());
        }
        if self.is_lost(&model.path) {
            return Known::No;
        }
        let Some(manifest) = self.manifest(&model) else { return Known::Other(model.path.clone()) };
        let name = |files: &[ManifestFile]| files.first().map(|file| file.name.clone());
        let is_other_file = name(&manifest.files).as_ref() != plan.files.first().map(|file| &file.name);
        if manifest.repository != plan.author_repo || is_other_file {
            return Known::Other(model.path.clone());
        }
        // Without a digest, what tells one from the next is its version.
        let promised = plan.files.iter().all(|file| file.sha256.is_some());
        let same = (promised || manifest.revision == plan.revision)
            && manifest.files.len() == plan.files.len()
            && manifest.files.iter().zip(&plan.files).all(|(there, file)| {
                there.name == file.name
                    && there.size == file.size
                    && file.sha256.as_ref().is_none_or(|digest| *digest == there.sha256)
            });
        if same && model.weight_files().iter().all(|file| file.is_file()) {
            Known::Same
        } else {
            Known::Older(manifest.revision)
        }
    }

    /// Makes a model of the files that a pull has gathered: checks them, moves them to their place in one step,
    /// and puts the model on the list. `digests` are those of the files, in their order.
    pub(crate) fn take_in(
        &self,
        plan: &PullPlan,
        partial: &Path,
        digests: &[String],
    ) -> Result<Arc<Model>, TakeInError> {
        self.opened();
        let failed = |action| move |source| TakeInError::Disk { action, source };
        let disk = &self.0.config.files;
        let first = plan.files.first().map(|file| file.name.as_str()).unwrap_or_default();
        let weights = weights::read(&partial.join(first)).map_err(TakeInError::BadFile)?;
        let target = self.free_folder(plan);
        let aliases = self.free_aliases(plan)?;
        let written = |name: &str| self.0.layout.written(&target.join(name));
        let of_role = |role| plan.files.iter().filter(move |file| file.role == role);
        let files: Vec<String> = of_role(Role::Weights).map(|file| written(&file.name)).collect();
        let mmproj = of_role(Role::Projector).next().map(|file| written(&file.name));
        let mut yaml =
            crate::ModelYaml::from_weights(&weights, &plan.id, plan.name.as_deref(), (&files, mmproj.as_deref()));
        let before = self.get_in_memory(&plan.id);
        if let Some(old) = before.as_ref().and_then(|model| self.examine(model).yaml()) {
            // The settings of the revision before stay; what describes the files is the new one's.
            yaml = yaml.with_settings_of(&old);
        }
        let manifest = Manifest {
            id: plan.id.clone(),
            repository: plan.author_repo.clone(),
            revision: plan.revision.clone(),
            commit: plan.commit.clone(),
            aliases: aliases.clone(),
            files: plan
                .files
                .iter()
                .zip(digests)
                .map(|(file, sha256)| ManifestFile {
                    name: file.name.clone(),
                    size: file.size,
                    sha256: sha256.clone(),
                    promised: file.sha256.is_some(),
                })
                .collect(),
        };
        write_manifest(disk, partial, &manifest).map_err(failed("write where the model came from"))?;
        disk.replace(&partial.join("model.yaml"), yaml.print().as_bytes()).map_err(failed("write the model.yaml"))?;
        let path = target.join(first);
        let old = self.commit(|list| {
            let old = match list.get(plan.id.as_str()) {
                None => None,
                Some(entry) => Some(self.older_download(plan, entry)?),
            };
            disk.rename(partial, &target).map_err(failed("move the model to its place"))?;
            list.upsert(Entry {
                id: Cow::Owned(plan.id.to_string()),
                author_repo: Cow::Owned(plan.author_repo.clone()),
                branch: Cow::Owned(plan.revision.clone()),
                path: Cow::Owned(self.0.layout.written(&path)),
                aliases,
                status: Cow::Borrowed("downloaded"),
            });
            Ok::<_, TakeInError>(old)
        })?;
        self.forget_deletions(std::slice::from_ref(&plan.id));
        // Where a lost revision was, this one may be by now.
        if let Some(folder) = old.filter(|folder| *folder != target) {
            self.remove_download(&folder);
        }
        let model = self.get_in_memory(&plan.id).ok_or_else(|| StoreError::Io {
            action: "the list changed while it was written",
            source: io::Error::other("try again"),
        })?;
        Ok(self.examine(&model))
    }

    /// Moves the folder of a plan back to where it was gathered, when a crash came between its move to its place
    /// and the list.
    pub(crate) fn take_back(&self, plan: &PullPlan) {
        let (wanted, partial) = (self.0.layout.data().join(&plan.folder), self.0.layout.partial(&plan.id));
        let (Some(parent), Some(name)) = (wanted.parent(), wanted.file_name()) else { return };
        let name = name.to_string_lossy().into_owned();
        let beside = fs_err::read_dir(parent).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let folders: Vec<PathBuf> = beside.unwrap_or_default();
        let is_ours = |folder: &&PathBuf| {
            let same = folder.file_name().is_some_and(|other| {
                let other = other.to_string_lossy();
                other == name || other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('@'))
            });
            let is_used = || self.in_memory().iter().any(|model| model.path.starts_with(folder));
            let manifest = || read_manifest(folder);
            same && manifest().is_some_and(|it| it.id == plan.id && it.commit == plan.commit) && !is_used()
        };
        if let Some(folder) = folders.iter().find(is_ours)
            && let Err(error) = self.0.config.files.rename(folder, &partial)
        {
            tracing::warn!(%error, "a finished download is fetched again");
        }
    }

    /// The folder of the revision that is there already; an error when the id is another model's.
    fn older_download(&self, plan: &PullPlan, entry: &Entry<'_>) -> Result<PathBuf, TakeInError> {
        let path = self.0.layout.absolute(&entry.path);
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let ours = self.0.layout.is_download(&folder) && read_manifest(&folder).is_some_and(|it| it.id == plan.id);
        if ours || self.is_lost(&path) { Ok(folder) } else { Err(TakeInError::Taken { id: plan.id.clone(), path }) }
    }

    /// Whether a download is gone: somebody removed its weights. Then its place is free.
    fn is_lost(&self, path: &Path) -> bool {
        path.parent().is_some_and(|folder| self.0.layout.is_download(folder)) && fs_err::symlink_metadata(path).is_err()
    }

    /// The folder of the plan, or one beside it when something lies there.
    fn free_folder(&self, plan: &PullPlan) -> PathBuf {
        let wanted = self.0.layout.data().join(&plan.folder);
        // What a crash left before the list had it is ours, and nobody uses it.
        let is_used = self.in_memory().iter().any(|model| model.path.starts_with(&wanted));
        if !is_used && read_manifest(&wanted).is_some_and(|manifest| manifest.id == plan.id) {
            self.remove_download(&wanted);
        }
        let name = wanted.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let commit = plan.commit.as_deref().and_then(|commit| commit.get(..8)).unwrap_or("other");
        std::iter::once(wanted.clone())
            .chain(std::iter::once(wanted.with_file_name(format!("{name}@{commit}"))))
            .chain((2u32..10_000).map(|number| wanted.with_file_name(format!("{name}@{commit}-{number}"))))
            .find(|folder| fs_err::symlink_metadata(folder).is_err())
            .unwrap_or(wanted)
    }

    /// The names of the plan that mean no other model.
    fn free_aliases(&self, plan: &PullPlan) -> Result<Vec<String>, TakeInError> {
        let text = self.list_on_disk()?;
        let list: ModelsList<'_> = crate::models_list::parse(&text);
        let mut aliases: Vec<String> =
            list.get(plan.id.as_str()).map(|entry| entry.aliases.clone()).unwrap_or_default();
        for alias in &plan.aliases {
            let is_free = list.get(alias).is_none()
                && list.owner_of_alias(alias).is_none_or(|owner| owner.id == plan.id.as_str())
                && !aliases.contains(alias)
                && ModelId::new(alias).is_ok();
            if is_free {
                aliases.push(alias.clone());
            }
        }
        Ok(aliases)
    }

    /// Whether the files of a download have the digests that were computed when they came. Reads them whole.
    pub(crate) fn is_sound(&self, model: &Model) -> bool {
        let (Some(folder), Some(manifest)) = (model.path.parent(), self.manifest(model)) else { return false };
        manifest.files.iter().all(|file| {
            digest_of(&folder.join(&file.name)).is_ok_and(|(bytes, digest)| bytes == file.size && digest == file.sha256)
        })
    }

    /// Removes the files of a download that its manifest names, and the folders that are empty then.
    pub(crate) fn remove_download(&self, folder: &Path) {
        let Some(manifest) = read_manifest(folder).filter(|_| self.0.layout.is_download(folder)) else { return };
        let disk = &self.0.config.files;
        let names = manifest.files.iter().map(|file| file.name.as_str()).chain(["model.yaml", MANIFEST]);
        for name in names.filter(|name| crate::source::is_plain_name(name)) {
            let path = folder.join(name);
            if fs_err::symlink_metadata(&path).is_ok_and(|it| it.is_file())
                && let Err(error) = disk.remove(&path)
            {
                tracing::warn!(%error, "a file of an older download stays");
            }
        }
        self.remove_empty_download_folders(folder);
    }

    /// Removes a download's folder and those of its repository and author, as far as they hold nothing.
    pub(crate) fn remove_empty_download_folders(&self, folder: &Path) {
        if self.0.layout.is_download(folder) {
            for folder in folder.ancestors().take(3) {
                let _ = self.0.config.files.remove_empty_folder(folder);
            }
        }
    }
}

/// The length of a file and its SHA-256.
fn digest_of(path: &Path) -> io::Result<(u64, String)> {
    let mut file = fs_err::File::open(path)?;
    let (mut hasher, mut length, mut buffer) = (sha2::Sha256::new(), 0u64, vec![0; 1 << 20]);
    loop {
        let count = io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            return Ok((length, crate::pull::hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..count]);
        length += count as u64;
    }
}

/// What lies in a folder of a download.
pub(crate) fn read_manifest(folder: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs_err::read(folder.join(MANIFEST)).ok()?).ok()
}

fn write_manifest(disk: &Files, folder: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
    text.push(b'\n');
    disk.replace(&folder.join(MANIFEST), &text).map(|_| ())
}
