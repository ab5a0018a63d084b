//! Models that other programs keep: Ollama, LM Studio, the Hugging Face cache, `GPT4All`. Looked at, never changed.
//! Sources: how each of them lays out its files.

use super::{
    plan::{Candidate, Found, Refusal, skipped, unresolved},
    scan::leads_above,
};
use crate::{shards::Shard, update::fitting_values};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

/// Whose folder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// `manifests/` and `blobs/`.
    Ollama,
    /// `publisher/repository/file.gguf`.
    LmStudio,
    /// `models--author--name/`.
    HubCache,
    /// GGUF files side by side.
    Gpt4All,
}

impl Keeper {
    /// The one that a word names.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ollama" => Self::Ollama,
            "lmstudio" | "lm-studio" => Self::LmStudio,
            "huggingface" | "hf" => Self::HubCache,
            "gpt4all" => Self::Gpt4All,
            _ => return None,
        })
    }

    /// Where it keeps its models by default; the first that is there.
    pub(crate) fn places(self, homes: &super::Homes) -> Vec<PathBuf> {
        let home = |below: &str| homes.home.as_ref().map(|home| home.join(below));
        let data = |below: &str| homes.data.as_ref().map(|data| data.join(below));
        let places = match self {
            Self::Ollama => {
                vec![
                    homes.ollama.clone(),
                    home(".ollama/models"),
                    Some(PathBuf::from("/usr/share/ollama/.ollama/models")),
                ]
            }
            Self::LmStudio => vec![home(".lmstudio/models"), home(".cache/lm-studio/models")],
            Self::HubCache => vec![homes.hub_cache.clone(), home(".cache/huggingface/hub")],
            Self::Gpt4All => vec![
                data("nomic.ai/GPT4All"),
                home("Library/Application Support/nomic.ai/GPT4All"),
                homes.settings.as_ref().map(|settings| settings.join("nomic.ai/GPT4All")),
            ],
        };
        places.into_iter().flatten().collect()
    }

    /// Whose folder this is, as far as its looks tell.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        if folder.join("manifests").is_dir() && folder.join("blobs").is_dir() {
            return Some(Self::Ollama);
        }
        let below = folders_in(folder);
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if below.iter().any(|path| name(path).starts_with("models--") && path.join("snapshots").is_dir()) {
            return Some(Self::HubCache);
        }
        holds_gguf(folder, 3).then_some(Self::LmStudio)
    }

    /// The models in its folder.
    pub(crate) fn candidates(self, folder: &Path) -> Vec<Candidate> {
        match self {
            Self::Ollama => ollama(folder),
            Self::LmStudio | Self::Gpt4All => gguf_tree(folder),
            Self::HubCache => hub_cache(folder),
        }
    }
}

/// Folders below a folder of GGUF files that are searched.
const DEEPEST: usize = 8;
/// Bytes of a manifest, and of a small blob.
const LONGEST: u64 = 1 << 20;

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

/// `manifests/HOST/NAMESPACE/NAME/TAG` name the layers of a model, `blobs/sha256-…` hold them.
fn ollama(folder: &Path) -> Vec<Candidate> {
    let root = folder.join("manifests");
    let mut found = Vec::new();
    for host in folders_in(&root) {
        for namespace in folders_in(&host) {
            for model in folders_in(&namespace) {
                for tag in files_in(&model) {
                    let parts: Vec<String> = [&host, &namespace, &model, &tag]
                        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
                        .to_vec();
                    let [host, namespace, model, name] = parts.as_slice() else { continue };
                    if name.starts_with('.') {
                        continue;
                    }
                    // As people call it: the library and its host go without saying.
                    let mut id = format!("{model}:{name}");
                    if namespace != "library" || host != "registry.ollama.ai" {
                        id = format!("{namespace}/{id}");
                    }
                    if host != "registry.ollama.ai" {
                        id = format!("{host}/{id}");
                    }
                    found.push(ollama_model(folder, tag, id));
                }
            }
        }
    }
    found
}

