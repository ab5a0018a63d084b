//! From what was seen to what will be done, and what a person is told about each place. Pure.

use super::{
    model_json::{Engine, ModelJson},
    scan::{Elsewhere, File, Folder, Kind, Scan},
};
use crate::ModelId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

/// What a migration will do, and what it says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The models that it registers.
    pub(crate) models: Vec<PlannedModel>,
    /// What becomes of each folder, in their order.
    pub(crate) findings: Vec<Finding>,
    /// On the way back, the files that it writes for the older program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<PlannedFile>,
}

/// A model.json where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedFile {
    /// Whose.
    pub(crate) id: ModelId,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A model that is registered by reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlannedModel {
    /// Byte for byte as the older program had it.
    pub(crate) id: ModelId,
    /// Its weights, absolute; of a set, the first part.
    pub(crate) weights: PathBuf,
    /// What its model.yaml keeps of its settings.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) settings: Map<String, Value>,
    /// More names that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<String>,
    /// A model.yaml of this id was there before: it counts, and an undo leaves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) has_yaml: bool,
}

/// What becomes of one folder, or one entry, of an older program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where it lies.
    pub place: PathBuf,
    /// The id of its model, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its weights, when they were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// What becomes of it.
    pub result: Outcome,
    /// Why, or what is to be known about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What becomes of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its model is on the list now.
    Registered,
    /// It was there already.
    AlreadyKnown,
    /// There is nothing in it for us.
    Skipped,
    /// There may be a model, but it could not be told which.
    Unresolved,
}

impl Outcome {
    /// Its word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::AlreadyKnown => "already_known",
            Self::Skipped => "skipped",
            Self::Unresolved => "unresolved",
        }
    }
}

/// What the registry has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Where the weights of each id are, as far as links can be followed.
    pub(crate) models: HashMap<String, PathBuf>,
    /// Ids that a person deleted.
    pub(crate) deleted: HashSet<String>,
}

/// What was found in one place, before it is compared with what there is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) place: PathBuf,
    /// The id that its model has.
    pub(crate) id: Option<String>,
    /// An id to suggest when that one is taken.
    pub(crate) name: String,
    pub(crate) found: Result<Found, Refusal>,
    pub(crate) settings: Map<String, Value>,
    /// More names that it had.
    pub(crate) aliases: Vec<String>,
    /// What is wrong with settings that were left out; mostly nothing.
    pub(crate) left_out: String,
}

impl Candidate {
    /// A place that brings no model.
    pub(crate) fn refused(place: &Path, id: Option<&str>, refusal: Refusal) -> Self {
        Self {
            place: place.to_owned(),
            id: id.map(str::to_owned),
            name: id.unwrap_or_default().to_owned(),
            found: Err(refusal),
            settings: Map::new(),
            aliases: vec![],
            left_out: String::new(),
        }
    }
}

/// The weights of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// The file is not there now.
    pub(crate) is_missing: bool,
}

/// Why a place brings no model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    result: Outcome,
    reason: String,
    hint: Option<String>,
}

pub(crate) fn skipped(reason: impl Into<String>) -> Refusal {
    Refusal { result: Outcome::Skipped, reason: reason.into(), hint: None }
}

pub(crate) fn unresolved(reason: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { result: Outcome::Unresolved, reason: reason.into(), hint: Some(hint.into()) }
}

/// What lies in the folders of an older Jan.
pub(crate) fn candidates(scan: &Scan) -> Vec<Candidate> {
    let candidate = |folder: &Folder| {
        let id = id_of(folder);
        let found = model_of(folder, &id);
        let said = folder.json.as_ref().and_then(|(_, json)| json.as_ref().ok()?.id.clone());
        Candidate {
            place: folder.path.clone(),
            id: if found.is_ok() { Some(id) } else { said },
            name: folder.name.clone(),
            settings: settings_of(folder),
            left_out: folder
                .json
                .as_ref()
                .and_then(|(_, json)| Some(json.as_ref().ok()?.left_out.clone()))
                .unwrap_or_default(),
            found,
            aliases: vec![],
        }
    };
    scan.folders.iter().map(candidate).collect()
}

