//! The packages on disk: `engines/llama-cpp/<variant>/<version>/`, and beside the versions the name of the one in use.

use crate::{
    archive::{self, MANIFEST},
    error::{PackageError, disk},
    manifest::Manifest,
    version::{bare, is_name, numbers},
};
use cortex_models::{move_into_place, write_atomically};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;

/// The file that names the version in use; without it, it is the newest.
const CURRENT: &str = "current";
/// What a folder begins with that is being filled.
const NEW: &str = ".new-";

/// A package that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version, without a `v`.
    pub version: String,
    /// Its variant.
    pub variant: String,
    /// The name of its module, such as `vulkan`.
    pub module: String,
    /// Whether that is for graphics processors.
    pub is_graphics: bool,
    /// Whether it is the one that is used.
    pub is_current: bool,
    /// Where it lies.
    pub folder: PathBuf,
}

/// The owner of the folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PackageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    platform: String,
    /// Variants in the order of the alphabet, each with its versions, the newest first.
    installed: Mutex<Vec<Installed>>,
}

/// A package that was unpacked and is not in its place yet; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Unpacked {
    folder: TempDir,
    pub(crate) manifest: Manifest,
}

impl Unpacked {
    /// Its module.
    pub(crate) fn module(&self) -> PathBuf {
        self.folder.path().join(&self.manifest.module)
    }
}

