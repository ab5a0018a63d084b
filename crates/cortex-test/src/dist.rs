//! Where the staged programs and the small model are. What is missing fails the test.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// A file of the staged programs, such as `cortex` or `worker/cortex-llamacpp`.
///
/// # Panics
/// When it was not staged.
pub fn program(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist").join(name);
    assert!(root.exists(), "{} is missing: run `make build`", root.display());
    fs_err::canonicalize(root).expect("it exists")
}

/// A command that begins a program behind a wrapper, which ends with becoming it.
pub(crate) fn wrapped(wrapper: &[OsString], program: &Path) -> Command {
    match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

/// `SmolLM2-135M-Instruct`, quantised as `Q4_1`.
///
/// # Panics
/// When it was not fetched.
#[expect(
    clippy::disallowed_methods,
    reason = "a test is told where the model is by its script, or looks in the usual place"
)]
pub fn model() -> PathBuf {
    let given = std::env::var_os("CORTEX_TEST_MODEL").map(PathBuf::from);
    let usual = std::env::var_os("HOME")
        .map(|home| Path::new(&home).join(".cache/cortex/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let model = given.or(usual).expect("HOME is set");
    assert!(model.is_file(), "{} is missing: run `scripts/fetch-model.sh`", model.display());
    model
}

/// A copy of the worker's folder (hard links where possible) that a test may change.
///
/// # Panics
/// When it cannot be made.
pub fn worker_copy(into: &Path) -> PathBuf {
    let from = program("worker");
    copy_folder(&from, &into.join("worker"));
    into.join("worker").join("cortex-llamacpp")
}

fn copy_folder(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).expect("a folder");
    for entry in fs_err::read_dir(from).expect("the worker's folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).expect("a copy");
        }
    }
}
