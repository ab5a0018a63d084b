//! Beginnings of prompts on disk: what slots held outlives them, the model's stay in memory, and the daemon.
//!
//! A folder for each model and everything that its states depend on; a file for each sequence, as llama.cpp writes it, whose name
//! says for whom it is and what its content must be. Files are written beside their name and renamed when they are whole, by a
//! thread that also keeps all models together within their bytes: what was used longest ago goes first. A file that was damaged is
//! noticed by its checksum and removed; one that others remove is a beginning less.

use crate::{
    llama::{Context, LlamaError, Token},
    slot::common_prefix,
    stdio,
};
use cortex_api::worker::{Load, PromptCache};
use fs_err::os::unix::fs::OpenOptionsExt;
use sha2::{Digest, Sha256};
use std::{
    io::Read,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant, SystemTime},
};

/// Beginnings shorter than this are computed sooner than read.
pub(crate) const SHORTEST: usize = 256;
/// Beginnings of one model that are known at a time: each prompt is compared with each.
const MOST: usize = 512;
/// Seconds to read, check and take in a byte, as long as none was: 500 MB a second.
const SECONDS_PER_BYTE: f64 = 2e-9;
/// The ending of files that are whole.
const ENDING: &str = "prompt";
/// Files that may wait for their names.
const QUEUE: usize = 256;
/// Of what a file holds, at least this share has to be of use.
const SHARE: usize = 16;
/// A beginning is as good as a longer one that begins with it, unless that has so many times its tokens: all of it is read.
const NEAR: usize = 4;

/// A beginning on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    /// Its tokens.
    pub(crate) tokens: Vec<Token>,
    /// Whose it is: only requests with the same number may use it.
    pub(crate) scope: u64,
    path: PathBuf,
    bytes: u64,
    checksum: u32,
}

/// The beginnings of one model.
pub(crate) struct SavedPrompts {
    folder: PathBuf,
    /// Bytes that all models may take together.
    bytes: u64,
    entries: Vec<Saved>,
    /// What a shorter context holds can only be used as a whole, as with recurrent models and sliding windows.
    is_whole: bool,
    writer: SyncSender<Unfinished>,
    written: Receiver<Option<Saved>>,
    /// Files that the writer has not finished.
    pending: usize,
    /// Names of files that are being written.
    number: u64,
    /// After an error nothing more is written.
    is_full: bool,
    seconds_per_byte: f64,
}

/// A file that has its content and no name yet.
struct Unfinished {
    path: PathBuf,
    tokens: Vec<Token>,
    scope: u64,
}

impl SavedPrompts {
    /// Those of a model, as it is loaded. `None` when they are switched off or the folder cannot be made.
    pub(crate) fn open(load: &Load, build: &str, context_length: u32, is_whole: bool) -> Option<Self> {
        let cache = load.prompt_cache.as_ref().filter(|cache| cache.bytes > 0)?;
        let folder = Path::new(&cache.folder).join(key(load, build)?);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        // Whatever they were before: the model's folder and that of all models are the user's alone.
        for own in folder.ancestors().skip(1).take(2) {
            let _ = fs_err::set_permissions(own, std::fs::Permissions::from_mode(0o700));
        }
        if let Err(error) = made {
            stdio::warn(&format!("beginnings of prompts are not kept: {}: {error}", folder.display()));
            return None;
        }
        let (writer, unfinished) = sync_channel(QUEUE);
        let (finished, written) = sync_channel(QUEUE);
        let (budget, own) = (cache.clone(), folder.clone());
        std::thread::spawn(move || write(&unfinished, &finished, &budget, &own));
        let longest = usize::try_from(context_length).unwrap_or(usize::MAX);
        let entries = known(&folder, longest);
        Some(Self {
            folder,
            bytes: cache.bytes,
            entries,
            is_whole,
            writer,
            written,
            pending: 0,
            number: 0,
            is_full: false,
            seconds_per_byte: SECONDS_PER_BYTE,
        })
    }

