//! The owner of all pulls: begins, joins, pauses, cancels and resumes them, and tells everybody the same in
//! the same order.

use super::{
    disk,
    download::{Patience, Shares, shares},
    error::PullError,
    job::{Job, News, SPARE, Writing, discard, disk_error, settle},
    journal::{self, Replayed, Wish},
    plan::{PlannedFile, PullPlan, Role},
    snapshot::{PullEvent, PullEventKind, PullSnapshot, PullState},
};
use crate::{
    ImportError, Model, ModelId, ModelStore, Offered, OfferedShapes, Outbound, PullRequest, Tasks, WeightsError,
    downloads::Known,
    files::Stamp,
    import,
    source::{Resolved, Resolver, folder},
    tasks::in_background,
    weights,
};
use cortex_hardware::Hardware;
use std::{
    collections::HashMap,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, watch};

/// How often everybody is told of progress at most.
const TOLD: Duration = Duration::from_secs(1);
/// A client that comes so late still hears how a pull ended.
const REPLAYED: Duration = Duration::from_secs(5);
/// How long the end of a pull is shown.
const SHOWN: Duration = Duration::from_mins(10);
/// How long what came of a cancelled or failed pull is kept, in seconds.
const KEPT: i64 = 7 * 24 * 3600;
/// Events that a slow client may be behind.
const BEHIND: usize = 1024;
/// Weight of the latest look in the rate.
const LATEST: f64 = 0.3;

/// What the settings say about pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullsConfig {
    /// Connections of all pulls together.
    pub connections: usize,
    /// Connections of one pull at most.
    pub width: usize,
    /// Bytes a second of all pulls together.
    pub rate: Option<u64>,
    /// Whether unfinished pulls go on when the daemon starts.
    pub resume: bool,
    /// How long the source of a model may take to say what there is.
    pub resolve_limit: Duration,
    /// How patient a download is.
    pub patience: Patience,
}

impl Default for PullsConfig {
    fn default() -> Self {
        Self {
            connections: 96,
            width: 64,
            rate: None,
            resume: true,
            // Clients give up after ten seconds, and would not see why.
            resolve_limit: Duration::from_secs(8),
            patience: Patience::default(),
        }
    }
}

/// What became of a pull that was putting its model on the list.
enum Settled {
    /// The model is there, and so are its bytes.
    Sound,
    /// It is not on the list yet.
    NotListed,
    /// Its bytes are gone: once more.
    Lost,
}

/// What a job is asked to do instead of going on.
type Stop = watch::Sender<Option<Wish>>;

struct Entry {
    snapshot: watch::Sender<Arc<PullSnapshot>>,
    /// Of a job that runs.
    stop: Option<Stop>,
    over: Option<Instant>,
    told: Option<Instant>,
    /// The id that was asked for with it; who asks for the same in the same words joins it.
    given: Option<String>,
    /// Whether its beginning is news: one that was paused goes on.
    is_news: bool,
}

#[derive(Default)]
struct Jobs {
    all: HashMap<ModelId, Entry>,
    /// In the order in which they began.
    order: Vec<ModelId>,
}

struct Inner {
    config: PullsConfig,
    store: ModelStore,
    resolver: Resolver,
    shares: Arc<Shares>,
    tasks: Tasks,
    jobs: Mutex<Jobs>,
    events: broadcast::Sender<PullEvent>,
    /// True when the journals of earlier runs were read.
    loaded: watch::Sender<bool>,
}

/// All pulls. Cheap to clone.
#[derive(Clone)]
pub struct Pulls(Arc<Inner>);

