//! Builds everything and lays it out as it is installed: `dist/cortex`, `dist/cortex-server`, and
//! `dist/worker/` with the worker, its shared libraries and its compute modules. `dist/test/` is for tests alone.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const PROGRAMS: &[(&str, &str)] = &[
    ("cortex", "cortex"),
    ("cortex-server", "cortex-server"),
    ("cortex-llamacpp", "worker/cortex-llamacpp"),
    ("fake-worker", "test/fake-worker"),
    ("fake-hub", "test/fake-hub"),
];
const BINDING: &str = "llama-cpp-sys-2";

#[derive(Default)]
struct Built {
    programs: Vec<(&'static str, PathBuf)>,
    binding: Option<PathBuf>,
}

/// Builds and copies. Files that are the same already are left alone, so that a running program is not disturbed.
pub(crate) fn stage(root: &Path) -> Result<()> {
    let built = build(root)?;
    let dist = root.join("dist");
    for (to, from) in &built.programs {
        copy(from, &dist.join(to))?;
    }
    let binding = built.binding.context("the build said nothing about llama.cpp")?;
    for (folder, to, wanted) in
        [("lib", "worker", is_soname as fn(&str) -> bool), ("backends", "worker/backends", is_library)]
    {
        for entry in fs_err::read_dir(binding.join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if wanted(&name) {
                copy(&entry.path(), &dist.join(to).join(&name))?;
            }
        }
    }
    Ok(())
}

/// The whole workspace at once: cargo compiles llama.cpp again when it is asked for a part of it.
fn build(root: &Path) -> Result<Built> {
    let mut child = Command::new(env!("CARGO"))
        .args(["build", "--release", "--workspace", "--message-format=json-render-diagnostics"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut built = Built::default();
    let output = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(output).lines() {
        note(&serde_json::from_str(&line?)?, &mut built);
    }
    if !child.wait()?.success() {
        bail!("the build failed");
    }
    for (name, to) in PROGRAMS {
        if !built.programs.iter().any(|(known, _)| known == to) {
            bail!("the build made no {name}");
        }
    }
    Ok(built)
}

fn note(message: &Value, built: &mut Built) {
    let package = message["package_id"].as_str().unwrap_or_default();
    match message["reason"].as_str() {
        Some("build-script-executed") if package.contains(BINDING) => {
            built.binding = message["out_dir"].as_str().map(PathBuf::from);
        }
        Some("compiler-artifact") => {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            if let (Some(path), Some((_, to))) =
                (message["executable"].as_str(), PROGRAMS.iter().find(|(program, _)| *program == name))
            {
                built.programs.push((to, PathBuf::from(path)));
            }
        }
        _ => {}
    }
}

/// `libllama.so.0`: the name that programs look for; not the links and the full versions beside it.
fn is_soname(name: &str) -> bool {
    name.split_once(".so.").is_some_and(|(_, version)| version.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_library(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "so")
}

/// Copies the content under a new name and renames: a program that runs keeps its old file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let content = fs_err::read(from)?;
    if fs_err::read(to).is_ok_and(|known| known == content) {
        return Ok(());
    }
    let folder = to.parent().context("a file lies in a folder")?;
    fs_err::create_dir_all(folder)?;
    let temporary = folder.join(format!(".stage-{}", std::process::id()));
    fs_err::copy(from, &temporary)?;
    fs_err::rename(&temporary, to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_programs_look_for_are_copied() {
        assert!(is_soname("libllama.so.0"));
        assert!(!is_soname("libllama.so"));
        assert!(!is_soname("libllama.so.0.6.0"));
    }

    #[test]
    fn the_build_tells_where_things_are() {
        let mut built = Built::default();
        note(
            &serde_json::json!({"reason": "build-script-executed", "package_id": "registry+x#llama-cpp-sys-2@0.1.161", "out_dir": "/o"}),
            &mut built,
        );
        note(
            &serde_json::json!({"reason": "compiler-artifact", "package_id": "p", "target": {"name": "cortex"}, "executable": "/t/cortex"}),
            &mut built,
        );
        assert_eq!(built.binding.as_deref(), Some(Path::new("/o")));
        assert_eq!(built.programs, [("cortex", PathBuf::from("/t/cortex"))]);
    }
}
