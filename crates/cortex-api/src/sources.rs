//! The shapes of model sources, and of what the hub has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of `POST` and `DELETE /v1/models/sources`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SourceRequest {
    /// The URL of the repository.
    pub source: Option<String>,
}

/// A model source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSource {
    /// The URL of the repository.
    pub id: String,
    /// Its author.
    pub author: String,
    /// Its models.
    pub models: Vec<SourceModel>,
    /// What the hub says of it, with the `description` of its owner.
    pub metadata: Value,
    /// When the hub said so, in Unix seconds; `null` as long as it could not be asked.
    #[serde(default)]
    pub fetched: Option<i64>,
}

/// A model of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceModel {
    /// What to pull.
    pub id: String,
    /// Bytes of its weights.
    pub size: u64,
}

/// `GET /v1/models/sources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSources {
    /// All of them.
    pub data: Vec<ModelSource>,
}

/// `GET /v1/models/hub`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HubRepositories {
    /// `author/name` of each.
    pub data: Vec<String>,
    /// Why this is an old answer, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// `GET /v1/models/hub/search`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HubSearch {
    /// `list`.
    pub object: String,
    /// Those that are downloaded most come first.
    pub data: Vec<HubModel>,
    /// When the hub said so, in Unix seconds.
    pub fetched: i64,
    /// Why this is an old answer, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// A repository that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HubModel {
    /// `author/name`: what to pull.
    pub id: String,
    /// Downloads of the last month.
    pub downloads: u64,
    /// People who like it.
    pub likes: u64,
    /// When it was changed last, where the hub says so.
    pub modified: Option<String>,
    /// Whether its owner gives access on request only.
    pub gated: bool,
    /// Its tags.
    pub tags: Vec<String>,
}
