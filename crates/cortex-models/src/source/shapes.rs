//! What models on the hub need, from the headers of their files: nothing is downloaded for it.

use super::{
    huggingface,
    reference::{self, Reference},
    resolve::{Resolver, SourceError, best, find_file, find_wanted, of_hub},
};
use crate::{
    gguf::of_quantization,
    pull::plan::{self, Offer},
};
use cortex_hardware::{Architecture, ModelShape, Weights};
use std::sync::Arc;

/// Headers that are read of one repository at most: it may hold models of many kinds.
const MOST_HEADERS: usize = 4;

/// The models that a name stands for, each with what its header says.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedShapes {
    /// In the order of their names.
    pub models: Vec<OfferedShape>,
    /// Whether the name leaves a choice.
    pub is_choice: bool,
}

/// One model on the hub.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedShape {
    /// How it is pulled.
    pub model: String,
    /// The name of its first file.
    pub name: String,
    /// Its quantisation, as its name has it.
    pub quantization: Option<String>,
    /// Its weights and how it is built, as far as that is known.
    pub shape: ModelShape,
}

impl OfferedShapes {
    /// Which of them to take when `fits` says which fit: its place, and why.
    pub fn recommended(&self, fits: impl Fn(&OfferedShape) -> bool) -> (Option<usize>, &'static str) {
        let fitting: Vec<usize> = (0..self.models.len()).filter(|&at| fits(&self.models[at])).collect();
        let kinds = |at: usize| self.models[at].quantization.as_deref();
        best(&fitting, kinds, |at| self.models[at].shape.weight_bytes)
    }
}

impl Resolver {
    /// What the headers say of the models that a name stands for. `None` when it is no name of something on the hub.
    pub(crate) async fn shapes(&self, model: &str) -> Result<Option<OfferedShapes>, SourceError> {
        let (repository, revision, which) = match reference::parse(model, &self.outbound.endpoint())? {
            Reference::File { repository, revision, path } => (repository, revision, Some(path)),
            Reference::Repository { repository, revision, wanted } => (repository, revision, wanted),
            Reference::LocalFile(_) | Reference::Url(_) | Reference::Handle { .. } => return Ok(None),
        };
        let listing = self.listing(&repository, revision.as_deref().unwrap_or("main")).await?;
        let offers = plan::offers(&listing.files);
        let chosen: Vec<&Offer> = match &which {
            None if offers.is_empty() => return Err(SourceError::NotGguf { repository: repository.to_string() }),
            None => offers.iter().collect(),
            Some(wanted) => match find_file(&listing, &repository, wanted) {
                Ok(offer) => offers.iter().filter(|it| it.name() == offer.name()).collect(),
                Err(_) => vec![find_wanted(&offers, &repository, wanted)?],
            },
        };
        let mut models = Vec::new();
        // Quantisations of one model are built alike: one header tells of all of them.
        let mut known: Vec<(String, Option<Arc<Architecture>>)> = Vec::new();
        for offer in &chosen {
            let family = family(offer);
            let architecture = match known.iter().find(|(name, _)| *name == family) {
                Some((_, architecture)) => architecture.clone(),
                None if known.len() >= MOST_HEADERS => None,
                None => {
                    let first = &offer.files[0];
                    let url = huggingface::file_url(&self.outbound, &repository, &listing.commit, &first.path);
                    let name = format!("{repository} {} {family}", listing.commit);
                    let read = self.headers.architecture(name, &self.outbound, (&url, first.size)).await;
                    let architecture = read.map_err(|error| of_hub(error, &repository, "main", vec![]))?;
                    known.push((family, architecture.clone()));
                    architecture
                }
            };
            models.push(OfferedShape {
                model: format!("{}:{}:{}", repository.author, repository.name, offer.name()),
                name: offer.name().to_owned(),
                quantization: offer.quantization.clone(),
                shape: ModelShape {
                    weight_bytes: offer.bytes(),
                    architecture: architecture.as_deref().map(|it| with_passed(it, offer)),
                    ..ModelShape::default()
                },
            });
        }
        Ok(Some(OfferedShapes { models, is_choice: which.is_none() }))
    }
}

/// The weights of one quantisation, of which only the first keys were read: all count as those that most of them are. Of models
/// with experts it is not known how many a token passes.
fn with_passed(architecture: &Architecture, offer: &Offer) -> Architecture {
    let mut architecture = architecture.clone();
    let kind = offer.quantization.as_deref().and_then(of_quantization);
    if let Some((kind, (numbers, size))) = kind
        && architecture.passed.is_empty()
        && architecture.experts == 0
    {
        let bytes = offer.bytes();
        let count = bytes / size * numbers;
        architecture.passed = vec![Weights { kind, count, bytes, is_output: false }];
    }
    architecture
}

/// What the quantisations of one model have in common in their names.
fn family(offer: &Offer) -> String {
    let name = offer.name().to_lowercase();
    match &offer.quantization {
        Some(kind) => name.replace(&kind.to_lowercase(), ""),
        None => name,
    }
}
