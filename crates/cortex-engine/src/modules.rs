//! The compute modules that are there: those of packages, and those of the build beside the worker.

use crate::Config;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

const PREFIX: &str = "libggml-";
const OF_PROCESSORS: &str = "cpu-";
/// Modules that are no graphics processors: for the processor, and for other machines over a network.
const OTHERS: &[&str] = &["base", "cpu", "rpc", "blas"];

/// A compute module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, such as `haswell` or `vulkan`.
    pub name: String,
    /// Whether it is for graphics processors.
    pub is_graphics: bool,
    /// Whether it came with the build, and not as a package.
    pub is_of_build: bool,
    /// Its file.
    pub path: PathBuf,
}

/// The owner of where modules are, and of which of them somebody chose.
#[derive(Debug)]
pub(crate) struct Modules {
    of_build: PathBuf,
    packages: Mutex<Vec<PathBuf>>,
    pinned: Mutex<Option<String>>,
    pin_file: PathBuf,
}

impl Modules {
    pub(crate) fn new(config: &Config) -> Self {
        let pinned = fs_err::read_to_string(&config.variant_choice).ok().map(|name| name.trim().to_owned());
        Self {
            of_build: config.worker_program.parent().unwrap_or(Path::new(".")).join("backends"),
            packages: Mutex::new(config.module_folders.clone()),
            pinned: Mutex::new(pinned.filter(|name| !name.is_empty())),
            pin_file: config.variant_choice.clone(),
        }
    }

    /// Those of a build, without packages. For tests.
    #[cfg(test)]
    pub(crate) fn of(of_build: &Path, pin_file: &Path) -> Self {
        Self {
            of_build: of_build.into(),
            packages: Mutex::default(),
            pinned: Mutex::default(),
            pin_file: pin_file.into(),
        }
    }

    /// Uses these packages from now on.
    pub(crate) fn set_packages(&self, folders: Vec<PathBuf>) {
        *lock(&self.packages) = folders;
    }

    /// All of them, those of packages first: where two have a name, the first one counts.
    pub(crate) fn all(&self) -> Vec<Module> {
        let packages = lock(&self.packages).clone();
        look(packages.iter().map(|folder| (folder, false)).chain([(&self.of_build, true)]))
    }

    /// Those that came with the build.
    pub(crate) fn of_build(&self) -> Vec<Module> {
        look([(&self.of_build, true)])
    }

    /// Those for the processor.
    pub(crate) fn of_processor(&self) -> Vec<Module> {
        self.all().into_iter().filter(|module| !module.is_graphics).collect()
    }

    /// Those for graphics processors: first the one that somebody chose, and those that are made for one maker's before those for
    /// all.
    pub(crate) fn of_graphics(&self) -> Vec<Module> {
        let pinned = self.pinned();
        let mut found: Vec<Module> = self.all().into_iter().filter(|module| module.is_graphics).collect();
        found.sort_by_key(|it| (pinned.as_deref() != Some(&it.name), it.name == "vulkan", it.name.clone()));
        found
    }

    /// The module that somebody chose.
    pub(crate) fn pinned(&self) -> Option<String> {
        lock(&self.pinned).clone()
    }

    /// Takes this module from now on, or the best one again; the choice is kept. Writes a file.
    pub(crate) fn pin(&self, name: Option<&str>) -> io::Result<()> {
        match name {
            None => match fs_err::remove_file(&self.pin_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Some(name) => {
                if let Some(folder) = self.pin_file.parent() {
                    fs_err::create_dir_all(folder)?;
                }
                cortex_models::write_atomically(&self.pin_file, name.as_bytes())?;
            }
        }
        *lock(&self.pinned) = name.map(str::to_owned);
        Ok(())
    }
}

fn look<'folder>(folders: impl IntoIterator<Item = (&'folder PathBuf, bool)>) -> Vec<Module> {
    let mut found: Vec<Module> = Vec::new();
    for (folder, is_of_build) in folders {
        // What is not there has no modules.
        let Ok(entries) = fs_err::read_dir(folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if let Some((name, is_graphics)) = name_of(&path)
                && !found.iter().any(|it| it.name == name && it.is_graphics == is_graphics)
            {
                found.push(Module { name, is_graphics, is_of_build, path });
            }
        }
    }
    found
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name in `libggml-cpu-haswell.so` or `libggml-vulkan.so`, and whether it is for graphics processors.
pub(crate) fn name_of(path: &Path) -> Option<(String, bool)> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(".so")?;
    if let Some(processor) = name.strip_prefix(OF_PROCESSORS) {
        return (!processor.is_empty()).then(|| (processor.to_owned(), false));
    }
    let is_other = OTHERS.iter().any(|other| name == *other || name.starts_with(&format!("{other}-")));
    (!is_other && !name.is_empty()).then(|| (name.to_owned(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn modules_are_known_by_their_files() {
        for (name, expected) in [
            ("libggml-vulkan.so", Some(("vulkan", true))),
            ("libggml-cuda.so", Some(("cuda", true))),
            ("libggml-cpu-haswell.so", Some(("haswell", false))),
            ("libggml-cpu.so", None),
            ("libggml-cpu-.so", None),
            ("libggml-rpc.so", None),
            ("libggml-base.so", None),
            ("libggml-base.so.0", None),
            ("notes.txt", None),
        ] {
            let found = name_of(Path::new(name));
            assert_eq!(found.as_ref().map(|(name, graphics)| (name.as_str(), *graphics)), expected, "{name}");
        }
    }

    #[test]
    fn packages_come_before_the_build_and_a_choice_before_both() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "backends/libggml-cpu-x64.so",
            "backends/libggml-vulkan.so",
            "backends/libggml-cuda.so",
            "new/libggml-cpu-x64.so",
            "hip/libggml-hip.so",
        ] {
            fs_err::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
            fs_err::write(folder.path().join(file), "").unwrap();
        }
        let modules = Modules::of(&folder.path().join("backends"), &folder.path().join("state/variant"));
        modules.set_packages(vec![folder.path().join("new")]);
        let processor = modules.of_processor();
        assert!(
            names(&processor) == ["x64"]
                && !processor[0].is_of_build
                && processor[0].path.starts_with(folder.path().join("new"))
        );
        assert_eq!(names(&modules.of_graphics()), ["cuda", "vulkan"]);
        modules.set_packages(vec![folder.path().join("hip"), folder.path().join("gone")]);
        assert_eq!(names(&modules.of_graphics()), ["cuda", "hip", "vulkan"]);
        assert!(modules.of_processor()[0].is_of_build);
        modules.pin(Some("vulkan")).unwrap();
        assert_eq!(names(&modules.of_graphics()), ["vulkan", "cuda", "hip"]);
        assert_eq!(fs_err::read_to_string(folder.path().join("state/variant")).unwrap(), "vulkan");
        modules.pin(None).unwrap();
        modules.pin(None).unwrap();
        assert!(modules.pinned().is_none() && !folder.path().join("state/variant").exists());
    }
}
