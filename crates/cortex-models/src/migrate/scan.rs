//! Looks at a folder of an older program, and changes nothing. Of a file it reads its model.json, or four bytes.

use super::model_json::{self, ModelJson};
use crate::weights;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
};

/// Folders below that of a model that are searched for its model.json.
const DEEPEST: usize = 6;
/// GGUF files in deeper folders that are told.
const MOST_DEEPER: usize = 8;
/// Bytes of a model.json; one that is longer is none.
const LONGEST_JSON: u64 = 4 << 20;
/// Folders of `models/` that belong to cortex, of this or an earlier kind.
pub(super) const OF_CORTEX: &[&str] = &["huggingface.co", "imported", "cortex.so", "remote"];
/// Where the app kept the form of its imports.
pub(super) const OF_THE_APP: &[&str] = &["config"];

/// What was seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Scan {
    /// The folders of `models/`, in the order of their names.
    pub(crate) folders: Vec<Folder>,
}

/// One folder of `models/`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// Its model.json, and what it says.
    pub(crate) json: Option<(PathBuf, Result<ModelJson, String>)>,
    /// The files in it, and in the folder of a model.json that is deeper, by their names.
    pub(crate) files: BTreeMap<String, File>,
    /// When it holds nothing else, GGUF files in folders below it.
    pub(crate) deeper: Vec<PathBuf>,
    /// The files that its sources name elsewhere, by what stands there.
    pub(crate) elsewhere: BTreeMap<String, Elsewhere>,
    /// It holds nothing for us: this is why.
    pub(crate) nothing: Option<&'static str>,
    /// It cannot be read: this is why.
    pub(crate) unreadable: Option<String>,
    /// It is a link that leads there, and nothing is there.
    pub(crate) dangling: Option<PathBuf>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

/// What a file is, as far as four bytes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It begins as a GGUF does.
    Gguf,
    /// The same, and its name is that of a vision part.
    Projector,
    /// A download that was not finished.
    Partial,
    /// It holds nothing.
    Empty,
    /// It is something else.
    Other,
    /// Its link leads nowhere, or it cannot be read.
    Unreadable(String),
}

/// A file that a model.json names by a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    /// It is there.
    There(File),
    /// It is not there now: its drive may come back.
    Gone(PathBuf),
    /// A path of another system.
    Foreign,
}

/// Looks at the models of a data folder of Jan. `home` is what `~` means.
pub(crate) fn legacy(models: &Path, home: Option<&Path>) -> std::io::Result<Scan> {
    let mut paths: Vec<PathBuf> = match fs_err::read_dir(models) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Scan::default()),
        Err(error) => return Err(error),
    };
    paths.sort();
    // Links to folders count: people keep models on other drives.
    Ok(Scan { folders: paths.into_iter().filter_map(|path| entry(path, home)).collect() })
}

/// Looks at the folder of one model.
pub(crate) fn single(path: &Path, home: Option<&Path>) -> Scan {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Scan { folders: vec![folder(path.to_owned(), name, home)] }
}

/// What an older Jan has of a service on other machines.
#[derive(Default)]
pub(crate) struct ServiceSettings {
    /// Empty when there is none.
    pub(crate) key: String,
    /// Where chats are asked for.
    pub(crate) address: Option<String>,
}

/// The services for which an older Jan has a key. The keys themselves are not kept.
pub(crate) fn services_with_keys(data: &Path) -> HashSet<String> {
    settings_of_services(data).into_iter().filter(|(_, it)| !it.key.is_empty()).map(|(service, _)| service).collect()
}

/// The services that an older Jan knows: in the settings of its extensions, or before those in `engines/`.
pub(crate) fn settings_of_services(data: &Path) -> BTreeMap<String, ServiceSettings> {
    let below = |folder: PathBuf| -> Vec<PathBuf> {
        fs_err::read_dir(folder).map_or_else(|_| vec![], |entries| entries.flatten().map(|it| it.path()).collect())
    };
    let read = |path: &Path| {
        let text = String::from_utf8_lossy(&read_short(path).ok()?).into_owned();
        serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}')).ok()
    };
    let text = |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut found: BTreeMap<String, ServiceSettings> = BTreeMap::new();
    // Those of the extensions count: what lies in `engines/` is older.
    for path in below(data.join("engines")).iter().filter(|path| path.extension().is_some_and(|it| it == "json")) {
        if let (Some(service), Some(said)) = (path.file_stem(), read(path)) {
            let (key, address) = (text(&said["api_key"]).unwrap_or_default(), text(&said["full_url"]));
            found.insert(service.to_string_lossy().into_owned(), ServiceSettings { key, address });
        }
    }
    for extension in below(data.join("settings/@janhq")) {
        let settings = read(&extension.join("settings.json"));
        let settings = settings.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let value = |setting: &Value| text(&setting["controllerProps"]["value"]);
        let key_of = |setting: &Value| setting["key"].as_str().unwrap_or_default().to_owned();
        let endpoint = settings.iter().find(|setting| key_of(setting).ends_with("-endpoint")).and_then(value);
        for setting in settings {
            if let Some(service) = key_of(setting).strip_suffix("-api-key")
                && let Some(key) = value(setting)
            {
                found.insert(service.to_owned(), ServiceSettings { key, address: endpoint.clone() });
            }
        }
    }
    found
}