impl Pulls {
    /// Begins; unfinished pulls go on by themselves.
    pub fn start(config: PullsConfig, store: ModelStore, outbound: Outbound, tasks: &Tasks) -> Self {
        let pulls = Self(Arc::new(Inner {
            shares: shares(config.connections, config.rate),
            config,
            store,
            resolver: Resolver::new(outbound),
            tasks: tasks.child(),
            jobs: Mutex::default(),
            events: broadcast::channel(BEHIND).0,
            loaded: watch::channel(false).0,
        }));
        let loading = pulls.clone();
        pulls.0.tasks.spawn(async move { loading.load().await });
        pulls
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the journals of earlier runs, and goes on with those that should.
    async fn load(&self) {
        let store = self.0.store.clone();
        let found = in_background(move || {
            store.opened();
            read_journals(&store)
        })
        .await;
        for journal in found {
            let plan = Arc::new(journal.plan.clone());
            let downloaded = journal.files.iter().map(|file| file.done.total()).collect();
            let state = match journal.wish {
                Wish::Run | Wish::Pause => PullState::Paused,
                Wish::Cancel => PullState::Cancelled,
                Wish::Fail => PullState::Failed,
                Wish::Settle => {
                    match self.settled(&journal).await {
                        Settled::Sound => {}
                        Settled::NotListed => self.begin(plan, downloaded),
                        Settled::Lost => self.begin(plan, vec![0; journal.files.len()]),
                    }
                    continue;
                }
            };
            if journal.wish == Wish::Run && self.0.config.resume {
                tracing::info!(model = %plan.id, "an unfinished pull goes on");
                self.begin(plan, downloaded);
                continue;
            }
            let mut snapshot = PullSnapshot::new(plan, state, downloaded);
            snapshot.message =
                Some("it was not finished when the daemon ended".into()).filter(|_| state == PullState::Paused);
            self.insert(snapshot, None);
        }
        self.0.loaded.send_replace(true);
    }

    /// Ends what a crash interrupted while a model was put on the list, or after that.
    async fn settled(&self, journal: &Replayed) -> Settled {
        let (store, plan, boot) = (self.0.store.clone(), journal.plan.clone(), journal.boot.clone());
        in_background(move || {
            let Some(model) = store.resolve(plan.id.as_str()).ok().filter(|model| model.id == plan.id) else {
                // Its folder may be in its place already: then it is taken back, and put on the list again.
                store.take_back(&plan);
                return Settled::NotListed;
            };
            let sound = boot == disk::boot_id() && !boot.is_empty() || store.is_sound(&model);
            if sound {
                settle(&store, &model, &plan);
                return Settled::Sound;
            }
            tracing::warn!(model = %plan.id, "a download did not survive the power cut; it is pulled again");
            store.remove_download(model.path.parent().unwrap_or(Path::new("")));
            let begun = journal::compact(&Replayed::new(&plan), &disk::boot_id());
            let _ = store.0.config.files.replace(&store.0.layout.journal(&plan.id), begun.as_bytes());
            Settled::Lost
        })
        .await
    }

    async fn loaded(&self) {
        // The sender lives as long as we do.
        let _ = self.0.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Pulls a model. Returns as soon as it is known what will come; a pull of the same that is under way is
    /// joined. `update` gets a newer revision of a model that is there.
    pub async fn pull(&self, request: PullRequest, update: bool) -> Result<Arc<PullSnapshot>, PullError> {
        self.loaded().await;
        if let Some(running) = self.running_by_words(&request) {
            return Ok(running);
        }
        let hardware = Hardware::probe();
        let resolving = self.0.resolver.resolve(&request, &hardware);
        let resolved =
            tokio::time::timeout(self.0.config.resolve_limit, resolving).await.map_err(|_| PullError::Slow)??;
        match resolved {
            Resolved::Remote(plan) => self.admit(*plan, update, request.id.filter(|id| !id.is_empty())).await,
            Resolved::Local { id, path } => {
                let given = request.id.clone().filter(|id| !id.is_empty());
                let plan = in_background(move || local_plan(&request, id, &path)).await?;
                self.admit(plan, update, given).await
            }
        }
    }

    /// What there is to choose from. `None` when the name leaves nothing open.
    pub async fn offered(&self, model: &str) -> Result<Option<Offered>, PullError> {
        let hardware = Hardware::probe();
        let offered = self.0.resolver.offered(model, &hardware);
        let offered = tokio::time::timeout(self.0.config.resolve_limit, offered).await;
        Ok(offered.map_err(|_| PullError::Slow)??)
    }

    /// What the headers of models on the hub say; `None` when it is no name of something on the hub.
    pub async fn shapes(&self, model: &str) -> Result<Option<OfferedShapes>, PullError> {
        let shapes = tokio::time::timeout(self.0.config.resolve_limit, self.0.resolver.shapes(model)).await;
        Ok(shapes.map_err(|_| PullError::Slow)??)
    }

    /// A pull that was asked for with the same words.
    fn running_by_words(&self, request: &PullRequest) -> Option<Arc<PullSnapshot>> {
        let given = request.id.as_ref().filter(|id| !id.is_empty());
        let jobs = self.lock();
        let is_same = |entry: &&Entry| {
            let asked = entry.snapshot.borrow().plan.asked == request.model.trim();
            entry.stop.is_some() && asked && entry.given.as_ref() == given
        };
        jobs.all.values().find(is_same).map(|entry| entry.snapshot.borrow().clone())
    }

    async fn admit(&self, plan: PullPlan, update: bool, given: Option<String>) -> Result<Arc<PullSnapshot>, PullError> {
        let pulls = self.clone();
        in_background(move || pulls.admit_now(plan, update, given)).await
    }

    fn admit_now(&self, plan: PullPlan, update: bool, given: Option<String>) -> Result<Arc<PullSnapshot>, PullError> {
        let store = &self.0.store;
        // Held to the end: of two who ask at the same time, one begins and the other joins.
        let mut jobs = self.lock();
        let known = jobs.all.get(&plan.id).map(|entry| (entry.stop.is_some(), entry.snapshot.borrow().clone()));
        if let Some((true, running)) = &known {
            let same = running.plan.author_repo == plan.author_repo;
            return if same { Ok(Arc::clone(running)) } else { Err(PullError::Busy { id: plan.id }) };
        }
        match store.known(&plan) {
            Known::No => {}
            Known::Older(_) if update => {}
            Known::Older(branch) => {
                let other = Some(branch).filter(|branch| *branch != plan.revision).map(|there| (there, plan.revision));
                return Err(PullError::AlreadyThere { id: plan.id, is_older: true, other_branch: other });
            }
            Known::Same => {
                return Err(PullError::AlreadyThere { id: plan.id, is_older: false, other_branch: None });
            }
            Known::Other(path) => return Err(PullError::Taken { id: plan.id, path }),
        }
        let journal = store.0.layout.journal(&plan.id);
        let goes_on = known.as_ref().is_some_and(|(_, before)| {
            before.state != PullState::Succeeded && before.plan.is_same(&plan) && journal.is_file()
        });
        let (plan, downloaded) = match known {
            Some((_, before)) if goes_on => {
                disk::note_wish(&journal, Wish::Run).map_err(disk_error("write the journal of a download"))?;
                (Arc::clone(&before.plan), before.downloaded.clone())
            }
            _ => {
                discard(store, &plan.id);
                let text = journal::compact(&Replayed::new(&plan), &disk::boot_id());
                let files = &store.0.config.files;
                files.replace(&journal, text.as_bytes()).map_err(disk_error("write the journal of a download"))?;
                let nothing = vec![0; plan.files.len()];
                (Arc::new(plan), nothing)
            }
        };
        let id = plan.id.clone();
        let is_paused = jobs.all.get(&id).is_some_and(|entry| entry.snapshot.borrow().state == PullState::Paused);
        let begun = self.begin_locked(&mut jobs, plan, downloaded);
        if let Some(entry) = jobs.all.get_mut(&id) {
            (entry.given, entry.is_news) = (given, !(goes_on && is_paused));
        }
        Ok(begun)
    }

    fn begin(&self, plan: Arc<PullPlan>, downloaded: Vec<u64>) {
        self.begin_locked(&mut self.lock(), plan, downloaded);
    }

    fn begin_locked(&self, jobs: &mut Jobs, plan: Arc<PullPlan>, downloaded: Vec<u64>) -> Arc<PullSnapshot> {
        let (stop, wishes) = watch::channel(None);
        let snapshot = PullSnapshot::new(Arc::clone(&plan), PullState::Downloading, downloaded);
        let begun = self.insert_locked(jobs, snapshot, Some(stop));
        let pulls = self.clone();
        self.0.tasks.spawn(async move { pulls.run(plan, wishes).await });
        begun
    }

    fn insert(&self, snapshot: PullSnapshot, stop: Option<Stop>) {
        self.insert_locked(&mut self.lock(), snapshot, stop);
    }

    #[expect(clippy::unused_self, reason = "it reads better beside the others")]
    fn insert_locked(&self, jobs: &mut Jobs, snapshot: PullSnapshot, stop: Option<Stop>) -> Arc<PullSnapshot> {
        let id = snapshot.id().clone();
        let snapshot = Arc::new(snapshot);
        let over = snapshot.state.is_over().then(Instant::now);
        if let Some(entry) = jobs.all.get_mut(&id) {
            // Who watches it goes on watching.
            (entry.stop, entry.over, entry.told) = (stop, over, None);
            entry.snapshot.send_replace(Arc::clone(&snapshot));
        } else {
            let snapshot = watch::channel(Arc::clone(&snapshot)).0;
            let entry = Entry { snapshot, stop, over, told: None, given: None, is_news: true };
            jobs.all.insert(id.clone(), entry);
        }
        jobs.order.retain(|known| *known != id);
        jobs.order.push(id);
        snapshot
    }

    async fn run(&self, plan: Arc<PullPlan>, mut wishes: watch::Receiver<Option<Wish>>) {
        let writing = Writing::default();
        let job = Job {
            store: &self.0.store,
            outbound: &self.0.resolver.outbound,
            shares: &self.0.shares,
            plan: &plan,
            width: self.0.config.width,
            patience: self.0.config.patience,
            writing: &writing,
        };
        let outcome = {
            let mut work = pin!(job.run(|news| self.hear(&plan.id, news)));
            let wish = async { wishes.wait_for(Option::is_some).await.map_or(None, |wish| *wish) };
            tokio::select! {
                biased;
                outcome = &mut work => Ok(outcome),
                wish = wish => if writing.is_finishing() { Ok(work.await) } else { Err(wish.unwrap_or_default()) },
            }
        };
        writing.ended().await;
        match outcome {
            Ok(Ok(model)) => self.succeeded(&plan, model),
            Ok(Err(error)) => self.failed(&plan, &error).await,
            Err(wish) => self.stopped(&plan, wish).await,
        }
    }

    fn hear(&self, id: &ModelId, news: News) {
        match news {
            News::Begun => {
                let mut jobs = self.lock();
                let Some(entry) = jobs.all.get_mut(id) else { return };
                // Once: a pause or a full disk, and their ends, are no news for `/events`.
                let kind = std::mem::take(&mut entry.is_news).then_some(PullEventKind::Started);
                self.change_locked(entry, kind, |pull| {
                    (pull.state, pull.message, pull.code) = (PullState::Downloading, None, None);
                });
            }
            News::Bytes(bytes, rate, trouble) => self.change(id, Some(PullEventKind::Updated), |pull| {
                pull.message = trouble.map(|why| format!("it is tried again: {why}"));
                for (known, new) in pull.downloaded.iter_mut().zip(bytes) {
                    *known = new.max(*known);
                }
                pull.rate += (rate - pull.rate) * if pull.rate == 0.0 { 1.0 } else { LATEST };
            }),
            News::Verifying => self.change(id, None, |pull| (pull.state, pull.rate) = (PullState::Verifying, 0.0)),
            News::Full(missing) => self.change(id, None, |pull| {
                let missing = (missing >> 20) + 1;
                (pull.state, pull.rate, pull.code) = (PullState::Paused, 0.0, Some("no_room"));
                pull.message = Some(format!(
                    "there is no room: {missing} MiB are missing on the disk ({} MiB are left to others); it goes on when they are free",
                    SPARE >> 20
                ));
            }),
        }
    }

    /// Changes what everybody sees, and tells it.
    fn change(&self, id: &ModelId, kind: Option<PullEventKind>, change: impl FnOnce(&mut PullSnapshot)) {
        let mut jobs = self.lock();
        if let Some(entry) = jobs.all.get_mut(id) {
            self.change_locked(entry, kind, change);
        }
    }

    fn change_locked(&self, entry: &mut Entry, kind: Option<PullEventKind>, change: impl FnOnce(&mut PullSnapshot)) {
        let mut snapshot = PullSnapshot::clone(&entry.snapshot.borrow());
        change(&mut snapshot);
        let snapshot = Arc::new(snapshot);
        if snapshot.state.is_over() {
            (entry.stop, entry.over) = (None, Some(Instant::now()));
        }
        let complete = snapshot.downloaded_bytes() >= snapshot.plan.bytes();
        let early = entry.told.is_some_and(|at| at.elapsed() < TOLD);
        let is_quiet = complete || early || snapshot.state != PullState::Downloading;
        if let Some(kind) = kind.filter(|&kind| kind != PullEventKind::Updated || !is_quiet) {
            if kind == PullEventKind::Updated {
                entry.told = Some(Instant::now());
            }
            // Told while the lock is held: everybody hears the same order, also who comes right now. And before the
            // snapshot: who sees an end there may rely on it.
            let _ = self.0.events.send(PullEvent { kind, pull: Arc::clone(&snapshot) });
        }
        entry.snapshot.send_replace(snapshot);
    }

    fn succeeded(&self, plan: &Arc<PullPlan>, model: Arc<Model>) {
        self.change(&plan.id, Some(PullEventKind::Succeeded), |pull| {
            pull.downloaded = plan.files.iter().map(|file| file.size).collect();
            (pull.state, pull.rate, pull.message, pull.code) = (PullState::Succeeded, 0.0, None, None);
        });
        let (store, plan) = (self.0.store.clone(), Arc::clone(plan));
        self.0.tasks.spawn(async move { in_background(move || settle(&store, &model, &plan)).await });
    }

    async fn failed(&self, plan: &Arc<PullPlan>, error: &PullError) {
        tracing::warn!(model = %plan.id, %error, "a pull failed");
        self.note(plan, Wish::Fail).await;
        self.change(&plan.id, Some(PullEventKind::Failed), |pull| pull.told(PullState::Failed, error));
    }

    async fn stopped(&self, plan: &Arc<PullPlan>, wish: Wish) {
        self.note(plan, wish).await;
        if wish == Wish::Pause {
            if let Some(entry) = self.lock().all.get_mut(&plan.id) {
                // Before anybody sees that it waits: who resumes it then must find that nothing runs.
                entry.stop = None;
                self.change_locked(entry, None, |pull| (pull.state, pull.rate) = (PullState::Paused, 0.0));
            }
        } else {
            self.change(&plan.id, Some(PullEventKind::Stopped), |pull| {
                (pull.state, pull.rate) = (PullState::Cancelled, 0.0);
            });
        }
    }

    async fn note(&self, plan: &PullPlan, wish: Wish) {
        let journal = self.0.store.0.layout.journal(&plan.id);
        in_background(move || {
            // Without a journal there is nothing left to go on with.
            if journal.is_file()
                && let Err(error) = disk::note_wish(&journal, wish)
            {
                tracing::warn!(%error, "the journal of a pull cannot be written");
            }
        })
        .await;
    }

    /// Stops a pull. What came is kept, unless `discard`.
    pub async fn cancel(&self, id: &str, throw_away: bool) -> Result<Arc<PullSnapshot>, PullError> {
        let stopped = self.stop(id, Wish::Cancel).await?;
        if stopped.state == PullState::Succeeded {
            // It came too late.
            return Err(PullError::Unknown { id: id.to_owned() });
        }
        if throw_away {
            let (store, id) = (self.0.store.clone(), stopped.id().clone());
            in_background(move || discard(&store, &id)).await;
            let mut jobs = self.lock();
            jobs.all.remove(stopped.id());
            jobs.order.retain(|known| known != stopped.id());
        }
        Ok(stopped)
    }

    /// Lets a pull wait until it is resumed.
    pub async fn pause(&self, id: &str) -> Result<Arc<PullSnapshot>, PullError> {
        self.stop(id, Wish::Pause).await
    }

    /// Goes on with a pull that waits, was cancelled, or failed.
    pub async fn resume(&self, id: &str) -> Result<Arc<PullSnapshot>, PullError> {
        self.loaded().await;
        let unknown = || PullError::Unknown { id: id.to_owned() };
        let (runs, snapshot) = {
            let jobs = self.lock();
            let entry = jobs.all.get(&ModelId::existing(id)).ok_or_else(unknown)?;
            (entry.stop.is_some(), entry.snapshot.borrow().clone())
        };
        if runs {
            return Ok(snapshot);
        }
        if snapshot.state == PullState::Succeeded {
            return Err(unknown());
        }
        let given = self.lock().all.get(snapshot.id()).and_then(|entry| entry.given.clone());
        self.admit(PullPlan::clone(&snapshot.plan), true, given).await
    }

    async fn stop(&self, id: &str, wish: Wish) -> Result<Arc<PullSnapshot>, PullError> {
        self.loaded().await;
        let id = ModelId::existing(id);
        let unknown = || PullError::Unknown { id: id.to_string() };
        let mut snapshots = {
            let jobs = self.lock();
            let entry = jobs.all.get(&id).ok_or_else(unknown)?;
            if let Some(stop) = &entry.stop {
                stop.send_replace(Some(wish));
            }
            entry.snapshot.subscribe()
        };
        let now = snapshots.borrow().clone();
        let runs = self.lock().all.get(&id).is_some_and(|entry| entry.stop.is_some());
        if !runs {
            return match (now.state, wish) {
                (PullState::Succeeded, _) => Err(unknown()),
                (PullState::Failed | PullState::Cancelled, Wish::Pause) => {
                    Err(PullError::NotRunning { id, state: now.state.as_str() })
                }
                (PullState::Paused, Wish::Cancel) => {
                    self.stopped(&now.plan, wish).await;
                    Ok(snapshots.borrow().clone())
                }
                _ => Ok(now),
            };
        }
        // A job that is putting its model on the list is not stopped any more, and one may fail right now.
        let over =
            snapshots.wait_for(|pull| pull.state.is_over() || (wish == Wish::Pause && pull.state == PullState::Paused));
        let ended = over.await.map_or(now, |pull| Arc::clone(&pull));
        Ok(ended)
    }

    /// All pulls, in the order in which they began; ended ones for a while.
    pub async fn list(&self) -> Vec<Arc<PullSnapshot>> {
        self.loaded().await;
        let mut jobs = self.lock();
        let jobs = &mut *jobs;
        let all = &mut jobs.all;
        // What is kept on the disk stays on the list.
        all.retain(|_, entry| {
            entry.snapshot.borrow().state != PullState::Succeeded
                || entry.over.is_none_or(|over| over.elapsed() < SHOWN)
        });
        jobs.order.retain(|id| all.contains_key(id));
        jobs.order.iter().filter_map(|id| all.get(id)).map(|entry| entry.snapshot.borrow().clone()).collect()
    }

    /// One pull, and what becomes of it.
    pub async fn watch(&self, id: &str) -> Option<watch::Receiver<Arc<PullSnapshot>>> {
        self.loaded().await;
        self.lock().all.get(&ModelId::existing(id)).map(|entry| entry.snapshot.subscribe())
    }

    /// What happens from now on, after how those that run, or have just ended, are doing.
    pub fn events(&self) -> (Vec<PullEvent>, broadcast::Receiver<PullEvent>) {
        let jobs = self.lock();
        let entries = jobs.order.iter().filter_map(|id| jobs.all.get(id));
        let fresh = entries.filter_map(|entry| {
            let pull = entry.snapshot.borrow().clone();
            let kind = match pull.state {
                PullState::Downloading | PullState::Verifying => PullEventKind::Updated,
                PullState::Paused => return None,
                PullState::Succeeded => PullEventKind::Succeeded,
                PullState::Failed => PullEventKind::Failed,
                PullState::Cancelled => PullEventKind::Stopped,
            };
            let late = entry.over.is_some_and(|over| over.elapsed() >= REPLAYED);
            (!late).then_some(PullEvent { kind, pull })
        });
        (fresh.collect(), self.0.events.subscribe())
    }
}

/// The plan that copies a file of this machine, with all parts of its set. What can be refused is refused now.
fn local_plan(request: &PullRequest, id: ModelId, path: &Path) -> Result<PullPlan, PullError> {
    let first = import::first_file(path)?;
    let weights = weights::read(&first).map_err(|source| match source {
        WeightsError::NotAFile { path: missing } if missing == first => ImportError::NotAFile { path: path.to_owned() },
        source => ImportError::BadFile { path: path.to_owned(), source },
    })?;
    let files = weights.files.iter().map(|file| {
        let url = reqwest::Url::from_file_path(file).map_err(|()| ImportError::NotAbsolute { path: file.clone() })?;
        let size = fs_err::metadata(file).map_err(|_| ImportError::NotAFile { path: file.clone() })?.len();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(PlannedFile { name, url: url.into(), size, sha256: None, role: Role::Weights })
    });
    let files = files.collect::<Result<Vec<_>, ImportError>>()?;
    Ok(PullPlan {
        folder: folder(&["file", "local", id.as_str()]),
        id,
        asked: request.model.trim().to_owned(),
        name: request.name.clone().filter(|name| !name.is_empty()),
        aliases: vec![],
        author_repo: files.first().map(|file| file.url.clone()).unwrap_or_default(),
        // What tells one version of the file from the next.
        revision: Stamp::of(&first).map(|stamp| stamp.modified.to_string()).unwrap_or_default(),
        commit: None,
        files,
        why: None,
    })
}

/// The journals of earlier runs. What nobody asked for again for long is thrown away.
fn read_journals(store: &ModelStore) -> Vec<Replayed> {
    let boot = disk::boot_id();
    let now = jiff::Timestamp::now().as_second();
    let Ok(entries) = fs_err::read_dir(store.0.layout.journals()) else { return vec![] };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|ending| ending != "journal") {
            continue;
        }
        let text = fs_err::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let journal = journal::replay(&text, &boot)
            .filter(|journal| store.0.layout.journal(&journal.plan.id) == path && journal.plan.is_inside());
        let Some(journal) = journal else {
            tracing::warn!(path = %path.display(), "a journal of a pull makes no sense; it is left alone");
            continue;
        };
        let ended = matches!(journal.wish, Wish::Cancel | Wish::Fail);
        if ended && now - journal.at > KEPT {
            discard(store, &journal.plan.id);
            continue;
        }
        found.push(journal);
    }
    found.sort_by_key(|journal| journal.at);
    remove_orphans(store, now);
    found
}

/// Removes what came of pulls whose journals are gone, when it was not written for long.
fn remove_orphans(store: &ModelStore, now: i64) {
    let layout = &store.0.layout;
    let Ok(entries) = fs_err::read_dir(layout.staging()) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(id) = name.strip_prefix("pull-") else { continue };
        if layout.journals().join(format!("{id}.journal")).exists() {
            continue;
        }
        let files = fs_err::read_dir(&folder).map_or_else(|_| vec![], |entries| entries.flatten().collect());
        let seconds =
            |time: std::time::SystemTime| jiff::Timestamp::try_from(time).map_or(now, jiff::Timestamp::as_second);
        let latest = files.iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max();
        if latest.is_some_and(|latest| now - seconds(latest) <= KEPT) {
            continue;
        }
        for file in files.iter().filter(|file| file.file_type().is_ok_and(|kind| !kind.is_dir())) {
            let _ = store.0.config.files.remove(&file.path());
        }
        let _ = store.0.config.files.remove_empty_folder(&folder);
    }
}