    /// Whether a beginning is of use only when all of it is one of the prompt.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The beginning that saves the most time for a prompt: its place and how many tokens of the prompt it gives. `there` are the
    /// tokens that need not be computed anyway, `seconds_per_token` is what others take.
    pub(crate) fn best(
        &self,
        prompt: &[Token],
        scope: u64,
        there: usize,
        seconds_per_token: f64,
    ) -> Option<(usize, usize)> {
        let candidates = self.entries.iter().enumerate().filter(|(_, saved)| saved.scope == scope);
        candidates
            .filter_map(|(at, saved)| {
                let common = common_prefix(&saved.tokens, prompt);
                let is_usable =
                    if self.is_whole { common == saved.tokens.len() } else { common * SHARE >= saved.tokens.len() };
                #[expect(clippy::cast_precision_loss, reason = "seconds need no more")]
                let gain = common.saturating_sub(there) as f64 * seconds_per_token
                    - saved.bytes as f64 * self.seconds_per_byte;
                (is_usable && common >= there + SHORTEST / 2 && gain > 0.0).then_some((at, common, gain))
            })
            .max_by(|left, right| left.2.total_cmp(&right.2))
            .map(|(at, common, _)| (at, common))
    }

    /// Reads a beginning into a sequence; the tokens that it has then, which are none when it was not possible.
    pub(crate) fn restore(&mut self, at: usize, context: &mut Context<'_>, sequence: u32) -> Vec<Token> {
        let began = Instant::now();
        let Some(saved) = self.entries.get(at).cloned() else { return vec![] };
        let result = check(&saved).and_then(|()| context.restore(&saved.path, sequence, &saved.tokens));
        match result {
            Ok(()) => {
                #[expect(clippy::cast_precision_loss, reason = "seconds need no more")]
                let seen = began.elapsed().as_secs_f64() / saved.bytes.max(1) as f64;
                self.seconds_per_byte = 0.5 * (self.seconds_per_byte + seen);
                // What is used stays longest. A folder that cannot be written to keeps its order.
                if let Ok(file) = open(&saved.path) {
                    let _ = file.file().set_modified(SystemTime::now());
                }
                let used = self.entries.remove(at);
                self.entries.push(used);
                saved.tokens
            }
            Err(LlamaError(why)) => {
                stdio::warn(&format!(
                    "a beginning on disk is of no use and is removed: {}: {why}",
                    saved.path.display()
                ));
                let _ = fs_err::remove_file(&saved.path);
                self.entries.remove(at);
                vec![]
            }
        }
    }

    /// Whether a beginning is worth writing: long enough, and not there.
    pub(crate) fn wants(&self, tokens: &[Token], scope: u64) -> bool {
        let is_there = |saved: &Saved| {
            saved.scope == scope
                && saved.tokens.starts_with(tokens)
                && (saved.tokens.len() == tokens.len() || !self.is_whole && saved.tokens.len() < tokens.len() * NEAR)
        };
        !self.is_full && tokens.len() >= SHORTEST && !self.entries.iter().any(is_there)
    }

    /// Makes an empty file for this user alone. llama.cpp opens it again, and what is there keeps its mode.
    fn make(&self, path: &Path) -> Result<(), LlamaError> {
        // Whoever kept all models within their bytes may have removed the empty folder.
        let folder = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        let made = folder.and_then(|()| fs_err::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path));
        made.map(drop).map_err(|error| LlamaError(error.to_string()))
    }

    /// Writes what a sequence holds. The file has its name some time later.
    pub(crate) fn save(&mut self, context: &Context<'_>, sequence: u32, tokens: &[Token], scope: u64) {
        if !self.wants(tokens, scope) {
            return;
        }
        if context.state_bytes(sequence) > self.bytes {
            return;
        }
        self.number += 1;
        let path = self.folder.join(format!("{}-{}.tmp", std::process::id(), self.number));
        let result = self.make(&path).and_then(|()| context.save(&path, sequence, tokens));
        if let Err(LlamaError(why)) = result {
            stdio::warn(&format!("beginnings of prompts are not written any more: {}: {why}", path.display()));
            let _ = fs_err::remove_file(&path);
            self.is_full = true;
            return;
        }
        let unfinished = Unfinished { path: path.clone(), tokens: tokens.to_vec(), scope };
        if self.writer.try_send(unfinished).is_ok() {
            self.pending += 1;
        } else {
            let _ = fs_err::remove_file(&path);
        }
    }

    /// Takes note of what has been written meanwhile.
    pub(crate) fn look(&mut self) {
        while let Ok(saved) = self.written.try_recv() {
            self.take(saved);
        }
    }

    /// Waits for what is being written, but not for long.
    pub(crate) fn finish(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.pending > 0
            && let Ok(saved) = self.written.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.take(saved);
        }
    }

    fn take(&mut self, saved: Option<Saved>) {
        self.pending = self.pending.saturating_sub(1);
        let Some(saved) = saved else { return };
        // A conversation goes on: what it was before is the beginning of what it is now.
        let is_whole = self.is_whole;
        let is_older = |old: &Saved| {
            old.scope == saved.scope
                && !is_whole
                && saved.tokens.starts_with(&old.tokens)
                && saved.tokens.len() < old.tokens.len() * NEAR
                && old.path != saved.path
        };
        for old in self.entries.extract_if(.., |old| is_older(old)) {
            let _ = fs_err::remove_file(&old.path);
        }
        self.entries.retain(|old| old.path != saved.path);
        if self.entries.len() >= MOST {
            self.entries.remove(0);
        }
        self.entries.push(saved);
    }
}

