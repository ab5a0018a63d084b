//! Changes of a model's settings: which fields there are, and what each may be.

use crate::{
    DescribeError, ErrorKind, KeepAlive, Model, ModelId, ModelStore, ModelYaml, ResolveError, StoreError, WeightsError,
    model_yaml, weights,
};
use cortex_hardware::CacheType;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a field may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Field {
    Text,
    Texts,
    Truth,
    /// A number from the first to the second.
    Number(f64, f64),
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// A duration: [`KeepAlive::parse`].
    KeepAlive,
    /// How keys and values are stored: a name of [`CacheType`].
    CacheType,
    /// LoRA adapters, each with its path and a scale.
    Adapters,
    /// The absolute path of a file, or nothing.
    Path,
}

const TOKENS: Field = Field::Whole(0, 1 << 28);
const PENALTY: Field = Field::Number(-10.0, 10.0);

/// The fields that can be changed. Ranges are those of a request; `ctx_len` 0 means the trained context.
const FIELDS: &[(&str, Field)] = &[
    ("name", Field::Text),
    ("version", Field::Text),
    ("stop", Field::Texts),
    ("stream", Field::Truth),
    ("top_p", Field::Number(0.0, 1.0)),
    ("temperature", Field::Number(0.0, 5.0)),
    ("frequency_penalty", PENALTY),
    ("presence_penalty", PENALTY),
    ("max_tokens", TOKENS),
    ("seed", Field::Whole(-1, u32::MAX as i64)),
    ("dynatemp_range", Field::Number(0.0, 5.0)),
    ("dynatemp_exponent", Field::Number(0.0, 10.0)),
    ("top_k", Field::Whole(0, i32::MAX as i64)),
    ("min_p", Field::Number(0.0, 1.0)),
    ("tfs_z", Field::Number(0.0, 1.0)),
    ("typ_p", Field::Number(0.0, 1.0)),
    ("repeat_last_n", Field::Whole(-1, 1 << 28)),
    ("repeat_penalty", Field::Number(0.01, 10.0)),
    ("mirostat", Field::Truth),
    ("mirostat_tau", Field::Number(0.0, 100.0)),
    ("mirostat_eta", Field::Number(0.0, 10.0)),
    ("penalize_nl", Field::Truth),
    ("ignore_eos", Field::Truth),
    ("n_probs", Field::Whole(0, 1 << 20)),
    ("min_keep", Field::Whole(0, 1 << 20)),
    ("ngl", Field::Whole(-1, 1 << 16)),
    ("ctx_len", TOKENS),
    ("n_parallel", Field::Whole(1, 64)),
    ("cpu_threads", Field::Whole(-1, 512)),
    ("cache_type", Field::CacheType),
    ("lora_adapters", Field::Adapters),
    ("draft_model", Field::Path),
    ("mtp", Field::Truth),
    ("keep_alive", Field::KeepAlive),
    ("pin", Field::Truth),
    ("engine", Field::Text),
    ("prompt_template", Field::Text),
    ("system_template", Field::Text),
    ("user_template", Field::Text),
    ("ai_template", Field::Text),
    ("os", Field::Text),
    ("gpu_arch", Field::Text),
    ("quantization_method", Field::Text),
    ("precision", Field::Text),
    ("tp", Field::Text),
    ("trtllm_version", Field::Text),
    ("text_model", Field::Truth),
    ("vision_model", Field::Truth),
    ("embedding", Field::Truth),
    ("token_limit", TOKENS),
    ("llama_model_path", Field::Text),
    ("object", Field::Text),
    ("owned_by", Field::Text),
    ("created", Field::Whole(0, i64::MAX)),
    ("grammar", Field::Text),
];
/// Fields that clients send back as they read them. The registry knows better.
const IGNORED: &[&str] = &["id", "model", "files", "mmproj", "size", "status", "state", "aliases", "details", "reason"];
/// Longest text, in bytes.
const LONGEST_TEXT: usize = 256 * 1024;
/// LoRA adapters of a model.
const MOST_ADAPTERS: usize = 64;
/// Longest path, in bytes: that of Linux.
const LONGEST_PATH: usize = 4096;
/// Most texts in a list.
const MOST_TEXTS: usize = 1024;