/// A model that an older program offers, and that is not here: its weights were never downloaded, or there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: String,
    /// The name to show.
    pub name: String,
    /// `llama-cpp`, or the service that runs it.
    pub engine: String,
    /// Where its weights can be downloaded.
    pub url: Option<String>,
    /// The older program has a key for the service that runs it.
    pub has_key: bool,
}

/// The models that an older Jan offers in its folders; `keys` are the services for which it has a key.
pub(crate) fn templates(scan: &Scan, keys: &HashSet<String>) -> Vec<Template> {
    let template = |folder: &Folder| {
        let json = folder.json.as_ref()?.1.as_ref().ok()?;
        let id = id_of(folder);
        let (engine, url) = match &json.engine {
            Engine::Remote(name) => (name.clone(), None),
            Engine::Local => {
                // One that is there, or that a person has to look at, is none.
                let is_offered = model_of(folder, &id).is_err_and(|refusal| refusal.result == Outcome::Skipped);
                let url = json.sources.first().filter(|source| is_offered && source.is_remote())?.url.clone();
                ("llama-cpp".to_owned(), Some(url))
            }
            Engine::Other(_) | Engine::Unknown(_) => return None,
        };
        let has_key = keys.contains(&engine);
        Some(Template { name: json.name.clone().unwrap_or_else(|| id.clone()), id, engine, url, has_key })
    };
    scan.folders.iter().filter_map(template).collect()
}

/// The plan for what was found. `canonical` follows links, so that one file with two names is one.
pub(crate) fn plan(candidates: Vec<Candidate>, known: &Known, canonical: impl Fn(&Path) -> PathBuf) -> Plan {
    let mut plan = Plan::default();
    let mut taken: HashMap<String, PathBuf> = HashMap::new();
    for candidate in candidates {
        let finding = |weights, result, reason, hint| Finding {
            // The journal is text.
            place: PathBuf::from(candidate.place.to_string_lossy().into_owned()),
            id: candidate.id.clone(),
            weights,
            result,
            reason,
            hint,
        };
        let (id, found) = match (&candidate.found, &candidate.id) {
            (Ok(found), Some(_)) if found.path.to_str().is_none_or(|path| path.contains(char::is_control)) => {
                let reason = "the path of its weights has letters that no list can hold".to_owned();
                let hint = Some("rename the file or its folder, and migrate again".to_owned());
                plan.findings.push(finding(None, Outcome::Unresolved, Some(reason), hint));
                continue;
            }
            (Ok(_), Some(id)) if ModelId::new(id).is_err() && id.contains(char::is_control) => {
                let reason = "its id has control characters, which no list can hold".to_owned();
                let hint = Some("import its weights with `cortex import` under another id".to_owned());
                let weights = candidate.found.as_ref().ok().map(|found| found.path.clone());
                plan.findings.push(finding(weights, Outcome::Unresolved, Some(reason), hint));
                continue;
            }
            (Ok(found), Some(id)) => (id, found),
            (Ok(found), None) => {
                let path = found.path.clone();
                plan.findings.push(finding(Some(path), Outcome::Unresolved, Some("it has no id".into()), None));
                continue;
            }
            (Err(refusal), _) => {
                let Refusal { result, reason, hint } = refusal.clone();
                plan.findings.push(finding(None, result, Some(reason), hint));
                continue;
            }
        };
        let weights = Some(found.path.clone());
        if let Some(refusal) = refusal_of(id, &found.path, (known, &taken, &candidate), &canonical) {
            if refusal.result == Outcome::AlreadyKnown {
                taken.insert(id.clone(), candidate.place.clone());
            }
            plan.findings.push(finding(weights, refusal.result, Some(refusal.reason), refusal.hint));
            continue;
        }
        taken.insert(id.clone(), candidate.place.clone());
        plan.models.push(PlannedModel {
            id: ModelId::existing(id.clone()),
            weights: found.path.clone(),
            settings: candidate.settings.clone(),
            aliases: candidate.aliases.clone(),
            has_yaml: false,
        });
        let missing = found.is_missing.then(|| {
            "its file is not there now: it is listed as missing until it is, or its drive comes back".to_owned()
        });
        let left_out = (!candidate.left_out.is_empty()).then(|| format!("left out: {}", candidate.left_out));
        let remarks: Vec<String> = missing.into_iter().chain(left_out).collect();
        let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        plan.findings.push(finding(weights, Outcome::Registered, remark, None));
    }
    // A name that is somebody's id, or that two would have, means nobody.
    let all: Vec<String> = plan.models.iter().flat_map(|model| model.aliases.clone()).collect();
    for model in &mut plan.models {
        let (kept, left) = model.aliases.drain(..).partition(|alias| {
            let once = all.iter().filter(|other| *other == alias).count() == 1;
            once && !taken.contains_key(alias) && !known.models.contains_key(alias) && ModelId::new(alias).is_ok()
        });
        model.aliases = kept;
        let left: Vec<String> = left;
        let is_it = |it: &&mut Finding| it.result == Outcome::Registered && it.id.as_deref() == Some(model.id.as_str());
        if let Some(finding) = plan.findings.iter_mut().find(is_it).filter(|_| !left.is_empty()) {
            let told = format!("left out: its other name `{}`, which another model has as well", left.join("`, `"));
            let before = finding.reason.take();
            finding.reason = Some(before.map_or(told.clone(), |before| format!("{before}; {told}")));
        }
    }
    plan
}

