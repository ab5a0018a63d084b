//! Threads: a folder each, with a `thread.json`.

use crate::{
    Object, Page, ThreadsError,
    disk::{self, Stamp},
    id, seen,
};
use serde::{Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The file of a thread.
const FILE: &str = "thread.json";
/// Threads that had to be read, so many that what they say is kept for the next start.
const MANY: usize = 64;
/// Times above this are in milliseconds: in seconds it is the year 5138.
const LARGEST_SECONDS: f64 = 1e11;

/// The threads of a data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Threads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Where what the files said is kept for the next start.
    cache: PathBuf,
    /// What the files last said; nothing before the first look.
    known: Mutex<Option<HashMap<String, Known>>>,
    /// Held by who changes a file.
    turn: Mutex<()>,
}

/// A thread, and how its file looked when it was read.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    stamp: Stamp,
    entry: ThreadEntry,
}

impl Known {
    pub(crate) fn new(stamp: Stamp, id: &str, created_at: u64, shown: Box<RawValue>) -> Self {
        Self { stamp, entry: ThreadEntry { id: id.into(), created_at, shown: shown.into() } }
    }

    pub(crate) fn facts(&self) -> (Stamp, u64, &str) {
        (self.stamp, self.entry.created_at, self.entry.shown.get())
    }
}

/// A thread as it stands in a list.
#[derive(Debug, Clone)]
pub struct ThreadEntry {
    id: Arc<str>,
    /// Seconds since 1970.
    created_at: u64,
    /// The object as clients see it.
    shown: Arc<RawValue>,
}

impl Serialize for ThreadEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown.serialize(serializer)
    }
}

impl Threads {
    pub(crate) fn new(root: PathBuf, cache: PathBuf) -> Self {
        Self(Arc::new(Shared { root, cache, known: Mutex::default(), turn: Mutex::default() }))
    }

    /// The right to change files of threads.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of a thread that is there.
    pub(crate) fn folder(&self, thread: &str) -> Result<PathBuf, ThreadsError> {
        let folder = id::folder_of(&self.0.root, thread)?;
        if folder.join(FILE).is_file() { Ok(folder) } else { Err(ThreadsError::NoSuchPath { path: folder }) }
    }

    /// What the file of a thread says, and where it is.
    pub(crate) fn read(&self, thread: &str) -> Result<(PathBuf, Object), ThreadsError> {
        let folder = id::folder_of(&self.0.root, thread)?;
        let path = folder.join(FILE);
        let written = Stamp::of(&path).map_or(0, |stamp| stamp.seconds());
        match disk::read_object(&path)? {
            Some(object) => Ok((path, aged(object, written))),
            None => Err(ThreadsError::NoSuchPath { path: folder }),
        }
    }

    /// Makes a thread. Of what is sent, `metadata`, `assistants` and `tool_resources` count; the id is a new one.
    pub fn create(&self, given: &Object) -> Result<Value, ThreadsError> {
        let metadata = match given.get("metadata") {
            None | Some(Value::Null) => Object::new(),
            Some(Value::Object(metadata)) => metadata.clone(),
            Some(_) => return Err(not_an_object()),
        };
        let _turn = self.turn();
        let (id, now) = (id::ulid(), disk::now());
        let mut stored = Object::new();
        stored.insert("id".into(), id.clone().into());
        stored.insert("object".into(), "thread".into());
        stored.insert("created_at".into(), (now / 1000).into());
        // Jan before 0.5.12 sorts by these.
        stored.insert("created".into(), now.into());
        stored.insert("updated".into(), now.into());
        stored.insert("title".into(), title(&metadata).unwrap_or_default().into());
        stored.insert("metadata".into(), metadata.into());
        stored.insert(
            "assistants".into(),
            given.get("assistants").filter(|it| it.is_array()).cloned().unwrap_or(json!([])),
        );
        if let Some(resources @ Value::Object(_)) = given.get("tool_resources") {
            stored.insert("tool_resources".into(), resources.clone());
        }
        let folder = id::folder_of(&self.0.root, &id)?;
        // The messages first: a thread that is seen is whole.
        disk::replace(&folder.join(crate::messages::FILE), b"")?;
        disk::replace_object(&folder.join(FILE), &stored)?;
        Ok(shown(&id, &stored))
    }

    /// One thread.
    pub fn get(&self, thread: &str) -> Result<Value, ThreadsError> {
        self.read(thread).map(|(_, stored)| shown(thread, &stored))
    }

