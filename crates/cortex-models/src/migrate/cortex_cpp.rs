//! What cortex.cpp keeps in its data folder: `cortex.db` (schemas 0 to 3), the older `models/model.list`, and a model.yml
//! for each model. Nothing of it is written, or opened where opening would write: the database is read from a copy.

use super::{
    plan::{Candidate, Found, skipped, unresolved},
    scan::read_short,
};
use crate::{ModelYaml, layout::Layout, update::fitting_values};
use rusqlite::{Connection, OpenFlags, types::ValueRef};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Folders of `models/` in which it keeps models.
const FOLDERS: &[&str] = &["cortex.so", "huggingface.co", "imported"];
/// Folders below those that are searched.
const DEEPEST: usize = 4;
/// The prompt template that it wrote when it could make none of the model's own: nobody chose it.
const FALLBACK: &str = "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n{prompt}[/INST]";
/// Keys of a model.yml that say what the files are, or mean nothing here.
const OF_FILES: &[&str] = &[
    "id",
    "model",
    "version",
    "files",
    "size",
    "created",
    "object",
    "owned_by",
    "os",
    "gpu_arch",
    "quantization_method",
    "precision",
    "tp",
    "trtllm_version",
    "text_model",
    "engine",
    "sources",
];

/// One model, as its lists have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    alias: String,
    yaml: String,
    status: String,
}

/// The models of a data folder of cortex.cpp; none when it is no such folder.
pub(crate) fn candidates(data: &Path) -> Vec<Candidate> {
    let database = data.join("cortex.db");
    let list = data.join("models").join("model.list");
    let mut found = Vec::new();
    let mut rows = Vec::new();
    let mut is_damaged = false;
    if fs_err::symlink_metadata(&database).is_ok() {
        let told = |why: String, hint: &str| Candidate::refused(&database, None, unresolved(why, hint));
        match read_database(&database) {
            Ok(read) => {
                let nameless = read.iter().filter(|row| row.id.is_empty()).count();
                rows = read.into_iter().filter(|row| !row.id.is_empty()).collect();
                if nameless > 0 {
                    let why = format!("{nameless} of its models have no id");
                    found.push(told(why, "import their weights with `cortex import`"));
                }
            }
            Err(error) => {
                is_damaged = true;
                let hint = "nothing is lost: the models are taken from their model.yml files";
                found.push(told(format!("it cannot be read: {error}"), hint));
            }
        }
    }
    if let Ok(bytes) = read_short(&list) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let known: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        rows.extend(text.lines().filter_map(read_line).filter(|row| !known.contains(&row.id)));
    }
    found.extend(rows.iter().map(|row| of_row(data, &database, row)));
    if is_damaged {
        let known: Vec<String> = found.iter().filter_map(|candidate| candidate.id.clone()).collect();
        let loose = FOLDERS.iter().flat_map(|folder| yamls_in(&data.join("models").join(folder), 0));
        let loose = loose.filter_map(|path| of_yaml(data, &path, None, vec![]));
        found.extend(loose.filter(|candidate| candidate.id.as_ref().is_none_or(|id| !known.contains(id))));
    }
    found
}

fn of_row(data: &Path, database: &Path, row: &Row) -> Candidate {
    let refused = |refusal| Candidate::refused(database, Some(&row.id), refusal);
    match row.status.to_lowercase().as_str() {
        "remote" => return refused(skipped("it is a model on another machine: there are no weights")),
        "downloadable" => return refused(skipped("it was never downloaded")),
        _ => {}
    }
    let layout = Layout::new(data.to_owned());
    let aliases = if row.alias.is_empty() || row.alias == row.id { vec![] } else { vec![row.alias.clone()] };
    of_yaml(data, &layout.absolute(&row.yaml), Some(&row.id), aliases).unwrap_or_else(|| {
        refused(unresolved("its model.yml names no model", "import its weights with `cortex import`"))
    })
}

