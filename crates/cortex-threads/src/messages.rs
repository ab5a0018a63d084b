//! Messages of a thread: a line each in `messages.jsonl`, in the order they were written in.

use crate::{Object, Page, Threads, ThreadsError, disk, id, threads::created_at};
use serde_json::{Value, json};

/// The file with the messages of a thread.
pub(crate) const FILE: &str = "messages.jsonl";

/// The messages of all threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Messages(Threads);

/// The messages of a file. A line that is none, such as half of one that a crash has left, is passed over.
fn parsed(text: &str) -> impl Iterator<Item = Object> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Programs on Windows may begin each write with a mark of their encoding.
    text.split('\n').filter_map(|line| match serde_json::from_str(line.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(message)) if message.get("id").is_some_and(Value::is_string) => Some(message),
        _ => None,
    })
}

fn id_of(message: &Object) -> &str {
    message.get("id").and_then(Value::as_str).unwrap_or_default()
}

impl Messages {
    pub(crate) fn new(threads: Threads) -> Self {
        Self(threads)
    }

    fn read(&self, thread: &str) -> Result<Vec<Object>, ThreadsError> {
        let path = self.0.folder(thread)?.join(FILE);
        let bytes = match fs_err::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ThreadsError::NoMessages { path });
            }
            Err(error) => return Err(ThreadsError::Io(error)),
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(parsed(&text).collect())
    }

    /// The messages that are asked for, in the order they were written in; those of one run, when that is named.
    pub fn list(&self, thread: &str, page: &Page, run: Option<&str>) -> Result<Vec<Value>, ThreadsError> {
        let mut messages = self.read(thread)?;
        if let Some(run) = run {
            messages.retain(|message| message.get("run_id").and_then(Value::as_str) == Some(run));
        }
        Ok(page.of(messages, id_of).into_iter().map(|message| shown(thread, message)).collect())
    }

    /// One message.
    pub fn get(&self, thread: &str, message: &str) -> Result<Value, ThreadsError> {
        let found = self.read(thread)?.into_iter().find(|it| id_of(it) == message);
        found.map(|found| shown(thread, found)).ok_or(ThreadsError::NoSuchMessage)
    }

    /// Adds a message. Of what is sent, `role`, `content`, `attachments`, `metadata`, `assistant_id` and `run_id` count; the id is a
    /// new one.
    pub fn create(&self, thread: &str, given: &Object) -> Result<Value, ThreadsError> {
        let role = match given.get("role") {
            Some(Value::String(role)) if role == "user" || role == "assistant" => role.clone(),
            None | Some(Value::Null) => return Err(ThreadsError::invalid("Role is required")),
            Some(_) => return Err(ThreadsError::invalid("Role must be either 'user' or 'assistant'")),
        };
        let content = content(given.get("content"))?;
        let metadata = metadata(given)?.unwrap_or_default();
        let now = disk::now() / 1000;
        let mut message = Object::new();
        message.insert("id".into(), id::ulid().into());
        message.insert("object".into(), "thread.message".into());
        message.insert("created_at".into(), now.into());
        message.insert("thread_id".into(), thread.into());
        message.insert("status".into(), "completed".into());
        message.insert("completed_at".into(), now.into());
        message.insert("role".into(), role.into());
        message.insert("content".into(), content);
        if let Some(attachments @ Value::Array(_)) = given.get("attachments") {
            message.insert("attachments".into(), attachments.clone());
        }
        message.insert("metadata".into(), metadata.into());
        for key in ["assistant_id", "run_id"] {
            if let Some(value @ Value::String(_)) = given.get(key) {
                message.insert(key.into(), value.clone());
            }
        }
        let line = Value::Object(message);
        let _turn = self.0.turn();
        disk::append_line(&self.0.folder(thread)?.join(FILE), &line.to_string())?;
        Ok(line)
    }

    /// Changes a message: its content, its metadata, or both are replaced by what is given; all else stays.
    pub fn update(&self, thread: &str, message: &str, given: &Object) -> Result<Value, ThreadsError> {
        let metadata = metadata(given)?;
        let content = given.get("content").filter(|it| !it.is_null()).map(|it| content(Some(it))).transpose()?;
        if metadata.is_none() && content.is_none() {
            return Err(ThreadsError::invalid("Nothing to update"));
        }
        let changed = self.rewrite(thread, message, |mut found| {
            if let Some(content) = &content {
                found.insert("content".into(), content.clone());
            }
            if let Some(metadata) = &metadata {
                found.insert("metadata".into(), metadata.clone().into());
            }
            Some(found)
        })?;
        Ok(changed.map_or(Value::Null, |changed| shown(thread, changed)))
    }

    /// Removes a message.
    pub fn remove(&self, thread: &str, message: &str) -> Result<(), ThreadsError> {
        self.rewrite(thread, message, |_| None).map(|_| ())
    }

    /// Writes the file anew with another message in the place of one, or none. All other lines stay as they are.
    fn rewrite(
        &self,
        thread: &str,
        message: &str,
        replace: impl Fn(Object) -> Option<Object>,
    ) -> Result<Option<Object>, ThreadsError> {
        let _turn = self.0.turn();
        let path = self.0.folder(thread)?.join(FILE);
        disk::change(&path, |bytes| {
            let (mut new, mut found, mut changed) = (Vec::with_capacity(bytes.len() + 256), false, None);
            // Lines that are no text stay as they are too.
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                let stored = std::str::from_utf8(line).ok().and_then(|line| parsed(line).next());
                match stored {
                    Some(stored) if id_of(&stored) == message => {
                        found = true;
                        changed = replace(stored);
                        if let Some(changed) = &changed {
                            new.extend_from_slice(Value::Object(changed.clone()).to_string().as_bytes());
                            new.push(b'\n');
                        }
                    }
                    _ => new.extend_from_slice(line),
                }
            }
            if found { Ok((new, changed)) } else { Err(ThreadsError::NoSuchMessage) }
        })
    }
}

