//! Packs what `stage` laid out: a tarball that runs from anywhere, and a Debian package; or installs it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Libraries of the compiler that a machine without one may lack; the worker finds them beside itself.
const OF_THE_COMPILER: &[&str] = &["libgomp.so.1", "libstdc++.so.6", "libgcc_s.so.1"];
const PROGRAMS: &[&str] = &["cortex", "cortex-server"];
const SHELLS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/cortex"),
    ("zsh", "share/zsh/vendor-completions/_cortex"),
    ("fish", "share/fish/vendor_completions.d/cortex.fish"),
];

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs_err::create_dir_all(to.parent().context("a path has a folder")?)?;
    // A program that runs keeps the file that it has.
    if to.exists() {
        fs_err::remove_file(to)?;
    }
    fs_err::copy(from, to)?;
    fs_err::set_permissions(to, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs_err::create_dir_all(to.parent().context("a path has a folder")?)?;
    fs_err::write(to, text)?;
    fs_err::set_permissions(to, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// The programs, the worker and its modules, in one folder.
fn programs(root: &Path, to: &Path) -> Result<()> {
    let dist = root.join("dist");
    for program in PROGRAMS {
        copy(&dist.join(program), &to.join(program), 0o755)?;
    }
    let worker = dist.join("worker");
    for folder in ["", "backends"] {
        for entry in fs_err::read_dir(worker.join(folder))? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.strip_prefix(&worker)?;
                let mode = if name == Path::new("cortex-llamacpp") { 0o755 } else { 0o644 };
                copy(&path, &to.join("worker").join(name), mode)?;
            }
        }
    }
    for library in OF_THE_COMPILER {
        let found = run(Command::new("ldd").arg(worker.join("cortex-llamacpp")))?;
        let path = found.lines().find_map(|line| line.trim().strip_prefix(library)?.split_whitespace().nth(1));
        let path = path.with_context(|| format!("{library} is not found on this machine"))?;
        copy(&fs_err::canonicalize(path)?, &to.join("worker").join(library), 0o644)?;
    }
    Ok(())
}

/// The version of the C library that the programs need, as the largest that one of their symbols names.
fn needed_glibc(folder: &Path) -> Result<String> {
    let mut largest: Vec<u32> = vec![];
    for path in files(folder)? {
        // What is no program or library has no symbols.
        let Ok(symbols) = run(Command::new("objdump").arg("-T").arg(&path)) else { continue };
        for version in symbols.split("GLIBC_").skip(1) {
            let end = version.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(version.len());
            let version: Vec<u32> = version[..end].split('.').filter_map(|part| part.parse().ok()).collect();
            largest = largest.max(version);
        }
    }
    ensure!(largest.len() >= 2, "no program says which C library it needs");
    Ok(largest.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Everything below a prefix such as `/usr`, in the folder `to` that stands for the root.
fn lay_out(root: &Path, to: &Path, prefix: &str) -> Result<()> {
    let below = |path: &str| to.join(prefix.trim_start_matches('/')).join(path);
    let library = format!("{prefix}/lib/cortex");
    programs(root, &below("lib/cortex"))?;
    fs_err::create_dir_all(below("bin"))?;
    for program in PROGRAMS {
        let link = below(&format!("bin/{program}"));
        if link.symlink_metadata().is_ok() {
            fs_err::remove_file(&link)?;
        }
        // The worker is found beside the program that a link leads to.
        fs_err::os::unix::fs::symlink(format!("../lib/cortex/{program}"), link)?;
    }
    let unit = fs_err::read_to_string(root.join("packaging/cortex.service"))?;
    write(&below("lib/systemd/user/cortex.service"), &unit.replace("@LIBRARY@", &library))?;
    let cortex = below("lib/cortex/cortex");
    for (shell, path) in SHELLS {
        write(&below(path), &run(Command::new(&cortex).args(["completions", shell]))?)?;
    }
    let pages = below("share/man/man1");
    fs_err::create_dir_all(&pages)?;
    run(Command::new(&cortex).arg("man").arg(&pages))?;
    for page in files(&pages)? {
        run(Command::new("gzip").args(["-9nf"]).arg(&page))?;
    }
    copy(&root.join("LICENSE"), &below("share/doc/cortex/copyright"), 0o644)?;
    for name in ["README.md", "docs"] {
        let from = root.join(name);
        for file in if from.is_dir() { files(&from)? } else { vec![from] } {
            copy(&file, &below("share/doc/cortex").join(file.strip_prefix(root)?), 0o644)?;
        }
    }
    Ok(())
}

/// Installs below a prefix; `to` stands for the root, for those who pack.
pub(crate) fn install(root: &Path, prefix: &str, to: &Path) -> Result<()> {
    if !prefix.starts_with('/') {
        bail!("the prefix is `{prefix}`; it must be a path from the root, such as /usr/local");
    }
    lay_out(root, to, prefix.trim_end_matches('/'))?;
    Ok(())
}

/// Makes `dist/packages/cortex-VERSION-linux-ARCH.tar.gz` and `cortex_VERSION_ARCH.deb`.
pub(crate) fn package(root: &Path) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (packages, work) = (root.join("dist/packages"), root.join("dist/packages/work"));
    for folder in [&work, &packages] {
        if folder.exists() {
            fs_err::remove_dir_all(folder)?;
        }
    }
    let name = format!("cortex-{version}-linux-{architecture}");
    let folder = work.join(&name);
    programs(root, &folder)?;
    let glibc = needed_glibc(&folder)?;
    for name in ["LICENSE", "README.md"] {
        copy(&root.join(name), &folder.join(name), 0o644)?;
    }
    let told = format!(
        "Needs Linux on {architecture} with glibc {glibc} or newer. Run `./cortex`; everything it needs lies beside it.\n"
    );
    write(&folder.join("REQUIREMENTS"), &told)?;
    let tarball = packages.join(format!("{name}.tar.gz"));
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "--sort=name", "-czf"])
        .arg(&tarball)
        .arg("-C")
        .arg(&work)
        .arg(&name))?;

    let debian = work.join("debian");
    lay_out(root, &debian, "/usr")?;
    let size: u64 =
        files(&debian)?.iter().filter_map(|path| path.symlink_metadata().ok()).map(|it| it.len().div_ceil(1024)).sum();
    let control = fs_err::read_to_string(root.join("packaging/control"))?;
    let control = control
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@GLIBC@", &glibc)
        .replace("@SIZE@", &size.to_string());
    write(&debian.join("DEBIAN/control"), &control)?;
    for folder in folders(&debian)? {
        fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    }
    let modules = modules(root, &work, &packages, &format!("linux-{architecture}"))?;
    let package = packages.join(format!("cortex_{version}_{architecture}.deb"));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Zxz", "-z1", "--build"]).arg(&debian).arg(&package))?;
    fs_err::remove_dir_all(&work)?;
    write_out(&format!("{}\n{}\nglibc {glibc} or newer", tarball.display(), package.display()));
    for module in modules {
        write_out(&module.display().to_string());
    }
    Ok(())
}