    /// Changes a thread: its metadata are replaced by those that are given, all else stays.
    pub fn update(&self, thread: &str, given: &Object) -> Result<Value, ThreadsError> {
        let metadata = match given.get("metadata") {
            Some(Value::Object(metadata)) if !metadata.is_empty() => metadata,
            None | Some(Value::Null | Value::Object(_)) => {
                return Err(ThreadsError::invalid("Metadata can't be empty"));
            }
            Some(_) => return Err(not_an_object()),
        };
        let _turn = self.turn();
        let (path, mut stored) = self.read(thread)?;
        if let Some(title) = title(metadata) {
            stored.insert("title".into(), title.into());
        }
        stored.insert("metadata".into(), metadata.clone().into());
        if stored.contains_key("updated") {
            stored.insert("updated".into(), disk::now().into());
        }
        disk::replace_object(&path, &stored)?;
        Ok(shown(thread, &stored))
    }

    /// Removes a thread with its messages and files. Where its folder is a link, what lies behind it stays.
    pub fn remove(&self, thread: &str) -> Result<(), ThreadsError> {
        let _turn = self.turn();
        let folder = self.folder(thread)?;
        disk::remove_folder(&folder, FILE)
    }

    /// Reads the threads, so that the first list need not. What many of them say is kept for the next start.
    pub fn look(&self) {
        let looked = self.entries().and_then(|(_, read)| if read < MANY { Ok(()) } else { self.keep() });
        if let Err(error) = looked {
            tracing::warn!(%error, "the threads cannot be read, or what they say cannot be kept");
        }
    }

    fn keep(&self) -> Result<(), ThreadsError> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let all = known.iter().flatten().map(|(name, known)| (name.clone(), known.clone())).collect::<Vec<_>>();
        drop(known);
        seen::write(&self.0.cache, &all)
    }

    /// The threads that are asked for, by when they were made.
    pub fn list(&self, page: &Page) -> Result<Vec<ThreadEntry>, ThreadsError> {
        let (mut entries, _) = self.entries()?;
        entries.sort_unstable_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
        Ok(page.of(entries, |entry| &entry.id))
    }

    /// All threads, and how many had to be read. Each file is looked at, and read when it is another than before; one that is damaged
    /// is what it was before, or left out.
    fn entries(&self) -> Result<(Vec<ThreadEntry>, usize), ThreadsError> {
        let names = disk::names(&self.0.root)?;
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = known.take().unwrap_or_else(|| seen::read(&self.0.cache));
        let known = known.insert(HashMap::with_capacity(names.len()));
        let mut read = 0;
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let Ok(folder) = id::folder_of(&self.0.root, &name) else { continue };
            let path = folder.join(FILE);
            let Some(stamp) = Stamp::of(&path) else { continue };
            let earlier = before.remove(&name);
            let now = match earlier {
                Some(earlier) if earlier.stamp == stamp => Some(earlier),
                earlier => match entry(&name, &path, &stamp) {
                    Ok(entry) => {
                        read += 1;
                        Some(Known { stamp, entry })
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a thread cannot be read");
                        // An older program may be writing it; it is looked at again.
                        earlier
                    }
                },
            };
            if let Some(now) = now {
                entries.push(now.entry.clone());
                known.insert(name, now);
            }
        }
        Ok((entries, read))
    }
}

fn not_an_object() -> ThreadsError {
    ThreadsError::invalid("Failed to convert metadata to map: Input json is not an object")
}

fn entry(id: &str, path: &Path, stamp: &Stamp) -> Result<ThreadEntry, ThreadsError> {
    let stored = disk::read_object(path)?.ok_or_else(|| ThreadsError::NoSuchPath { path: path.to_owned() })?;
    let shown = shown(id, &aged(stored, stamp.seconds()));
    let created_at = shown["created_at"].as_u64().unwrap_or(0);
    let shown = serde_json::value::to_raw_value(&shown).map_err(|why| ThreadsError::Io(why.into()))?;
    Ok(ThreadEntry { id: id.into(), created_at, shown: shown.into() })
}

/// The title among metadata.
fn title(metadata: &Object) -> Option<&str> {
    metadata.get("title")?.as_str()
}

/// When something was made, in seconds since 1970: cortex.cpp writes seconds, Jan milliseconds.
pub(crate) fn created_at(stored: &Object) -> Option<u64> {
    let number = ["created_at", "created"]
        .iter()
        .find_map(|key| stored.get(*key)?.as_f64().filter(|number| *number > 0.0 && number.is_finite()))?;
    let seconds = if number > LARGEST_SECONDS { number / 1000.0 } else { number };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturating")]
    Some(seconds as u64)
}

