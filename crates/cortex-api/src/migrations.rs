//! The shapes of migrations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `POST /v1/migrations`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MigrationRequest {
    /// The data folder of the older program; the daemon's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also bring back models that were deleted here.
    pub include_deleted: bool,
    /// The way back: `jan-legacy`. Says what an older Jan would show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// On the way back, the data folder of the older program; the daemon's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// On the way back, write a model.json for each model that it would not show.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub write: bool,
    /// Models that a client knows, instead of a folder: nothing is searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<MigratedModel>>,
}

/// A model that a client knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MigratedModel {
    /// Its id, which it keeps.
    pub id: Option<String>,
    /// Its weights: an absolute path.
    pub path: Option<String>,
    /// Settings that its model.yaml keeps: those that PATCH takes.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
}

/// A migration: how it is doing, and what became of each folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Migration {
    /// Its name; `null` when it changed nothing.
    pub id: Option<String>,
    /// `migration`.
    pub object: String,
    /// `dry_run`, `done`, `undone`, or `unfinished`: it failed, and the next start ends it.
    pub state: String,
    /// Unix seconds.
    pub created: i64,
    /// The folder; `null` for a list that a client gave, and on the way back.
    pub from: Option<String>,
    /// On the way back, the data folder of the older program. Then `registered` are those that got a model.json for
    /// it, `already_known` those that it shows anyway, and `skipped` those that it does not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Models that are on the list now.
    pub registered: usize,
    /// Models that were there already.
    pub already_known: usize,
    /// Folders that hold nothing for us.
    pub skipped: usize,
    /// Folders that need a person.
    pub unresolved: usize,
    /// What became of each folder.
    pub data: Vec<MigrationFinding>,
    /// Models that an undo left, because they are others by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Engines on other machines that were taken over; an undo leaves them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_engines: Vec<String>,
    /// Ids of their models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_models: Vec<String>,
    /// Sentences about what of them cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_problems: Vec<String>,
}

/// What became of one folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationFinding {
    /// Where it lies.
    pub place: String,
    /// The id of its model, when it has one.
    pub id: Option<String>,
    /// Its weights, when they were found.
    pub weights: Option<String>,
    /// `registered`, `already_known`, `skipped` or `unresolved`.
    pub result: String,
    /// Why, or what is to be known about it.
    pub reason: Option<String>,
    /// What a person can do.
    pub hint: Option<String>,
}

/// `GET /v1/migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigrationList {
    /// `list`.
    pub object: String,
    /// The oldest first.
    pub data: Vec<Migration>,
    /// Data folders of older programs that lie on this machine, besides the daemon's own.
    pub found: Vec<String>,
}
