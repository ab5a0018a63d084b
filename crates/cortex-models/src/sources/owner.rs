//! The owner of the list of model sources.

use super::{
    cache::{self, HubAnswer},
    error::SourcesError,
};
use crate::{
    HubModel, HubQuery, ModelStore, Outbound, SourceError, Tasks,
    layout::Layout,
    source::{Catalog, Offering, Repository, Resolver, parse_repository, search, search_url},
    tasks::in_background,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Sources that there can be.
const MOST: usize = 256;
/// After a failure, the hub is left alone for so long.
const PATIENCE: Duration = Duration::from_mins(1);
/// What of the hub's words is not shown beside each model: it is long, and the source has it.
const LONG: &[&str] = &["siblings", "description", "widgetData", "spaces"];
/// The address of everybody's hub, whatever mirror is asked.
const HUB: &str = "https://huggingface.co";

/// A model of a source: not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloadable {
    /// What to ask for, and the id that it gets.
    pub id: String,
    /// The URL of its source.
    pub source: Arc<str>,
    /// Bytes of its weights.
    pub bytes: u64,
    /// What the hub says of its repository, in short: JSON.
    pub card: Arc<str>,
}

/// A model source.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    /// The URL of the repository.
    pub url: String,
    /// Its author.
    pub author: String,
    /// Its models, and the bytes of each; none as long as the hub could not be asked.
    pub models: Vec<(String, u64)>,
    /// What the hub says of it, with the `description` of its owner.
    pub card: Value,
    /// When the hub said so, in Unix seconds.
    pub fetched: Option<i64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Written {
    version: u32,
    sources: Vec<WrittenSource>,
}

#[derive(Clone, Serialize, Deserialize)]
struct WrittenSource {
    url: String,
    /// Unix seconds.
    added: i64,
}

struct Source {
    repository: Repository,
    added: i64,
    models: Vec<Arc<Downloadable>>,
}

#[derive(Default)]
struct State {
    /// `None` until somebody asks for the first time.
    sources: Option<Vec<Source>>,
    /// Another one when the models are others.
    revision: u64,
}

impl State {
    fn changed(&mut self) {
        let mut hasher = DefaultHasher::new();
        for model in self.sources.iter().flatten().flat_map(|source| &source.models) {
            (&model.id, &model.source, model.bytes, &model.card).hash(&mut hasher);
        }
        self.revision = hasher.finish();
    }
}

struct Inner {
    layout: Layout,
    files: crate::Files,
    resolver: Resolver,
    tasks: Tasks,
    limit: Duration,
    /// Held while the disk is written: never lock it where nothing may block.
    state: Mutex<State>,
    /// When asking the hub of a source failed last.
    failed: Mutex<HashMap<String, Instant>>,
    refreshing: AtomicBool,
}

/// The model sources. Cheap to clone.
#[derive(Clone)]
pub struct Sources(Arc<Inner>);

impl Sources {
    /// Nothing is read or asked before somebody wants to know. `limit` is how long the hub may take to answer.
    pub fn new(store: &ModelStore, outbound: Outbound, tasks: &Tasks, limit: Duration) -> Self {
        Self(Arc::new(Inner {
            layout: store.0.layout.clone(),
            files: store.0.config.files.clone(),
            resolver: Resolver::new(outbound),
            tasks: tasks.child(),
            limit,
            state: Mutex::default(),
            failed: Mutex::default(),
            refreshing: AtomicBool::new(false),
        }))
    }

    /// Adds the repository of a URL, or of `author/name`. The hub is asked what it offers, unless that is known
    /// since a few minutes, or the hub cannot be asked and something older is known.
    pub async fn add(&self, url: &str) -> Result<(), SourcesError> {
        let repository = parse_repository(url, &self.0.resolver.outbound.endpoint())?;
        let path = self.0.layout.source_cache(&repository.to_string());
        let known: Option<HubAnswer<Catalog>> = in_background(move || cache::read(&path)).await;
        let catalog = match known {
            Some(known) if known.is_fresh() => known,
            known => match self.ask(&repository).await {
                Ok(catalog) => HubAnswer::new(catalog),
                Err(error) => known.filter(|_| is_out_of_reach(&error)).ok_or(error)?,
            },
        };
        let sources = self.clone();
        in_background(move || {
            let mut state = sources.lock();
            let list = sources.loaded(&mut state)?;
            let at = list.iter().position(|source| source.repository == repository);
            if at.is_none() && list.len() >= MOST {
                return Err(SourcesError::TooMany(MOST));
            }
            let source = Source {
                added: at.map_or_else(cache::now, |at| list[at].added),
                models: downloadable(&repository, &catalog.answer),
                repository,
            };
            let mut all: Vec<WrittenSource> = list.iter().map(written).collect();
            if at.is_none() {
                all.push(written(&source));
                sources.write(all)?;
            }
            cache::write(&sources.0.files, &sources.0.layout.source_cache(&source.repository.to_string()), &catalog);
            match at {
                Some(at) => list[at] = source,
                None => list.push(source),
            }
            state.changed();
            Ok(())
        })
        .await
    }

