//! From what a person asked for to the plan of a pull.

use super::{
    headers::Headers,
    huggingface::{self, Listing},
    reference::{self, HANDLES, Reference, ReferenceError, Repository},
};
use crate::{
    ErrorKind, InvalidId, ModelId,
    outbound::{Ask, Outbound, OutboundError},
    pull::plan::{self, Listed, Offer, PREFERENCE, PlannedFile, PullPlan, Role},
    shards::split_stem,
};
use cortex_hardware::{Hardware, ModelShape, fit};
use std::path::PathBuf;

/// The context that a chosen model must have room for.
const CONTEXT: u32 = 4096;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullRequest {
    /// The model, in any of the forms.
    pub model: String,
    /// The id that it gets; made from the name of the file when absent.
    pub id: Option<String>,
    /// The name to show.
    pub name: Option<String>,
}

/// What a repository offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// The models, in the order of their names.
    pub choices: Vec<Choice>,
    /// Which of them is taken when nobody chooses.
    pub recommended: Option<usize>,
    /// Why that one, or why none.
    pub why: String,
}

/// One model of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What to ask for to get it.
    pub model: String,
    /// The name of its first file, or of its branch.
    pub name: String,
    /// Bytes of all of its files; 0 when that is not known.
    pub bytes: u64,
    /// Whether it fits this machine.
    pub fits: bool,
}

/// Why a name leads to no files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It is no name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The id cannot be one.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The hub has no such repository, or hides it.
    #[error("Model {repository} not found")]
    NoRepository {
        /// Which.
        repository: String,
        /// A token was sent.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no branch `{revision}`")]
    NoRevision {
        /// Which.
        repository: String,
        /// What was asked for.
        revision: String,
        /// What there is.
        branches: Vec<String>,
    },
    /// The repository wants its terms accepted first.
    #[error("{repository} is gated: its owner gives access on request")]
    Gated {
        /// Which.
        repository: String,
        /// A token was sent.
        with_token: bool,
    },
    /// It has files, and none of them is a GGUF.
    #[error("Not a GGUF model. Currently, only GGUF single file is supported.")]
    NotGguf {
        /// Which.
        repository: String,
    },
    /// It has GGUF files, and the hub does not say how large they are.
    #[error("Could not get siblings file size: {repository}")]
    NoSizes {
        /// Which.
        repository: String,
    },
    /// It has GGUF files, and not this one.
    #[error("{repository} has no file that matches `{wanted}`")]
    NoFile {
        /// Which.
        repository: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Of a set, parts are missing.
    #[error("{file} is one part of a model, and {repository} does not have all of its parts")]
    PartsMissing {
        /// Which.
        repository: String,
        /// What was asked for.
        file: String,
    },
    /// It is a part that belongs to a model, such as a projector.
    #[error("{file} of {repository} is no model of its own")]
    NoModel {
        /// Which.
        repository: String,
        /// What was asked for.
        file: String,
    },
    /// Several files match.
    #[error("several files of {repository} match `{wanted}`")]
    Several {
        /// Which.
        repository: String,
        /// What was asked for.
        wanted: String,
        /// What matches.
        there: Vec<String>,
    },
    /// None of its models fits this machine.
    #[error(
        "no model of {repository} fits this machine: the smallest, {smallest}, needs {needed}, and {budget} can be used"
    )]
    NothingFits {
        /// Which.
        repository: String,
        /// The smallest.
        smallest: String,
        /// What it needs, for a person.
        needed: String,
        /// What there is, for a person.
        budget: String,
    },
    /// A short name of which no branch is the default.
    #[error("{repository} has no default branch")]
    NoDefault {
        /// Which.
        repository: String,
        /// What there is.
        branches: Vec<String>,
    },
    /// A file whose length the server does not say.
    #[error("the server does not say how long {url} is")]
    NoLength {
        /// Where.
        url: String,
    },
    /// The other machine gave no answer that can be used.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

