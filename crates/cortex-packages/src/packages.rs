//! The owner of installs: one at a time changes what is there, and each is followed from its first byte to its last.

use crate::{
    error::{PackageError, disk},
    fetch::fetch,
    index::{self, Archive, Place, Release},
    manifest::Manifest,
    store::{Installed, PackageStore},
    version::{archive_name, bare, is_called, is_for, numbers, of_archive},
};
use cortex_models::{Outbound, Tasks};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedMutexGuard, broadcast, oneshot};
use tokio_util::sync::CancellationToken;

/// Bytes of an index at most.
const LARGEST_INDEX: usize = 8 << 20;
/// How often progress is told.
const TOLD: Duration = Duration::from_millis(250);
/// Events that a slow listener may be behind.
const EVENTS: usize = 256;

/// What uses the modules.
pub trait ModuleHost: Send + Sync {
    /// Runs a module in a process of its own; the reason when it does not work on this machine.
    fn try_module(&self, module: PathBuf) -> BoxFuture<'_, Result<(), String>>;
    /// Whether the build has a module of this name.
    fn is_of_build(&self, module: &str) -> bool;
    /// Uses the modules in these folders from the next load on, before those of the build.
    fn use_folders(&self, folders: Vec<PathBuf>) -> BoxFuture<'_, ()>;
}

/// Where packages come from.
#[derive(Clone)]
pub struct PackagesConfig {
    /// The address or the path of the index of releases; none when the settings name none.
    pub index: Option<String>,
    /// The way to it.
    pub outbound: Outbound,
    /// Such as `linux-amd64`.
    pub platform: String,
    /// The version of this cortex.
    pub version: String,
}

/// What happened to an install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It has begun.
    Started,
    /// More of it is there.
    Updated,
    /// It is installed.
    Succeeded,
    /// It failed.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

/// An install on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The name of the archive: what the install is known by.
    pub name: String,
    /// Its variant.
    pub variant: String,
    /// Its version.
    pub version: String,
    /// Where it comes from, without what may be secret.
    pub url: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// How much of it is there.
    pub downloaded: u64,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// To which.
    pub progress: Progress,
    /// Why it failed.
    pub message: Option<String>,
}

/// The owner. Cheap to clone.
#[derive(Clone)]
pub struct Packages(Arc<Inner>);

struct Inner {
    store: PackageStore,
    config: PackagesConfig,
    host: Arc<dyn ModuleHost>,
    tasks: Tasks,
    /// One change of what is installed at a time.
    changing: tokio::sync::Mutex<()>,
    /// One choice of what is used at a time.
    choosing: Arc<tokio::sync::Mutex<()>>,
    running: Mutex<BTreeMap<String, (Progress, CancellationToken)>>,
    events: broadcast::Sender<Event>,
}

impl Packages {
    /// Nothing is asked or opened before somebody wants something.
    pub fn new(store: PackageStore, config: PackagesConfig, host: Arc<dyn ModuleHost>, tasks: &Tasks) -> Self {
        Self(Arc::new(Inner {
            store,
            config,
            host,
            tasks: tasks.child(),
            changing: tokio::sync::Mutex::default(),
            choosing: Arc::default(),
            running: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }))
    }

    /// What is installed.
    pub fn installed(&self) -> Vec<Installed> {
        self.0.store.installed()
    }

    /// Whether the settings name an index.
    pub fn has_index(&self) -> bool {
        self.0.config.index.is_some()
    }

