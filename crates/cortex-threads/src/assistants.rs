//! Assistants: those of OpenAI's second version, in `assistants/<id>/assistant.json`; and those of Jan, of which each thread holds
//! one.

use crate::{Object, Page, Threads, ThreadsError, disk, id, threads::created_at};
use serde_json::{Value, json};
use std::path::PathBuf;

/// The file of an assistant.
const FILE: &str = "assistant.json";
/// What ids of our own begin with.
const PREFIX: &str = "asst_";
/// What of a request counts.
const FIELDS: [&str; 10] = [
    "name",
    "description",
    "model",
    "instructions",
    "tools",
    "tool_resources",
    "metadata",
    "temperature",
    "top_p",
    "response_format",
];

/// The assistants of a data folder, and those inside its threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Assistants {
    root: PathBuf,
    threads: Threads,
}

impl Assistants {
    pub(crate) fn new(root: PathBuf, threads: Threads) -> Self {
        Self { root, threads }
    }

    fn path(&self, assistant: &str) -> Result<PathBuf, ThreadsError> {
        Ok(id::folder_of(&self.root, assistant)?.join(FILE))
    }

    fn read(&self, assistant: &str) -> Result<(PathBuf, Object), ThreadsError> {
        let path = self.path(assistant)?;
        let stored = disk::read_object(&path)?;
        stored.map(|stored| (path, stored)).ok_or_else(|| ThreadsError::NoSuchAssistant { id: assistant.to_owned() })
    }

    /// Makes an assistant; it must have a `model`.
    pub fn create(&self, given: &Object) -> Result<Value, ThreadsError> {
        if !given.get("model").is_some_and(Value::is_string) {
            return Err(ThreadsError::invalid("Model is mandatory"));
        }
        check(given)?;
        let mut assistant = Object::new();
        let id = format!("{PREFIX}{}", id::ulid());
        assistant.insert("id".into(), id.clone().into());
        assistant.insert("object".into(), "assistant".into());
        assistant.insert("created_at".into(), (disk::now() / 1000).into());
        take(&mut assistant, given);
        let _turn = self.threads.turn();
        disk::replace_object(&self.path(&id)?, &assistant)?;
        Ok(shown(&id, assistant))
    }

    /// The assistants that are asked for, by when they were made. Damaged ones are left out.
    pub fn list(&self, page: &Page) -> Result<Vec<Value>, ThreadsError> {
        let mut all = Vec::new();
        for name in disk::names(&self.root)? {
            match self.read(&name) {
                Ok((_, stored)) => all.push((created_at(&stored).unwrap_or(0), name, stored)),
                // What is no assistant.
                Err(ThreadsError::NoSuchAssistant { .. } | ThreadsError::BadId { .. }) => {}
                Err(error) => tracing::warn!(%error, "an assistant cannot be read"),
            }
        }
        all.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        Ok(page.of(all, |(_, name, _)| name).into_iter().map(|(_, name, stored)| shown(&name, stored)).collect())
    }

    /// One assistant.
    pub fn get(&self, assistant: &str) -> Result<Value, ThreadsError> {
        self.read(assistant).map(|(_, stored)| shown(assistant, stored))
    }

    /// Changes an assistant: the fields that are given are replaced, all else stays.
    pub fn update(&self, assistant: &str, given: &Object) -> Result<Value, ThreadsError> {
        if !FIELDS.iter().any(|field| given.contains_key(*field)) {
            return Err(ThreadsError::invalid("At least one field must be provided"));
        }
        check(given)?;
        let _turn = self.threads.turn();
        let (path, mut stored) = self.read(assistant)?;
        take(&mut stored, given);
        disk::replace_object(&path, &stored)?;
        Ok(shown(assistant, stored))
    }

    /// Removes an assistant.
    pub fn remove(&self, assistant: &str) -> Result<(), ThreadsError> {
        let _turn = self.threads.turn();
        let (path, _) = self.read(assistant)?;
        disk::remove_folder(path.parent().unwrap_or(&self.root), FILE)
    }

    /// The assistant of a thread.
    pub fn of_thread(&self, thread: &str) -> Result<Value, ThreadsError> {
        let (_, stored) = self.threads.read(thread)?;
        first(&stored).map(shown_in_thread).ok_or_else(|| none_in(thread))
    }

