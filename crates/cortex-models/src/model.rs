//! One model: what its line in the list says, and what is known of its files.

use crate::{
    ModelId, ModelYaml, WeightsError,
    details::Details,
    layout::{Layout, is_yaml},
    models_list::Entry,
    shards, weights,
};
use cortex_hardware::ModelShape;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// One model of the list: a line of it, and what is known of the files that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What the list points to: weights or a model.yaml; absolute.
    pub path: PathBuf,
    /// Where it came from.
    pub author_repo: String,
    /// Which branch of that, or how it came.
    pub branch: String,
    /// The historic last word of its line.
    pub(crate) status: String,
    /// Whether its files were there when they were last looked for.
    pub(crate) present: bool,
    pub(crate) details: Details,
}

/// Whether a model can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// Its files were there when they were last looked for.
    Ready,
    /// One of its files is not there: moved, deleted, or on a drive that is not mounted.
    Missing,
    /// Its files cannot be used.
    Broken {
        /// Why.
        reason: Arc<str>,
    },
}

/// Bytes of a file; 0 when it cannot be asked.
fn size(path: &Path) -> u64 {
    fs_err::metadata(path).map_or(0, |file| file.len())
}

/// The files that a model is loaded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The weights; of a set, its first file.
    pub weights: PathBuf,
    /// What makes vectors of images.
    pub projector: Option<PathBuf>,
    /// LoRA adapters, in the order of their numbers.
    pub adapters: Vec<PathBuf>,
    /// A small model that guesses what this one will say.
    pub draft_model: Option<PathBuf>,
    /// Layers in the weights guess it: those for multi-token prediction.
    pub mtp: bool,
}

/// Why nothing can guess for a model as its settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuesserError {
    /// A small model and layers of its own cannot guess both.
    #[error("either `draft_model` or `mtp` guesses, not both: leave one of them empty")]
    Two,
    /// It has no such layers.
    #[error("its file has no layers for multi-token prediction: `mtp` has to be false")]
    NoLayers,
    /// Wrong guesses would stay in its states.
    #[error("llama.cpp cannot take guesses back for this kind of model: `{0}` has to be {1}")]
    Stays(&'static str, &'static str),
    /// The small model is not there, or none.
    #[error("the file that `draft_model` names is not there, or no model that can be read")]
    Unreadable,
    /// The small model is none that can guess, or not for this one.
    #[error("the model that `draft_model` names {0}")]
    Unsuitable(&'static str),
}

/// Tokens of the vocabularies of two models that go together that need not be the same: some are filled up to a round number.
const FILLED_UP: u64 = 128;