    /// The releases of the index, the newest first; none without an index.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn releases(&self) -> Result<Vec<Release>, PackageError> {
        let Some(text) = &self.0.config.index else { return Ok(vec![]) };
        let place = Place::parse(text).ok_or_else(|| {
            PackageError::Index(
                "`engineIndex` in the settings is neither an http address nor a path from the root".into(),
            )
        })?;
        if !place.is_safe() {
            let what = format!("{} is not encrypted, and what it promises is run: use https", place.shown());
            return Err(PackageError::Index(what));
        }
        let bytes = match &place {
            Place::Url(url) => self.0.config.outbound.bytes(url.as_str(), LARGEST_INDEX).await?,
            Place::File(path) => tokio::fs::read(path)
                .await
                .map_err(|error| PackageError::Index(format!("{} cannot be read: {error}", path.display())))?,
        };
        index::read(&bytes, &place, &self.0.config.platform)
    }

    /// The release with a version, as `latest` the newest for this cortex.
    ///
    /// # Errors
    /// When there is none, or the index cannot be read.
    pub async fn release(&self, version: Option<&str>) -> Result<Release, PackageError> {
        let releases = self.releases().await?;
        index::choose(&releases, version, &self.0.config.version).cloned()
    }

    /// The archive of a variant in a release.
    ///
    /// # Errors
    /// When there is none, or the index cannot be read.
    pub async fn offer(&self, variant: &str, version: Option<&str>) -> Result<Archive, PackageError> {
        let release = self.release(version).await?;
        index::pick(&release, variant, &self.0.config.platform).cloned()
    }

    /// Begins to install an archive of the index, or joins the install of it that is under way.
    pub fn begin(&self, archive: Archive) -> Progress {
        let progress = Progress {
            name: archive.name.clone(),
            variant: archive.variant.clone(),
            version: archive.version.clone(),
            url: archive.place.shown(),
            bytes: archive.bytes,
            downloaded: 0,
        };
        let stop = CancellationToken::new();
        {
            let mut running = self.running();
            if let Some((under_way, _)) = running.get(&archive.name) {
                return under_way.clone();
            }
            running.insert(archive.name.clone(), (progress.clone(), stop.clone()));
            self.tell(EventKind::Started, &progress, None);
        }
        let (packages, name) = (self.clone(), archive.name.clone());
        self.0.tasks.spawn(async move {
            // What is here is installed: from then on nobody stops it.
            let result = match stop.run_until_cancelled(packages.fetched(&archive)).await {
                None => Err(PackageError::Stopped),
                Some(Err(error)) => Err(error),
                Some(Ok((folder, path))) => {
                    let expected = Expected { variant: archive.variant.clone(), version: archive.version.clone() };
                    let installed = packages.take_in(path, expected).await;
                    drop(folder);
                    installed.map(|_| ())
                }
            };
            let mut running = packages.running();
            let Some((progress, _)) = running.remove(&name) else { return };
            match result {
                Ok(()) => {
                    packages.tell(EventKind::Succeeded, &Progress { downloaded: progress.bytes, ..progress }, None);
                }
                Err(PackageError::Stopped) => packages.tell(EventKind::Stopped, &progress, None),
                Err(error) => {
                    tracing::warn!(archive = %name, %error, "the package was not installed");
                    let message = error.hint().map_or(error.to_string(), |hint| format!("{error}; {hint}"));
                    packages.tell(EventKind::Failed, &progress, Some(message));
                }
            }
        });
        progress
    }

    /// Tells those who wait for an install that there was nothing to do.
    pub fn already_there(&self, variant: &str, version: &str) -> Progress {
        let (name, url) = (archive_name(version, variant), String::new());
        let progress =
            Progress { name, variant: variant.into(), version: version.into(), url, bytes: 0, downloaded: 0 };
        self.tell(EventKind::Succeeded, &progress, None);
        progress
    }

    /// Stops an install by its name. False when there is none.
    pub fn stop(&self, name: &str) -> bool {
        self.running().get(name).map(|(_, stop)| stop.cancel()).is_some()
    }

    /// What is under way, and what happens from now on.
    pub fn events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let running = self.running();
        let fresh = running.values().map(|(progress, _)| Event {
            kind: EventKind::Started,
            progress: progress.clone(),
            message: None,
        });
        (fresh.collect(), self.0.events.subscribe())
    }

    /// Installs an archive that lies in a folder of this machine: the only one for this cortex, or the newest of a variant, or the
    /// one with that version. `None` when the folder has no archive of packages at all.
    ///
    /// # Errors
    /// When none is meant, or several are, or it cannot be used.
    pub async fn install_from(
        &self,
        folder: &Path,
        variant: Option<&str>,
        version: Option<&str>,
    ) -> Result<Option<Installed>, PackageError> {
        let (folder, config) = (folder.to_owned(), self.0.config.clone());
        let (variant, version) = (variant.map(str::to_owned), version.map(str::to_owned));
        let found = blocking(move || {
            let found = archives_in(&folder, &config.platform).map_err(disk("read the folder"))?;
            if found.is_empty() {
                return Ok(None);
            }
            choose_file(&folder, &found, (variant.as_deref(), version.as_deref()), &config).map(Some)
        });
        match found.await? {
            None => Ok(None),
            Some((path, expected)) => self.take_in(path, expected).await.map(Some),
        }
    }

    /// Removes packages, see [`Installed`]: all of them without a variant. False when there was nothing like that.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, variant: Option<&str>, version: Option<&str>) -> Result<bool, PackageError> {
        let (variant, version) = (variant.map(str::to_owned), version.map(str::to_owned));
        self.change(move |store| store.remove(variant.as_deref(), version.as_deref())).await
    }

    /// Uses this version of a variant from the next load on; with none, the module of the build.
    ///
    /// # Errors
    /// When it is not installed, or the disk fails.
    pub async fn set_current(&self, variant: &str, version: Option<&str>) -> Result<(), PackageError> {
        let (variant, version) = (variant.to_owned(), version.map(str::to_owned));
        self.change(move |store| store.set_current(&variant, version.as_deref())).await
    }

    /// The right to choose what is used: a choice that does not work is taken back before another one is made.
    pub async fn choosing(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.0.choosing).lock_owned().await
    }

    /// Runs to its end, also when nobody waits for it any more.
    async fn owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, PackageError>> + Send + 'static,
    ) -> Result<T, PackageError> {
        let (reply, answer) = oneshot::channel();
        self.0.tasks.spawn(async move {
            // Who asked may have left.
            let _ = reply.send(work.await);
        });
        // Only the end of the daemon ends it before.
        answer.await.unwrap_or(Err(PackageError::Stopped))
    }

    /// Changes what is installed, and tells the engine whatever became of it.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&PackageStore) -> Result<T, PackageError> + Send + 'static,
    ) -> Result<T, PackageError> {
        let packages = self.clone();
        self.owned(async move {
            let _turn = packages.0.changing.lock().await;
            let store = packages.0.store.clone();
            let changed = blocking(move || change(&store)).await;
            packages.0.host.use_folders(packages.0.store.folders()).await;
            changed
        })
        .await
    }

    /// Brings an archive of the index here; its folder is removed when it is dropped.
    async fn fetched(&self, archive: &Archive) -> Result<(tempfile::TempDir, PathBuf), PackageError> {
        let folder = self.0.store.new_folder()?;
        let path = folder.path().join(&archive.name);
        let last = Mutex::new(None::<Instant>);
        let told = |downloaded: u64| {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < TOLD) {
                return;
            }
            *last = Some(Instant::now());
            let mut running = self.running();
            let Some((progress, _)) = running.get_mut(&archive.name) else { return };
            progress.downloaded = downloaded;
            self.tell(EventKind::Updated, progress, None);
        };
        fetch(&self.0.config.outbound, archive, &path, &told).await?;
        Ok((folder, path))
    }

    /// Verifies an archive, tries what is in it, and puts it in its place.
    async fn take_in(&self, archive: PathBuf, expected: Expected) -> Result<Installed, PackageError> {
        let packages = self.clone();
        self.owned(async move {
            let _turn = packages.0.changing.lock().await;
            let store = packages.0.store.clone();
            let (ours, platform) = (packages.0.config.version.clone(), packages.0.config.platform.clone());
            let unpacked = blocking(move || {
                let unpacked = store.unpack(&archive)?;
                expected.check(&unpacked.manifest, &archive, &ours)?;
                Ok(unpacked)
            })
            .await?;
            let Manifest { variant, version, .. } = unpacked.manifest.clone();
            let module = unpacked.manifest.module_name();
            // Nobody could tell the two apart.
            if version == packages.0.config.version
                && variant == format!("{platform}-{module}")
                && packages.0.host.is_of_build(module)
            {
                let reason = format!(
                    "{version} of it is part of this build; a newer one has a further number, such as {version}-2"
                );
                return Err(PackageError::Archive { name: archive_name(&version, &variant), reason });
            }
            let tried = packages.0.host.try_module(unpacked.module()).await;
            tried.map_err(|reason| PackageError::DoesNotWork { variant: variant.clone(), reason })?;
            let store = packages.0.store.clone();
            let installed = blocking(move || store.take_in(unpacked)).await;
            packages.0.host.use_folders(packages.0.store.folders()).await;
            tracing::info!(%variant, %version, is_installed = installed.is_ok(), "a package came in");
            installed
        })
        .await
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, (Progress, CancellationToken)>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, kind: EventKind, progress: &Progress, message: Option<String>) {
        // Nobody needs to listen.
        let _ = self.0.events.send(Event { kind, progress: progress.clone(), message });
    }
}

