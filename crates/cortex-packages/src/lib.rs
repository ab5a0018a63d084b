//! Packages of compute modules: for graphics processors, or newer ones for the processor.
//!
//! A package is an archive with one module, the libraries that it needs, and a manifest that says for which build it was made
//! and what each file must be. It comes from an index of releases that the settings name, or from a folder; it is verified,
//! tried on this machine, and put in place in one step, beside the version that was there before.
//!
//! Never runs or loads what is in a package: the engine does, in a process of its own. Never takes an archive whose digest
//! nobody promised from another machine.

mod archive;
mod error;
mod fetch;
mod index;
mod manifest;
mod packages;
mod store;
mod version;

pub use archive::{MANIFEST, describe};
pub use error::PackageError;
pub use index::shown_address;
pub use index::{Archive, Release};
pub use manifest::{BUILD, Manifest, ManifestFile};
pub use packages::{Event, EventKind, ModuleHost, Packages, PackagesConfig, Progress};
pub use store::{Installed, PackageStore};
pub use version::{archive_name, bare, is_called, is_newer};
