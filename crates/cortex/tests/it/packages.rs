//! What `make dist` packs, as a user gets it: unpacked elsewhere, under another user, on the oldest processor; and installed by dpkg.

use cortex_test::dist;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// `nobody`.
const OTHER_USER: &str = "65534";

fn package(ending: &str) -> PathBuf {
    let folder = dist::program("packages");
    let found = fs_err::read_dir(folder).expect("cargo xtask package").flatten().map(|entry| entry.path());
    found
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(ending) && !path.to_string_lossy().contains("llama-cpp"))
        .expect("a package")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

/// The program as another user starts it, whose home is this folder. Without the right to become one, as this user with another home.
fn as_other_user(program: &Path, home: &Path) -> Command {
    let mut command = if is_root() {
        run(Command::new("chown").args(["-R", OTHER_USER]).arg(home));
        let mut command = Command::new("setpriv");
        command.args(["--reuid", OTHER_USER, "--regid", OTHER_USER, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

/// A folder that others can look into.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("a b ü ").tempdir().unwrap();
    fs_err::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, port) = line.trim().rsplit_once("Port: ").expect("it says where it listens");
        Self { address: format!("http://127.0.0.1:{port}"), child }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let mut request = crate::http::client().request(method.parse().unwrap(), format!("{}{path}", self.address));
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Takes the model in and answers with it.
    async fn answers(&self, model: &Path) {
        let import = json!({"model": "small", "modelPath": model});
        let imported = self.ask("POST", "/v1/models/import", Some(import)).await;
        assert_eq!(imported["result"], "OK", "{imported}");
        let chat = json!({"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3});
        let answer = self.ask("POST", "/v1/chat/completions", Some(chat)).await;
        assert_eq!(answer["usage"]["completion_tokens"], 3, "{answer}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_tarball_runs_elsewhere_under_another_user_with_the_oldest_modules_alone() {
    let folder = open_folder();
    run(Command::new("tar").arg("-xzf").arg(package(".tar.gz")).arg("-C").arg(folder.path()));
    let there = fs_err::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let requirements = fs_err::read_to_string(there.join("REQUIREMENTS")).unwrap();
    assert!(requirements.contains("with glibc 2."), "{requirements}");
    // What a machine without a compiler lacks lies beside the worker.
    let libraries = run(Command::new("ldd").arg(there.join("worker/cortex-llamacpp")));
    for library in ["libgomp.so.1", "libstdc++.so.6"] {
        let line = libraries.lines().find(|line| line.contains(library)).unwrap();
        assert!(line.contains(there.to_str().unwrap()), "{line}");
    }
    let modules = there.join("worker/backends");
    for entry in fs_err::read_dir(&modules).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !["libggml-cpu-x64.so", "libggml-cpu-sse42.so"].contains(&name.as_str()) {
            fs_err::remove_file(entry.path()).unwrap();
        }
    }
    let home = folder.path().join("home");
    fs_err::create_dir(&home).unwrap();
    let model = folder.path().join("small.gguf");
    fs_err::copy(dist::model(), &model).unwrap();
    let mut command = as_other_user(&there.join("cortex-server"), &home);
    command.args(["--port", "0"]);
    let daemon = Daemon::start(command);
    daemon.answers(&model).await;
    let default = daemon.ask("GET", "/v1/engines/llama-cpp/default", None).await;
    let variant = default["variant"].as_str().unwrap();
    assert!(variant.ends_with("-x64") || variant.ends_with("-sse42"), "{variant}");
    // Everything of the user is in the user's own folders.
    assert!(
        home.join(".local/share/cortexcpp/models/models.list").is_file()
            && home.join(".config/cortexcpp/.cortexrc").is_file()
    );
}

#[tokio::test]
async fn the_debian_package_installs_runs_and_goes_without_what_is_the_users() {
    let folder = open_folder();
    let root = folder.path().join("root");
    for part in ["info", "updates"] {
        fs_err::create_dir_all(root.join("var/lib/dpkg").join(part)).unwrap();
    }
    fs_err::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = || {
        let mut command = Command::new("dpkg");
        command.arg("--root").arg(&root).args(["--force-not-root", "--force-depends", "--force-script-chrootless"]);
        command.arg(format!("--log={}", folder.path().join("log").display()));
        // Dpkg wants the folders of the administrator on the path.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    };
    run(dpkg().arg("--install").arg(package(".deb")));
    let depends = run(Command::new("dpkg-deb").args(["--field"]).arg(package(".deb")).arg("Depends"));
    assert!(depends.contains("libc6 (>= 2."), "{depends}");
    for path in
        ["usr/bin/cortex", "usr/share/man/man1/cortex-pull.1.gz", "usr/share/bash-completion/completions/cortex"]
    {
        assert!(root.join(path).is_file(), "{path}");
    }
    let unit = root.join("usr/lib/systemd/user/cortex.service");
    let text = fs_err::read_to_string(&unit).unwrap();
    let program = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert_eq!(program, "/usr/lib/cortex/cortex-server");
    // Verified as it is, but for where the scratch root is.
    let here = root.join(program.trim_start_matches('/'));
    let plain = open_folder_without_blanks();
    let link = plain.path().join("cortex-server");
    std::os::unix::fs::symlink(&here, &link).unwrap();
    let checked = plain.path().join("cortex.service");
    fs_err::write(&checked, text.replace(program, link.to_str().unwrap())).unwrap();
    let runtime = plain.path().join("run");
    fs_err::create_dir(&runtime).unwrap();
    let mut verify = Command::new("systemd-analyze");
    let said = run(verify.args(["--user", "--man=no", "verify"]).arg(&checked).env("XDG_RUNTIME_DIR", &runtime));
    assert!(!said.contains("cortex.service"), "{said}");
    // Its command by hand, under another user.
    let home = folder.path().join("home");
    fs_err::create_dir(&home).unwrap();
    let model = folder.path().join("small.gguf");
    fs_err::copy(dist::model(), &model).unwrap();
    let mut command = as_other_user(&here, &home);
    command.args(["--port", "0"]);
    let daemon = Daemon::start(command);
    daemon.answers(&model).await;
    drop(daemon);
    run(dpkg().args(["--purge", "cortex"]));
    assert!(!root.join("usr/lib/cortex").exists() && !unit.exists());
    assert!(home.join(".local/share/cortexcpp/models/models.list").is_file());
}

/// A path in a unit would need its blanks escaped.
fn open_folder_without_blanks() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