/// How much an adapter may count at most, in settings and requests; what is far from 1 is no language any more.
pub const LARGEST_SCALE: f32 = 1e3;

/// The settings that [`ModelStore::update`] knows.
pub fn settings() -> Vec<&'static str> {
    FIELDS.iter().map(|(name, _)| *name).collect()
}

/// The settings as properties of a JSON schema, each with what it may be; `null` takes one back.
pub fn settings_schema() -> Map<String, Value> {
    let property = |(name, field): &(&str, Field)| {
        let mut property = match *field {
            Field::Text | Field::Path => json!({"type": "string"}),
            Field::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Field::Truth => json!({"type": "boolean"}),
            Field::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
            Field::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Field::KeepAlive => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Field::CacheType => json!({"type": "string", "enum": CacheType::NAMES.map(|(name, _)| name)}),
            Field::Adapters => json!({"type": "array", "items": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "scale": {"type": "number"}},
                "required": ["path"],
            }}),
        };
        property["nullable"] = true.into();
        if let Some(comment) = model_yaml::comment(name) {
            property["description"] = comment.into();
        }
        ((*name).to_owned(), property)
    };
    FIELDS.iter().map(property).collect()
}

/// Whether [`ModelStore::update`] knows a setting.
pub fn is_setting(name: &str) -> bool {
    FIELDS.iter().any(|(known, _)| *known == name)
}

/// Whether clients send a field back that the registry alone decides.
pub fn is_read_only(name: &str) -> bool {
    IGNORED.contains(&name)
}

/// Why a model was not changed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Fields that cannot be what was asked for.
    #[error("{}", wrong.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; "))]
    Fields {
        /// Each with its name and a sentence.
        wrong: Vec<(String, String)>,
    },
    /// An alias that cannot be one.
    #[error("the alias `{alias}` {reason}")]
    Alias {
        /// Which.
        alias: String,
        /// Why.
        reason: String,
    },
    /// An alias that is already a name of another model.
    #[error("the alias `{alias}` is already a name of `{owner}`")]
    AliasTaken {
        /// Which.
        alias: String,
        /// Whose.
        owner: ModelId,
    },
    /// There is no such model.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Its files cannot be read.
    #[error(transparent)]
    Describe(#[from] DescribeError),
    /// A file could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UpdateError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fields { .. } | Self::Alias { .. } => ErrorKind::Invalid,
            Self::AliasTaken { .. } => ErrorKind::Conflict,
            Self::Resolve(error) => error.kind(),
            Self::Describe(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AliasTaken { .. } => Some("choose another one".into()),
            Self::Resolve(error) => error.hint(),
            Self::Describe(error) => error.hint(),
            Self::Fields { .. } | Self::Alias { .. } | Self::Store(_) => None,
        }
    }
}

/// Whether [`ModelStore::update`] would take these fields. Nothing is read or written.
pub fn check_settings(given: &Map<String, Value>) -> Result<(), UpdateError> {
    changes(given).map(|_| ())
}

/// The values of a yaml with those left out that its settings cannot have, and what is wrong with them.
pub(crate) fn fitting_values(values: &Map<String, Value>) -> (Map<String, Value>, String) {
    let mut wrong: Vec<String> = Vec::new();
    let fits = |(key, value): (&String, &Value)| {
        let Some((_, field)) = FIELDS.iter().find(|(name, _)| name == key) else {
            return Some((key.clone(), value.clone()));
        };
        match fitting(*field, value) {
            Ok(value) => Some((key.clone(), value)),
            Err(_) if value.is_null() => None,
            Err(expected) => {
                wrong.push(format!("{key} is {}; it must be {expected}", shown(value)));
                None
            }
        }
    };
    (values.iter().filter_map(fits).collect(), wrong.join("; "))
}

