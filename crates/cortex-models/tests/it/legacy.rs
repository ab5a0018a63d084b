//! Data folders of an older Jan, as people have them; and what the old app sees in one.

use cortex_test::gguf::GgufBuilder;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Content up to this length is compared byte for byte.
const COMPARED: u64 = 1 << 20;

/// A small GGUF.
pub(crate) fn gguf() -> Vec<u8> {
    GgufBuilder::llama().build()
}

/// A data folder that a test fills.
pub(crate) struct Legacy {
    pub(crate) root: PathBuf,
}

impl Legacy {
    pub(crate) fn new(root: &Path) -> Self {
        fs_err::create_dir_all(root.join("models")).unwrap();
        Self { root: root.to_owned() }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Writes a file below `models/`.
    pub(crate) fn file(&self, below: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.join("models").join(below);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    }

    /// Writes the model.json of a folder.
    pub(crate) fn json(&self, folder: &str, json: &Value) -> PathBuf {
        self.file(&format!("{folder}/model.json"), serde_json::to_string_pretty(json).unwrap())
    }

    /// A model as the last versions downloaded it.
    pub(crate) fn downloaded(&self, folder: &str, id: &str, file: &str) -> PathBuf {
        self.json(folder, &downloadable(id, file));
        self.file(&format!("{folder}/{file}"), gguf())
    }
}

/// The model.json of a model that the app offers.
pub(crate) fn downloadable(id: &str, file: &str) -> Value {
    json!({
        "sources": [{"filename": file, "url": format!("https://hub.example/maker/repo/resolve/main/{file}")}],
        "id": id, "object": "model", "name": format!("The {id}"), "version": "1.0", "format": "gguf", "engine": "nitro",
        "settings": {"ctx_len": 2048, "prompt_template": "<u>{prompt}<a>", "llama_model_path": file, "ngl": 33},
        "parameters": {"temperature": 0.25, "top_p": 0.5, "max_tokens": 99, "stop": ["<end>"], "stream": true},
        "metadata": {"author": "Maker", "tags": [], "size": 1000},
    })
}

/// Which models the last scanner of the old app shows as downloaded: an oracle, written from its rules.
pub(crate) fn seen_by_the_old_app(root: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut folders: Vec<PathBuf> =
        fs_err::read_dir(root.join("models")).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let Some(path) = first_json(folder) else { continue };
        let Ok(text) = fs_err::read_to_string(&path) else { continue };
        let Ok(json) = serde_json::from_str::<Value>(&text) else { continue };
        let id = json["id"].as_str().unwrap_or_default().to_owned();
        let sources = json["sources"].as_array().cloned().unwrap_or_default();
        let is_link = |source: &Value| source["url"].as_str().is_some_and(|url| url.starts_with("http"));
        let local = matches!(json["engine"].as_str(), Some("nitro" | "cortex" | "llama-cpp"));
        let names: Vec<String> = fs_err::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let weights = names.iter().filter(|name| name.to_lowercase().ends_with(".gguf")).count();
        let has_its_name = folder.file_name().is_some_and(|own| names.iter().any(|name| own == name.as_str()));
        if !local || !sources.iter().any(is_link) || has_its_name || weights >= sources.len() {
            seen.push(id);
        }
    }
    seen
}

fn first_json(folder: &Path) -> Option<PathBuf> {
    let own = folder.join("model.json");
    if own.is_file() {
        return Some(own);
    }
    let mut below: Vec<PathBuf> = fs_err::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    below.sort();
    below.iter().filter(|path| path.is_dir()).find_map(|path| first_json(path))
}

/// Everything below a folder but what is ours: kind, length, time, inode, rights, and short contents.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let below = path.strip_prefix(root).unwrap().to_owned();
            if is_ours(&below) {
                continue;
            }
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            // Our own files change the times of the folders that they lie in.
            let time = if metadata.is_dir() { 0 } else { metadata.mtime_nsec() + metadata.mtime() * 1_000_000_000 };
            let content = if metadata.is_file() && metadata.len() <= COMPARED {
                let mut hasher = DefaultHasher::new();
                fs_err::read(&path).unwrap().hash(&mut hasher);
                format!("{:x}", hasher.finish())
            } else {
                fs_err::read_link(&path).map(|to| to.display().to_string()).unwrap_or_default()
            };
            let what = format!("{:o} {} {time} {} {content}", metadata.mode(), metadata.len(), metadata.ino());
            if metadata.is_dir() {
                // Its length is that of its table, which grows with our files.
                found.insert(below, format!("{:o} {}", metadata.mode(), metadata.ino()));
                folders.push(path);
            } else {
                found.insert(below, what);
            }
        }
    }
    found
}

/// Files and folders that cortex makes.
fn is_ours(below: &Path) -> bool {
    let text = below.to_string_lossy();
    // What a crash amid a write leaves behind; the next start removes it.
    let is_leftover = below.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with(".cortex-") && name.ends_with(".tmp")
    });
    if is_leftover {
        return true;
    }
    ["state", "cache", "logs", "partial"].iter().any(|folder| below.starts_with(folder))
        || text == "models/models.list"
        || text == "models/.models.list.lock"
        || text == "models/imported"
        || (text.starts_with("models/imported/") && text.ends_with(".yaml"))
}
