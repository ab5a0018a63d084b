//! What the hub says of a repository. Source: the hub's API documentation and the answers of its servers.

use super::reference::Repository;
use crate::{
    outbound::{Outbound, OutboundError},
    pull::plan::Listed,
};
use serde::Deserialize;

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
    let mut url = outbound.hub_url(&["api", "models", &repository.author, &repository.name, "revision", revision]);
    url.set_query(Some("blobs=true"));
    let answer: ModelAnswer = outbound.json(&url).await?;
    let nonsense = |reason: &str| OutboundError::Nonsense {
        host: url.host_str().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    if answer.sha.len() != 40 || !answer.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(nonsense("its commit is none"));
    }
    let file = |sibling: Sibling| {
        let lfs = sibling.lfs.unwrap_or(Lfs { sha256: None, size: None });
        let sha256 = lfs.sha256.filter(|digest| is_sha256(digest)).map(|digest| digest.to_lowercase());
        // A path that climbs, or that a file system cannot have, is no file for us.
        let plain = sibling.rfilename.split('/').all(super::reference::is_plain);
        plain.then_some(())?;
        Some(Listed { path: sibling.rfilename, size: lfs.size.or(sibling.size)?, sha256 })
    };
    Ok(Listing { commit: answer.sha.to_lowercase(), files: answer.siblings.into_iter().filter_map(file).collect() })
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