fn metadata(given: &Object) -> Result<Option<Object>, ThreadsError> {
    match given.get("metadata") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(metadata)) => Ok(Some(metadata.clone())),
        Some(_) => Err(ThreadsError::invalid("Failed to convert metadata to map: Input json is not an object")),
    }
}

/// The parts that a message consists of. Text may be written in short, parts that we do not know stay.
fn content(given: Option<&Value>) -> Result<Value, ThreadsError> {
    let text = |value: &str| json!({"type": "text", "text": {"value": value, "annotations": []}});
    match given {
        None | Some(Value::Null) => Err(ThreadsError::invalid("Content can't be empty")),
        Some(Value::String(value)) if value.is_empty() => Err(ThreadsError::invalid("Content can't be empty")),
        Some(Value::String(value)) => Ok(json!([text(value)])),
        Some(Value::Array(parts)) if parts.is_empty() => Err(ThreadsError::invalid("Content array cannot be empty")),
        Some(Value::Array(parts)) => parts
            .iter()
            .map(|part| match (part.get("type").and_then(Value::as_str), part.get("text")) {
                (Some("text"), Some(Value::String(value))) => Ok(text(value)),
                (Some(_), _) => Ok(part.clone()),
                (None, _) => Err(ThreadsError::invalid("Content must be a list of objects, each with its type")),
            })
            .collect(),
        Some(_) => Err(ThreadsError::invalid("Content must be either a string or an array")),
    }
}

