//! What is known of a model beyond its line in the list, held as small as it can be: ten thousand
//! models are in memory at once.

use crate::{ModelId, ModelYaml, files::Stamp, update};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// What tells that the files of a model are others than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Stamps {
    /// Modification time and length of the yaml; `None` when it is not there.
    pub(crate) yaml: Option<(i64, u64)>,
    /// Latest modification time and common length of the weights; `None` when one is not there.
    pub(crate) weights: Option<(i64, u64)>,
}

impl Stamps {
    /// Of one file.
    pub(crate) fn of_yaml(stamp: Option<Stamp>) -> Option<(i64, u64)> {
        stamp.map(|stamp| (stamp.modified, stamp.length))
    }

    /// Of all files of the weights together.
    pub(crate) fn of_weights(stamps: impl IntoIterator<Item = Option<Stamp>>) -> Option<(i64, u64)> {
        stamps.into_iter().try_fold((0, 0u64), |(modified, length), stamp| {
            let stamp = stamp?;
            Some((stamp.modified.max(modified), length.saturating_add(stamp.length)))
        })
    }
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Details {
    /// Nothing yet.
    #[default]
    Pending,
    /// What the yaml says.
    Known(Arc<Known>),
    /// The model cannot be used.
    Broken {
        /// Why.
        reason: Arc<str>,
        /// The files of which this is true.
        stamps: Stamps,
    },
}

impl Details {
    /// The files that this was found out from.
    pub(crate) fn stamps(&self) -> Option<Stamps> {
        match self {
            Self::Pending => None,
            Self::Known(known) => Some(known.stamps),
            Self::Broken { stamps, .. } => Some(*stamps),
        }
    }
}

/// The values of a yaml as the members of a JSON object, without its braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) stamps: Stamps,
    /// The weights, when the list does not say it.
    pub(crate) weights: Option<PathBuf>,
    /// What is wrong with values of the yaml, which are left out; mostly nothing.
    pub(crate) wrong: Box<str>,
    /// What differs from model to model.
    pub(crate) own: Box<str>,
    /// What most models share; held once.
    pub(crate) common: Arc<str>,
}

/// Values that differ from model to model. All others are mostly the defaults.
const OWN: &[&str] = &[
    "name",
    "version",
    "files",
    "mmproj",
    "architecture",
    "quantization",
    "parameters",
    "stop",
    "size",
    "max_tokens",
    "ctx_len",
    "ngl",
    "created",
    "prompt_template",
    "lora_adapters",
    "draft_model",
    "mtp",
];
/// What the list and the engines say; a yaml does not.
const NOT_FROM_YAML: &[&str] = &["id", "model", "object", "status", "state", "aliases", "details", "reason"];

/// Texts that several models have, each held once.
#[derive(Debug, Default)]
pub(crate) struct Commons(Mutex<HashSet<Arc<str>>>);

impl Commons {
    pub(crate) fn intern(&self, text: &str) -> Arc<str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(text) {
            return Arc::clone(same);
        }
        let text: Arc<str> = text.into();
        known.insert(Arc::clone(&text));
        text
    }
}

impl Known {
    pub(crate) fn new(yaml: &ModelYaml, weights: Option<PathBuf>, stamps: Stamps, commons: &Commons) -> Self {
        let (mut own, mut common) = (Map::new(), Map::new());
        let (values, wrong) = update::fitting_values(yaml.values());
        for (key, value) in &values {
            if NOT_FROM_YAML.contains(&key.as_str()) {
                continue;
            }
            let side = if OWN.contains(&key.as_str()) { &mut own } else { &mut common };
            side.insert(key.clone(), value.clone());
        }
        for (key, value) in [("owned_by", Value::from("user")), ("engine", Value::from("llama-cpp"))] {
            common.entry(key).or_insert(value);
        }
        own.entry("created").or_insert(Value::from(0));
        Self {
            stamps,
            weights,
            wrong: wrong.into(),
            own: members(own).into(),
            common: commons.intern(&members(common)),
        }
    }

    /// The values again.
    pub(crate) fn yaml(&self, id: &ModelId) -> ModelYaml {
        let mut values: Map<String, Value> =
            serde_json::from_str(&format!("{{{},{}}}", self.own, self.common)).unwrap_or_default();
        values.insert("id".into(), Value::from(id.as_str()));
        values.insert("model".into(), Value::from(id.as_str()));
        ModelYaml::from_values(values)
    }
}

/// A JSON object without its braces.
fn members(values: Map<String, Value>) -> String {
    let text = Value::Object(values).to_string();
    text[1..text.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_come_back_and_what_is_shared_is_held_once() {
        let commons = Commons::default();
        let yaml = |name: &str| {
            ModelYaml::parse(&format!("id: x\nname: '{name}'\nstop: [a]\ntop_p: 0.95\nmine: {{a: 1}}\n")).unwrap()
        };
        let one = Known::new(&yaml("on\"e"), None, Stamps::default(), &commons);
        let two = Known::new(&yaml("two"), None, Stamps::default(), &commons);
        assert!(Arc::ptr_eq(&one.common, &two.common));
        let back = one.yaml(&ModelId::existing("the id"));
        assert_eq!((back.text("name"), back.text("id")), (Some("on\"e"), Some("the id")));
        assert_eq!((back.number("top_p"), back.text("engine")), (Some(0.95), Some("llama-cpp")));
        assert_eq!(back.values()["mine"]["a"], 1);
    }
}