impl SourceError {
    /// The family.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRepository { .. } | Self::NoRevision { .. } | Self::NoFile { .. } => ErrorKind::NotFound,
            Self::NothingFits { .. } => ErrorKind::DoesNotFit,
            Self::Outbound(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }

    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        let list = |there: &[String]| {
            let shown = there.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            if there.len() > 20 { format!("{shown}, …") } else { shown }
        };
        match self {
            Self::Reference(error) => error.hint(),
            Self::Id(_) => Some("choose another id".into()),
            Self::NoRepository { with_token: false, .. } => {
                Some("check its name; if it is private, set `huggingFaceToken` in the settings or HF_TOKEN".into())
            }
            Self::NoRepository { .. } => Some("check its name, and that the token may read it".into()),
            Self::NoRevision { branches, .. } | Self::NoDefault { branches, .. } if !branches.is_empty() => {
                Some(format!("there are: {}", list(branches)))
            }
            Self::Gated { repository, with_token } => Some(format!(
                "open https://huggingface.co/{repository} in a browser and accept its terms{}",
                if *with_token { "" } else { ", then set `huggingFaceToken` in the settings or HF_TOKEN" }
            )),
            Self::PartsMissing { .. } => Some("tell its owner, or look for another repository".into()),
            Self::NoModel { .. } => Some("pull the model: what belongs to it comes along".into()),
            Self::NotGguf { .. } => Some("look for a repository whose name ends with -GGUF".into()),
            Self::NoFile { there, .. } | Self::Several { there, .. } if !there.is_empty() => {
                Some(format!("there are: {}", list(there)))
            }
            Self::NothingFits { repository, smallest, .. } => {
                let name = smallest.as_str();
                Some(format!(
                    "free some memory, or name the file to get it all the same: {}",
                    repository.replace('/', ":") + ":" + name
                ))
            }
            Self::Outbound(error) => error.hint(),
            _ => None,
        }
    }
}

/// Finds out what a name stands for.
#[derive(Clone)]
pub(crate) struct Resolver {
    pub(crate) outbound: Outbound,
    pub(super) headers: Headers,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// Files to download.
    Remote(Box<PullPlan>),
    /// A file that is here already.
    Local { id: ModelId, path: PathBuf },
}

impl Resolver {
    pub(crate) fn new(outbound: Outbound) -> Self {
        Self { outbound, headers: Headers::default() }
    }

    /// The plan for a request. Asks the hub.
    pub(crate) async fn resolve(&self, request: &PullRequest, hardware: &Hardware) -> Result<Resolved, SourceError> {
        let given = request.id.as_deref().filter(|id| !id.is_empty()).map(ModelId::new).transpose()?;
        let plan = match reference::parse(&request.model, &self.outbound.endpoint())? {
            Reference::LocalFile(path) => {
                let id = given.map_or_else(|| ModelId::from_file(&path), Ok)?;
                return Ok(Resolved::Local { id, path });
            }
            Reference::Url(url) => self.of_url(&url).await?,
            Reference::Handle { name, branch } => self.of_handle(name, branch).await?,
            Reference::File { repository, revision, path } => {
                let revision = revision.unwrap_or_else(|| "main".into());
                let listing = self.listing(&repository, &revision).await?;
                let offer = find_file(&listing, &repository, &path)?;
                self.of_offer((&repository, &revision), &listing, &offer)
            }
            Reference::Repository { repository, revision, wanted } => {
                let revision = revision.unwrap_or_else(|| "main".into());
                let listing = self.listing(&repository, &revision).await?;
                let offers = plan::offers(&listing.files);
                if offers.is_empty() {
                    return Err(SourceError::NotGguf { repository: repository.to_string() });
                }
                let (offer, why) = if let Some(wanted) = &wanted {
                    (find_wanted(&offers, &repository, wanted)?, None)
                } else {
                    let (at, why) = choose(&offers, hardware);
                    let at = at.ok_or_else(|| nothing_fits(&offers, &repository, hardware))?;
                    (&offers[at], Some(why))
                };
                let mut plan = self.of_offer((&repository, &revision), &listing, offer);
                plan.why = why;
                plan.aliases
                    .push(wanted.map_or_else(|| repository.to_string(), |wanted| format!("{repository}:{wanted}")));
                plan
            }
        };
        let plan = PullPlan {
            id: given.unwrap_or(plan.id),
            asked: request.model.trim().to_owned(),
            name: request.name.clone().filter(|name| !name.is_empty()),
            ..plan
        };
        Ok(Resolved::Remote(Box::new(PullPlan { id: ModelId::new(plan.id.as_str())?, ..plan })))
    }