/// The changes that a request asks for; what is unknown or not to be changed is left out.
fn changes(given: &Map<String, Value>) -> Result<Vec<(&str, Value)>, UpdateError> {
    let (mut changes, mut wrong) = (Vec::new(), Vec::new());
    for (key, value) in given {
        if IGNORED.contains(&key.as_str()) {
            continue;
        }
        let Some((name, field)) = FIELDS.iter().find(|(name, _)| name == key) else { continue };
        if value.is_null() {
            changes.push((*name, Value::Null));
            continue;
        }
        match fitting(*field, value) {
            Ok(value) => changes.push((*name, value)),
            Err(expected) => wrong.push((key.clone(), format!("{key} is {}; it must be {expected}", shown(value)))),
        }
    }
    if wrong.is_empty() { Ok(changes) } else { Err(UpdateError::Fields { wrong }) }
}

/// The value as it is kept, or what it should be. Older clients send numbers and truths as texts.
fn fitting(field: Field, value: &Value) -> Result<Value, String> {
    let as_text = value.as_str().map(str::trim);
    match field {
        Field::Text => match value {
            Value::String(text) if text.len() <= LONGEST_TEXT => Ok(value.clone()),
            Value::Number(number) => Ok(Value::String(number.to_string())),
            _ => Err(format!("a text of at most {LONGEST_TEXT} bytes")),
        },
        Field::Texts => match value {
            Value::String(text) if text.len() <= LONGEST_TEXT => Ok(vec![text.as_str()].into()),
            Value::Array(items) if items.len() <= MOST_TEXTS && items.iter().all(is_short_text) => Ok(value.clone()),
            _ => Err("a list of texts".into()),
        },
        Field::Truth => match value {
            Value::Bool(_) => Ok(value.clone()),
            _ => match as_text {
                Some("true" | "1") => Ok(true.into()),
                Some("false" | "0") => Ok(false.into()),
                _ => Err("true or false".into()),
            },
        },
        Field::Number(low, high) => {
            let number = value.as_f64().or_else(|| as_text?.parse().ok());
            match number {
                // A NaN is in no range.
                Some(number) if (low..=high).contains(&number) => {
                    Ok(if value.is_number() { value.clone() } else { number.into() })
                }
                _ => Err(format!("a number from {low} to {high}")),
            }
        }
        Field::Whole(low, high) => {
            let number = value.as_i64().or_else(|| whole(value.as_f64()?)).or_else(|| as_text?.parse().ok());
            match number {
                Some(number) if (low..=high).contains(&number) => Ok(number.into()),
                _ => Err(format!("a whole number from {low} to {high}")),
            }
        }
        Field::CacheType => match value.as_str().and_then(CacheType::of_name) {
            Some(kind) => Ok(kind.name().into()),
            None => Err(format!("one of {}", CacheType::NAMES.map(|(name, _)| name).join(", "))),
        },
        Field::Path => match value.as_str() {
            Some(path) if path.is_empty() || is_absolute(path) => Ok(value.clone()),
            _ => Err("the absolute path of a file, or nothing".into()),
        },
        Field::Adapters => adapters(value),
        Field::KeepAlive => {
            if KeepAlive::parse(value).is_some() {
                Ok(value.clone())
            } else {
                Err(KeepAlive::EXPECTED.into())
            }
        }
    }
}

fn is_absolute(path: &str) -> bool {
    std::path::Path::new(path).is_absolute() && path.len() <= LONGEST_PATH
}

/// LoRA adapters as they are kept. The error is what they must be.
fn adapters(value: &Value) -> Result<Value, String> {
    // A command line has text only.
    let parsed: Value;
    let value = match value.as_str().map(str::trim) {
        Some(text) if text.starts_with('[') => {
            parsed = serde_json::from_str(text).map_err(|why| format!("a list in JSON: {why}"))?;
            &parsed
        }
        _ => value,
    };
    match value {
        Value::String(text) if text.is_empty() => Ok(Value::Array(vec![])),
        Value::String(_) => Ok(Value::Array(vec![adapter(value)?])),
        Value::Array(items) if items.len() <= MOST_ADAPTERS => {
            items.iter().map(adapter).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        _ => Err(format!("a list of at most {MOST_ADAPTERS} adapters, {ONE_ADAPTER}")),
    }
}

/// What one adapter is.
const ONE_ADAPTER: &str = "each the absolute path of a file, or {\"path\": …, \"scale\": 1.0}";

/// One of them.
fn adapter(item: &Value) -> Result<Value, String> {
    if let Some(other) = item.as_object().and_then(|item| item.keys().find(|key| *key != "path" && *key != "scale")) {
        return Err(format!("adapters with a `path` and a `scale`, and nothing else: `{other}` is not known"));
    }
    let path = item.as_str().or_else(|| item["path"].as_str());
    let path = path.filter(|path| is_absolute(path)).ok_or_else(|| format!("a list of adapters, {ONE_ADAPTER}"))?;
    let scale = match &item["scale"] {
        Value::Null => 1.0,
        scale => scale.as_f64().filter(|scale| scale.abs() <= f64::from(LARGEST_SCALE)).ok_or_else(|| {
            format!("adapters with a scale from -{LARGEST_SCALE} to {LARGEST_SCALE}, and {scale} is none")
        })?,
    };
    Ok(serde_json::json!({"path": path, "scale": scale}))
}

fn is_short_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() <= LONGEST_TEXT)
}