/// A message as clients see it: what Jan has written in its own way is told in that of cortex.cpp.
fn shown(thread: &str, mut message: Object) -> Value {
    let created = created_at(&message).unwrap_or(0);
    message.insert("created_at".into(), created.into());
    message.entry("object").or_insert_with(|| "thread.message".into());
    message.entry("thread_id").or_insert_with(|| thread.into());
    message.entry("status").or_insert_with(|| "completed".into());
    message.entry("completed_at").or_insert_with(|| created.into());
    message.entry("role").or_insert_with(|| "user".into());
    for (key, empty) in [("content", json!([])), ("metadata", json!({}))] {
        if message.get(key).is_none_or(Value::is_null) {
            message.insert(key.into(), empty);
        }
    }
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conversations, Order, object};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use std::path::PathBuf;

    /// Messages of a thread, its id, and the file they are in.
    fn thread(folder: &tempfile::TempDir) -> (Messages, String, PathBuf) {
        let conversations = Conversations::new(folder.path());
        let made = conversations.threads.create(&Object::new()).unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        let path = folder.path().join("threads").join(&id).join(FILE);
        (conversations.messages, id, path)
    }

    fn texts(messages: &Messages, thread: &str) -> String {
        let page = Page { limit: None, order: Order::Ascending, ..Page::default() };
        let all = messages.list(thread, &page, None).unwrap();
        all.iter().filter_map(|it| it.pointer("/content/0/text/value")?.as_str()).collect()
    }

    #[test]
    fn a_line_that_is_no_text_stays_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (messages, thread, path) = thread(&folder);
        let one = messages.create(&thread, &object(json!({"role": "user", "content": "a"}))).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        bytes.extend_from_slice(
            b"\xff\xfe torn \xc3\n\xef\xbb\xbf{\"id\":\"marked\",\"role\":\"user\",\"content\":[]}\n",
        );
        fs_err::write(&path, &bytes).unwrap();
        assert!(messages.get(&thread, "marked").is_ok());
        messages.remove(&thread, one["id"].as_str().unwrap()).unwrap();
        let left = fs_err::read(&path).unwrap();
        assert!(left.starts_with(b"\xff\xfe torn") && messages.get(&thread, "marked").is_ok());
    }

    #[test]
    fn messages_are_added_changed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (messages, thread, _) = thread(&folder);
        let add = |given: Value| messages.create(&thread, &object(given));
        let first = add(json!({"role": "user", "content": "a", "metadata": {"x": [1]}, "run_id": "r"})).unwrap();
        let second =
            add(json!({"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "new", "z": 1}]}))
                .unwrap();
        assert_eq!(first["content"], json!([{"type": "text", "text": {"value": "a", "annotations": []}}]));
        assert_eq!(second["content"][1], json!({"type": "new", "z": 1}));
        let page = Page::new(None, None, None, None).unwrap();
        assert_eq!(messages.list(&thread, &page, None).unwrap(), [second.clone(), first.clone()]);
        assert_eq!(messages.list(&thread, &page, Some("r")).unwrap(), std::slice::from_ref(&first));
        let id = |message: &Value| message["id"].as_str().unwrap().to_owned();
        assert_eq!(messages.get(&thread, &id(&first)).unwrap(), first);
        let changed = messages.update(&thread, &id(&first), &object(json!({"metadata": {"y": 2}}))).unwrap();
        assert_eq!((&changed["metadata"], &changed["content"]), (&json!({"y": 2}), &first["content"]));
        messages.update(&thread, &id(&second), &object(json!({"content": "c"}))).unwrap();
        assert_eq!(texts(&messages, &thread), "ac");
        messages.remove(&thread, &id(&first)).unwrap();
        assert_eq!(texts(&messages, &thread), "c");
        for error in [
            messages.remove(&thread, &id(&first)).unwrap_err(),
            messages.update(&thread, &id(&first), &object(json!({"content": "d"}))).unwrap_err(),
            messages.get(&thread, &id(&first)).unwrap_err(),
        ] {
            assert!(matches!(error, ThreadsError::NoSuchMessage), "{error}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (messages, thread, path) = thread(&folder);
        for (given, why) in [
            (json!({"content": "a"}), "Role is required"),
            (json!({"role": "system", "content": "a"}), "Role must be either 'user' or 'assistant'"),
            (json!({"role": "user"}), "Content can't be empty"),
            (json!({"role": "user", "content": ""}), "Content can't be empty"),
            (json!({"role": "user", "content": []}), "Content array cannot be empty"),
            (json!({"role": "user", "content": 3}), "Content must be either a string or an array"),
            (json!({"role": "user", "content": ["a"]}), "each with its type"),
            (json!({"role": "user", "content": "a", "metadata": 1}), "not an object"),
        ] {
            assert!(messages.create(&thread, &object(given)).unwrap_err().to_string().contains(why), "{why}");
        }
        assert!(messages.update(&thread, "x", &Object::new()).unwrap_err().to_string().contains("Nothing to update"));
        assert_eq!(fs_err::read(&path).unwrap(), b"");
        for nowhere in ["../x", "none"] {
            assert!(messages.create(nowhere, &object(json!({"role": "user", "content": "a"}))).is_err());
        }
    }

    #[test]
    fn a_torn_line_is_survived_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (messages, thread, path) = thread(&folder);
        let add = |text: &str| messages.create(&thread, &object(json!({"role": "user", "content": text}))).unwrap();
        let first = add("a");
        // A crash amid a write.
        let torn = r#"{"id":"x","role":"us"#;
        let mut text = fs_err::read_to_string(&path).unwrap();
        text.push_str(torn);
        fs_err::write(&path, text).unwrap();
        assert_eq!(texts(&messages, &thread), "a");
        add("b");
        assert_eq!(texts(&messages, &thread), "ab");
        messages.update(&thread, first["id"].as_str().unwrap(), &object(json!({"content": "c"}))).unwrap();
        assert_eq!(texts(&messages, &thread), "cb");
        assert_eq!(fs_err::read_to_string(&path).unwrap().lines().nth(1), Some(torn));
    }

    #[test]
    fn messages_of_older_programs_are_told_in_our_way_and_kept_in_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let (messages, thread, path) = thread(&folder);
        let old = r#"{"id":"01","thread_id":"jan_1","role":"assistant","status":"ready","created":1712345678000,"content":[{"type":"text","text":{"value":"old","annotations":[]}}],"wishes":{"a":1}}"#;
        fs_err::write(&path, format!("{old}\r\n\n")).unwrap();
        let shown = messages.get(&thread, "01").unwrap();
        assert_eq!((&shown["created_at"], &shown["status"]), (&json!(1_712_345_678), &json!("ready")));
        let new = messages.create(&thread, &object(json!({"role": "user", "content": "new"}))).unwrap();
        messages.remove(&thread, new["id"].as_str().unwrap()).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), format!("{old}\r\n\n"));
        messages.update(&thread, "01", &object(json!({"metadata": {"m": 1}}))).unwrap();
        assert!(fs_err::read_to_string(&path).unwrap().contains(r#""wishes":{"a":1}"#));
        fs_err::remove_file(&path).unwrap();
        assert!(matches!(messages.get(&thread, "01"), Err(ThreadsError::NoMessages { .. })));
    }

    proptest! {
        /// Whatever lies around it, a change touches one line and an addition none.
        #[test]
        fn other_lines_stay_as_they_are(before in "([a-z{}\"\\\\ ]{0,12}\n?){0,6}", behind in "([a-z{}\"\\\\ ]{0,12}\n?){0,6}") {
            let folder = tempfile::tempdir().unwrap();
            let (messages, thread, path) = thread(&folder);
            let before = if before.is_empty() || before.ends_with('\n') { before } else { before + "\n" };
            let file = |content: &str, behind: &str| format!("{before}{{\"id\":\"one\",\"x\":[1],\"content\":{content}}}\n{behind}");
            fs_err::write(&path, file("\"a\"", &behind)).unwrap();
            messages.update(&thread, "one", &object(json!({"content": [{"type": "b"}]}))).unwrap();
            let changed = file(r#"[{"type":"b"}]"#, &behind);
            prop_assert_eq!(fs_err::read_to_string(&path).unwrap(), changed.clone());
            messages.create(&thread, &object(json!({"role": "user", "content": "c"}))).unwrap();
            let all = fs_err::read_to_string(&path).unwrap();
            let is_behind = all.starts_with(&changed) && all.ends_with("}\n");
            prop_assert!(is_behind, "{}", all);
            prop_assert_eq!(parsed(&all).count(), 2);
            messages.remove(&thread, "one").unwrap();
            prop_assert_eq!(parsed(&fs_err::read_to_string(&path).unwrap()).count(), 1);
        }
    }
}
