//! What the hub says of a repository. Source: the hub's API documentation and the answers of its servers.

use super::reference::Repository;
use crate::{
    outbound::{Outbound, OutboundError},
    pull::plan::Listed,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// 40 hexadecimal digits.
    pub(crate) commit: String,
    pub(crate) files: Vec<Listed>,
}

#[derive(Deserialize)]
struct ModelAnswer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

#[derive(Deserialize)]
struct RefsAnswer {
    #[serde(default)]
    branches: Vec<BranchAnswer>,
}

#[derive(Deserialize)]
struct BranchAnswer {
    name: String,
}

/// Which files a repository has at a revision, their sizes and digests.
pub(crate) async fn listing(
    outbound: &Outbound,
    repository: &Repository,
    revision: &str,
) -> Result<Listing, OutboundError> {
    card(outbound, repository, revision).await.map(|(listing, _)| listing)
}

/// The same, and all that the hub says of the repository beside it.
pub(crate) async fn card(
    outbound: &Outbound,
    repository: &Repository,
    revision: &str,
) -> Result<(Listing, Value), OutboundError> {
    let mut url = outbound.hub_url(&["api", "models", &repository.author, &repository.name, "revision", revision]);
    url.set_query(Some("blobs=true"));
    let card: Value = outbound.json(&url).await?;
    let nonsense =
        |reason: String| OutboundError::Nonsense { host: url.host_str().unwrap_or_default().to_owned(), reason };
    let answer =
        ModelAnswer::deserialize(&card).map_err(|error| nonsense(format!("it is not the expected JSON: {error}")))?;
    if answer.sha.len() != 40 || !answer.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(nonsense("its commit is none".into()));
    }
    let file = |sibling: Sibling| {
        let lfs = sibling.lfs.unwrap_or(Lfs { sha256: None, size: None });
        let sha256 = lfs.sha256.filter(|digest| is_sha256(digest)).map(|digest| digest.to_lowercase());
        // A path that climbs, or that a file system cannot have, is no file for us.
        let plain = sibling.rfilename.split('/').all(super::reference::is_plain);
        plain.then_some(())?;
        Some(Listed { path: sibling.rfilename, size: lfs.size.or(sibling.size)?, sha256 })
    };
    let files = answer.siblings.into_iter().filter_map(file).collect();
    Ok((Listing { commit: answer.sha.to_lowercase(), files }, card))
}

/// What its owner wrote about it; `None` when there is nothing.
pub(crate) async fn description(outbound: &Outbound, repository: &Repository) -> Result<Option<String>, OutboundError> {
    match outbound.text(&file_url(outbound, repository, "main", "README.md")).await {
        Ok((text, _)) => Ok(Some(text)),
        Err(OutboundError::Status { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What to look for on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HubQuery {
    /// A part of `author/name`.
    pub text: Option<String>,
    /// Repositories of this author alone.
    pub author: Option<String>,
    /// Repositories with all of these tags, such as `gguf`.
    pub tags: Vec<String>,
    /// As many at most; those that are downloaded most come first.
    pub limit: usize,
}

/// A repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubModel {
    /// `author/name`.
    pub id: String,
    /// Downloads of the last month.
    #[serde(default)]
    pub downloads: u64,
    /// People who like it.
    #[serde(default)]
    pub likes: u64,
    /// When it was changed last, where the hub says so.
    #[serde(default, rename = "lastModified")]
    pub modified: Option<String>,
    /// Whether its owner gives access on request only.
    #[serde(default, deserialize_with = "is_gated")]
    pub gated: bool,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// `false`, or the way in which access is given.
fn is_gated<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(!matches!(Value::deserialize(deserializer)?, Value::Bool(false) | Value::Null))
}

/// Where the hub answers a query.
pub(crate) fn search_url(outbound: &Outbound, query: &HubQuery) -> reqwest::Url {
    let mut url = outbound.hub_url(&["api", "models"]);
    {
        let mut pairs = url.query_pairs_mut();
        for (key, value) in [("search", &query.text), ("author", &query.author)] {
            if let Some(value) = value {
                pairs.append_pair(key, value);
            }
        }
        for tag in &query.tags {
            pairs.append_pair("filter", tag);
        }
        pairs.append_pair("sort", "downloads").append_pair("direction", "-1");
        pairs.append_pair("limit", &query.limit.to_string());
    }
    url
}

/// What a query finds.
pub(crate) async fn search(outbound: &Outbound, query: &HubQuery) -> Result<Vec<HubModel>, OutboundError> {
    outbound.json(&search_url(outbound, query)).await
}

/// The branches of a repository.
pub(crate) async fn branches(outbound: &Outbound, repository: &Repository) -> Result<Vec<String>, OutboundError> {
    let url = outbound.hub_url(&["api", "models", &repository.author, &repository.name, "refs"]);
    let answer: RefsAnswer = outbound.json(&url).await?;
    Ok(answer.branches.into_iter().map(|branch| branch.name).collect())
}

/// The branch that a short name alone means: `default` in the metadata of the main branch.
pub(crate) async fn default_branch(
    outbound: &Outbound,
    repository: &Repository,
) -> Result<Option<String>, OutboundError> {
    let (text, _) = outbound.text(&file_url(outbound, repository, "main", "metadata.yml")).await?;
    let yaml = crate::ModelYaml::parse(&text).map_err(|error| OutboundError::Nonsense {
        host: outbound.endpoint().host_str().unwrap_or_default().to_owned(),
        reason: error.to_string(),
    })?;
    Ok(yaml.text("default").map(str::to_owned).filter(|branch| !branch.is_empty()))
}

/// Where a file is.
pub(crate) fn file_url(outbound: &Outbound, repository: &Repository, revision: &str, path: &str) -> reqwest::Url {
    let mut parts = vec![repository.author.as_str(), repository.name.as_str(), "resolve", revision];
    parts.extend(path.split('/'));
    outbound.hub_url(&parts)
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