    /// What there is to choose from, for a person at a terminal. `None` when the name leaves nothing open.
    pub(crate) async fn offered(&self, model: &str, hardware: &Hardware) -> Result<Option<Offered>, SourceError> {
        match reference::parse(model, &self.outbound.endpoint())? {
            Reference::Repository { repository, revision, wanted: None } => {
                let listing = self.listing(&repository, revision.as_deref().unwrap_or("main")).await?;
                let offers = plan::offers(&listing.files);
                if offers.is_empty() {
                    return Err(SourceError::NotGguf { repository: repository.to_string() });
                }
                let (recommended, why) = choose(&offers, hardware);
                let choice = |offer: &Offer| Choice {
                    model: format!("{}:{}:{}", repository.author, repository.name, offer.name()),
                    name: offer.name().to_owned(),
                    bytes: offer.bytes(),
                    fits: fits(offer, hardware),
                };
                Ok(Some(Offered { choices: offers.iter().map(choice).collect(), recommended, why }))
            }
            Reference::Handle { name, branch: None } => {
                let repository = Repository { author: HANDLES.into(), name };
                let branches = self.handle_branches(&repository).await?;
                let default = huggingface::default_branch(&self.outbound, &repository).await.unwrap_or_default();
                let choice = |branch: &String| Choice {
                    model: format!("{}:{branch}", repository.name),
                    name: format!("{}:{branch}", repository.name),
                    bytes: 0,
                    fits: true,
                };
                Ok(Some(Offered {
                    choices: branches.iter().map(choice).collect(),
                    recommended: branches.iter().position(|branch| Some(branch) == default.as_ref()),
                    why: "the default of its publisher".into(),
                }))
            }
            _ => Ok(None),
        }
    }

    pub(super) async fn handle_branches(&self, repository: &Repository) -> Result<Vec<String>, SourceError> {
        let branches = huggingface::branches(&self.outbound, repository).await;
        let mut branches = branches.map_err(|error| of_hub(error, repository, "main", vec![]))?;
        branches.retain(|branch| branch != "main");
        branches.sort();
        Ok(branches)
    }

    async fn of_handle(&self, name: String, branch: Option<String>) -> Result<PullPlan, SourceError> {
        let repository = Repository { author: HANDLES.into(), name };
        let branch = match branch {
            Some(branch) => branch,
            None => match huggingface::default_branch(&self.outbound, &repository).await {
                Ok(Some(branch)) => branch,
                Ok(None) | Err(OutboundError::Status { status: 404, .. }) => {
                    let branches = self.handle_branches(&repository).await?;
                    return Err(SourceError::NoDefault { repository: repository.to_string(), branches });
                }
                Err(error) => return Err(of_hub(error, &repository, "main", vec![])),
            },
        };
        let listing = self.listing(&repository, &branch).await?;
        let offer = of_branch(&listing)
            .ok_or_else(|| SourceError::NotGguf { repository: format!("{repository}, branch {branch},") })?;
        let mut plan = self.of_offer((&repository, &branch), &listing, &offer);
        plan.id = ModelId::existing(format!("{}:{branch}", repository.name));
        plan.folder = folder(&[HANDLES, &repository.name, &branch]);
        Ok(plan)
    }

