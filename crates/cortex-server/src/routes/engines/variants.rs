//! Compute modules as cortex.cpp's variants: those of the build, and those of packages.

use crate::App;
use cortex_packages::{bare, is_called};
use serde_json::{Value, json};

/// The engine that is here.
pub(super) const LOCAL: &str = "llama-cpp";
/// The version of what came with cortex: programs, worker and compute modules are one build.
pub(super) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// What packages and variants of this machine begin with: `linux-amd64`.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = if std::env::consts::OS == "macos" { "mac" } else { std::env::consts::OS };
    format!("{system}-{architecture}")
}

/// `linux-amd64-haswell`: what a compute module of the build is called as a variant.
pub(super) fn variant_name(module: &str) -> String {
    format!("{}-{module}", platform())
}

/// A variant that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) name: String,
    /// With a `v`.
    pub(super) version: String,
    /// Its module, such as `haswell`.
    pub(super) module: String,
    pub(super) is_graphics: bool,
    pub(super) is_of_build: bool,
    /// Whether it is what loads find by the name of its module.
    pub(super) is_current: bool,
}

impl Variant {
    pub(super) fn shown(&self) -> Value {
        json!({"engine": LOCAL, "name": self.name, "type": "local", "version": self.version})
    }

    /// Whether it is called that, in full or by what follows the platform.
    pub(super) fn is_called(&self, name: &str) -> bool {
        is_called(&self.name, &platform(), name)
    }

    /// Whether it has this version; as `latest`, or without one, what is in use has it.
    pub(super) fn has_version(&self, version: Option<&str>) -> bool {
        match version.map(bare).filter(|version| !matches!(*version, "" | "latest")) {
            Some(version) => bare(&self.version) == version,
            None => self.is_current,
        }
    }
}

/// All that are there.
pub(super) fn all(app: &App) -> Vec<Variant> {
    let packages = app.packages.installed();
    let of_build = app.engines.modules_of_build().into_iter().map(|module| Variant {
        name: variant_name(&module.name),
        version: VERSION.into(),
        is_current: !packages.iter().any(|package| package.is_current && package.module == module.name),
        is_graphics: module.is_graphics,
        is_of_build: true,
        module: module.name,
    });
    let of_packages = packages.iter().map(|package| Variant {
        name: package.variant.clone(),
        version: format!("v{}", package.version),
        module: package.module.clone(),
        is_graphics: package.is_graphics,
        is_of_build: false,
        is_current: package.is_current,
    });
    of_build.chain(of_packages).collect()
}

/// The variant that is called this.
pub(super) fn find(app: &App, name: &str, version: Option<&str>) -> Option<Variant> {
    let called: Vec<Variant> = all(app).into_iter().filter(|variant| variant.is_called(name)).collect();
    let found = called.iter().find(|variant| variant.has_version(version));
    // None of that name may be in use: then the newest is meant, which comes first.
    let any = called.first().filter(|_| version.is_none_or(|version| matches!(version, "" | "latest")));
    found.or(any).cloned()
}

/// The variant that loads take: the one for graphics processors that somebody chose, or the one for the processor.
pub(super) async fn chosen(app: &App) -> Option<Variant> {
    let there = all(app);
    let in_use = |module: &str| there.iter().find(|variant| variant.is_current && variant.module == module);
    let pinned = app.engines.pinned_module();
    if let Some(variant) = pinned.as_deref().and_then(in_use).filter(|variant| variant.is_graphics) {
        return Some(variant.clone());
    }
    let report = app.engines.choose_variant().await;
    report.chosen.as_deref().and_then(in_use).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_called_as_clients_call_them() {
        let variant = Variant {
            name: variant_name("zen4"),
            version: VERSION.into(),
            module: "zen4".into(),
            is_graphics: false,
            is_of_build: true,
            is_current: true,
        };
        assert!(variant.is_called("zen4") && variant.is_called(&variant_name("zen4")) && !variant.is_called("zen"));
        for version in [None, Some(""), Some("latest"), Some(VERSION), Some(bare(VERSION))] {
            assert!(variant.has_version(version), "{version:?}");
        }
        assert!(!variant.has_version(Some("v9.9.9")));
        let older = Variant { is_current: false, ..variant };
        assert!(!older.has_version(Some("latest")) && older.has_version(Some(VERSION)));
    }
}
