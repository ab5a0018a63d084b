//! What a package says of itself. Pure.

use crate::version::is_name;
use serde::{Deserialize, Serialize};

/// The llama.cpp that modules of this build are made from; a module of another one would not fit the worker. `cargo xtask tidy`
/// compares it with what is compiled.
pub const BUILD: &str = "llama-cpp-sys-2 0.1.161";
/// Modules for something else than a model's computation on this machine.
const OTHERS: &[&str] = &["base", "rpc", "blas", "cpu"];

/// What libraries of cortex, and those that it brings or finds everywhere, begin with.
const OURS: &[&str] =
    &["libggml", "libllama", "libmtmd", "libgomp.", "libstdc++.", "libgcc_s.", "libc.", "libm.", "libpthread.", "ld-"];

/// The manifest of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `llama-cpp`.
    pub engine: String,
    /// Its version, without a `v`.
    pub version: String,
    /// Such as `linux-amd64-vulkan`.
    pub variant: String,
    /// What it was made for: [`BUILD`].
    pub build: String,
    /// The file that is the module, such as `libggml-vulkan.so`.
    pub module: String,
    /// All files, the module among them.
    pub files: Vec<ManifestFile>,
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The name of a module, by its file: `haswell` of `libggml-cpu-haswell.so`, `vulkan` of `libggml-vulkan.so`.
pub(crate) fn module_name(file: &str) -> Option<&str> {
    let name = file.strip_prefix("libggml-")?.strip_suffix(".so")?;
    let name = name.strip_prefix("cpu-").unwrap_or(name);
    (!name.is_empty() && !OTHERS.contains(&name)).then_some(name)
}

impl Manifest {
    /// The name of its module.
    pub fn module_name(&self) -> &str {
        module_name(&self.module).unwrap_or_default()
    }

    /// Why it cannot be used by this build on this platform, such as `linux-amd64`.
    pub(crate) fn fault(&self, platform: &str) -> Option<String> {
        let names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
        if self.engine != "llama-cpp" {
            Some(format!("it is for the engine {}", self.engine))
        } else if !is_name(&self.version) || !is_name(&self.variant) {
            Some("its version or variant is no name".into())
        } else if !self.variant.starts_with(&format!("{platform}-")) {
            Some(format!("it is for {}, and this machine is {platform}", self.variant))
        } else if self.build != BUILD {
            Some(format!("it was made for {}, and this cortex has {BUILD}", self.build))
        } else if let Some((_, name)) = twice {
            Some(format!("it names {name} twice"))
        } else if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            Some(format!("`{bad}` is no name of a file"))
        } else if module_name(&self.module).is_none() || !names.contains(&self.module.as_str()) {
            Some(format!("`{}` is no compute module in it", self.module))
        } else {
            // One that has the name of another library of ours would be taken in its place.
            let is_ours = |name: &&&str| OURS.iter().any(|ours| name.starts_with(ours));
            let other = names.iter().find(|name| is_ours(name) && ***name != *self.module);
            other.map(|name| format!("it brings {name}, which is part of cortex or another module"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> ManifestFile {
        ManifestFile { name: name.into(), bytes: 1, sha256: "00".into() }
    }

    fn good() -> Manifest {
        Manifest {
            engine: "llama-cpp".into(),
            version: "0.1.0".into(),
            variant: "linux-amd64-cuda-12.4".into(),
            build: BUILD.into(),
            module: "libggml-cuda.so".into(),
            files: vec![file("libggml-cuda.so"), file("libcublas.so.12")],
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!((good().fault("linux-amd64"), good().module_name()), (None, "cuda"));
        let changed = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = good();
            change(&mut manifest);
            manifest.fault("linux-amd64").unwrap_or_default()
        };
        for (change, words) in [
            (&(|it: &mut Manifest| it.engine = "vllm".into()) as &dyn Fn(&mut Manifest), "engine vllm"),
            (&|it| it.version = "../0".into(), "is no name"),
            (&|it| it.variant = "mac-arm64-metal".into(), "this machine is linux-amd64"),
            (&|it| it.build = "llama-cpp-sys-2 0.1.1".into(), "was made for llama-cpp-sys-2 0.1.1"),
            (&|it| it.files.push(file("libcublas.so.12")), "twice"),
            (&|it| it.files.push(file("../escape")), "no name of a file"),
            (&|it| it.module = "libggml-hip.so".into(), "no compute module"),
            (&|it| it.module = "libcublas.so.12".into(), "no compute module"),
            (&|it| it.files.push(file("libggml-base.so")), "part of cortex"),
            (&|it| it.files.push(file("libggml-cpu-x64.so")), "part of cortex"),
            (&|it| it.files.push(file("libgomp.so.1")), "part of cortex"),
        ] {
            let said = changed(change);
            assert!(said.contains(words), "{said} / {words}");
        }
    }

    #[test]
    fn modules_have_names() {
        for (file, name) in [
            ("libggml-cpu-haswell.so", Some("haswell")),
            ("libggml-vulkan.so", Some("vulkan")),
            ("libggml-base.so", None),
            ("libggml-cpu.so", None),
            ("libggml-rpc.so", None),
            ("libcublas.so.12", None),
        ] {
            assert_eq!(module_name(file), name, "{file}");
        }
    }
}