/// Clients of other languages write `4096.0`.
fn whole(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "compared with the original")]
    let cut = number as i64;
    #[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "only exact numbers are whole")]
    (cut as f64 == number).then_some(cut)
}

/// A value in an error, cut short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The files that changes name must be there, and be what they are named as: else the model could not be loaded any more. Reads
/// their headers.
fn check_files(changes: &[(&str, Value)]) -> Result<(), UpdateError> {
    let mut wrong = Vec::new();
    for (name, value) in changes {
        let paths: Vec<&str> = match (FIELDS.iter().find(|(known, _)| known == name), value) {
            (Some((_, Field::Path)), Value::String(path)) if !path.is_empty() => vec![path],
            (Some((_, Field::Adapters)), Value::Array(items)) => {
                items.iter().filter_map(|item| item["path"].as_str()).collect()
            }
            _ => continue,
        };
        for path in paths {
            let why = match weights::read(std::path::Path::new(path)) {
                Ok(read) => match (*name == "lora_adapters", read.header.text("general.type") == Some("adapter")) {
                    (true, false) => format!("{path} is no LoRA adapter"),
                    (false, true) => format!("{path} is a LoRA adapter, and no model"),
                    (true, true) | (false, false) => continue,
                },
                Err(WeightsError::Header { source }) => format!("{path}: {source}"),
                Err(error) => error.to_string(),
            };
            wrong.push(((*name).to_owned(), format!("{name}: {why}")));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(UpdateError::Fields { wrong }) }
}

impl ModelStore {
    /// Merges fields into the settings of a model. All or none are taken; `null` removes one; unknown ones
    /// are ignored, as clients send more than they mean.
    pub fn update(&self, name: &str, given: &Map<String, Value>) -> Result<Arc<Model>, UpdateError> {
        let changes = changes(given)?;
        check_files(&changes)?;
        let model = self.current(name)?;
        if changes.is_empty() {
            return Ok(model);
        }
        let (mut yaml, _) = self.usable(&model)?;
        let _turn = self.0.turns.take(&model.id);
        // What is on disk counts, also what was written a moment ago.
        if let Some(now) = self.yaml_on_disk(&model) {
            yaml = if now.texts("files").is_empty() { now.over(yaml) } else { now };
        }
        let guesser = changes.iter().map(|(key, _)| *key).rfind(|key| ["mtp", "draft_model"].contains(key));
        let before = yaml.clone();
        for (key, value) in changes {
            yaml.set(key, value);
        }
        // A change that leaves something wrong that was wrong before may be on the way to mend it.
        if let Some(field) = guesser
            && let Err(wrong) = self.check_guesser(&model, &yaml, field)
            && self.check_guesser(&model, &before, field).is_ok()
        {
            return Err(wrong);
        }
        let path = self.0.layout.yaml(&model.id, &model.path);
        let written = self.0.config.files.replace(&path, yaml.print().as_bytes());
        written.map_err(|source| StoreError::Io { action: "cannot write the model.yaml", source })?;
        Ok(self.read_files(&model))
    }

    /// Whether a model with these settings has what they say that guesses for it; `field` is the one that was changed last.
    fn check_guesser(&self, model: &Model, yaml: &ModelYaml, field: &str) -> Result<(), UpdateError> {
        let files = model.files(yaml, &self.0.layout);
        // What cannot be read is told by a load.
        let Some((files, shape)) = files.and_then(|files| files.shape().ok().map(|shape| (files, shape))) else {
            return Ok(());
        };
        files.check_guesser(&shape).map_err(|why| UpdateError::Fields { wrong: vec![(field.into(), why.to_string())] })
    }

    /// The yaml as it is on disk at this moment.
    fn yaml_on_disk(&self, model: &Model) -> Option<ModelYaml> {
        let text = fs_err::read_to_string(self.0.layout.yaml(&model.id, &model.path)).ok()?;
        ModelYaml::parse(&text).ok()
    }

    /// Gives a model these other names, and no more.
    pub fn set_aliases(&self, name: &str, aliases: &[String]) -> Result<Arc<Model>, UpdateError> {
        let id = self.resolve(name)?.id.clone();
        let mut wanted: Vec<String> = Vec::new();
        for alias in aliases {
            let wrong = |reason: &str| UpdateError::Alias { alias: alias.clone(), reason: reason.into() };
            ModelId::new(alias).map_err(|error| wrong(&format!("cannot be one: {error}")))?;
            if alias.contains(',') {
                return Err(wrong("cannot be one: commas separate aliases in the list"));
            }
            if !wanted.contains(alias) && alias != id.as_str() {
                wanted.push(alias.clone());
            }
        }
        self.commit(|list| {
            for other in list.entries().filter(|other| other.id != id.as_str()) {
                let same = |alias: &&String| **alias == other.id || other.aliases.contains(alias);
                if let Some(alias) = wanted.iter().find(same) {
                    return Err(UpdateError::AliasTaken { alias: alias.clone(), owner: other.model_id() });
                }
            }
            let Some(entry) = list.get(id.as_str()) else {
                return Err(ResolveError::Unknown { name: id.to_string(), similar: None }.into());
            };
            let entry = crate::models_list::Entry { aliases: wanted, ..entry.clone() };
            list.upsert(entry);
            Ok(())
        })?;
        Ok(self.resolve(id.as_str())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_says_what_each_setting_may_be() {
        let schema = settings_schema();
        assert!(settings().iter().all(|name| schema[*name]["nullable"] == true), "{schema:?}");
        assert_eq!((&schema["n_parallel"]["minimum"], &schema["n_parallel"]["maximum"]), (&json!(1), &json!(64)));
        assert_eq!(schema["cache_type"]["enum"], json!(["f16", "q8_0", "q4_0"]));
        assert!(schema["draft_model"]["description"].as_str().is_some_and(|it| it.contains("guesses ahead")));
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "callers write the values where they use them")]
    fn check(given: Value, expected: Result<Value, &[&str]>) {
        let given = given.as_object().unwrap();
        match (changes(given), expected) {
            (Ok(changes), Ok(expected)) => {
                let changes: Map<String, Value> =
                    changes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                assert_eq!(Value::Object(changes), expected);
            }
            (Err(UpdateError::Fields { wrong }), Err(names)) => {
                assert_eq!(wrong.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
            }
            (changes, expected) => panic!("{changes:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn each_field_has_its_type_and_range() {
        check(
            json!({"ctx_len": 4096, "temperature": 0.5, "stop": ["a"]}),
            Ok(json!({"ctx_len": 4096, "temperature": 0.5, "stop": ["a"]})),
        );
        check(
            json!({"ctx_len": 4096.0, "ngl": "33", "stream": "true", "stop": "x"}),
            Ok(json!({"ctx_len": 4096, "ngl": 33, "stream": true, "stop": ["x"]})),
        );
        check(json!({"temperature": null}), Ok(json!({"temperature": null})));
        check(
            json!({"temperature": 9, "top_p": "hot", "ctx_len": 1.5, "stop": [1]}),
            Err(&["temperature", "top_p", "ctx_len", "stop"]),
        );
        check(json!({"n_parallel": 0}), Err(&["n_parallel"]));
        check(json!({"prompt_template": {"a": 1}}), Err(&["prompt_template"]));
    }

    #[test]
    fn what_is_not_a_setting_is_passed_over() {
        check(json!({"id": "other", "model": 3, "files": [], "nobody": {"knows": 1}, "size": 2}), Ok(json!({})));
    }
}
