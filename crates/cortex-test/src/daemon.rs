//! A real daemon on a free port with a data folder of its own.

use crate::dist;
use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// How to start it.
#[derive(Debug, Default)]
pub struct Options {
    /// More arguments.
    pub arguments: Vec<OsString>,
    /// More environment.
    pub environment: Vec<(String, OsString)>,
    /// More lines of the settings file.
    pub settings: Option<String>,
    /// A data folder that is there already; a fresh one when absent.
    pub data: Option<PathBuf>,
    /// A program and arguments that begin the daemon: they end with becoming it.
    pub wrapper: Vec<OsString>,
}

/// A running daemon; dropping it kills it.
#[derive(Debug)]
pub struct TestDaemon {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    folder: TempDir,
    data: PathBuf,
}

impl TestDaemon {
    /// Starts it with defaults.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts it, and waits for the line that says where it listens.
    ///
    /// # Panics
    /// When it does not start; its words are in the message.
    #[expect(clippy::needless_pass_by_value, reason = "callers write the options where they use them")]
    pub fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("cortexrc");
        let data = options.data.clone().unwrap_or_else(|| folder.path().join("data"));
        // Tests run beside each other: threads of one worker that wait for one another would wait for
        // other tests.
        let settings = format!("threads: 1\n{}", options.settings.as_deref().unwrap_or_default());
        fs_err::write(&config, settings).expect("the settings");
        let server = dist::program("cortex-server");
        let mut command = dist::wrapped(&options.wrapper, &server);
        let mut child = command
            .arg("--config_file_path")
            .arg(&config)
            .arg("--data_folder_path")
            .arg(&data)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its output");
        let Some((_, port)) = line.trim().rsplit_once("Port: ") else {
            let mut said = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
            panic!("the daemon did not start: {said}");
        };
        Self { address: format!("127.0.0.1:{port}"), child, folder, data }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A folder beside the data, for files of the test.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs_err::read_to_string(self.data().join("logs/cortex.log")).unwrap_or_default()
    }

    /// The command line program, told about this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let port = self.address.rsplit(':').next().unwrap_or_default();
        let mut command = Command::new(dist::program("cortex"));
        command
            .arg("--data-folder")
            .arg(self.data())
            .arg("--config-file")
            .arg(self.folder.path().join("cortexrc"))
            .args(["--host", "127.0.0.1", "--port", port])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Waits until it ends by itself; its exit code.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("waited").code()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}