/// What an archive must hold, by its name.
struct Expected {
    variant: String,
    version: String,
}

impl Expected {
    fn check(&self, manifest: &Manifest, archive: &Path, ours: &str) -> Result<(), PackageError> {
        if (&manifest.variant, &manifest.version) != (&self.variant, &self.version) {
            let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = format!("it holds {} {}", manifest.variant, manifest.version);
            return Err(PackageError::Archive { name, reason });
        }
        if is_for(&manifest.version, ours) {
            return Ok(());
        }
        Err(PackageError::OtherCortex { version: manifest.version.clone(), ours: ours.to_owned() })
    }
}

/// What blocks runs where that is allowed.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, PackageError> + Send + 'static,
) -> Result<T, PackageError> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => Err(disk("change the packages")(std::io::Error::other(error))),
    }
}

/// The archives in a folder whose names say that they are for this platform.
fn archives_in(folder: &Path, platform: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if of_archive(name, platform).is_some() && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The archive that is meant, and what it must hold.
fn choose_file(
    folder: &Path,
    found: &[PathBuf],
    (variant, version): (Option<&str>, Option<&str>),
    config: &PackagesConfig,
) -> Result<(PathBuf, Expected), PackageError> {
    let facts = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str())?;
        let (version, variant) = of_archive(name, &config.platform)?;
        Some((path.clone(), Expected { variant: variant.to_owned(), version: version.to_owned() }))
    };
    let version = version.map(bare).filter(|version| !matches!(*version, "" | "latest"));
    let is_variant = |it: &str| variant.is_none_or(|variant| is_called(it, &config.platform, variant));
    // Without a word about the version, those of another cortex are not meant.
    let is_version = |it: &str| version.map_or_else(|| is_for(it, &config.version), |version| it == version);
    let mut meant: Vec<(PathBuf, Expected)> = found
        .iter()
        .filter_map(facts)
        .filter(|(_, named)| is_variant(&named.variant) && is_version(&named.version))
        .collect();
    meant.sort_by_key(|(_, named)| std::cmp::Reverse(numbers(&named.version)));
    let mut variants: Vec<&str> = meant.iter().map(|(_, named)| named.variant.as_str()).collect();
    variants.sort_unstable();
    variants.dedup();
    if variants.len() > 1 {
        return Err(PackageError::Several { folder: folder.into(), names: variants.join(", ") });
    }
    meant.into_iter().next().ok_or_else(|| PackageError::NoArchive {
        folder: folder.into(),
        example: archive_name(
            version.unwrap_or(&config.version),
            variant.unwrap_or(&format!("{}-vulkan", config.platform)),
        ),
    })
}

#[cfg(test)]
#[path = "packages/tests.rs"]
mod tests;