/// What states depend on, as the name of a folder: the build, the files, and how they are loaded. `None` when a file is gone.
pub(crate) fn key(load: &Load, build: &str) -> Option<String> {
    let facts = |path: String| {
        let file = fs_err::metadata(path).ok()?;
        Some((file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec(), file.ino()))
    };
    let files = shards(&load.model).into_iter().chain(load.projector.clone()).chain(load.adapters.clone());
    let facts: Vec<_> = files.map(facts).collect::<Option<_>>()?;
    let all = format!("{build} {facts:?} {:?} {:?} {}", load.cache_type, load.devices, load.device_layers);
    let number = Sha256::digest(all).iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    Some(format!("{number:016x}"))
}

/// The files of a model, by the name of the first one: `NAME-00001-of-00003.gguf`.
fn shards(first: &str) -> Vec<String> {
    let split = first.rsplit_once("-00001-of-").and_then(|(name, rest)| Some((name, rest.strip_suffix(".gguf")?)));
    match split.and_then(|(name, count)| Some((name, count, count.parse::<u32>().ok()?))) {
        Some((name, text, count)) => (1..=count).map(|number| format!("{name}-{number:05}-of-{text}.gguf")).collect(),
        None => vec![first.to_owned()],
    }
}

/// The beginnings in a folder, the ones used last at the end. What a process left half written is removed.
fn known(folder: &Path, longest: usize) -> Vec<Saved> {
    let Ok(files) = fs_err::read_dir(folder) else { return vec![] };
    let mut found: Vec<(SystemTime, Saved)> = files
        .filter_map(Result::ok)
        .filter_map(|file| {
            let path = file.path();
            if is_left_over(&path) {
                let _ = fs_err::remove_file(&path);
            }
            let Ok(saved) = read_saved(&path, longest) else {
                // It would take room for nothing. What is no file stays where somebody has put it.
                let _ = fs_err::remove_file(&path);
                return None;
            };
            let saved = saved?;
            Some((file.metadata().ok()?.modified().ok()?, saved))
        })
        .collect();
    found.sort_by_key(|(used, _)| *used);
    let too_many = found.len().saturating_sub(MOST);
    found.into_iter().skip(too_many).map(|(_, saved)| saved).collect()
}

/// Whether a file is one that a process did not finish that is gone.
fn is_left_over(path: &Path) -> bool {
    let process = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_suffix(".tmp")?.split_once('-')?.0.parse::<u32>().ok());
    process.is_some_and(|process| process != std::process::id() && !Path::new(&format!("/proc/{process}")).exists())
}

/// A file that is not what its name says.
struct Damaged;

