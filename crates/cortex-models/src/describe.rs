//! What is known of one model: its model.yaml, made from the header of its weights where there is none.

use crate::{
    Model, ModelId, ModelStore, ModelYaml,
    details::{Details, Known, Stamps},
    files::Stamp,
    layout::is_yaml,
    shards,
    store::{HALF_WRITTEN, TICK, age},
    weights::{self, WeightsError},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

impl ModelStore {
    /// What the files of a model look like from outside, without opening one.
    pub(crate) fn observe(&self, model: &Model) -> (bool, Stamps) {
        let yaml = self.read_yaml_path(model);
        let yaml_stamp = Stamp::of(&yaml);
        let files = model.weight_files();
        let weights =
            if files.is_empty() { None } else { Stamps::of_weights(files.iter().map(|file| Stamp::of(file))) };
        let present = if is_yaml(&model.path) {
            yaml_stamp.is_some() && (files.is_empty() || weights.is_some())
        } else {
            weights.is_some()
        };
        (present, Stamps { yaml: Stamps::of_yaml(yaml_stamp), weights })
    }

    /// Our own yaml comes before one outside of the data folder, which is never written.
    fn read_yaml_path(&self, model: &Model) -> PathBuf {
        let written = self.0.layout.yaml(&model.id, &model.path);
        if is_yaml(&model.path) && !written.is_file() { model.path.clone() } else { written }
    }

    /// Reads the files of a model, makes its yaml when there is none, and keeps what was found.
    pub(crate) fn examine(&self, model: &Arc<Model>) -> Arc<Model> {
        let _turn = self.0.turns.take(&model.id);
        // Somebody may have done it while we waited.
        if let Some(now) = self.get_in_memory(&model.id).filter(|now| now.is_same_line(model))
            && self.observe(&now) == (now.present, now.details.stamps().unwrap_or_default())
            && matches!(now.details, Details::Known(_))
        {
            return now;
        }
        self.read_files(model)
    }

    /// The same for the one whose turn it is.
    pub(crate) fn read_files(&self, model: &Arc<Model>) -> Arc<Model> {
        let mut found = Model::clone(model);
        // What the files looked like before they were read: a change meanwhile is seen next time.
        let (present, before) = self.observe(model);
        found.present = present;
        if present || is_yaml(&model.path) {
            match self.read_details(&mut found) {
                Ok(details) => found.details = details,
                // It went away while it was read: that is no damage, and it is read when it comes back.
                Err(_) if present && !self.observe(model).0 => found.present = false,
                Err(reason) => {
                    let (_, stamps) = self.observe(&found);
                    tracing::debug!(model = %model.id, reason, "cannot be used");
                    found.details = Details::Broken { reason: reason.into(), stamps };
                }
            }
            if let Details::Known(known) = &found.details
                && known.stamps.weights != before.weights
                && before.weights.is_some()
            {
                let stamps = Stamps { weights: before.weights, ..known.stamps };
                found.details = Details::Known(Arc::new(Known { stamps, ..Known::clone(known) }));
            }
        }
        let found = Arc::new(found);
        self.adopt_details(&found);
        found
    }

    /// What the yaml says, made from the weights where there is none. The error is a sentence.
    fn read_details(&self, model: &mut Model) -> Result<Details, String> {
        let path = self.read_yaml_path(model);
        let from_list = is_yaml(&model.path);
        let known = |yaml: &ModelYaml, weights: Option<PathBuf>, model: &Model| {
            let mut seen = model.clone();
            let details = |stamps| Details::Known(Arc::new(Known::new(yaml, weights.clone(), stamps, &self.0.commons)));
            seen.details = details(Stamps::default());
            let (present, stamps) = self.observe(&seen);
            (details(stamps), present)
        };
        if let Some(mut yaml) = self.read_yaml(model, &path)? {
            if !from_list && yaml.texts("files").is_empty() {
                // A person kept the settings only, or nothing: what lacks is read, the file stays as it is.
                let made = self.yaml_from_weights(&model.id, &model.path, None).map_err(|error| error.to_string())?;
                let stops = [made.texts("stop"), yaml.texts("stop")].concat();
                yaml = yaml.over(made);
                yaml.set("stop", stops.into());
            }
            let weights = if from_list {
                let file = yaml.texts("files").into_iter().next();
                Some(
                    self.0
                        .layout
                        .absolute(&file.ok_or("its model.yaml names no weights; add their path under `files:`")?),
                )
            } else {
                None
            };
            let first = weights.as_deref().unwrap_or(&model.path);
            Self::check_size(&yaml, first)?;
            let (details, present) = known(&yaml, weights, model);
            model.present = present;
            return Ok(details);
        }
        if from_list {
            model.present = false;
            return Ok(Details::Pending);
        }
        let yaml = self.yaml_from_weights(&model.id, &model.path, None).map_err(|error| error.to_string())?;
        // Without it everything works the same, but the next start reads the weights again.
        if let Err(error) = self.0.config.files.create(&path, yaml.print().as_bytes()) {
            tracing::debug!(model = %model.id, %error, "the model.yaml cannot be written");
        }
        let (details, present) = known(&yaml, None, model);
        model.present = present;
        Ok(details)
    }

    /// The yaml, when there is one that can be used. A damaged one, or one of other weights, is set aside.
    fn read_yaml(&self, model: &Model, path: &Path) -> Result<Option<ModelYaml>, String> {
        let text = match settled_yaml(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A folder, and no link to one.
            Err(_) if fs_err::symlink_metadata(path).is_ok_and(|it| it.is_dir()) && !is_yaml(&model.path) => {
                self.set_aside(path).map_err(|error| error.to_string())?;
                return Ok(None);
            }
            Err(error) => return Err(error.to_string()),
        };
        let problem = match ModelYaml::parse(&text) {
            Ok(yaml) if is_yaml(&model.path) => return Ok(Some(yaml)),
            Ok(yaml) => {
                let files = yaml.texts("files");
                let first = files.first().map(|file| self.0.layout.absolute(file));
                if first.is_none_or(|file| same_weights(&file, &model.path)) {
                    return Ok(Some(yaml));
                }
                if let Some(moved) = self.of_moved_weights(model, yaml) {
                    return Ok(Some(moved));
                }
                "it is of other weights".to_owned()
            }
            Err(error) if is_yaml(&model.path) => return Err(error.to_string()),
            Err(error) => error.to_string(),
        };
        tracing::warn!(model = %model.id, problem, path = %path.display(), "the model.yaml is set aside and made again");
        self.set_aside(path).map_err(|error| error.to_string())?;
        Ok(None)
    }

    /// The yaml of weights that a person moved, and whose line follows them: the length is the same. The
    /// settings stay, the paths are the new ones.
    fn of_moved_weights(&self, model: &Model, mut yaml: ModelYaml) -> Option<ModelYaml> {
        let files = shards::files_of(&model.path);
        let (_, length) = Stamps::of_weights(files.iter().map(|file| Stamp::of(file)))?;
        if !has_size(&yaml, length) {
            return None;
        }
        let files: Vec<String> = files.iter().map(|file| self.0.layout.written(file)).collect();
        yaml.set("files", files.into());
        Some(yaml)
    }

    /// A file of another length than the yaml says is another file, or a damaged one: its header tells.
    fn check_size(yaml: &ModelYaml, first: &Path) -> Result<(), String> {
        let length = Stamps::of_weights(shards::files_of(first).iter().map(|file| Stamp::of(file)));
        let Some((_, length)) = length else { return Ok(()) };
        if has_size(yaml, length) {
            return Ok(());
        }
        weights::read(first).map(|_| ()).map_err(|error| error.to_string())
    }

    /// What the headers of weights say.
    pub(crate) fn yaml_from_weights(
        &self,
        id: &ModelId,
        path: &Path,
        name: Option<&str>,
    ) -> Result<ModelYaml, WeightsError> {
        let weights = weights::read(path)?;
        let files: Vec<String> = weights.files.iter().map(|file| self.0.layout.written(file)).collect();
        let mmproj = self.0.projectors.beside(&weights).map(|file| self.0.layout.written(&file));
        Ok(ModelYaml::from_weights(&weights, id, name, (&files, mmproj.as_deref())))
    }

    /// Keeps a file under a name that is not taken.
    fn set_aside(&self, path: &Path) -> io::Result<()> {
        for number in 1u32..10_000 {
            let aside = path.with_extension(format!("yaml.damaged-{number}"));
            if fs_err::symlink_metadata(&aside).is_err() {
                return self.0.config.files.rename(path, &aside);
            }
        }
        Err(io::Error::other("there are too many damaged files beside it"))
    }
}

/// The text of a yaml. An editor that seems to be amid its writing gets a moment to end it.
fn settled_yaml(path: &Path) -> io::Result<String> {
    loop {
        let stamp = Stamp::of(path);
        let text = String::from_utf8_lossy(&fs_err::read(path)?).into_owned();
        let whole = ModelYaml::parse(&text).is_ok_and(|yaml| !yaml.values().is_empty());
        if whole || stamp.is_none_or(|stamp| age(stamp) >= HALF_WRITTEN) {
            return Ok(text);
        }
        std::thread::sleep(TICK);
    }
}

fn has_size(yaml: &ModelYaml, length: u64) -> bool {
    yaml.values().get("size").and_then(serde_json::Value::as_u64) == Some(length)
}

/// Whether two paths name the same weights: the same file, or parts of the same set.
fn same_weights(left: &Path, right: &Path) -> bool {
    left == right
        || shards::files_of(left).first() == shards::files_of(right).first()
        || matches!((fs_err::canonicalize(left), fs_err::canonicalize(right)), (Ok(left), Ok(right)) if left == right)
}
