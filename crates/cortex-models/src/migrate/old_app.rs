//! The way back: which models an older Jan shows, and a model.json for those that it would not. Pure.
//! Source: the rules of the last scanner of the app, and how it wrote an import by its path.

use super::{
    model_json::Engine,
    plan::{Finding, Outcome, PlannedFile},
    scan::{Folder, Kind, OF_CORTEX, OF_THE_APP, Scan},
};
use crate::{ModelId, ModelYaml};
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// Bytes of the name of a folder.
const LONGEST_NAME: usize = 255;

/// A model of the list, as far as an older program could use it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: ModelId,
    /// Something lies where its folder would be.
    pub(crate) is_taken: bool,
    /// What is known of it and its weights, or why the old app could not load it.
    pub(crate) model: Result<Loadable, String>,
}

/// What the old app has to know.
#[derive(Debug, Clone)]
pub(crate) struct Loadable {
    /// Of a set, the first part; absolute.
    pub(crate) weights: String,
    /// The vision part; absolute.
    pub(crate) projector: Option<String>,
    pub(crate) yaml: ModelYaml,
    /// With `{prompt}` and perhaps `{system_message}`; `None` when there is none that says the same.
    pub(crate) prompt_template: Option<String>,
}

/// Whether the old app shows a folder as a model that it can use.
fn is_shown(folder: &Folder) -> bool {
    let Some((_, Ok(json))) = &folder.json else { return false };
    if json.engine != Engine::Local || !json.sources.iter().any(super::model_json::Source::is_remote) {
        return true;
    }
    let weights = folder.files.iter().filter(|(name, file)| {
        let is_gguf = Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        is_gguf && file.path.parent() == Some(&folder.path) && file.kind != Kind::Partial
    });
    folder.files.contains_key(&folder.name) || weights.count() >= json.sources.len()
}

/// The id that the old app has for a folder.
fn id_of(folder: &Folder) -> Option<String> {
    let json = folder.json.as_ref()?.1.as_ref().ok()?;
    Some(json.id.clone().unwrap_or_else(|| folder.name.clone()))
}

/// The ids of the models that the old app shows.
pub(crate) fn shown(scan: &Scan) -> HashSet<String> {
    scan.folders.iter().filter(|folder| is_shown(folder)).filter_map(id_of).collect()
}

/// What the old app shows of the models of the list, and the files that make it show the others. `models` is the
/// folder of its models.
pub(crate) fn plan(listed: &[Listed], scan: &Scan, models: &Path) -> (Vec<PlannedFile>, Vec<Finding>) {
    let by_id: HashMap<String, &Folder> =
        scan.folders.iter().filter_map(|folder| Some((id_of(folder)?, folder))).collect();
    let (mut files, mut findings) = (Vec::new(), Vec::new());
    for one in listed {
        let id = one.id.as_str();
        let folder = models.join(id);
        let mut finding = Finding {
            place: by_id.get(id).map_or_else(|| folder.clone(), |folder| folder.path.clone()),
            id: Some(id.to_owned()),
            weights: one.model.as_ref().ok().map(|model| model.weights.clone().into()),
            result: Outcome::Skipped,
            reason: None,
            hint: None,
        };
        let another_id = || Some("`cortex import --id NAME FILE` takes it in under another id".to_owned());
        match &one.model {
            _ if by_id.get(id).is_some_and(|folder| is_shown(folder)) => finding.result = Outcome::AlreadyKnown,
            _ if by_id.contains_key(id) => {
                finding.reason = Some("there is a model.json of this id, which offers its download".into());
                finding.hint = another_id();
            }
            _ if !is_name_of_folder(id) => {
                finding.reason = Some("no folder there can have its id as its name".into());
                finding.hint = another_id();
            }
            _ if one.is_taken => {
                finding.reason = Some(format!("{} is there already, and is left as it is", folder.display()));
                finding.hint = another_id();
            }
            Err(why) => finding.reason = Some(why.clone()),
            Ok(model) => {
                finding.result = Outcome::Registered;
                let path = folder.join("model.json");
                files.push(PlannedFile { id: one.id.clone(), path, text: model_json(id, model) });
            }
        }
        findings.push(finding);
    }
    let is_listed = |id: &str| listed.iter().any(|one| one.id.as_str() == id);
    for folder in scan.folders.iter().filter(|folder| is_shown(folder)) {
        let Some(id) = id_of(folder).filter(|id| !is_listed(id)) else { continue };
        findings.push(Finding {
            place: folder.path.clone(),
            id: Some(id),
            weights: None,
            result: Outcome::AlreadyKnown,
            reason: Some("it is not on the list here".into()),
            hint: None,
        });
    }
    (files, findings)
}

/// Whether the app would find a folder with this name: it joins the id to the path of its models.
fn is_name_of_folder(id: &str) -> bool {
    let is_taken = OF_CORTEX.contains(&id) || OF_THE_APP.contains(&id);
    !is_taken && id.len() <= LONGEST_NAME && !id.starts_with('.') && !id.contains(['/', '\\'])
}