    /// Gives a thread its assistant, in the place of the one that it may have.
    pub fn create_in_thread(&self, thread: &str, given: &Object) -> Result<Value, ThreadsError> {
        self.put_into_thread(thread, |_| Ok(stored_in_thread(Object::new(), given)))
    }

    /// Changes the assistant of a thread: what is given is replaced, all else stays.
    pub fn update_in_thread(&self, thread: &str, given: &Object) -> Result<Value, ThreadsError> {
        self.put_into_thread(thread, |found| Ok(stored_in_thread(found.ok_or_else(|| none_in(thread))?, given)))
    }

    fn put_into_thread(
        &self,
        thread: &str,
        make: impl FnOnce(Option<Object>) -> Result<Object, ThreadsError>,
    ) -> Result<Value, ThreadsError> {
        let _turn = self.threads.turn();
        let (path, mut stored) = self.threads.read(thread)?;
        let assistant = make(first(&stored))?;
        let mut others = match stored.remove("assistants") {
            Some(Value::Array(others)) => others,
            _ => vec![],
        };
        match others.first_mut() {
            Some(first) => *first = assistant.clone().into(),
            None => others.push(assistant.clone().into()),
        }
        stored.insert("assistants".into(), others.into());
        disk::replace_object(&path, &stored)?;
        Ok(shown_in_thread(assistant))
    }
}

fn none_in(thread: &str) -> ThreadsError {
    ThreadsError::NoAssistantInThread { thread: thread.to_owned() }
}

fn first(thread: &Object) -> Option<Object> {
    thread.get("assistants")?.get(0)?.as_object().cloned()
}

/// Takes over the fields of a request; `null` removes one.
fn take(assistant: &mut Object, given: &Object) {
    for field in FIELDS {
        match given.get(field) {
            None => {}
            Some(Value::Null) => {
                assistant.remove(field);
            }
            Some(value) => {
                assistant.insert(field.into(), value.clone());
            }
        }
    }
}

fn check(given: &Object) -> Result<(), ThreadsError> {
    let is = |field: &str, is_right: fn(&Value) -> bool, what: &str| match given.get(field) {
        Some(value) if !value.is_null() && !is_right(value) => {
            Err(ThreadsError::Invalid { message: format!("{field} must be {what}") })
        }
        _ => Ok(()),
    };
    for field in ["name", "description", "model", "instructions"] {
        is(field, Value::is_string, "a text")?;
    }
    is("tools", Value::is_array, "a list")?;
    for field in ["tool_resources", "metadata"] {
        is(field, Value::is_object, "an object")?;
    }
    for field in ["temperature", "top_p"] {
        is(field, Value::is_number, "a number")?;
    }
    match given.get("response_format") {
        Some(Value::String(format)) if format != "auto" => Err(ThreadsError::invalid("Invalid response_format")),
        _ => Ok(()),
    }
}

/// An assistant as clients see it.
fn shown(id: &str, mut stored: Object) -> Value {
    let created = created_at(&stored).unwrap_or(0);
    stored.insert("id".into(), id.into());
    stored.insert("object".into(), "assistant".into());
    stored.insert("created_at".into(), created.into());
    for (key, empty) in [("tools", json!([])), ("metadata", json!({}))] {
        stored.entry(key).or_insert(empty);
    }
    stored.into()
}

/// The names that Jan gives to the id and the name of an assistant in a thread, and those that it is told.
const NAMES: [(&str, &str); 2] = [("assistant_id", "id"), ("assistant_name", "name")];

/// The assistant of a thread as Jan sees it.
fn shown_in_thread(stored: Object) -> Value {
    let mut object = Object::new();
    for (own, told) in NAMES {
        let value = stored.get(own).or_else(|| stored.get(told)).cloned().unwrap_or_default();
        object.insert(told.into(), value);
    }
    object.insert("object".into(), "assistant".into());
    object.insert("created_at".into(), 0.into());
    object.insert("tools".into(), json!([]));
    object.extend(stored);
    object.into()
}

