//! Engines on other machines, and their models, as older programs kept them: in `cortex.db` and `models/remote/`, or in the settings
//! of an older Jan. Only read; they are told in the words in which a client would add them.

use super::{
    cortex_cpp::{copied, rows_of},
    scan::{read_short, settings_of_services},
};
use crate::{ModelYaml, layout::Layout};
use serde_json::{Map, Value};
use std::path::Path;

/// Services whose address goes without saying: an older Jan kept only the key of some.
const ADDRESSES: &[(&str, &str)] = &[
    ("openai", "https://api.openai.com/v1"),
    ("anthropic", "https://api.anthropic.com"),
    ("groq", "https://api.groq.com/openai/v1"),
    ("mistral", "https://api.mistral.ai/v1"),
    ("openrouter", "https://openrouter.ai/api/v1"),
    ("nvidia", "https://integrate.api.nvidia.com/v1"),
];
/// What ends the address of a chat route.
const CHAT: &str = "/chat/completions";

/// What an older program knows of other machines. Holds keys.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct LegacyRemotes {
    /// Engines, as the body of `POST /v1/engines` would say them.
    pub engines: Vec<Map<String, Value>>,
    /// Models, as the body of `POST /v1/models/add` would say them.
    pub models: Vec<Map<String, Value>>,
    /// Sentences about what cannot be read.
    pub problems: Vec<String>,
}

impl std::fmt::Debug for LegacyRemotes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (engines, models) = (self.engines.len(), self.models.len());
        formatter
            .debug_struct("LegacyRemotes")
            .field("engines", &engines)
            .field("models", &models)
            .finish_non_exhaustive()
    }
}

impl LegacyRemotes {
    /// Reads them in a data folder of cortex.cpp or Jan. Nothing is written or opened where opening would write.
    pub fn read(data: &Path) -> Self {
        let mut found = Self::default();
        let database = data.join("cortex.db");
        if fs_err::symlink_metadata(&database).is_ok() {
            match copied(&database, |connection| {
                Ok((rows_of(connection, "models")?, rows_of(connection, "engines").unwrap_or_default()))
            }) {
                Ok((models, engines)) => {
                    found.engines.extend(engines.iter().filter_map(engine_of_row));
                    for row in models
                        .iter()
                        .filter(|row| row.get("status").is_some_and(|it| it.eq_ignore_ascii_case("remote")))
                    {
                        match model_of_row(data, row) {
                            Ok(model) => found.models.push(model),
                            Err(problem) => found.problems.push(problem),
                        }
                    }
                }
                Err(error) => found.problems.push(format!("{} cannot be read: {error}", database.display())),
            }
        }
        for (service, said) in settings_of_services(data) {
            let is_known = found.engines.iter().any(|engine| engine["engine"] == service.as_str());
            if is_known || said.key.is_empty() {
                continue;
            }
            let usual = ADDRESSES.iter().find(|(name, _)| *name == service).map(|(_, address)| (*address).to_owned());
            let address = said.address.map(|url| url.strip_suffix(CHAT).unwrap_or(&url).to_owned()).or(usual);
            match address {
                Some(address) => found.engines.push(fields([
                    ("engine", service.as_str()),
                    ("type", "remote"),
                    ("url", &address),
                    ("api_key", &said.key),
                ])),
                None => found.problems.push(format!("there is a key for `{service}`, and no address")),
            }
        }
        found
    }
}

fn fields<const COUNT: usize>(fields: [(&str, &str); COUNT]) -> Map<String, Value> {
    let filled = fields.into_iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}

fn engine_of_row(row: &std::collections::BTreeMap<String, String>) -> Option<Map<String, Value>> {
    let text = |name: &str| row.get(name).map(String::as_str).unwrap_or_default();
    if !text("type").eq_ignore_ascii_case("remote") || text("engine_name").is_empty() {
        return None;
    }
    let mut engine = fields([
        ("engine", text("engine_name")),
        ("type", "remote"),
        ("url", text("url")),
        ("api_key", text("api_key")),
        ("version", text("version")),
    ]);
    if let Ok(Value::Object(metadata)) = serde_json::from_str(text("metadata")) {
        engine.insert("metadata".into(), metadata.into());
    }
    Some(engine)
}

/// A model's row names its file, which says the rest.
fn model_of_row(data: &Path, row: &std::collections::BTreeMap<String, String>) -> Result<Map<String, Value>, String> {
    let text = |name: &str| row.get(name).map(String::as_str).unwrap_or_default();
    let (id, path) = (text("model_id"), Layout::new(data.to_owned()).absolute(text("path_to_model_yaml")));
    let failed = |why: String| format!("the model `{id}` of another machine: {}: {why}", path.display());
    let bytes = read_short(&path).map_err(failed)?;
    let yaml = ModelYaml::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        // The parser shows parts of the file, which may be anything.
        failed(error.to_string().lines().next().unwrap_or_default().to_owned())
    })?;
    let mut model = yaml.values().clone();
    model.retain(|_, value| !value.is_null());
    let said = |name: &str| yaml.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
    let engine = said("engine").unwrap_or_else(|| text("engine").to_owned());
    model.insert("model".into(), said("model").unwrap_or_else(|| id.to_owned()).into());
    model.insert("engine".into(), engine.into());
    model.insert("id".into(), id.into());
    Ok(model)
}
