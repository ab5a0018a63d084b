//! Runs a fake hub for programs that are not Rust.
//!
//! `fake-hub [--bytes-per-second N] [--answer-delay-ms N] [--connections N] REPO BRANCH[,BRANCH…] PATH=FILE ...` serves
//! these files, and prints where, as one line of JSON, until its input ends. To a line `bytes` it answers with the bytes of
//! content that were sent. `fake-hub digest FILE` computes a digest as the daemon does, to be timed.
#![forbid(unsafe_code)]

use cortex_test::hub::{FakeHub, Faults};
use sha2::Digest as _;
use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

const USAGE: &str =
    "usage: fake-hub [--bytes-per-second N] [--answer-delay-ms N] [--connections N] REPO BRANCH[,BRANCH] PATH=FILE ...";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> io::Result<()> {
    if let [command, path] = arguments
        && command == "digest"
    {
        return digest(path);
    }
    let usage = || io::Error::other(USAGE);
    let mut faults = Faults::default();
    let mut rest = arguments;
    while let [option, number, more @ ..] = rest
        && option.starts_with("--")
    {
        let number: u64 = number.parse().map_err(|_| usage())?;
        match option.as_str() {
            "--bytes-per-second" => faults.bytes_per_second = Some(number),
            "--answer-delay-ms" => faults.answer_delay = Duration::from_millis(number),
            "--connections" => faults.connections = Some(usize::try_from(number).map_err(|_| usage())?),
            _ => return Err(usage()),
        }
        rest = more;
    }
    let [repo, branch, files @ ..] = rest else { return Err(usage()) };
    if files.is_empty() || !repo.contains('/') {
        return Err(usage());
    }
    let hub = FakeHub::start();
    hub.set_faults(faults);
    for file in files {
        let (path, file) = file.split_once('=').ok_or_else(usage)?;
        let file = PathBuf::from(file);
        fs_err::metadata(&file)?;
        for branch in branch.split(',') {
            hub.add_file(repo, branch, path, file.clone());
        }
    }
    let mut output = io::stdout().lock();
    let place = serde_json::json!({
        "url": hub.url(),
        "content_url": hub.content_url(),
        "commit": hub.commit_of(repo, branch.split(',').next().unwrap_or_default()),
    });
    writeln!(output, "{place}")?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        if line?.trim() == "bytes" {
            writeln!(output, "{}", hub.bytes_sent())?;
            output.flush()?;
        }
    }
    Ok(())
}

/// The SHA-256 of a file, by the crate that the daemon uses.
fn digest(path: &str) -> io::Result<()> {
    let mut file = fs_err::File::open(path)?;
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    for byte in hasher.finalize() {
        write!(io::stdout(), "{byte:02x}")?;
    }
    writeln!(io::stdout())
}