fn ollama_model(folder: &Path, manifest: PathBuf, id: String) -> Candidate {
    let mut left_out = String::new();
    let (found, settings) = match read_manifest(&manifest) {
        Err(why) => {
            (Err(unresolved(format!("its manifest makes no sense: {why}"), "pull it again with ollama")), Map::new())
        }
        Ok(read) => {
            let layer = |kind: &str| read.layers.iter().find(|layer| layer.media_type.ends_with(kind));
            let blob = |layer: &Layer| folder.join("blobs").join(layer.digest.replacen(':', "-", 1));
            let text = |kind: &str| layer(kind).and_then(|layer| read_text(&blob(layer)));
            let mut settings = Map::new();
            if let Some(Value::Object(given)) =
                text(".params").and_then(|text| serde_json::from_str::<Value>(&text).ok())
            {
                (settings, left_out) = ollama_settings(&given);
            }
            // Kept for whoever wants to know: they are of another language than ours.
            for (kind, key) in [(".template", "ollama_template"), (".system", "ollama_system")] {
                if let Some(text) = text(kind) {
                    settings.insert(key.into(), text.into());
                }
            }
            if layer(".adapter").is_some() {
                let told = "its adapter (LoRA), which is not used";
                left_out = if left_out.is_empty() { told.into() } else { format!("{told}; {left_out}") };
            }
            if let Some(projector) = layer(".projector") {
                settings.insert("mmproj".into(), blob(projector).to_string_lossy().into_owned().into());
            }
            let found = match layer(".model") {
                None => Err(skipped("it has no weights of its own: it runs elsewhere, or in another format")),
                Some(weights) => checked_blob(&blob(weights), weights),
            };
            (found, settings)
        }
    };
    Candidate { place: manifest, name: id.replace('/', "-"), id: Some(id), found, settings, aliases: vec![], left_out }
}

/// A name that cannot lead out of the folder of blobs, a file of the length that was promised, a GGUF.
fn checked_blob(path: &Path, layer: &Layer) -> Result<Found, Refusal> {
    let plain = layer
        .digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !plain {
        return Err(unresolved("its manifest names no digest", "pull it again with ollama"));
    }
    let again = "pull it again with ollama";
    match fs_err::metadata(path) {
        Err(error) => Err(unresolved(format!("its weights cannot be read: {error}"), again)),
        Ok(metadata) if layer.size > 0 && metadata.len() != layer.size => {
            Err(unresolved(format!("{} has {} of {} bytes", path.display(), metadata.len(), layer.size), again))
        }
        Ok(_) if !begins_as_gguf(path) => Err(skipped(format!("{} is no GGUF file", path.display()))),
        Ok(_) => Ok(Found { path: path.to_owned(), is_missing: false }),
    }
}

/// Parameters of a Modelfile that mean the same here.
fn ollama_settings(given: &Map<String, Value>) -> (Map<String, Value>, String) {
    const SAME: &[(&str, &str)] = &[
        ("temperature", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("typical_p", "typ_p"),
        ("seed", "seed"),
        ("repeat_penalty", "repeat_penalty"),
        ("repeat_last_n", "repeat_last_n"),
        ("presence_penalty", "presence_penalty"),
        ("frequency_penalty", "frequency_penalty"),
        ("num_ctx", "ctx_len"),
        ("num_predict", "max_tokens"),
        ("stop", "stop"),
    ];
    let mut settings = Map::new();
    for (theirs, ours) in SAME {
        let Some(value) = given.get(*theirs) else { continue };
        // Fewer than none is "as many as fit" there; so is leaving it out here.
        let is_none = *ours == "max_tokens" && value.as_i64().is_some_and(|count| count < 1);
        if !is_none {
            settings.insert((*ours).to_owned(), value.clone());
        }
    }
    fitting_values(&settings)
}

/// Every GGUF below a folder, by its path there: `publisher/repository/file`, or the name alone. Links to folders are
/// followed, because people keep models on other drives, but for those that lead in a circle.
fn gguf_tree(folder: &Path) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut below = vec![(folder.to_owned(), String::new(), 0)];
    let mut seen: HashSet<PathBuf> = fs_err::canonicalize(folder).into_iter().collect();
    while let Some((place, prefix, depth)) = below.pop() {
        let models = models_in(&place);
        // The folder of a model of another kind. In the first one, any program may keep anything.
        if models.is_empty() && depth > 0 && files_in(&place).iter().any(|file| !is_hidden(file)) {
            let ggufs = files_in(&place).iter().any(|file| is_gguf(file));
            found.extend((!ggufs && folders_in(&place).is_empty()).then(|| without_gguf(&place)));
        }
        for file in models {
            let id = format!("{prefix}{}", stem(&file));
            found.push(of_file(file, id));
        }
        for folder in folders_in(&place).into_iter().rev() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_new = fs_err::canonicalize(&folder).is_ok_and(|real| seen.insert(real));
            if depth < DEEPEST && is_new && !leads_above(&folder) {
                below.push((folder, format!("{prefix}{name}/"), depth + 1));
            }
        }
    }
    found
}

/// Whether there is a GGUF in a folder, or not far below it.
fn holds_gguf(folder: &Path, depth: usize) -> bool {
    files_in(folder).iter().any(|file| is_gguf(file))
        || depth > 0 && folders_in(folder).iter().any(|folder| holds_gguf(folder, depth - 1))
}