/// Whether a folder of models holds a model.json, in any of its folders.
pub(crate) fn holds_json(models: &Path) -> bool {
    let entries = fs_err::read_dir(models).map_or_else(|_| vec![], |entries| entries.flatten().collect());
    entries.iter().map(fs_err::DirEntry::path).any(|path| path.is_dir() && find_json(&path, 0).is_some())
}

/// What lies directly in `models/`; `None` when it does not matter.
fn entry(path: PathBuf, home: Option<&Path>) -> Option<Folder> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    if path.is_dir() {
        let is_ours = OF_CORTEX.contains(&name.as_str()) && !path.join("model.json").is_file();
        return if is_ours { None } else { Some(folder(path, name, home)) };
    }
    if let Ok(to) = fs_err::read_link(&path)
        && fs_err::metadata(&path).is_err()
    {
        return Some(Folder { path, name, dangling: Some(to), ..Folder::default() });
    }
    let is_gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let nothing = Some("it lies in no folder of its own, where the app did not see it: `cortex import` takes it in");
    is_gguf.then(|| Folder { path, name, nothing, ..Folder::default() })
}

fn folder(path: PathBuf, name: String, home: Option<&Path>) -> Folder {
    let mut folder = Folder { path, name, ..Folder::default() };
    if OF_THE_APP.contains(&folder.name.as_str()) {
        folder.nothing = Some("it holds settings of the app, and no model");
        return folder;
    }
    if leads_above(&folder.path) {
        folder.nothing = Some("it is a link to a folder in which it lies itself");
        return folder;
    }
    if let Err(error) = fs_err::read_dir(&folder.path) {
        folder.unreadable = Some(error.to_string());
        return folder;
    }
    let found = find_json(&folder.path, 0);
    folder.json = found.map(|path| {
        let read = read_json(&path);
        (path, read)
    });
    let json = folder.json.as_ref().and_then(|(_, json)| json.as_ref().ok());
    // Files without an ending: the oldest versions named them after the model.
    let mut named: Vec<String> = vec![folder.name.clone()];
    if let Some(json) = json {
        named.extend(json.id.clone());
        named.extend(json.weights.clone());
        named.extend(json.sources.iter().filter_map(|source| source.filename.clone()));
        named.extend(json.sources.iter().filter_map(|source| source.last_part().map(str::to_owned)));
    }
    // What lies beside the model.json comes before what lies above it.
    let beside = folder.json.as_ref().and_then(|(path, _)| path.parent()).map(Path::to_owned);
    let mut places = vec![folder.path.clone()];
    places.extend(beside.filter(|beside| *beside != folder.path));
    for place in places {
        for entry in fs_err::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(kind) = kind_of(&entry.path(), &name, &named) {
                folder.files.insert(name, File { path: entry.path(), kind });
            }
        }
    }
    if json.is_none() && folder.files.is_empty() {
        deeper(&folder.path, 0, &mut folder.deeper);
    }
    let sources = json.map(|json| json.sources.clone()).unwrap_or_default();
    let base = folder.json.as_ref().and_then(|(path, _)| path.parent()).unwrap_or(&folder.path).to_owned();
    for source in sources.iter().filter(|source| !source.is_remote() && !source.url.trim().is_empty()) {
        if let Some(elsewhere) = look_elsewhere(source.url.trim(), &base, home) {
            folder.elsewhere.insert(source.url.clone(), elsewhere);
        }
    }
    folder
}

/// Whether a link leads to a folder above itself: everything would be found in it, and itself once more.
pub(super) fn leads_above(path: &Path) -> bool {
    let is_link = fs_err::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
    let above = path.parent().and_then(|parent| fs_err::canonicalize(parent).ok());
    is_link && above.zip(fs_err::canonicalize(path).ok()).is_some_and(|(above, to)| above.starts_with(to))
}