/// What a file says. A thread that does not say when it was made is as old as its file, and stays so when that is written anew.
fn aged(mut stored: Object, written: u64) -> Object {
    if created_at(&stored).is_none() {
        stored.insert("created_at".into(), written.into());
    }
    stored
}

/// A thread as clients see it.
fn shown(id: &str, stored: &Object) -> Value {
    let mut metadata = stored.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(title) = stored.get("title").and_then(Value::as_str).filter(|title| !title.is_empty()) {
        metadata.entry("title").or_insert_with(|| title.into());
    }
    let mut object = Object::new();
    object.insert("id".into(), id.into());
    object.insert("object".into(), "thread".into());
    object.insert("created_at".into(), created_at(stored).unwrap_or(0).into());
    object.insert("metadata".into(), metadata.into());
    if let Some(resources @ Value::Object(_)) = stored.get("tool_resources") {
        object.insert("tool_resources".into(), resources.clone());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conversations, object};

    fn all() -> Page {
        Page { limit: None, ..Page::default() }
    }

    fn ids(threads: &Threads) -> Vec<String> {
        threads.list(&all()).unwrap().iter().map(|entry| entry.id.to_string()).collect()
    }

    #[test]
    fn a_thread_is_made_changed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Conversations::new(folder.path()).threads;
        assert_eq!(ids(&threads), [""; 0], "a folder that is not there holds nothing");
        let made =
            threads.create(&object(json!({"id": "mine", "metadata": {"title": "Ships", "pinned": true}}))).unwrap();
        let id = made["id"].as_str().unwrap();
        assert_eq!(made["metadata"], json!({"title": "Ships", "pinned": true}));
        assert_eq!(threads.get(id).unwrap(), made);
        assert_eq!(serde_json::to_value(threads.list(&all()).unwrap()).unwrap(), json!([made]));
        let changed = threads.update(id, &object(json!({"metadata": {"title": "Boats"}}))).unwrap();
        assert_eq!(changed["metadata"], json!({"title": "Boats"}));
        assert_eq!(serde_json::to_value(threads.list(&all()).unwrap()).unwrap(), json!([changed]));
        for (wrong, why) in [
            (json!({}), "Metadata can't be empty"),
            (json!({"metadata": {}}), "Metadata can't be empty"),
            (json!({"metadata": [1]}), "not an object"),
        ] {
            assert!(threads.update(id, &object(wrong)).unwrap_err().to_string().contains(why));
        }
        threads.remove(id).unwrap();
        assert!(matches!(threads.get(id), Err(ThreadsError::NoSuchPath { .. })));
        assert!(threads.remove(id).is_err());
        assert_eq!(ids(&threads), [""; 0]);
    }

    #[test]
    fn what_an_older_program_has_written_is_read_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Conversations::new(folder.path()).threads;
        let jan = folder.path().join("threads/jan_1712345678");
        fs_err::create_dir_all(&jan).unwrap();
        let assistants = json!([{"assistant_id": "jan", "model": {"id": "mistral-7b", "settings": {"ngl": 3}}}]);
        let text = json!({
            "id": "jan_1712345678", "title": "Old", "created": 1_712_345_678_000u64, "updated": 1, "assistants": assistants,
            "metadata": {"lastMessage": "Hi"}, "wishes": [1, {"a": null}],
        });
        fs_err::write(jan.join(FILE), format!("\u{feff}{text}")).unwrap();
        let shown = threads.get("jan_1712345678").unwrap();
        assert_eq!(
            shown,
            json!({"id": "jan_1712345678", "object": "thread", "created_at": 1_712_345_678, "metadata": {"lastMessage": "Hi", "title": "Old"}})
        );
        threads.update("jan_1712345678", &object(json!({"metadata": {"title": "New", "deep": {"a": [1]}}}))).unwrap();
        let stored = disk::read_object(&jan.join(FILE)).unwrap().unwrap();
        assert_eq!((&stored["assistants"], &stored["wishes"]), (&assistants, &json!([1, {"a": null}])));
        assert_eq!((&stored["title"], &stored["created"]), (&json!("New"), &json!(1_712_345_678_000u64)));
        assert!(stored["updated"].as_u64().unwrap() > 1);
        // What it writes in place is seen, and what is half written is what it was.
        let half = &text.to_string()[..40];
        assert_eq!(ids(&threads), ["jan_1712345678"]);
        fs_err::write(jan.join(FILE), half).unwrap();
        let listed = serde_json::to_value(threads.list(&all()).unwrap()).unwrap();
        assert_eq!(listed[0]["metadata"]["title"], "New");
        assert!(matches!(threads.get("jan_1712345678"), Err(ThreadsError::Damaged { .. })));
        assert!(threads.update("jan_1712345678", &object(json!({"metadata": {"title": "x"}}))).is_err());
        assert_eq!(fs_err::read_to_string(jan.join(FILE)).unwrap(), half, "a damaged file is not written over");
        // Neither stray files nor folders without a thread are one.
        fs_err::write(folder.path().join("threads/messages.jsonl"), "").unwrap();
        fs_err::create_dir(folder.path().join("threads/empty")).unwrap();
        assert_eq!(ids(&threads), ["jan_1712345678"]);
    }

    #[test]
    fn threads_are_listed_by_their_age() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Conversations::new(folder.path()).threads;
        for (id, key, created) in
            [("c", "created_at", 10), ("a", "created_at", 30), ("b", "created", 20_000_000_000_000u64)]
        {
            let folder = folder.path().join("threads").join(id);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join(FILE), json!({"id": "other", key: created}).to_string()).unwrap();
        }
        assert_eq!(ids(&threads), ["b", "a", "c"]);
        let of = |limit, order: &str, after: &str, before: &str| {
            let page = Page::new(limit, Some(order), Some(after.into()), Some(before.into())).unwrap();
            threads.list(&page).unwrap().iter().map(|entry| entry.id.to_string()).collect::<String>()
        };
        assert_eq!(
            [of(None, "asc", "", ""), of(Some(1), "desc", "", "b"), of(None, "asc", "a", "")],
            ["cab", "a", "cb"]
        );
    }

    #[test]
    fn what_many_threads_say_is_kept_for_the_next_start_and_never_believed_blindly() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Conversations::new(folder.path()).threads;
        for number in 0..MANY {
            let thread = folder.path().join(format!("threads/t{number:03}"));
            fs_err::create_dir_all(&thread).unwrap();
            fs_err::write(thread.join(FILE), json!({"title": "a\tb\n", "created_at": number + 1}).to_string()).unwrap();
        }
        threads.look();
        let cache = folder.path().join("cache/threads");
        let kept = fs_err::read_to_string(&cache).unwrap();
        let listed = |threads: &Threads| serde_json::to_value(threads.list(&all()).unwrap()).unwrap();
        let before = listed(&threads);
        let again = || Conversations::new(folder.path()).threads;
        // Nothing has to be read, one has, and one is gone.
        assert_eq!((again().entries().unwrap().1, listed(&again())), (0, before.clone()));
        fs_err::write(
            folder.path().join("threads/t001").join(FILE),
            json!({"title": "new", "created_at": 2}).to_string(),
        )
        .unwrap();
        disk::remove_folder(&folder.path().join("threads/t002"), FILE).unwrap();
        let threads = again();
        assert_eq!(threads.entries().unwrap().1, 1);
        let now = listed(&threads);
        assert_eq!(now.as_array().unwrap().len(), MANY - 1);
        assert!(now.to_string().contains("\"title\":\"new\"") && !now.to_string().contains("t002"));
        // Damaged, of another form, or gone: everything is read.
        for content in
            ["", "cortex threads 9\n", &kept[..kept.len() / 2], "cortex threads 1\nx\ty\nt003\t1 2 3 4\t5\t{\n"]
        {
            fs_err::write(&cache, content).unwrap();
            assert_eq!(listed(&again()), now, "{content}");
        }
        #[cfg(unix)]
        {
            Conversations::new(folder.path()).threads.keep().unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs_err::metadata(&cache).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_behind_a_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Conversations::new(folder.path()).threads;
        let elsewhere = folder.path().join("elsewhere");
        fs_err::create_dir_all(&elsewhere).unwrap();
        fs_err::write(elsewhere.join(FILE), "{}").unwrap();
        fs_err::create_dir(folder.path().join("threads")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("threads/link")).unwrap();
        assert_eq!(ids(&threads), ["link"]);
        // One that does not say when it was made keeps the age that it had.
        let file = fs_err::OpenOptions::new().write(true).open(elsewhere.join(FILE)).unwrap();
        let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        file.file().set_modified(written).unwrap();
        let changed = threads.update("link", &object(json!({"metadata": {"a": 1}}))).unwrap();
        assert_eq!((&changed["created_at"], &threads.get("link").unwrap()), (&json!(1_700_000_000), &changed));
        threads.remove("link").unwrap();
        assert_eq!(ids(&threads), [""; 0]);
        assert!(elsewhere.join(FILE).is_file());
    }
}