/// The assistant of a thread as it is written down.
fn stored_in_thread(mut stored: Object, given: &Object) -> Object {
    for (own, told) in NAMES {
        if let Some(value) = given.get(own).or_else(|| given.get(told)) {
            stored.insert(own.into(), value.clone());
        }
    }
    let rest = given.iter().filter(|(key, _)| !["id", "name", "object", "created_at"].contains(&key.as_str()));
    stored.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conversations, object};

    #[test]
    fn an_assistant_is_made_changed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let assistants = Conversations::new(folder.path()).assistants;
        let given =
            json!({"model": "m", "name": "A", "tools": [{"type": "file_search"}], "temperature": 0.5, "other": 1});
        let made = assistants.create(&object(given)).unwrap();
        let id = made["id"].as_str().unwrap();
        assert!(id.starts_with("asst_01") && made.get("other").is_none(), "{made}");
        assert_eq!((&made["metadata"], &made["temperature"]), (&json!({}), &json!(0.5)));
        let changed = assistants.update(id, &object(json!({"instructions": "Be brief", "temperature": null}))).unwrap();
        assert_eq!((&changed["name"], &changed["instructions"]), (&json!("A"), &json!("Be brief")));
        assert!(changed.get("temperature").is_none());
        assert_eq!(assistants.get(id).unwrap(), changed);
        // That of an old Jan is in the list too, and what is none is not.
        let jan = folder.path().join("assistants/jan");
        fs_err::create_dir_all(&jan).unwrap();
        fs_err::write(jan.join(FILE), r#"{"id":"jan","created_at":1712345678000,"avatar":"x"}"#).unwrap();
        fs_err::create_dir_all(folder.path().join("assistants/none")).unwrap();
        let page = Page::new(None, Some("asc"), None, None).unwrap();
        let listed = assistants.list(&page).unwrap();
        assert_eq!((&listed[0]["created_at"], &listed[1], listed.len()), (&json!(1_712_345_678), &changed, 2));
        for (wrong, why) in [
            (json!({"name": "A"}), "Model is mandatory"),
            (json!({"model": "m", "response_format": "json"}), "Invalid response_format"),
            (json!({"model": "m", "tools": {}}), "tools must be a list"),
        ] {
            assert!(assistants.create(&object(wrong)).unwrap_err().to_string().contains(why));
        }
        assert!(assistants.update(id, &Object::new()).unwrap_err().to_string().contains("At least one field"));
        assistants.remove(id).unwrap();
        assert_eq!(assistants.remove(id).unwrap_err().to_string(), format!("Assistant doesn't exist: {id}"));
        assert!(assistants.get("../threads").is_err());
    }

    #[test]
    fn a_thread_holds_an_assistant_in_the_form_of_jan() {
        let folder = tempfile::tempdir().unwrap();
        let Conversations { threads, assistants, .. } = Conversations::new(folder.path());
        let made = threads.create(&Object::new()).unwrap();
        let thread = made["id"].as_str().unwrap();
        assert!(matches!(assistants.of_thread(thread), Err(ThreadsError::NoAssistantInThread { .. })));
        assert!(assistants.update_in_thread(thread, &object(json!({"name": "x"}))).is_err());
        let model = json!({"id": "m", "settings": {"ngl": 1}});
        let given = json!({"id": "jan", "name": "Jan", "model": model, "instructions": "I", "tools": []});
        let created = assistants.create_in_thread(thread, &object(given)).unwrap();
        assert_eq!((&created["id"], &created["name"], &created["model"]), (&json!("jan"), &json!("Jan"), &model));
        assert_eq!((&created["assistant_id"], &created["created_at"]), (&json!("jan"), &json!(0)));
        let changed =
            assistants.update_in_thread(thread, &object(json!({"assistant_name": "Neu", "wishes": 1}))).unwrap();
        assert_eq!((&changed["name"], &changed["model"], &changed["wishes"]), (&json!("Neu"), &model, &json!(1)));
        assert_eq!(assistants.of_thread(thread).unwrap(), changed);
        threads.update(thread, &object(json!({"metadata": {"title": "t"}}))).unwrap();
        assert_eq!(assistants.of_thread(thread).unwrap(), changed);
        assert!(matches!(assistants.of_thread("none"), Err(ThreadsError::NoSuchPath { .. })));
    }
}