/// What the name and the first bytes of a file say. `None` is what has no such name, cannot be read, or does not fit into the context.
fn read_saved(path: &Path, longest: usize) -> Result<Option<Saved>, Damaged> {
    let stem =
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(ENDING)?.strip_suffix('.'));
    let Some(mut parts) = stem.map(|stem| stem.split('-')) else { return Ok(None) };
    let Ok(mut file) = open(path) else { return Ok(None) };
    let length = file.metadata().map_or(0, |file| file.len());
    let mut name = || {
        let (scope, checksum, bytes) = (parts.next()?, parts.next()?, parts.next()?);
        let (scope, checksum) = (u64::from_str_radix(scope, 16).ok()?, u32::from_str_radix(checksum, 16).ok()?);
        bytes.parse().ok().filter(|bytes: &u64| *bytes == length).map(|bytes| (scope, checksum, bytes))
    };
    let (scope, checksum, bytes) = name().ok_or(Damaged)?;
    // llama.cpp: a magic number, a version, the number of tokens, the tokens.
    let mut head = [0u8; 12];
    file.read_exact(&mut head).map_err(|_| Damaged)?;
    let count = usize::try_from(u32::from_le_bytes([head[8], head[9], head[10], head[11]])).map_err(|_| Damaged)?;
    if count == 0 || count as u64 * 4 > bytes {
        return Err(Damaged);
    }
    if count > longest {
        return Ok(None);
    }
    let mut numbers = vec![0u8; count * 4];
    file.read_exact(&mut numbers).map_err(|_| Damaged)?;
    let tokens = numbers.chunks_exact(4).map(|it| Token::from_le_bytes([it[0], it[1], it[2], it[3]])).collect();
    Ok(Some(Saved { tokens, scope, path: path.to_owned(), bytes, checksum }))
}

/// Opens a file, and nothing that could keep the reader waiting or leads elsewhere.
fn open(path: &Path) -> std::io::Result<fs_err::File> {
    let file = fs_err::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no file")) }
}

/// Whether a file is what was written.
fn check(saved: &Saved) -> Result<(), LlamaError> {
    let (bytes, checksum) = checksum(&saved.path).map_err(|error| LlamaError(error.to_string()))?;
    if (bytes, checksum) == (saved.bytes, saved.checksum) {
        return Ok(());
    }
    Err(LlamaError("it is damaged".into()))
}

/// Length and checksum of a file.
fn checksum(path: &Path) -> std::io::Result<(u64, u32)> {
    let mut file = open(path)?;
    let (mut hasher, mut buffer, mut bytes) = (crc32fast::Hasher::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hasher.finalize())),
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// The writer: gives files their names, and removes what is too much.
#[expect(
    clippy::disallowed_methods,
    reason = "a cache: the name says what the content must be, and a file lost with the power is a beginning less"
)]
fn write(unfinished: &Receiver<Unfinished>, finished: &SyncSender<Option<Saved>>, cache: &PromptCache, own: &Path) {
    // All models lie beside each other: `folder/MODEL/KEY/FILE`, of which the worker knows its own. There may be less room than before.
    let root = own.parent().and_then(Path::parent);
    if let Some(root) = root {
        keep_within(root, cache.bytes);
    }
    for Unfinished { path, tokens, scope } in unfinished {
        let saved = checksum(&path).and_then(|(bytes, checksum)| {
            let name = path.with_file_name(format!("{scope:016x}-{checksum:08x}-{bytes}.{ENDING}"));
            fs_err::rename(&path, &name)?;
            Ok(Saved { tokens, scope, path: name, bytes, checksum })
        });
        let saved = saved.inspect_err(|error| {
            stdio::warn(&format!("a beginning of a prompt was not kept: {error}"));
            let _ = fs_err::remove_file(&path);
        });
        if let Some(root) = root {
            keep_within(root, cache.bytes);
        }
        if finished.send(saved.ok()).is_err() {
            return;
        }
    }
}