/// An import by its path, as the app wrote it.
fn model_json(id: &str, model: &Loadable) -> String {
    let yaml = &model.yaml;
    let name_of = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let source = |path: &String| json!({"filename": name_of(path), "url": path});
    let sources: Vec<Value> = std::iter::once(&model.weights).chain(&model.projector).map(source).collect();
    let picked = |keys: &[&str]| -> Map<String, Value> {
        keys.iter().filter_map(|key| Some(((*key).to_owned(), yaml.values().get(*key)?.clone()))).collect()
    };
    let mut settings = picked(&["ctx_len", "ngl", "n_parallel", "cpu_threads"]);
    settings.insert("llama_model_path".into(), name_of(&model.weights).into());
    if let Some(template) = &model.prompt_template {
        settings.insert("prompt_template".into(), template.clone().into());
    }
    if let Some(projector) = &model.projector {
        // Unlike the weights it is not looked for among the sources.
        settings.insert("mmproj".into(), projector.clone().into());
        settings.insert("vision_model".into(), true.into());
        settings.insert("text_model".into(), false.into());
    }
    let mut parameters =
        picked(&["temperature", "top_p", "max_tokens", "stream", "frequency_penalty", "presence_penalty"]);
    parameters.insert("stop".into(), yaml.texts("stop").into());
    let json = json!({
        "object": "model",
        "id": id,
        "name": yaml.text("name").unwrap_or(id),
        "version": "1.0",
        "description": "Written by cortex: its weights are used where they are.",
        "format": "gguf",
        "sources": sources,
        "settings": settings,
        "parameters": parameters,
        "metadata": {"author": "User", "tags": [], "size": yaml.values().get("size").cloned().unwrap_or_default()},
        "engine": "nitro",
    });
    format!("{json:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::model_json;

    fn folder(name: &str, json: &Value, files: &[&str]) -> Folder {
        let path = Path::new("/old/models").join(name);
        let file = |file: &&str| {
            let kind = if file.ends_with(".download") { Kind::Partial } else { Kind::Gguf };
            ((*file).to_owned(), super::super::scan::File { path: path.join(file), kind })
        };
        Folder {
            json: Some((path.join("model.json"), model_json::parse(json.to_string().as_bytes()))),
            files: files.iter().map(file).collect(),
            name: name.into(),
            path: path.clone(),
            ..Folder::default()
        }
    }

    #[test]
    fn a_folder_is_shown_as_the_old_scanner_would() {
        let link =
            |engine: &str| json!({"id": "m", "engine": engine, "sources": [{"url": "https://x.example/m.gguf"}]});
        let import = json!({"id": "m", "engine": "nitro", "sources": [{"url": "/a/m.gguf"}]});
        for (json, files, shown) in [
            (link("nitro"), &["m.gguf"][..], true),
            (link("nitro"), &["M.GGUF"][..], true),
            (link("nitro"), &["m"][..], true),
            (link("nitro"), &[][..], false),
            (link("nitro"), &["m.gguf.download"][..], false),
            (link("groq"), &[][..], true),
            (import, &[][..], true),
            (json!(7), &["m.gguf"][..], false),
        ] {
            assert_eq!(is_shown(&folder("m", &json, files)), shown, "{json} {files:?}");
        }
    }

    #[test]
    fn what_the_old_app_would_not_show_gets_a_file_of_its_own() {
        let yaml = "name: Mine\nctx_len: 2048\nngl: 9\ntemperature: 0.25\nstop: [<end>]\nsize: 12\nseed: 3\n";
        let listed = |id: &str| Listed {
            id: ModelId::existing(id),
            is_taken: id == "taken",
            model: Ok(Loadable {
                weights: "/new/w (1).gguf".into(),
                projector: Some("/new/mmproj.gguf".into()),
                yaml: ModelYaml::parse(yaml).unwrap(),
                prompt_template: Some("<u>{prompt}<a>".into()),
            }),
        };
        let gone =
            Listed { id: ModelId::existing("gone"), is_taken: false, model: Err("its file is not there".into()) };
        let scan = Scan {
            folders: vec![
                folder("shown", &json!({"id": "shown", "sources": [{"url": "/x.gguf"}]}), &[]),
                folder("offered", &json!({"id": "offered", "sources": [{"url": "https://x.example/x.gguf"}]}), &[]),
                folder("theirs", &json!({"id": "theirs"}), &[]),
            ],
        };
        let all = [
            listed("shown"),
            listed("offered"),
            listed("a/b"),
            listed("config"),
            listed("taken"),
            gone,
            listed("pulled:it.gguf"),
        ];
        let (files, findings) = plan(&all, &scan, Path::new("/old/models"));
        let told: Vec<_> = findings.iter().map(|it| (it.id.as_deref().unwrap(), it.result)).collect();
        assert_eq!(
            told,
            [
                ("shown", Outcome::AlreadyKnown),
                ("offered", Outcome::Skipped),
                ("a/b", Outcome::Skipped),
                ("config", Outcome::Skipped),
                ("taken", Outcome::Skipped),
                ("gone", Outcome::Skipped),
                ("pulled:it.gguf", Outcome::Registered),
                ("theirs", Outcome::AlreadyKnown),
            ]
        );
        assert!(findings.iter().all(|it| (it.result != Outcome::Skipped) || it.reason.is_some()));
        let [file] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(file.path, Path::new("/old/models/pulled:it.gguf/model.json"));
        // It reads as an import of the app's own, with the same settings.
        let read = model_json::parse(file.text.as_bytes()).unwrap();
        assert_eq!((read.id.as_deref(), read.name.as_deref()), (Some("pulled:it.gguf"), Some("Mine")));
        assert_eq!((read.sources[0].url.as_str(), read.weights.as_deref()), ("/new/w (1).gguf", Some("w (1).gguf")));
        assert_eq!(read.projector.as_deref(), Some("/new/mmproj.gguf"));
        assert_eq!(
            Value::Object(read.settings),
            json!({"ctx_len": 2048, "ngl": 9, "temperature": 0.25, "stop": ["<end>"], "prompt_template": "<u>{prompt}<a>"})
        );
    }
}