/// The model of a model.yml; `None` when that names none.
fn of_yaml(data: &Path, path: &Path, id: Option<&str>, aliases: Vec<String>) -> Option<Candidate> {
    let refused =
        |why: String| Candidate::refused(path, id, unresolved(why, "import its weights with `cortex import`"));
    let text = match read_short(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(why) => return Some(refused(format!("its model.yml cannot be read: {why}"))),
    };
    let yaml = match ModelYaml::parse(&text) {
        Ok(yaml) => yaml,
        Err(error) => {
            // One line: the parser shows parts of the file, which may be anything.
            let line = error.to_string().lines().next().unwrap_or_default().to_owned();
            return Some(refused(line));
        }
    };
    let said = yaml.text("model").or_else(|| yaml.text("id")).filter(|id| !id.is_empty());
    let id = id.or(said)?.to_owned();
    let engine = yaml.text("engine").unwrap_or_default();
    let is_ours = engine.is_empty() || ["llama-cpp", "llama.cpp", "cortex.llamacpp"].contains(&engine);
    let layout = Layout::new(data.to_owned());
    // Without a name, the weights lie beside it.
    let beside = path.parent().unwrap_or(data).join("model.gguf");
    let weights = yaml.texts("files").first().map_or(beside, |file| layout.absolute(file));
    let mut settings: Map<String, Value> = yaml
        .values()
        .iter()
        .filter(|(key, _)| !OF_FILES.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    settings.retain(|_, value| !value.is_null());
    if settings.get("prompt_template").and_then(Value::as_str) == Some(FALLBACK) {
        settings.remove("prompt_template");
    }
    if let Some(projector) = settings.get("mmproj").and_then(Value::as_str).filter(|path| !path.is_empty()) {
        let projector = layout.absolute(projector);
        settings.insert("mmproj".into(), projector.to_string_lossy().into_owned().into());
    }
    let (settings, left_out) = fitting_values(&settings);
    let found = if is_ours {
        Ok(Found { is_missing: !weights.is_file(), path: weights })
    } else {
        Err(skipped(format!("its engine is {engine}: cortex runs GGUF files")))
    };
    Some(Candidate { place: path.to_owned(), name: id.clone(), id: Some(id), found, settings, aliases, left_out })
}

/// A line of `model.list`: five or six words without quotes.
fn read_line(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split(' ').collect();
    let [id, _, _, yaml, alias, rest @ ..] = words.as_slice() else { return None };
    let is_whole = rest.len() <= 1 && !id.is_empty() && crate::layout::is_yaml(Path::new(yaml));
    is_whole.then(|| Row {
        id: (*id).to_owned(),
        alias: (*alias).to_owned(),
        yaml: (*yaml).to_owned(),
        // READY and RUNNING are both here.
        status: if rest.first() == Some(&"remote") { "remote".into() } else { "downloaded".into() },
    })
}

/// The rows of the table of models.
fn read_database(path: &Path) -> Result<Vec<Row>, String> {
    let rows = copied(path, |connection| rows_of(connection, "models"))?;
    let of_row = |row: &BTreeMap<String, String>| {
        let text = |name: &str| row.get(name).cloned().unwrap_or_default();
        let yaml = text("path_to_model_yaml");
        Row { id: text("model_id"), alias: text("model_alias"), yaml, status: text("status") }
    };
    Ok(rows.iter().map(of_row).collect())
}

/// Reads a copy of a database: the original may be locked, and opening it could write beside it.
pub(super) fn copied<T>(path: &Path, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
    // A pipe would never answer.
    if !fs_err::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".into());
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let copy = folder.path().join("cortex.db");
    for ending in ["", "-journal", "-wal"] {
        let from = PathBuf::from(format!("{}{ending}", path.display()));
        match fs_err::copy(&from, format!("{}{ending}", copy.display())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !ending.is_empty() => {}
            copied => drop(copied.map_err(|error| error.to_string())?),
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(&copy, flags)
        .and_then(|connection| read(&connection))
        .map_err(|error| error.to_string())
}

/// The texts in the rows of a table, by the names of their columns: each version of the schema has more than the one before.
pub(super) fn rows_of(connection: &Connection, table: &'static str) -> rusqlite::Result<Vec<BTreeMap<String, String>>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table}"))?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut texts = BTreeMap::new();
        for (at, column) in columns.iter().enumerate() {
            if let ValueRef::Text(bytes) = row.get_ref(at)? {
                texts.insert(column.clone(), String::from_utf8_lossy(bytes).into_owned());
            }
        }
        found.push(texts);
    }
    Ok(found)
}

fn yamls_in(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).map_or_else(|_| vec![], |entries| entries.flatten().collect());
    let mut paths: Vec<PathBuf> = entries.iter().map(fs_err::DirEntry::path).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let is_link = fs_err::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
        if path.is_dir() && !is_link && depth < DEEPEST {
            found.extend(yamls_in(&path, depth + 1));
        } else if path.extension().is_some_and(|ending| ending == "yml") && path.is_file() {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_five_and_six_words_are_read_and_others_are_passed_over() {
        let row = |line: &str| read_line(line).map(|row| (row.id, row.alias, row.yaml, row.status));
        let text = |text: &str| text.to_owned();
        assert_eq!(
            row("tinyllama:1b cortexso 1b models/cortex.so/tinyllama/1b/model.yml tiny"),
            Some((
                text("tinyllama:1b"),
                text("tiny"),
                text("models/cortex.so/tinyllama/1b/model.yml"),
                text("downloaded")
            ))
        );
        assert_eq!(
            row("m local imported /d/models/imported/m.yml m RUNNING").map(|row| row.3),
            Some(text("downloaded"))
        );
        for line in ["", "a b c", "a b c d e", "a b c has space.yml e f g", "# cortex models.list v1"] {
            assert_eq!(row(line), None, "{line}");
        }
    }
}