impl PackageStore {
    /// Looks at what is there for a platform such as `linux-amd64`, and removes what was never finished. Blocks; a folder that
    /// cannot be read is told in the log and has nothing.
    pub fn open(data_folder: &Path, platform: &str) -> Self {
        let folder = data_folder.join("engines/llama-cpp");
        for path in entries(&folder) {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NEW)) {
                // What stays takes room, and nothing else.
                let _ = fs_err::remove_dir_all(path);
            }
        }
        let store = Self(Arc::new(Inner { folder, platform: platform.into(), installed: Mutex::default() }));
        store.look();
        store
    }

    /// What is there.
    pub fn installed(&self) -> Vec<Installed> {
        self.0.installed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folders whose modules are used.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.installed().into_iter().filter(|it| it.is_current).map(|it| it.folder).collect()
    }

    /// A folder that is removed unless it is kept, on the same disk.
    pub(crate) fn new_folder(&self) -> Result<TempDir, PackageError> {
        fs_err::create_dir_all(&self.0.folder).map_err(disk("make the folder of packages"))?;
        let made = tempfile::Builder::new().prefix(NEW).tempdir_in(&self.0.folder);
        made.map_err(disk("make a folder for the package"))
    }

    /// Unpacks and verifies an archive beside what is there.
    pub(crate) fn unpack(&self, archive: &Path) -> Result<Unpacked, PackageError> {
        let folder = self.new_folder()?;
        let manifest = archive::unpack(archive, folder.path(), &self.0.platform)?;
        Ok(Unpacked { folder, manifest })
    }

    /// Puts a package in its place in one step, and uses it. The version that was used until now stays, others go.
    pub(crate) fn take_in(&self, unpacked: Unpacked) -> Result<Installed, PackageError> {
        let Manifest { version, variant, .. } = &unpacked.manifest;
        let (of_variant, before) = (self.0.folder.join(variant), self.in_use(variant));
        let target = of_variant.join(version);
        let failed = disk("put the package in its place");
        fs_err::create_dir_all(&of_variant).map_err(disk("make the folder of the variant"))?;
        let is_same = manifest_in(&target).as_ref() == Some(&unpacked.manifest)
            && look_at(&target, &self.0.platform).is_some_and(|it| it.is_ok());
        if !is_same {
            // One that is damaged, or was built anew, makes room; who uses it keeps the files that it has.
            let aside = self.new_folder()?;
            if fs_err::symlink_metadata(&target).is_ok() {
                move_into_place(&target, &aside.path().join("old")).map_err(&failed)?;
            }
            let folder = unpacked.folder.keep();
            let moved = readable(&folder).and_then(|()| move_into_place(&folder, &target));
            if let Err(error) = moved {
                let _ = fs_err::remove_dir_all(&folder);
                // What was there is better than nothing.
                let _ = move_into_place(&aside.path().join("old"), &target);
                return Err(failed(error));
            }
        }
        self.write_current(variant, version)?;
        let is_again = before.as_ref() == Some(version);
        for old in self.installed().iter().filter(|it| it.variant == *variant && !is_again) {
            if old.version != *version && Some(&old.version) != before.as_ref() {
                // It stays in nobody's way.
                let _ = fs_err::remove_dir_all(&old.folder);
            }
        }
        self.look();
        let is_it = |it: &Installed| it.variant == *variant && it.version == *version;
        self.installed().into_iter().find(is_it).ok_or(PackageError::NotInstalled)
    }

    /// Uses this version of a variant from now on; with none, the module of the build, where there is one.
    pub(crate) fn set_current(&self, variant: &str, version: Option<&str>) -> Result<(), PackageError> {
        let is_there = |version: &str| self.installed().iter().any(|it| it.variant == variant && it.version == version);
        match version.map(bare) {
            Some(version) if !is_there(version) => return Err(PackageError::NotInstalled),
            Some(version) => self.write_current(variant, version)?,
            None if self.installed().iter().any(|it| it.variant == variant) => self.write_current(variant, "")?,
            None => {}
        }
        self.look();
        Ok(())
    }

    /// Removes a version of a variant; without a version all of them, without a variant all packages. The newest that is left is
    /// used. False when there was nothing like that.
    pub(crate) fn remove(&self, variant: Option<&str>, version: Option<&str>) -> Result<bool, PackageError> {
        let version = version.map(bare);
        let is_meant = |it: &Installed| {
            variant.is_none_or(|variant| it.variant == variant) && version.is_none_or(|version| it.version == version)
        };
        let meant: Vec<Installed> = self.installed().into_iter().filter(is_meant).collect();
        let mut failure = None;
        for package in &meant {
            if let Err(error) = fs_err::remove_dir_all(&package.folder) {
                failure = Some(disk("remove the package")(error));
                continue;
            }
            let Some(of_variant) = package.folder.parent() else { continue };
            if package.is_current || entries(of_variant).is_empty() {
                // What it named is gone: the newest that is left is used.
                let _ = fs_err::remove_file(of_variant.join(CURRENT));
            }
            // Fails, as it should, while another version is there.
            let _ = fs_err::remove_dir(of_variant);
        }
        self.look();
        match failure {
            Some(failure) => Err(failure),
            None => Ok(!meant.is_empty()),
        }
    }

    fn in_use(&self, variant: &str) -> Option<String> {
        self.installed().into_iter().find(|it| it.variant == variant && it.is_current).map(|it| it.version)
    }

    fn write_current(&self, variant: &str, version: &str) -> Result<(), PackageError> {
        let path = self.0.folder.join(variant).join(CURRENT);
        write_atomically(&path, version.as_bytes()).map_err(disk("write down which version is used"))
    }

    fn look(&self) {
        let mut found: BTreeMap<String, Vec<Installed>> = BTreeMap::new();
        for of_variant in entries(&self.0.folder) {
            for folder in entries(&of_variant) {
                match look_at(&folder, &self.0.platform) {
                    Some(Ok(package)) => found.entry(package.variant.clone()).or_default().push(package),
                    Some(Err(reason)) => {
                        tracing::warn!(folder = %folder.display(), %reason, "a package is not used");
                    }
                    None => {}
                }
            }
        }
        for (variant, packages) in &mut found {
            packages.sort_by_key(|package| std::cmp::Reverse(numbers(&package.version)));
            let said = fs_err::read_to_string(self.0.folder.join(variant).join(CURRENT)).ok();
            let current = said.map(|text| text.trim().to_owned()).or_else(|| Some(packages.first()?.version.clone()));
            for package in packages {
                package.is_current = Some(&package.version) == current.as_ref();
            }
        }
        let all = found.into_values().flatten().collect();
        *self.0.installed.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// A folder that only its owner may use becomes one that others may read, as the rest of the data.
fn readable(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs_err::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    // What is not there has nothing in it.
    let Ok(entries) = fs_err::read_dir(folder) else { return vec![] };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn manifest_in(folder: &Path) -> Option<Manifest> {
    serde_json::from_slice(&fs_err::read(folder.join(MANIFEST)).ok()?).ok()
}

/// A package in a folder, or why what is there cannot be used; `None` when it is none.
fn look_at(folder: &Path, platform: &str) -> Option<Result<Installed, String>> {
    let text = fs_err::read(folder.join(MANIFEST)).ok()?;
    let manifest: Manifest = match serde_json::from_slice(&text) {
        Ok(manifest) => manifest,
        Err(error) => return Some(Err(format!("{MANIFEST} is not understood: {error}"))),
    };
    if let Some(fault) = manifest.fault(platform) {
        return Some(Err(fault));
    }
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let (version, variant) = (name(folder), folder.parent().map(name).unwrap_or_default());
    if version != manifest.version || variant != manifest.variant || !is_name(&version) {
        return Some(Err(format!("{MANIFEST} says {} {}", manifest.variant, manifest.version)));
    }
    for file in &manifest.files {
        let length =
            fs_err::metadata(folder.join(&file.name)).ok().filter(std::fs::Metadata::is_file).map(|it| it.len());
        if length != Some(file.bytes) {
            return Some(Err(format!("{} is missing or has another length", file.name)));
        }
    }
    let module = manifest.module_name().to_owned();
    let is_graphics = !manifest.module.starts_with("libggml-cpu-");
    Some(Ok(Installed { version, variant, module, is_graphics, is_current: false, folder: folder.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{archive::hex, manifest::BUILD};
    use cortex_test::archive::{Entry, tarball};
    use serde_json::json;
    use sha2::{Digest as _, Sha256};

    fn archive(folder: &Path, version: &str) -> PathBuf {
        let content = version.as_bytes();
        let manifest = json!({
            "engine": "llama-cpp", "version": version, "variant": "linux-amd64-vulkan", "build": BUILD,
            "module": "libggml-vulkan.so",
            "files": [{"name": "libggml-vulkan.so", "bytes": content.len(), "sha256": hex(&Sha256::digest(content))}],
        });
        let path = folder.join(format!("{version}.tar.gz"));
        let manifest = manifest.to_string();
        let entries = [Entry::File(MANIFEST, manifest.as_bytes()), Entry::File("libggml-vulkan.so", content)];
        fs_err::write(&path, tarball(&entries)).unwrap();
        path
    }

    fn shown(store: &PackageStore) -> String {
        let one = |it: Installed| format!("{}{}", it.version, if it.is_current { "*" } else { "" });
        store.installed().into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_version_before_is_kept_and_can_be_used_again() {
        let data = tempfile::tempdir().unwrap();
        let store = PackageStore::open(data.path(), "linux-amd64");
        assert_eq!(shown(&store), "");
        let install = |version: &str| store.take_in(store.unpack(&archive(data.path(), version)).unwrap()).unwrap();
        install("0.1.0");
        let newer = install("0.1.0-2");
        assert_eq!((shown(&store).as_str(), newer.module.as_str()), ("0.1.0-2* 0.1.0", "vulkan"));
        assert_eq!(store.folders(), [newer.folder.as_path()]);
        install("0.1.0-3");
        assert_eq!(shown(&store), "0.1.0-3* 0.1.0-2");
        // Again the same one: nothing changes but what is used.
        store.set_current("linux-amd64-vulkan", Some("v0.1.0-2")).unwrap();
        assert_eq!(shown(&store), "0.1.0-3 0.1.0-2*");
        install("0.1.0-3");
        assert_eq!(shown(&store), "0.1.0-3* 0.1.0-2");
        // Again, while it is in use: the way back stays.
        install("0.1.0-3");
        assert_eq!(shown(&store), "0.1.0-3* 0.1.0-2");
        // Another program, or the next start, sees the same.
        assert_eq!(PackageStore::open(data.path(), "linux-amd64").installed(), store.installed());
        store.set_current("linux-amd64-vulkan", None).unwrap();
        assert_eq!((shown(&store).as_str(), store.folders().len()), ("0.1.0-3 0.1.0-2", 0));
        assert!(store.set_current("linux-amd64-vulkan", Some("9")).is_err());
        store.set_current("linux-amd64-vulkan", Some("0.1.0-3")).unwrap();
        assert!(store.remove(Some("linux-amd64-vulkan"), Some("v0.1.0-3")).unwrap());
        assert_eq!(shown(&store), "0.1.0-2*");
        assert!(!store.remove(Some("linux-amd64-vulkan"), Some("0.1.0-3")).unwrap());
        install("0.1.0-4");
        assert!(store.remove(None, None).unwrap());
        assert_eq!(shown(&store), "");
        assert_eq!(entries(&data.path().join("engines/llama-cpp")), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_damaged_or_unfinished_is_not_used() {
        let data = tempfile::tempdir().unwrap();
        let store = PackageStore::open(data.path(), "linux-amd64");
        let package = store.take_in(store.unpack(&archive(data.path(), "0.1.0")).unwrap()).unwrap();
        let root = data.path().join("engines/llama-cpp");
        fs_err::create_dir_all(root.join(".new-crashed")).unwrap();
        // A folder of an older program has nothing for us, and stays.
        fs_err::create_dir_all(root.join("linux-avx/b4932")).unwrap();
        let again = PackageStore::open(data.path(), "linux-amd64");
        assert!(
            again.installed().len() == 1
                && !root.join(".new-crashed").exists()
                && root.join("linux-avx/b4932").exists()
        );
        assert!(PackageStore::open(data.path(), "mac-arm64").installed().is_empty());
        fs_err::write(package.folder.join("libggml-vulkan.so"), "longer than it was").unwrap();
        let again = PackageStore::open(data.path(), "linux-amd64");
        assert!(again.installed().is_empty());
        // Installed once more, it is whole.
        let package = again.take_in(again.unpack(&archive(data.path(), "0.1.0")).unwrap()).unwrap();
        assert_eq!(fs_err::read(package.folder.join("libggml-vulkan.so")).unwrap(), b"0.1.0");
        // A wrong archive leaves nothing behind.
        let wrong = data.path().join("wrong.tar.gz");
        fs_err::write(&wrong, "no archive").unwrap();
        assert!(store.unpack(&wrong).is_err());
        assert!(!entries(&root).iter().any(|path| path.to_string_lossy().contains(NEW)));
    }
}
