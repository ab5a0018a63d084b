//! `models.cache`: what was known of all models when the daemon ended, so that the next start shows it
//! without opening a model's file. Anybody may delete it at any time.
//!
//! Lines of JSON: the version, the shared texts in order, then one model a line.

use crate::{
    Model, ModelId,
    details::{Commons, Details, Known, Stamps},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
}

/// One line. Borrowed as far as possible: there may be ten thousand.
#[derive(Serialize, Deserialize)]
struct Line<'text> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    common: Option<&'text RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights: Option<PathBuf>,
    #[serde(default)]
    stamps: Stamps,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    own: Option<&'text RawValue>,
    #[serde(default)]
    shares: usize,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    wrong: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
}

/// What is remembered of one model.
pub(crate) struct Remembered {
    pub(crate) path: PathBuf,
    pub(crate) details: Details,
}

/// Reads the file. What makes no sense is as if it were not there.
pub(crate) fn read(text: &str, commons: &Commons) -> HashMap<ModelId, Remembered> {
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| serde_json::from_str::<Head>(line).ok()).map(|head| head.version);
    if version != Some(VERSION) {
        return HashMap::new();
    }
    let mut shared: Vec<Arc<str>> = Vec::new();
    let mut known = HashMap::new();
    for line in lines {
        let Ok(line) = serde_json::from_str::<Line<'_>>(line) else { continue };
        if let Some(common) = line.common {
            shared.push(commons.intern(inside(common)));
            continue;
        }
        let (Some(id), Some(path)) = (line.id, line.path) else { continue };
        let details = match (line.own, line.broken, shared.get(line.shares)) {
            (_, Some(reason), _) => Details::Broken { reason: reason.into(), stamps: line.stamps },
            (Some(own), None, Some(common)) => Details::Known(Arc::new(Known {
                stamps: line.stamps,
                weights: line.weights,
                wrong: line.wrong,
                own: inside(own).into(),
                common: Arc::clone(common),
            })),
            _ => continue,
        };
        known.insert(ModelId::existing(id), Remembered { path, details });
    }
    known
}

/// The text of an object without its braces.
fn inside(object: &RawValue) -> &str {
    let text = object.get();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default()
}

/// The text of the file.
pub(crate) fn print<'model>(models: impl Iterator<Item = &'model Arc<Model>> + Clone) -> String {
    let mut text = String::new();
    let mut put = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    put(&serde_json::json!(Head { version: VERSION }).to_string());
    let mut places: HashMap<*const u8, usize> = HashMap::new();
    for model in models.clone() {
        if let Details::Known(known) = &model.details {
            let next = places.len();
            places.entry(known.common.as_ptr()).or_insert_with(|| {
                put(&format!("{{\"common\":{{{}}}}}", known.common));
                next
            });
        }
    }
    for model in models {
        if let Some(line) = print_line(model, &places) {
            put(&line);
        }
    }
    text
}

fn print_line(model: &Model, places: &HashMap<*const u8, usize>) -> Option<String> {
    let own;
    let mut line = Line {
        common: None,
        id: Some(model.id.to_string()),
        path: Some(model.path.clone()),
        weights: None,
        stamps: model.details.stamps()?,
        own: None,
        shares: 0,
        wrong: Box::default(),
        broken: None,
    };
    match &model.details {
        Details::Pending => return None,
        Details::Known(known) => {
            own = RawValue::from_string(format!("{{{}}}", known.own)).ok()?;
            line.own = Some(&own);
            line.shares = *places.get(&known.common.as_ptr())?;
            line.weights.clone_from(&known.weights);
            line.wrong.clone_from(&known.wrong);
        }
        Details::Broken { reason, .. } => line.broken = Some(reason.to_string()),
    }
    // A path that is not text cannot be remembered.
    serde_json::to_string(&line).ok()
}

/// Reads what is remembered; nothing when there is no file.
pub(crate) fn load(path: &Path, commons: &Commons) -> HashMap<ModelId, Remembered> {
    fs_err::read_to_string(path).map(|text| read(&text, commons)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelYaml;

    fn model(id: &str, details: Details) -> Arc<Model> {
        Arc::new(Model { details, ..Model::of_line(ModelId::existing(id), format!("/m/{id}.gguf").into()) })
    }

    #[test]
    fn what_was_known_is_known_again() {
        let commons = Commons::default();
        let yaml = ModelYaml::parse("name: a\ntop_k: 3\n").unwrap();
        let stamps = Stamps { yaml: Some((1, 2)), weights: None };
        let known = Details::Known(Arc::new(Known::new(&yaml, Some("/w".into()), stamps, &commons)));
        let broken = Details::Broken { reason: "it \"ends\"".into(), stamps };
        let models = [
            model("a b", known.clone()),
            model("c", broken.clone()),
            model("new", Details::Pending),
            model("d", known),
        ];
        let text = print(models.iter());
        assert_eq!(text.matches("common").count(), 1);
        let again = read(&text, &Commons::default());
        assert_eq!(again.len(), 3);
        for model in [&models[0], &models[1], &models[3]] {
            assert_eq!(again[&model.id].details, model.details);
            assert_eq!(again[&model.id].path, model.path);
        }
    }

    #[test]
    fn a_damaged_file_says_less_and_harms_nothing() {
        let commons = Commons::default();
        for text in [
            "",
            "nonsense",
            "{\"version\":1}\n",
            "{\"version\":2}\nnonsense\n{\"id\":\"x\"}\n{\"own\":[],\"shares\":7,\"id\":\"x\",\"path\":\"/\"}\n",
        ] {
            assert!(read(text, &commons).is_empty(), "{text}");
        }
    }
}