/// Of cortex.cpp and an older Jan in one folder, the entries of cortex.cpp come first; what their settings lack is
/// filled from those of the same id.
pub(crate) fn joined(mut newer: Vec<Candidate>, older: Vec<Candidate>) -> Vec<Candidate> {
    for candidate in newer.iter_mut().filter(|candidate| candidate.found.is_ok()) {
        if let Some(same) = older.iter().find(|other| other.id == candidate.id) {
            for (key, value) in &same.settings {
                candidate.settings.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    let known: HashSet<String> =
        newer.iter().filter(|candidate| candidate.found.is_ok()).filter_map(|it| it.id.clone()).collect();
    let older = older.into_iter().map(|candidate| {
        let is_known = candidate.found.is_ok() && candidate.id.as_ref().is_some_and(|id| known.contains(id));
        let reason = "cortex.cpp had it already: its entry counts, and lacks nothing of this one's settings".to_owned();
        let found =
            if is_known { Err(Refusal { result: Outcome::AlreadyKnown, reason, hint: None }) } else { candidate.found };
        Candidate { found, ..candidate }
    });
    newer.extend(older);
    newer
}

/// The id of its model.json, byte for byte; the name of the folder when there is none.
fn id_of(folder: &Folder) -> String {
    let of_json = folder.json.as_ref().and_then(|(_, json)| json.as_ref().ok()?.id.clone());
    of_json.unwrap_or_else(|| folder.name.clone())
}

/// Why a model that was found is not registered.
fn refusal_of(
    id: &str,
    weights: &Path,
    (known, taken, candidate): (&Known, &HashMap<String, PathBuf>, &Candidate),
    canonical: &impl Fn(&Path) -> PathBuf,
) -> Option<Refusal> {
    if let Some(first) = taken.get(id) {
        let free = |other: &String| !taken.contains_key(other) && !known.models.contains_key(other);
        let numbered = (2u32..).map(|number| format!("{id}-{number}"));
        let suggested = std::iter::once(candidate.name.clone()).chain(numbered).find(free).unwrap_or_default();
        return Some(unresolved(
            format!("its id `{id}` is also that of {}, which comes first", first.display()),
            format!(
                "`cortex import --id {} {}` takes it in under another id",
                quoted(&suggested),
                quoted(&weights.to_string_lossy())
            ),
        ));
    }
    if let Some(there) = known.models.get(id) {
        if *there == canonical(weights) {
            return Some(Refusal { result: Outcome::AlreadyKnown, reason: "it is on the list".into(), hint: None });
        }
        return Some(Refusal {
            result: Outcome::AlreadyKnown,
            reason: format!("the id `{id}` is on the list, with {}", there.display()),
            hint: None,
        });
    }
    if known.deleted.contains(id) {
        return Some(Refusal {
            result: Outcome::Skipped,
            reason: format!("`{id}` was deleted"),
            hint: Some("`cortex migrate --include-deleted` brings it back".into()),
        });
    }
    None
}

/// The weights of a folder's model, or why there are none.
fn model_of(folder: &Folder, id: &str) -> Result<Found, Refusal> {
    if let Some(why) = folder.nothing {
        return Err(skipped(why));
    }
    if let Some(to) = &folder.dangling {
        return Err(unresolved(
            format!("its link leads to {}, which is not there", to.display()),
            "migrate again when its drive is back",
        ));
    }
    if let Some(why) = &folder.unreadable {
        return Err(unresolved(format!("it cannot be read: {why}"), "look at its rights, and migrate again"));
    }
    let json = match &folder.json {
        None => None,
        Some((_, Ok(json))) => Some(json),
        Some((path, Err(why))) => {
            return Err(unresolved(
                format!("{} {why}", path.display()),
                "mend it and migrate again, or import the weights with `cortex import`",
            ));
        }
    };
    match json.map(|json| &json.engine) {
        None | Some(Engine::Local) => {}
        Some(Engine::Remote(name)) => {
            return Err(skipped(format!("it is a model of {name}, on another machine: there are no weights")));
        }
        Some(Engine::Other(name)) => {
            return Err(skipped(format!("it is for {name}: cortex runs GGUF files")));
        }
        Some(Engine::Unknown(name)) => {
            return Err(skipped(format!("its engine `{name}` is not known")));
        }
    }
    let projector = projector_of(folder, json);
    match weights_of(folder, json, id, projector.as_deref())? {
        Weights::There(path) => Ok(Found { path, is_missing: false }),
        Weights::Gone(path) => Ok(Found { path, is_missing: true }),
    }
}

enum Weights {
    There(PathBuf),
    Gone(PathBuf),
}

fn weights_of(
    folder: &Folder,
    json: Option<&ModelJson>,
    id: &str,
    projector: Option<&Path>,
) -> Result<Weights, Refusal> {
    let mut troubles = Troubles::default();
    let mut gone = None;
    // An import by its path: that is the file, whatever lies in the folder.
    if let Some(source) = json.and_then(|json| json.sources.first()).filter(|source| !source.is_remote()) {
        match folder.elsewhere.get(&source.url) {
            Some(Elsewhere::There(File { path, kind: Kind::Gguf | Kind::Projector })) => {
                return Ok(Weights::There(path.clone()));
            }
            Some(Elsewhere::There(file)) => troubles.push(trouble(file)),
            Some(Elsewhere::Gone(path)) => gone = Some(path.clone()),
            Some(Elsewhere::Foreign) => troubles.push(format!("{} is a path of another system", source.url)),
            None => {}
        }
    }
    let mut named: Vec<&str> = Vec::new();
    if let Some(json) = json {
        if let Some(source) = json.sources.first() {
            named.extend(source.filename.as_deref());
        }
        named.extend(json.weights.as_deref());
        named.extend(json.sources.first().and_then(|source| source.last_part()));
    }
    named.extend([id, folder.name.as_str()]);
    for name in named {
        let Some(file) = folder.files.get(name).filter(|file| projector != Some(file.path.as_path())) else { continue };
        match file.kind {
            Kind::Gguf => return Ok(Weights::There(file.path.clone())),
            _ => troubles.push(trouble(file)),
        }
    }
    if let Some(gone) = gone {
        return Ok(Weights::Gone(gone));
    }
    let is_first = |file: &&File| {
        crate::shards::Shard::of(&file.path).is_none_or(|shard| shard.number == 1)
            && projector != Some(file.path.as_path())
    };
    let ggufs: Vec<&File> = folder.files.values().filter(|file| file.kind == Kind::Gguf).filter(is_first).collect();
    match ggufs.as_slice() {
        [one] => return Ok(Weights::There(one.path.clone())),
        [] => {}
        several => {
            let there: Vec<String> = several.iter().map(|file| file.path.display().to_string()).collect();
            return Err(unresolved(
                format!("it holds several models, and nothing says which is meant: {}", there.join(", ")),
                "import those that you want with `cortex import FILE`",
            ));
        }
    }
    for other in folder.files.values().filter(|file| file.kind != Kind::Projector) {
        troubles.push(trouble(other));
    }
    if !troubles.0.is_empty() {
        let link = json.and_then(|json| json.sources.first()).filter(|source| source.is_remote());
        let hint = link.map_or_else(
            || "get the file again, and migrate again, or import it with `cortex import FILE`".to_owned(),
            |source| {
                format!(
                    "get it again with `cortex pull {}`, or import the file with `cortex import FILE`",
                    quoted(&source.url)
                )
            },
        );
        return Err(unresolved(troubles.0.join("; "), hint));
    }
    Err(match json {
        None if !folder.deeper.is_empty() => {
            let there: Vec<String> = folder.deeper.iter().map(|path| path.display().to_string()).collect();
            unresolved(
                format!("its GGUF files lie in folders below it, where the app did not see them: {}", there.join(", ")),
                "import those that you want with `cortex import FILE`",
            )
        }
        None => skipped("it holds no model"),
        Some(json) if json.sources.iter().any(super::model_json::Source::is_remote) || json.sources.is_empty() => {
            skipped("it was never downloaded")
        }
        Some(_) => unresolved("its weights are not in it", "import the file with `cortex import FILE`"),
    })
}

/// What is wrong, each thing once.
#[derive(Default)]
struct Troubles(Vec<String>);

impl Troubles {
    fn push(&mut self, trouble: String) {
        if !self.0.contains(&trouble) {
            self.0.push(trouble);
        }
    }
}

/// What is wrong with a file that should be the weights.
fn trouble(file: &File) -> String {
    let path = file.path.display();
    match &file.kind {
        Kind::Partial => format!("{path} is a download that was not finished"),
        Kind::Empty => format!("{path} is empty"),
        Kind::Unreadable(why) => format!("{path} cannot be read: {why}"),
        Kind::Projector => format!("{path} is the vision part of a model"),
        Kind::Gguf | Kind::Other => format!("{path} is no GGUF file"),
    }
}

/// The vision part of a model: the file that the settings name, or the only one in the folder.
fn projector_of(folder: &Folder, json: Option<&ModelJson>) -> Option<PathBuf> {
    let is_gguf = |file: &&File| matches!(file.kind, Kind::Gguf | Kind::Projector);
    let named = json.and_then(|json| json.projector.as_deref());
    if let Some(file) = named.and_then(|name| folder.files.get(name)).filter(is_gguf) {
        return Some(file.path.clone());
    }
    let mut found = folder.files.values().filter(|file| file.kind == Kind::Projector);
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only.path.clone()),
        _ => None,
    }
}

fn settings_of(folder: &Folder) -> Map<String, Value> {
    let json = folder.json.as_ref().and_then(|(_, json)| json.as_ref().ok());
    let projector = projector_of(folder, json);
    let mut settings = Map::new();
    if let Some(name) = json.and_then(|json| json.name.clone()) {
        settings.insert("name".into(), name.into());
    }
    if let Some(projector) = projector {
        settings.insert("mmproj".into(), projector.to_string_lossy().into_owned().into());
    }
    settings.extend(json.map(|json| json.settings.clone()).unwrap_or_default());
    settings
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=+@%,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