    /// Removes a source. Its models that were downloaded stay.
    pub async fn remove(&self, url: &str) -> Result<(), SourcesError> {
        let unknown = || SourcesError::Unknown(url.trim().to_owned());
        let repository = parse_repository(url, &self.0.resolver.outbound.endpoint()).map_err(|_| unknown())?;
        let (sources, unknown) = (self.clone(), unknown());
        in_background(move || {
            let mut state = sources.lock();
            let list = sources.loaded(&mut state)?;
            let Some(at) = list.iter().position(|source| source.repository == repository) else { return Err(unknown) };
            let rest = list.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, source)| written(source));
            sources.write(rest.collect())?;
            list.remove(at);
            state.changed();
            let _ = sources.0.files.remove(&sources.0.layout.source_cache(&repository.to_string()));
            Ok(())
        })
        .await
    }

    /// All sources, from what is known. What is old is asked for anew meanwhile.
    pub async fn list(&self) -> Result<Vec<ModelSource>, SourcesError> {
        let sources = self.clone();
        in_background(move || {
            let repositories: Vec<Repository> = {
                let mut state = sources.lock();
                sources.loaded(&mut state)?.iter().map(|source| source.repository.clone()).collect()
            };
            let list: Vec<ModelSource> = repositories.iter().map(|repository| sources.known(repository)).collect();
            sources.refresh(&list);
            Ok(list)
        })
        .await
    }

    /// One source.
    pub async fn get(&self, url: &str) -> Result<ModelSource, SourcesError> {
        let unknown = || SourcesError::Unknown(url.trim().to_owned());
        let repository = parse_repository(url, &self.0.resolver.outbound.endpoint()).map_err(|_| unknown())?;
        let wanted = url_of(&repository);
        self.list().await?.into_iter().find(|source| source.url == wanted).ok_or_else(unknown)
    }

    /// The models of all sources, and a number that is another one when they are others. Never asks the hub, and
    /// reads the disk the first time.
    pub fn downloadable(&self) -> (Vec<Arc<Downloadable>>, u64) {
        let mut state = self.lock();
        let models = match self.loaded(&mut state) {
            Ok(list) => list.iter().flat_map(|source| source.models.iter().cloned()).collect(),
            Err(error) => {
                tracing::warn!(%error, "no model sources are shown");
                vec![]
            }
        };
        (models, state.revision)
    }

    /// What the hub finds. Asked again after a while; without the hub, the last answer to the same question.
    pub async fn search(&self, query: &HubQuery) -> Result<HubAnswer<Vec<HubModel>>, SourcesError> {
        let outbound = &self.0.resolver.outbound;
        let folder = self.0.layout.hub_cache();
        let path = cache::place(&folder, search_url(outbound, query).as_str());
        let place = path.clone();
        let known: Option<HubAnswer<Vec<HubModel>>> = in_background(move || cache::read(&place)).await;
        let known = match known {
            Some(known) if known.is_fresh() => return Ok(known),
            known => known,
        };
        let answer = match tokio::time::timeout(self.0.limit, search(outbound, query)).await {
            Ok(Ok(answer)) => HubAnswer::new(answer),
            Ok(Err(error)) => {
                let error = SourcesError::Unanswered(Box::new(error.into()));
                let known = known.filter(|_| is_out_of_reach(&error));
                return known.map(|known| HubAnswer { stale: Some(error.to_string()), ..known }).ok_or(error);
            }
            Err(_) => {
                let error = SourcesError::Slow;
                return known.map(|known| HubAnswer { stale: Some(error.to_string()), ..known }).ok_or(error);
            }
        };
        let (files, kept) = (self.0.files.clone(), answer.clone());
        in_background(move || {
            cache::write(&files, &path, &kept);
            cache::prune(&files, &folder);
        })
        .await;
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sources, read from the disk the first time.
    fn loaded<'state>(&self, state: &'state mut State) -> Result<&'state mut Vec<Source>, SourcesError> {
        if state.sources.is_none() {
            let path = self.0.layout.sources();
            let unreadable = |reason: String| SourcesError::Unreadable { path: path.clone(), reason };
            let written: Written = match fs_err::read(&path) {
                Ok(text) => serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Written::default(),
                Err(error) => return Err(unreadable(error.to_string())),
            };
            let mut list = Vec::new();
            for source in written.sources {
                let repository = parse_repository(&source.url, &self.0.resolver.outbound.endpoint())
                    .map_err(|error| unreadable(error.to_string()))?;
                let known = cache::read::<Catalog>(&self.0.layout.source_cache(&repository.to_string()));
                let models = known.map(|known| downloadable(&repository, &known.answer)).unwrap_or_default();
                list.push(Source { repository, added: source.added, models });
            }
            state.sources = Some(list);
            state.changed();
        }
        Ok(state.sources.get_or_insert_default())
    }

    fn write(&self, sources: Vec<WrittenSource>) -> Result<(), SourcesError> {
        let text = serde_json::to_vec_pretty(&Written { version: 1, sources }).map_err(io::Error::other);
        let written = text.and_then(|text| self.0.files.replace(&self.0.layout.sources(), &text));
        written.map(|_| ()).map_err(SourcesError::Disk)
    }

    /// What is known of a repository.
    fn known(&self, repository: &Repository) -> ModelSource {
        let known = cache::read::<Catalog>(&self.0.layout.source_cache(&repository.to_string()));
        let fetched = known.as_ref().map(|known| known.fetched);
        let catalog = known.map(|known| known.answer);
        let models =
            catalog.as_ref().map(|catalog| catalog.models.iter().map(|it| (it.id.clone(), it.bytes)).collect());
        ModelSource {
            url: url_of(repository),
            author: repository.author.clone(),
            models: models.unwrap_or_default(),
            card: catalog.map_or_else(|| Value::Object(serde_json::Map::new()), |catalog| catalog.card),
            fetched,
        }
    }

    async fn ask(&self, repository: &Repository) -> Result<Catalog, SourcesError> {
        let asking = self.0.resolver.catalog(repository);
        let answer = tokio::time::timeout(self.0.limit, asking).await.map_err(|_| SourcesError::Slow)?;
        answer.map_err(|source| match source {
            SourceError::NotGguf { .. } | SourceError::NoSizes { .. } => SourcesError::NotUsable(Box::new(source)),
            source => SourcesError::Hub { repository: repository.to_string(), source: Box::new(source) },
        })
    }

    /// Asks the hub anew for what is old: one after the other, and not again soon after a failure.
    fn refresh(&self, list: &[ModelSource]) {
        let now = cache::now();
        let old: Vec<String> = {
            let failed = self.failed();
            let is_old = |source: &&ModelSource| {
                let is_fresh = source.fetched.is_some_and(|fetched| (0..cache::FRESH).contains(&(now - fetched)));
                let failed = failed.get(&source.url).is_some_and(|failed| failed.elapsed() < PATIENCE);
                !is_fresh && !failed
            };
            list.iter().filter(is_old).map(|source| source.url.clone()).collect()
        };
        if old.is_empty() || self.0.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let sources = self.clone();
        self.0.tasks.spawn(async move {
            for url in old {
                if let Err(error) = sources.refresh_one(&url).await {
                    tracing::info!(%error, url, "a model source is shown as it was");
                    sources.failed().insert(url, Instant::now());
                }
            }
            sources.0.refreshing.store(false, Ordering::Release);
        });
    }

    async fn refresh_one(&self, url: &str) -> Result<(), SourcesError> {
        let repository = parse_repository(url, &self.0.resolver.outbound.endpoint())?;
        let catalog = match self.ask(&repository).await {
            // All of its models are gone.
            Err(SourcesError::NotUsable(why)) if matches!(*why, SourceError::NotGguf { .. }) => {
                Catalog { models: vec![], card: self.known(&repository).card }
            }
            catalog => catalog?,
        };
        let sources = self.clone();
        in_background(move || {
            let mut state = sources.lock();
            let list = sources.loaded(&mut state)?;
            // It may have been removed meanwhile.
            let Some(source) = list.iter_mut().find(|source| source.repository == repository) else { return Ok(()) };
            source.models = downloadable(&repository, &catalog);
            let path = sources.0.layout.source_cache(&repository.to_string());
            cache::write(&sources.0.files, &path, &HubAnswer::new(catalog));
            state.changed();
            Ok(())
        })
        .await
    }
}

/// Whether the hub said nothing at all, so that what is known is the best there is.
fn is_out_of_reach(error: &SourcesError) -> bool {
    match error {
        SourcesError::Slow => true,
        SourcesError::Hub { source, .. } | SourcesError::Unanswered(source) => {
            matches!(&**source, SourceError::Outbound(error) if error.may_pass())
        }
        _ => false,
    }
}

fn url_of(repository: &Repository) -> String {
    format!("{HUB}/{repository}")
}

fn written(source: &Source) -> WrittenSource {
    WrittenSource { url: url_of(&source.repository), added: source.added }
}

fn downloadable(repository: &Repository, catalog: &Catalog) -> Vec<Arc<Downloadable>> {
    let mut card = catalog.card.clone();
    if let Some(card) = card.as_object_mut() {
        card.retain(|key, _| !LONG.contains(&key.as_str()));
    }
    let (source, card): (Arc<str>, Arc<str>) = (url_of(repository).into(), card.to_string().into());
    let model = |offering: &Offering| {
        Arc::new(Downloadable {
            id: offering.id.clone(),
            source: Arc::clone(&source),
            bytes: offering.bytes,
            card: Arc::clone(&card),
        })
    };
    catalog.models.iter().map(model).collect()
}