    async fn of_url(&self, url: &reqwest::Url) -> Result<PullPlan, SourceError> {
        let name = url.path_segments().and_then(|mut parts| parts.next_back().map(str::to_owned)).unwrap_or_default();
        let name = percent_encoding::percent_decode_str(&name).decode_utf8_lossy().into_owned();
        if !name.to_lowercase().ends_with(".gguf") || !reference::is_plain(&name) {
            return Err(ReferenceError::NotGguf.into());
        }
        if let Err(error @ OutboundError::NotAllowed { redirected: false, .. }) = self.outbound.check(url, false) {
            return Err(error.into());
        }
        let received = self.outbound.get(url, &Ask { range: Some("bytes=0-0".into()), ..Ask::default() }).await?;
        let header = |name: &str| received.response.headers().get(name).and_then(|value| value.to_str().ok());
        let total = header("content-range").and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let size = match received.response.status().as_u16() {
            206 => total,
            _ => header("content-length").and_then(|length| length.parse().ok()),
        };
        let size = size.ok_or_else(|| SourceError::NoLength { url: crate::outbound::without_query(url) })?;
        let linked = received.linked_tag.as_deref().map(|tag| tag.trim_matches('"').to_lowercase());
        let host = url.host_str().unwrap_or_default().to_owned();
        let id = ModelId::from_file(std::path::Path::new(&name))?;
        Ok(PullPlan {
            folder: folder(&["url", &host, id.as_str()]),
            id,
            asked: String::new(),
            name: None,
            aliases: vec![],
            author_repo: crate::outbound::without_query(url),
            revision: "url".into(),
            commit: None,
            files: vec![PlannedFile {
                name,
                url: url.to_string(),
                size,
                sha256: linked.filter(|tag| huggingface::is_sha256(tag)),
                role: Role::Weights,
            }],
            why: None,
        })
    }

    pub(super) async fn listing(&self, repository: &Repository, revision: &str) -> Result<Listing, SourceError> {
        match huggingface::listing(&self.outbound, repository, revision).await {
            Ok(listing) => Ok(listing),
            Err(error) => {
                let unknown = matches!(&error, OutboundError::Status { code, .. } if code == "RevisionNotFound");
                let branches = if unknown {
                    huggingface::branches(&self.outbound, repository).await.unwrap_or_default()
                } else {
                    vec![]
                };
                Err(of_hub(error, repository, revision, branches))
            }
        }
    }

    fn of_offer(&self, (repository, revision): (&Repository, &str), listing: &Listing, offer: &Offer) -> PullPlan {
        let planned = |file: &Listed, role: Role| PlannedFile {
            name: file.name().to_owned(),
            url: huggingface::file_url(&self.outbound, repository, &listing.commit, &file.path).into(),
            size: file.size,
            sha256: file.sha256.clone(),
            role,
        };
        let mut files: Vec<PlannedFile> = offer.files.iter().map(|file| planned(file, Role::Weights)).collect();
        let projector = plan::projector(&listing.files, offer);
        files.extend(projector.map(|file| planned(file, Role::Projector)));
        let name = offer.name();
        let stem = &name[..name.len().saturating_sub(".gguf".len())];
        let stem = split_stem(stem).map_or(stem, |(stem, ..)| stem);
        PullPlan {
            id: ModelId::existing(format!("{}:{}:{name}", repository.author, repository.name)),
            asked: String::new(),
            name: None,
            aliases: vec![],
            author_repo: repository.to_string(),
            revision: revision.to_owned(),
            commit: Some(listing.commit.clone()),
            folder: folder(&[&repository.author, &repository.name, stem]),
            files,
            why: None,
        }
    }
}

/// The one model of a branch of [`HANDLES`].
pub(super) fn of_branch(listing: &Listing) -> Option<Offer> {
    let offers = plan::offers(&listing.files);
    let named = offers.iter().find(|offer| offer.name().eq_ignore_ascii_case("model.gguf"));
    named.or(offers.first()).cloned()
}

/// The folder of a model below the data folder. What comes from other machines is no path: every part is
/// encoded where it would be one.
pub(crate) fn folder(parts: &[&str]) -> String {
    let mut path = String::from("models/huggingface.co");
    for part in parts {
        path.push('/');
        let harmless = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
            && !part.starts_with('.')
            && !part.ends_with('.');
        if harmless { path.push_str(part) } else { path.push_str(&ModelId::existing(*part).file_name()) }
    }
    path
}