/// Removes what was used longest ago until all models together have no more than so many bytes.
fn keep_within(root: &Path, budget: u64) {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let Ok(found) = fs_err::read_dir(folder) else { return vec![] };
        found.filter_map(|it| Some(it.ok()?.path())).collect()
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = inside(root)
        .iter()
        .flat_map(|model| inside(model))
        .flat_map(|key| inside(&key))
        .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
        .filter_map(|path| {
            let file = fs_err::metadata(&path).ok()?;
            Some((file.modified().ok()?, file.len(), path))
        })
        .collect();
    files.sort();
    let mut all: u64 = files.iter().map(|(_, bytes, _)| *bytes).sum();
    for (_, bytes, path) in files {
        if all <= budget {
            return;
        }
        if fs_err::remove_file(&path).is_ok() {
            all -= bytes;
            // The folder of a model, or of a build, that has nothing left.
            for folder in path.ancestors().skip(1).take(2) {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as it is written, of so many bytes beside its tokens.
    fn put(folder: &Path, scope: u64, tokens: &[Token], state: usize) -> Saved {
        fs_err::create_dir_all(folder).unwrap();
        let count = u32::try_from(tokens.len()).unwrap();
        let mut bytes: Vec<u8> = [1u32, 2, count].iter().flat_map(|it| it.to_le_bytes()).collect();
        bytes.extend(tokens.iter().flat_map(|it| it.to_le_bytes()));
        bytes.extend(std::iter::repeat_n(5, state));
        let new = folder.join("1-1.new");
        fs_err::write(&new, &bytes).unwrap();
        let (length, checksum) = checksum(&new).unwrap();
        let path = folder.join(format!("{scope:016x}-{checksum:08x}-{length}.{ENDING}"));
        fs_err::write(&path, &bytes).unwrap();
        fs_err::remove_file(&new).unwrap();
        Saved { tokens: tokens.to_vec(), scope, path, bytes: length, checksum }
    }

    fn tokens(first: Token, count: usize) -> Vec<Token> {
        (first..).take(count).collect()
    }

    fn of(entries: Vec<Saved>, is_whole: bool) -> SavedPrompts {
        let (writer, _) = sync_channel(1);
        let (_, written) = sync_channel(1);
        SavedPrompts {
            folder: PathBuf::new(),
            bytes: 1 << 30,
            entries,
            is_whole,
            writer,
            written,
            pending: 0,
            number: 0,
            is_full: false,
            seconds_per_byte: 1e-9,
        }
    }

    fn saved(scope: u64, tokens: Vec<Token>, bytes: u64) -> Saved {
        Saved { path: PathBuf::from(format!("{scope}-{}", tokens.len())), tokens, scope, bytes, checksum: 0 }
    }

    #[test]
    fn files_are_found_by_what_they_say_and_are_what_they_say() {
        let scratch = tempfile::tempdir().unwrap();
        let one = put(scratch.path(), 7, &tokens(0, 300), 50);
        put(scratch.path(), 7, &tokens(0, 600), 50);
        let damaged = [("x.prompt", &[1u8; 20][..]), ("0-0-5.prompt", &[1; 5]), ("0-0-9.prompt", &[1; 5])];
        for (name, content) in damaged {
            fs_err::write(scratch.path().join(name), content).unwrap();
        }
        fs_err::create_dir(scratch.path().join("1-1-1.prompt")).unwrap();
        std::os::unix::fs::symlink(&one.path, scratch.path().join("2-2-2.prompt")).unwrap();
        assert_eq!(
            known(scratch.path(), 512),
            std::slice::from_ref(&one),
            "the other one does not fit into the context"
        );
        assert!(
            damaged.iter().all(|(name, _)| !scratch.path().join(name).exists()),
            "what takes room for nothing is removed"
        );
        assert!(
            ["1-1-1.prompt", "2-2-2.prompt"].iter().all(|name| scratch.path().join(name).symlink_metadata().is_ok())
        );
        assert_eq!(known(scratch.path(), 1024).len(), 2);
        assert_eq!(check(&one), Ok(()));
        let mut bytes = fs_err::read(&one.path).unwrap();
        bytes[40] ^= 1;
        fs_err::write(&one.path, bytes).unwrap();
        assert_eq!(check(&one), Err(LlamaError("it is damaged".into())));
    }

    #[test]
    fn all_files_of_a_model_count() {
        assert_eq!(shards("/models/a.gguf"), ["/models/a.gguf"]);
        assert_eq!(shards("/a-00001-of-00002.gguf"), ["/a-00001-of-00002.gguf", "/a-00002-of-00002.gguf"]);
        assert_eq!(shards("/a-00001-of-x.gguf"), ["/a-00001-of-x.gguf"]);
    }

    #[test]
    fn what_a_process_left_half_written_is_removed_when_it_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        // No process has the highest number that there can be.
        let names = [format!("{}-1.tmp", 1 << 22), format!("{}-1.tmp", std::process::id()), "1-1.tmp".to_owned()];
        for name in &names {
            fs_err::write(scratch.path().join(name), []).unwrap();
        }
        assert_eq!(known(scratch.path(), 512), []);
        assert_eq!(names.map(|name| scratch.path().join(name).exists()), [false, true, true]);
    }

    #[test]
    fn the_beginning_that_saves_most_is_taken_when_it_saves_anything() {
        let prompt = tokens(0, 1000);
        let short = saved(0, tokens(0, 400), 4_000_000);
        let long = saved(0, tokens(0, 800).into_iter().chain([-1; 100]).collect(), 9_000_000);
        let others = saved(1, tokens(0, 950), 9_500_000);
        let all = of(vec![short.clone(), long, others], false);
        assert_eq!(all.best(&prompt, 0, 0, 1e-3), Some((1, 800)));
        assert_eq!(all.best(&prompt, 1, 0, 1e-3), Some((2, 950)));
        assert_eq!(all.best(&prompt, 2, 0, 1e-3), None);
        // Little more than what is there, and what is computed sooner than read.
        assert_eq!(all.best(&prompt, 0, 700, 1e-3), None);
        assert_eq!(all.best(&prompt, 0, 0, 1e-5), None);
        // Little of much.
        let much = saved(0, tokens(0, 300).into_iter().chain(std::iter::repeat_n(-1, 9000)).collect(), 90_000);
        assert_eq!(of(vec![much], false).best(&prompt, 0, 0, 1e-3), None);
        // As a whole only.
        let whole = of(vec![short, saved(0, tokens(0, 800).into_iter().chain([-1]).collect(), 80)], true);
        assert_eq!(whole.best(&prompt, 0, 0, 1e-3), Some((0, 400)));
    }

    #[test]
    fn what_is_there_or_short_is_not_written() {
        let mut all = of(vec![saved(0, tokens(0, 800), 1)], false);
        assert!(!all.wants(&tokens(0, 800), 0) && !all.wants(&tokens(0, 500), 0));
        assert!(all.wants(&tokens(0, 801), 0) && all.wants(&tokens(1, 800), 0) && all.wants(&tokens(0, 800), 1));
        assert!(!all.wants(&tokens(1, SHORTEST - 1), 0));
        // All of the long one would have to be read for it.
        let long = of(vec![saved(0, tokens(0, 256 * NEAR), 1)], false);
        assert!(long.wants(&tokens(0, 256), 0) && !long.wants(&tokens(0, 257), 0));
        assert!(of(vec![saved(0, tokens(0, 800), 1)], true).wants(&tokens(0, 500), 0));
        all.is_full = true;
        assert!(!all.wants(&tokens(1, 800), 0));
    }

    #[test]
    fn a_conversation_that_went_on_takes_the_place_of_what_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let [before, after, other] =
            [(0, 400), (0, 700), (9000, 500)].map(|(first, count)| put(scratch.path(), 0, &tokens(first, count), 9));
        let mut all = of(vec![before.clone(), other.clone()], false);
        all.take(Some(after.clone()));
        assert_eq!(all.entries, [other, after]);
        assert!(!before.path.exists());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_of_all_models() {
        let root = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (at, model) in ["a", "b", "a"].into_iter().enumerate() {
            let first = Token::try_from(at * 1000).unwrap();
            let saved = put(&root.path().join(model).join("key"), 0, &tokens(first, 300), 1000);
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + at as u64);
            fs_err::File::options().write(true).open(&saved.path).unwrap().file().set_modified(used).unwrap();
            files.push(saved);
        }
        keep_within(root.path(), files[1].bytes + files[2].bytes);
        assert_eq!([0, 1, 2].map(|at| files[at].path.exists()), [false, true, true]);
        keep_within(root.path(), files[2].bytes);
        assert!(!root.path().join("b").exists() && files[2].path.exists());
        keep_within(root.path(), 0);
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }
}