/// The version of the binding, and with it of llama.cpp, that modules are made from.
pub(crate) fn build(root: &Path) -> Result<String> {
    let manifest = fs_err::read_to_string(root.join("Cargo.toml"))?;
    let pin = manifest.lines().find_map(|line| line.strip_prefix("llama-cpp-sys-2 = { version = \"="));
    let version = pin.and_then(|rest| rest.split('"').next()).context("Cargo.toml pins no llama-cpp-sys-2")?;
    Ok(format!("llama-cpp-sys-2 {version}"))
}

/// Makes an archive of each module for graphics processors that was built, and an index of them.
fn modules(root: &Path, work: &Path, packages: &Path, platform: &str) -> Result<Vec<PathBuf>> {
    let (version, build) = (env!("CARGO_PKG_VERSION"), build(root)?);
    let (mut made, mut assets) = (vec![], vec![]);
    for path in files(&root.join("dist/worker/backends"))? {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let module = file.strip_prefix("libggml-").and_then(|rest| rest.strip_suffix(".so"));
        let Some(module) = module.filter(|module| !module.starts_with("cpu")) else { continue };
        let variant = format!("{platform}-{module}");
        let folder = work.join(&variant);
        copy(&path, &folder.join(file), 0o644)?;
        let manifest = json!({
            "engine": "llama-cpp", "version": version, "variant": variant, "build": build, "module": file,
            "files": [{"name": file, "bytes": fs_err::metadata(&path)?.len(), "sha256": sha256(&path)?}],
        });
        write(&folder.join("package.json"), &serde_json::to_string_pretty(&manifest)?)?;
        let name = format!("cortex-llama-cpp-{version}-{variant}.tar.gz");
        let archive = packages.join(&name);
        // The manifest comes first: it says what the rest must be.
        run(Command::new("tar")
            .args(["--owner=0", "--group=0", "-czf"])
            .arg(&archive)
            .arg("-C")
            .arg(&folder)
            .args(["package.json", file]))?;
        assets.push(json!({
            "name": name, "size": fs_err::metadata(&archive)?.len(), "browser_download_url": name,
            "digest": format!("sha256:{}", sha256(&archive)?),
        }));
        made.push(archive);
    }
    if !assets.is_empty() {
        let index = packages.join("index.json");
        let releases = json!([{"tag_name": format!("v{version}"), "assets": assets}]);
        write(&index, &serde_json::to_string_pretty(&releases)?)?;
        made.push(index);
    }
    Ok(made)
}

fn sha256(path: &Path) -> Result<String> {
    let said = run(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(said.split_whitespace().next().context("sha256sum prints a digest")?.trim_start_matches('\\').to_owned())
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(folders(&path)?);
        }
    }
    Ok(found)
}

fn write_out(text: &str) {
    println!("{text}");
}
