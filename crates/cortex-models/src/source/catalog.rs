//! What a repository offers: its models with their sizes, and what its owner says of it.

use super::{
    huggingface,
    reference::{HANDLES, Repository},
    resolve::{Resolver, SourceError, of_branch, of_hub},
};
use crate::pull::plan;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Branches that are asked about at a time.
const AT_A_TIME: usize = 8;
/// Branches that are looked at; more are no repository of models.
const MOST_BRANCHES: usize = 200;
/// Bytes of a description that are kept.
const LONGEST_DESCRIPTION: usize = 256 << 10;

/// What a repository offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    /// Its models.
    pub(crate) models: Vec<Offering>,
    /// What the hub says of it, with the owner's `description`.
    pub(crate) card: Value,
}

/// A model that could be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offering {
    /// What to ask for, and the id that it gets.
    pub(crate) id: String,
    /// Bytes of its weights.
    pub(crate) bytes: u64,
}

impl Resolver {
    /// Asks the hub what a repository offers.
    pub(crate) async fn catalog(&self, repository: &Repository) -> Result<Catalog, SourceError> {
        let card = huggingface::card(&self.outbound, repository, "main").await;
        let (listing, mut card) = card.map_err(|error| of_hub(error, repository, "main", vec![]))?;
        let models = if repository.author == HANDLES {
            self.branches(repository).await?
        } else {
            let offers = plan::offers(&listing.files);
            offers
                .iter()
                .map(|offer| Offering {
                    id: format!("{}:{}:{}", repository.author, repository.name, offer.name()),
                    bytes: offer.bytes(),
                })
                .collect()
        };
        if models.is_empty() {
            let repository = repository.to_string();
            let is_gguf =
                |file: &Value| file["rfilename"].as_str().is_some_and(|name| name.to_lowercase().ends_with(".gguf"));
            let unsized_files =
                listing.files.is_empty() && card["siblings"].as_array().is_some_and(|all| all.iter().any(is_gguf));
            return Err(if unsized_files {
                SourceError::NoSizes { repository }
            } else {
                SourceError::NotGguf { repository }
            });
        }
        // Without the words of its owner it is of use all the same.
        let description = huggingface::description(&self.outbound, repository).await.ok().flatten();
        if let (Some(mut description), Some(card)) = (description, card.as_object_mut()) {
            description.truncate(description.floor_char_boundary(LONGEST_DESCRIPTION));
            card.insert("description".into(), description.into());
        }
        Ok(Catalog { models, card })
    }

    /// The models of a repository of [`HANDLES`]: one for each branch that has a GGUF.
    async fn branches(&self, repository: &Repository) -> Result<Vec<Offering>, SourceError> {
        let mut branches = self.handle_branches(repository).await?;
        branches.truncate(MOST_BRANCHES);
        let found: Vec<Option<Offering>> = stream::iter(branches)
            .map(|branch| async move {
                let listing = self.listing(repository, &branch).await?;
                let id = format!("{}:{branch}", repository.name);
                Ok::<_, SourceError>(of_branch(&listing).map(|offer| Offering { id, bytes: offer.bytes() }))
            })
            .buffered(AT_A_TIME)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }
}