/// `models--author--name/snapshots/COMMIT/…`, of which `refs/main` names the newest.
fn hub_cache(folder: &Path) -> Vec<Candidate> {
    let mut found = Vec::new();
    for repository in folders_in(folder) {
        let name = repository.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((author, name)) = name.strip_prefix("models--").and_then(|rest| rest.split_once("--")) else {
            // Data sets and spaces; what begins with a point is of the cache itself.
            found.extend((!is_hidden(&repository)).then(|| without_gguf(&repository)));
            continue;
        };
        let snapshots = repository.join("snapshots");
        let main = read_text(&repository.join("refs/main")).map(|commit| snapshots.join(commit.trim()));
        let newest = || {
            let changed = |path: &PathBuf| fs_err::metadata(path).and_then(|it| it.modified()).ok();
            folders_in(&snapshots).into_iter().max_by_key(changed)
        };
        let Some(snapshot) = main.filter(|path| path.is_dir()).or_else(newest) else {
            found.push(without_gguf(&repository));
            continue;
        };
        let mut below = vec![snapshot.clone()];
        below.extend(folders_in(&snapshot));
        let files: Vec<PathBuf> = below.iter().flat_map(|folder| models_in(folder)).collect();
        if files.is_empty() {
            found.push(without_gguf(&repository));
        }
        for file in files {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push(of_file(file, format!("{author}:{name}:{file_name}")));
        }
    }
    found
}

/// A folder that holds nothing for us.
fn without_gguf(folder: &Path) -> Candidate {
    Candidate::refused(folder, None, skipped("it holds no GGUF file"))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// A GGUF file as it lies there.
fn of_file(file: PathBuf, id: String) -> Candidate {
    let empty = fs_err::metadata(&file)
        .map_or_else(|error| Some(error.to_string()), |it| (it.len() == 0).then(|| "it is empty".into()));
    let is_partial = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("incomplete-"));
    let found = match empty {
        _ if is_partial => Err(unresolved("it is a download that was not finished", "end it in the other program")),
        Some(why) => Err(unresolved(why, "get the file again")),
        None if !begins_as_gguf(&file) => Err(unresolved("it is no GGUF file", "get the file again")),
        None => Ok(Found { path: file.clone(), is_missing: false }),
    };
    Candidate {
        place: file,
        name: id.replace('/', "-"),
        id: Some(id),
        found,
        settings: Map::new(),
        aliases: vec![],
        left_out: String::new(),
    }
}

/// The name of a file without its ending and the number of its part.
fn stem(file: &Path) -> String {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_part = Shard::of(file).is_some();
    if is_part { crate::shards::split_stem(&name).map_or(name.clone(), |(stem, ..)| stem.to_owned()) } else { name }
}

/// The files of a folder that models begin with, also those that are not whole.
fn models_in(folder: &Path) -> Vec<PathBuf> {
    entries(folder, |path| !path.is_dir() && crate::is_first_of_model(path))
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// Only a regular file is opened: a pipe would never answer.
fn begins_as_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    fs_err::metadata(path).is_ok_and(|it| it.is_file())
        && fs_err::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && &start == b"GGUF"
}

fn read_manifest(path: &Path) -> Result<Manifest, String> {
    let text = read_text(path).ok_or("it cannot be read")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// A short text; `None` when it is none, or no regular file.
fn read_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs_err::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    fs_err::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).map_or_else(|_| vec![], |entries| entries.flatten().collect());
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| wanted(path)).collect();
    paths.sort();
    paths
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    entries(folder, Path::is_dir)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    entries(folder, Path::is_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_that_mean_the_same_are_kept() {
        let given = json!({"temperature": 0.5, "num_ctx": 4096, "num_predict": -1, "stop": ["a", "b"], "top_k": "many",
            "num_gpu": 7, "typical_p": 0.9});
        let (settings, left_out) = ollama_settings(given.as_object().unwrap());
        assert_eq!(
            Value::Object(settings),
            json!({"temperature": 0.5, "typ_p": 0.9, "ctx_len": 4096, "stop": ["a", "b"]})
        );
        assert!(left_out.starts_with("top_k is"), "{left_out}");
    }

    #[test]
    fn a_digest_is_no_way_out_of_the_folder() {
        for digest in ["sha256:../../etc/passwd", "sha256:", "md5:aa", ""] {
            let layer = Layer { media_type: String::new(), digest: digest.into(), size: 0 };
            assert!(checked_blob(Path::new("/etc/passwd"), &layer).is_err(), "{digest}");
        }
    }
}