impl ModelFiles {
    /// Whether what its settings say of guesses is possible for a model that is built like this.
    ///
    /// # Errors
    /// When it is not, and so the model could not be loaded.
    pub fn check_guesser(&self, shape: &ModelShape) -> Result<(), GuesserError> {
        let Some(architecture) = &shape.architecture else {
            return if self.mtp && self.draft_model.is_some() { Err(GuesserError::Two) } else { Ok(()) };
        };
        let stays = architecture.layers.iter().any(|layer| layer.state > 0) && !architecture.takes_states_back;
        match (self.mtp, &self.draft_model) {
            (true, Some(_)) => Err(GuesserError::Two),
            (true, None) if architecture.mtp_layers.is_empty() => Err(GuesserError::NoLayers),
            (true, None) if stays => Err(GuesserError::Stays("mtp", "false")),
            (false, Some(_)) if stays => Err(GuesserError::Stays("draft_model", "empty")),
            (false, Some(_)) => {
                let small =
                    shape.draft.as_ref().and_then(|it| it.architecture.as_ref()).ok_or(GuesserError::Unreadable)?;
                if small.vocabulary.abs_diff(architecture.vocabulary) > FILLED_UP {
                    return Err(GuesserError::Unsuitable("has other tokens"));
                }
                if small.layers.iter().any(|layer| layer.state > 0) {
                    return Err(GuesserError::Unsuitable("has states that cannot be cut, and so cannot guess"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Those of a model that consists of its weights.
    pub fn of_weights(weights: PathBuf) -> Self {
        Self { weights, projector: None, adapters: vec![], draft_model: None, mtp: false }
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let beside = self.projector.iter().chain(&self.adapters).chain(&self.draft_model);
        std::iter::once(&self.weights).chain(beside).map(PathBuf::as_path)
    }

    /// How the model is built, with what is loaded beside it. Reads headers.
    ///
    /// # Errors
    /// When the weights cannot be read; of what is beside them, only the size counts then.
    pub fn shape(&self) -> Result<ModelShape, WeightsError> {
        let of = |(architecture, weight_bytes)| ModelShape { weight_bytes, architecture, ..ModelShape::default() };
        let draft = self.draft_model.as_ref().map(|path| {
            let size = || ModelShape { weight_bytes: size(path), ..ModelShape::default() };
            Box::new(weights::shape(path).map_or_else(|_| size(), of))
        });
        Ok(ModelShape { beside_bytes: self.beside_bytes(), draft, mtp: self.mtp, ..of(weights::shape(&self.weights)?) })
    }

    /// Bytes of memory that is taken beside the weights. Asks for the sizes of files. The projector computes with something too:
    /// how much is not known before it is loaded, and taken for a quarter of it.
    pub fn beside_bytes(&self) -> u64 {
        let projector = self.projector.as_deref().map_or(0, size);
        self.adapters.iter().map(|path| size(path)).fold(projector.saturating_add(projector / 4), u64::saturating_add)
    }
}

impl Model {
    /// Whether it can be used, as far as is known.
    pub fn state(&self) -> ModelState {
        match &self.details {
            _ if !self.present => ModelState::Missing,
            Details::Broken { reason, .. } => ModelState::Broken { reason: Arc::clone(reason) },
            Details::Pending | Details::Known(_) => ModelState::Ready,
        }
    }

    /// What its yaml says, as the members of a JSON object without braces: those that are its own, and
    /// those that most models share. `None` while nothing is known. Ids and states are not among them.
    pub fn members(&self) -> Option<(&str, &str)> {
        match &self.details {
            Details::Known(known) => Some((&known.own, &known.common)),
            Details::Pending | Details::Broken { .. } => None,
        }
    }

    /// What its yaml says.
    pub fn yaml(&self) -> Option<ModelYaml> {
        match &self.details {
            Details::Known(known) => Some(known.yaml(&self.id)),
            Details::Pending | Details::Broken { .. } => None,
        }
    }

    /// What is wrong with settings in its yaml, which are left out.
    pub fn wrong_settings(&self) -> Option<&str> {
        match &self.details {
            Details::Known(known) if !known.wrong.is_empty() => Some(&known.wrong),
            Details::Known(_) | Details::Pending | Details::Broken { .. } => None,
        }
    }

    /// Whether its files were not read yet.
    pub fn is_pending(&self) -> bool {
        self.details == Details::Pending
    }

    /// The file that the weights begin with, when it is known.
    pub fn weights(&self) -> Option<&Path> {
        if !is_yaml(&self.path) {
            return Some(&self.path);
        }
        match &self.details {
            Details::Known(known) => known.weights.as_deref(),
            Details::Pending | Details::Broken { .. } => None,
        }
    }

    /// The files that it is loaded from, when they are known; `yaml` is what its yaml says.
    pub(crate) fn files(&self, yaml: &ModelYaml, layout: &Layout) -> Option<ModelFiles> {
        Some(ModelFiles {
            weights: self.weights()?.to_owned(),
            projector: yaml.text("mmproj").filter(|path| !path.is_empty()).map(|path| layout.absolute(path)),
            adapters: yaml.adapters().into_iter().map(|(path, _)| layout.absolute(&path)).collect(),
            draft_model: yaml.text("draft_model").filter(|path| !path.is_empty()).map(|path| layout.absolute(path)),
            mtp: yaml.truth("mtp") == Some(true),
        })
    }

    /// All files of the weights, when they are known.
    pub(crate) fn weight_files(&self) -> Vec<PathBuf> {
        self.weights().map(shards::files_of).unwrap_or_default()
    }

    pub(crate) fn of_entry(entry: Entry<'_>, layout: &Layout) -> Self {
        Self {
            path: layout.absolute(&entry.path),
            id: entry.model_id(),
            aliases: entry.aliases,
            author_repo: entry.author_repo.into_owned(),
            branch: entry.branch.into_owned(),
            status: entry.status.into_owned(),
            present: true,
            details: Details::Pending,
        }
    }

    /// A model by reference of which only the path is known.
    #[cfg(test)]
    pub(crate) fn of_line(id: ModelId, path: PathBuf) -> Self {
        Self {
            id,
            aliases: vec![],
            path,
            author_repo: "local".into(),
            branch: "imported".into(),
            status: "downloaded".into(),
            present: true,
            details: Details::Pending,
        }
    }

    /// Whether this is what the line says.
    pub(crate) fn is_of(&self, entry: &Entry<'_>, layout: &Layout) -> bool {
        self.author_repo == entry.author_repo
            && self.branch == entry.branch
            && self.status == entry.status
            && self.aliases == entry.aliases
            && self.path == layout.absolute(&entry.path)
    }

    /// Whether the line says the same of both.
    pub(crate) fn is_same_line(&self, other: &Self) -> bool {
        self.path == other.path
            && self.aliases == other.aliases
            && self.author_repo == other.author_repo
            && self.branch == other.branch
            && self.status == other.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_hardware::{Architecture, Layer};

    #[test]
    fn who_guesses_must_be_possible() {
        let attention = Layer { keys: 64, values: 64, ..Layer::default() };
        let state = Layer { state: 64, ..Layer::default() };
        let shape = |layers, mtp_layers, takes_states_back| ModelShape {
            architecture: Some(Architecture { layers, mtp_layers, takes_states_back, ..Architecture::default() }),
            ..ModelShape::default()
        };
        let plain = shape(vec![attention], vec![], false);
        let ahead = shape(vec![attention], vec![attention], false);
        let hybrid = shape(vec![state], vec![attention], true);
        let stays = shape(vec![state], vec![attention], false);
        let with = |draft: &ModelShape| ModelShape { draft: Some(Box::new(draft.clone())), ..plain.clone() };
        let others = Architecture { vocabulary: 200, layers: vec![attention], ..Architecture::default() };
        let others = ModelShape { architecture: Some(others), ..ModelShape::default() };
        let files = |mtp, draft: bool| ModelFiles {
            mtp,
            draft_model: draft.then(|| "small.gguf".into()),
            ..ModelFiles::of_weights("large.gguf".into())
        };
        for (files, shape, expected) in [
            (files(false, false), &stays, Ok(())),
            (files(true, true), &ahead, Err(GuesserError::Two)),
            (files(true, true), &ModelShape::default(), Err(GuesserError::Two)),
            (files(true, false), &ModelShape::default(), Ok(())),
            (files(true, false), &plain, Err(GuesserError::NoLayers)),
            (files(true, false), &ahead, Ok(())),
            (files(true, false), &hybrid, Ok(())),
            (files(true, false), &stays, Err(GuesserError::Stays("mtp", "false"))),
            (files(false, true), &with(&plain), Ok(())),
            (files(false, true), &plain, Err(GuesserError::Unreadable)),
            (files(false, true), &with(&ModelShape::default()), Err(GuesserError::Unreadable)),
            (files(false, true), &with(&others), Err(GuesserError::Unsuitable("has other tokens"))),
            (
                files(false, true),
                &with(&stays),
                Err(GuesserError::Unsuitable("has states that cannot be cut, and so cannot guess")),
            ),
            (files(false, true), &ModelShape { draft: Some(Box::new(plain.clone())), ..hybrid.clone() }, Ok(())),
            (files(false, true), &stays, Err(GuesserError::Stays("draft_model", "empty"))),
        ] {
            assert_eq!(files.check_guesser(shape), expected, "{files:?} {shape:?}");
        }
    }
}