pub(super) fn find_file(listing: &Listing, repository: &Repository, path: &str) -> Result<Offer, SourceError> {
    let offers = plan::offers(&listing.files);
    if let Some(offer) = offers.iter().find(|offer| offer.files.iter().any(|file| file.path == path)) {
        return Ok(offer.clone());
    }
    let named: Vec<&Offer> = offers.iter().filter(|offer| offer.files.iter().any(|file| file.name() == path)).collect();
    match named.as_slice() {
        [] => {}
        [one] => return Ok((*one).clone()),
        several => {
            let there = several.iter().map(|offer| offer.name().to_owned()).collect();
            return Err(SourceError::Several { repository: repository.to_string(), wanted: path.to_owned(), there });
        }
    }
    if listing.files.iter().any(|file| file.path == path || file.name() == path) {
        // It is there, and no model by itself.
        let (repository, file) = (repository.to_string(), path.to_owned());
        return Err(if split_stem(path.trim_end_matches(".gguf")).is_some() {
            SourceError::PartsMissing { repository, file }
        } else {
            SourceError::NoModel { repository, file }
        });
    }
    if offers.is_empty() {
        return Err(SourceError::NotGguf { repository: repository.to_string() });
    }
    let there = offers.iter().map(|offer| offer.name().to_owned()).collect();
    Err(SourceError::NoFile { repository: repository.to_string(), wanted: path.to_owned(), there })
}

/// `Q4_K_M`, or a part of a name that only one has.
pub(super) fn find_wanted<'offers>(
    offers: &'offers [Offer],
    repository: &Repository,
    wanted: &str,
) -> Result<&'offers Offer, SourceError> {
    let lower = wanted.to_lowercase();
    let of_kind = |offer: &&Offer| offer.quantization.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case(wanted));
    let by_name = |offer: &&Offer| offer.name().to_lowercase().contains(&lower);
    let mut matches: Vec<&Offer> = offers.iter().filter(of_kind).collect();
    if matches.is_empty() {
        matches = offers.iter().filter(by_name).collect();
    }
    let names = |offers: Vec<&Offer>| offers.into_iter().map(|offer| offer.name().to_owned()).collect::<Vec<_>>();
    let (repository, wanted) = (repository.to_string(), wanted.to_owned());
    match matches.as_slice() {
        [one] => Ok(one),
        [] => Err(SourceError::NoFile { repository, wanted, there: names(offers.iter().collect()) }),
        _ => Err(SourceError::Several { repository, wanted, there: names(matches) }),
    }
}

fn shape(offer: &Offer) -> ModelShape {
    ModelShape { weight_bytes: offer.bytes(), context: CONTEXT, ..ModelShape::default() }
}

fn fits(offer: &Offer, hardware: &Hardware) -> bool {
    fit(&shape(offer), hardware.memory.into()).fits()
}

/// Which model to take when nobody chose, and why.
fn choose(offers: &[Offer], hardware: &Hardware) -> (Option<usize>, String) {
    let fitting: Vec<usize> = (0..offers.len()).filter(|&at| fits(&offers[at], hardware)).collect();
    let (at, why) = best(&fitting, |at| offers[at].quantization.as_deref(), |at| offers[at].bytes());
    match at {
        None => (None, why.into()),
        Some(at) => {
            let fit = fit(&shape(&offers[at]), hardware.memory.into());
            let (needed, budget) = (plan_bytes(fit.needed()), plan_bytes(fit.budget.memory));
            let kind = offers[at].quantization.as_deref().unwrap_or(offers[at].name());
            (Some(at), format!("{kind} is {why}; it needs about {needed} of the {budget} that can be used"))
        }
    }
}

/// The first in the order of preference of those that fit, else the largest.
pub(super) fn best<'kinds>(
    fitting: &[usize],
    kind: impl Fn(usize) -> Option<&'kinds str>,
    bytes: impl Fn(usize) -> u64,
) -> (Option<usize>, &'static str) {
    for preferred in PREFERENCE {
        if let Some(&at) = fitting.iter().find(|&&at| kind(at) == Some(preferred)) {
            return (Some(at), "the first choice of those that fit this machine");
        }
    }
    match fitting.iter().max_by_key(|&&at| (bytes(at), std::cmp::Reverse(at))) {
        Some(&at) => (Some(at), "the largest that fits this machine"),
        None => (None, "none of them fits this machine"),
    }
}

fn nothing_fits(offers: &[Offer], repository: &Repository, hardware: &Hardware) -> SourceError {
    let smallest = offers.iter().min_by_key(|offer| offer.bytes()).expect("there is an offer");
    let fit = fit(&shape(smallest), hardware.memory.into());
    SourceError::NothingFits {
        repository: repository.to_string(),
        smallest: smallest.name().to_owned(),
        needed: plan_bytes(fit.needed()),
        budget: plan_bytes(fit.budget.memory),
    }
}

