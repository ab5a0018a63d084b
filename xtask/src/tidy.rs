//! What the compiler does not check: the edges between crates, the length of files, words that should not stay.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Which crates of ours a crate may use. `cortex-test` is for tests only.
const EDGES: &[(&str, &[&str])] = &[
    (
        "cortex",
        &[
            "cortex-server",
            "cortex-engine",
            "cortex-models",
            "cortex-packages",
            "cortex-remote",
            "cortex-hardware",
            "cortex-threads",
            "cortex-api",
        ],
    ),
    (
        "cortex-server",
        &[
            "cortex-engine",
            "cortex-models",
            "cortex-packages",
            "cortex-remote",
            "cortex-hardware",
            "cortex-threads",
            "cortex-api",
        ],
    ),
    ("cortex-packages", &["cortex-models"]),
    ("cortex-remote", &["cortex-models"]),
    ("cortex-engine", &["cortex-models", "cortex-hardware", "cortex-api"]),
    ("cortex-models", &["cortex-hardware"]),
    ("cortex-hardware", &[]),
    ("cortex-threads", &[]),
    ("cortex-api", &[]),
    ("cortex-llamacpp", &["cortex-api"]),
    ("cortex-test", &["cortex-api"]),
    ("xtask", &[]),
];
const LONGEST_FILE: usize = 800;
const LONGEST_ARCHITECTURE: usize = 400;

/// Prints every finding, and fails when there is one.
pub(crate) fn tidy(root: &Path) -> Result<()> {
    let mut findings = edges(root)?;
    let files = tracked(root)?;
    for file in &files {
        let Ok(text) = fs_err::read_to_string(root.join(file)) else { continue };
        findings.extend(look(file, &text));
    }
    if let Ok(text) = fs_err::read_to_string(root.join("ARCHITECTURE.md"))
        && text.lines().count() > LONGEST_ARCHITECTURE
    {
        findings.push(format!("ARCHITECTURE.md has more than {LONGEST_ARCHITECTURE} lines"));
    }
    let build = crate::package::build(root)?;
    let packages = fs_err::read_to_string(root.join("crates/cortex-packages/src/manifest.rs"))?;
    if !packages.contains(&format!("BUILD: &str = \"{build}\"")) {
        findings.push(format!("crates/cortex-packages/src/manifest.rs: BUILD is not `{build}`, which Cargo.toml pins"));
    }
    for script in [
        "scripts/bench.py",
        "scripts/bench_registry.py",
        "scripts/bench_pull.py",
        "scripts/bench_migrate.py",
        "scripts/bench_memory.py",
        "scripts/bench_prompts.py",
        "scripts/bench_batches.py",
        "scripts/bench_larger.py",
        "scripts/bench_runtime.py",
        "scripts/bench_threads.py",
        "scripts/mistakes.py",
    ] {
        let bench = Command::new("python3").args([script, "check"]).current_dir(root).output()?;
        if !bench.status.success() {
            findings.push(String::from_utf8_lossy(&bench.stderr).trim().to_owned());
        }
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

fn edges(root: &Path) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(wrong_edges(&metadata))
}

fn wrong_edges(metadata: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            findings.push(format!("the crate {name} is not in the table of edges"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if !EDGES.iter().any(|(ours, _)| *ours == to) {
                continue;
            }
            let for_tests = to == "cortex-test" && dependency["kind"].as_str() == Some("dev");
            if !allowed.contains(&to) && !for_tests {
                findings.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    findings
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root).output()?;
    let text = String::from_utf8(output.stdout).context("file names are text")?;
    Ok(text.lines().map(PathBuf::from).collect())
}

fn look(file: &Path, text: &str) -> Vec<String> {
    let name = file.display();
    let mut findings = Vec::new();
    if file.extension().is_some_and(|ending| ending == "rs") {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().count();
        if lines > LONGEST_FILE {
            findings.push(format!("{name} has {lines} lines; {LONGEST_FILE} are the limit"));
        }
        // Written in two halves, so that this file does not find itself.
        for word in [["TO", "DO"], ["FIX", "ME"], ["to", "do!("], ["unimpl", "emented!("], ["#[ig", "nore"]] {
            if text.contains(&word.concat()) {
                findings.push(format!("{name} holds `{}`", word.concat()));
            }
        }
        if name.to_string().contains("/tests/") && text.contains(&["thread::", "sleep"].concat()) {
            findings.push(format!("{name} sleeps; wait for what should happen instead"));
        }
    }
    for word in [["/ro", "ot/"], ["/wo", "rk/"]] {
        if text.contains(&word.concat()) && file.extension().is_some_and(|ending| ending != "lock") {
            findings.push(format!("{name} names a folder of one machine: {}", word.concat()));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_upwards_is_found_and_one_for_tests_is_fine() {
        let metadata = serde_json::json!({"packages": [
            {"name": "cortex-models", "dependencies": [{"name": "cortex-engine", "kind": null}, {"name": "serde", "kind": null}]},
            {"name": "cortex-engine", "dependencies": [{"name": "cortex-models", "kind": null}, {"name": "cortex-test", "kind": "dev"}]},
            {"name": "stranger", "dependencies": []},
        ]});
        assert_eq!(
            wrong_edges(&metadata),
            ["cortex-models must not depend on cortex-engine", "the crate stranger is not in the table of edges"]
        );
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let code = "let x = 1;\n".repeat(LONGEST_FILE);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(look(Path::new("a.rs"), &tests), Vec::<String>::new());
        assert_eq!(look(Path::new("a.rs"), &format!("{code}\n\n")).len(), 1);
    }
}