/// The first GGUF files below a folder, in folders of their own.
fn deeper(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> = fs_err::read_dir(folder)
        .map_or_else(|_| vec![], |entries| entries.flatten().map(|entry| entry.path()).collect());
    paths.sort();
    for path in paths {
        if found.len() == MOST_DEEPER {
            return;
        }
        let is_link = fs_err::symlink_metadata(&path).is_ok_and(|it| it.is_symlink());
        if path.is_dir() && !is_link && depth < DEEPEST {
            deeper(&path, depth + 1, found);
        } else if depth > 0 && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
}

/// The model.json of a folder, or else the first one below it. Links are not followed further down: they may
/// lead in a circle.
fn find_json(folder: &Path, depth: usize) -> Option<PathBuf> {
    let own = folder.join("model.json");
    // Whatever it is: that it cannot be read is told.
    if fs_err::symlink_metadata(&own).is_ok() {
        return Some(own);
    }
    if depth == DEEPEST {
        return None;
    }
    let entries = fs_err::read_dir(folder).ok()?.flatten();
    let mut below: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    below.sort();
    below.iter().find_map(|folder| find_json(folder, depth + 1))
}

fn read_json(path: &Path) -> Result<ModelJson, String> {
    let bytes = read_short(path).map_err(|why| format!("cannot be read: {why}"))?;
    model_json::parse(&bytes).map_err(|why| format!("makes no sense: {why}"))
}

/// The bytes of a file that is meant to be short; a pipe would never answer.
pub(crate) fn read_short(path: &Path) -> Result<Vec<u8>, String> {
    if !fs_err::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".into());
    }
    let mut file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.by_ref().take(LONGEST_JSON + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST_JSON {
        return Err(format!("it is longer than {} MiB", LONGEST_JSON >> 20));
    }
    Ok(bytes)
}

/// What a file of a model's folder is; `None` when it does not matter.
fn kind_of(path: &Path, name: &str, named: &[String]) -> Option<Kind> {
    let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_lowercase());
    if matches!(ending.as_deref(), Some("download" | "part" | "crdownload")) {
        return Some(Kind::Partial);
    }
    let is_gguf = ending.as_deref() == Some("gguf");
    if !is_gguf && !named.iter().any(|known| known == name) {
        return None;
    }
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return None,
        Ok(_) => {}
        Err(error) => return Some(Kind::Unreadable(error.to_string())),
    }
    Some(sniff(path))
}

fn sniff(path: &Path) -> Kind {
    let read = || {
        let metadata = fs_err::metadata(path)?;
        if !metadata.is_file() {
            return Ok(Kind::Other);
        }
        if metadata.len() == 0 {
            return Ok(Kind::Empty);
        }
        let mut start = [0; 4];
        let count = fs_err::File::open(path)?.read(&mut start)?;
        let kind = if weights::is_projector_name(path) { Kind::Projector } else { Kind::Gguf };
        Ok::<_, std::io::Error>(if &start[..count] == b"GGUF" { kind } else { Kind::Other })
    };
    read().unwrap_or_else(|error| Kind::Unreadable(error.to_string()))
}

/// A file that a path, in any of the forms that people write, leads to; `None` for a bare name.
fn look_elsewhere(text: &str, base: &Path, home: Option<&Path>) -> Option<Elsewhere> {
    let path = if let Some(rest) = text.strip_prefix("~/").or_else(|| text.strip_prefix("~\\")) {
        home?.join(rest)
    } else if text.to_ascii_lowercase().starts_with("file:") {
        let path = reqwest::Url::parse(text).ok()?.to_file_path().ok()?;
        // `file:///C:/…`
        if path.to_str().and_then(|path| path.strip_prefix('/')).is_some_and(is_of_windows) {
            return Some(Elsewhere::Foreign);
        }
        path
    } else {
        PathBuf::from(text)
    };
    if !path.is_absolute() {
        if is_of_windows(text) {
            return Some(Elsewhere::Foreign);
        }
        if !text.contains('/') {
            return None;
        }
        let path = base.join(path);
        return path.exists().then(|| Elsewhere::There(File { kind: sniff(&path), path }));
    }
    Some(if fs_err::metadata(&path).is_ok() {
        Elsewhere::There(File { kind: sniff(&path), path })
    } else {
        Elsewhere::Gone(path)
    })
}

/// `C:\…`, `C:/…` or `\\server\…`.
fn is_of_windows(text: &str) -> bool {
    let mut letters = text.chars();
    let drive = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic())
        && letters.next() == Some(':')
        && letters.next().is_some_and(|letter| matches!(letter, '\\' | '/'));
    drive || text.starts_with("\\\\")
}