/// Bytes for a person.
fn plan_bytes(count: u64) -> String {
    if count >= 1 << 30 {
        format!("{}.{} GiB", count >> 30, ((count % (1 << 30)) * 10) >> 30)
    } else {
        format!("{} MiB", count >> 20)
    }
}

/// What a refusal of the hub means.
pub(super) fn of_hub(
    error: OutboundError,
    repository: &Repository,
    revision: &str,
    branches: Vec<String>,
) -> SourceError {
    let OutboundError::Status { status, code, with_token, .. } = &error else { return error.into() };
    let with_token = *with_token;
    let repository = repository.to_string();
    match (code.as_str(), status) {
        ("GatedRepo", _) => SourceError::Gated { repository, with_token },
        ("RevisionNotFound", _) => SourceError::NoRevision { repository, revision: revision.to_owned(), branches },
        // The hub does not tell strangers which private repositories there are.
        ("RepoNotFound", _) | (_, 404) => SourceError::NoRepository { repository, with_token },
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_hardware::{Cpu, Memory};

    fn machine(available: u64) -> Hardware {
        let cpu = Cpu { model: String::new(), flags: vec![], cores: 1, kernel: String::new() };
        Hardware { cpu, memory: Memory { total: available, available } }
    }

    fn all(files: &[(&str, u64)]) -> Vec<Offer> {
        let listing: Vec<Listed> =
            files.iter().map(|&(path, size)| Listed { path: path.into(), size, sha256: None }).collect();
        plan::offers(&listing)
    }

    #[test]
    fn the_best_that_fits_is_chosen() {
        const GIB: u64 = 1 << 30;
        let offers = all(&[
            ("m-F16.gguf", 14 * GIB),
            ("m-Q2_K.gguf", 2 * GIB),
            ("m-Q4_K_M.gguf", 4 * GIB),
            ("m-Q5_K_M.gguf", 5 * GIB),
            ("m-Q8_0.gguf", 8 * GIB),
            ("m-Q3_K_S.gguf", 3 * GIB),
        ]);
        for (available, expected) in [
            (32, Some("m-Q4_K_M.gguf")),
            (8, Some("m-Q4_K_M.gguf")),
            (5, Some("m-Q3_K_S.gguf")),
            (3, Some("m-Q2_K.gguf")),
            (2, None),
        ] {
            let (at, why) = choose(&offers, &machine(available * GIB));
            assert_eq!(at.map(|at| offers[at].name()), expected, "{available} GiB: {why}");
        }
        let repository = Repository { author: "a".into(), name: "b".into() };
        let error = nothing_fits(&offers, &repository, &machine(2 * GIB));
        assert!(error.to_string().contains("needs 2.4 GiB, and 1.7 GiB can be used"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.ends_with("a:b:m-Q2_K.gguf")), "{error:?}");
    }

    #[test]
    fn a_wanted_model_is_found_by_kind_or_by_a_part_of_its_name() {
        let offers = all(&[("m-Q4_K_M.gguf", 1), ("m-Q4_K_S.gguf", 1), ("n-Q4_K_M.gguf", 1), ("m-Q8_0.gguf", 1)]);
        let repository = Repository { author: "a".into(), name: "b".into() };
        let find = |wanted: &str| find_wanted(&offers, &repository, wanted).map(|offer| offer.name().to_owned());
        assert_eq!(find("q8_0").as_deref(), Ok("m-Q8_0.gguf"));
        assert_eq!(find("n-q4").as_deref(), Ok("n-Q4_K_M.gguf"));
        assert!(matches!(find("Q4_K_M"), Err(SourceError::Several { there, .. }) if there.len() == 2));
        assert!(matches!(find("Q6_K"), Err(SourceError::NoFile { there, .. }) if there.len() == 4));
    }

    #[test]
    fn a_folder_is_never_a_way_out() {
        assert_eq!(folder(&["a", "b.c", "x"]), "models/huggingface.co/a/b.c/x");
        assert_eq!(folder(&["..", "a/b", ".x"]), "models/huggingface.co/%2e%2e/a%2fb/%2ex");
    }
}
