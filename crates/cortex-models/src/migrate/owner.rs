//! The owner of all migrations: begins them, ends what a crash interrupted, tells of them, takes them back.

use super::{
    cortex_cpp,
    error::MigrateError,
    journal::{self, Journal, State},
    old_app::{self, Listed, Loadable},
    places::{self, Homes},
    plan::{self, Finding, Known, Outcome, Plan, PlannedModel, Template},
    scan,
    stores::Keeper,
};
use crate::{Model, ModelId, ModelState, ModelStore, Tasks, tasks::in_background};
use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Reports that are kept of migrations that changed nothing.
const KEPT: usize = 16;

/// What is migrated.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Migrate {
    /// The data folder of the older program; the daemon's own when absent.
    pub from: Option<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also bring back models that were deleted here.
    pub include_deleted: bool,
}

/// The way back: what an older Jan would show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Down {
    /// Its data folder; the daemon's own when absent.
    pub folder: Option<PathBuf>,
    /// Write a model.json for each model that it would not show.
    pub write: bool,
}

/// A model of a list that a client gives: nothing is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenModel {
    /// Its id.
    pub id: ModelId,
    /// Its weights, absolute.
    pub weights: PathBuf,
    /// What its model.yaml keeps.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// How a migration is doing, and what became of each folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// Its name; `None` when it changed nothing and was not written down.
    pub id: Option<String>,
    /// `dry_run`, `done`, `undone`, or `unfinished`: it failed, and the next start ends it.
    pub state: &'static str,
    /// Unix seconds.
    pub at: i64,
    /// The folder; `None` for a list that a client gave, and on the way back.
    pub from: Option<PathBuf>,
    /// On the way back, the data folder of the older program.
    pub to: Option<PathBuf>,
    /// What became of each folder.
    pub findings: Vec<Finding>,
    /// Models that an undo left, because they are others by now.
    pub left: Vec<ModelId>,
}

struct Inner {
    store: ModelStore,
    homes: Homes,
    /// One at a time; and what was told of those that left no journal.
    reports: Mutex<Vec<MigrationReport>>,
    settled: watch::Sender<bool>,
}

/// All migrations. Cheap to clone.
#[derive(Clone)]
pub struct Migrations(Arc<Inner>);

impl Migrations {
    /// Begins: what a crash interrupted is ended, and the daemon's own folder is migrated when it has no list of
    /// models yet and no migration of it was undone. Nobody waits for it. `homes` are the
    /// folders of the person.
    pub fn start(store: ModelStore, homes: Homes, tasks: &Tasks) -> Self {
        let migrations =
            Self(Arc::new(Inner { store, homes, reports: Mutex::default(), settled: watch::channel(false).0 }));
        // Looked at now: a moment later somebody may have made a list.
        let has_list = migrations.0.store.0.layout.list().exists();
        let first = migrations.clone();
        tasks.spawn(async move {
            let settled = first.clone();
            in_background(move || first.first_look(has_list)).await;
            settled.0.settled.send_replace(true);
        });
        migrations
    }

    fn first_look(&self, has_list: bool) {
        let store = &self.0.store;
        store.opened();
        if let Err(error) = self.end_unfinished() {
            tracing::error!(%error, "a migration cannot be ended");
        }
        let journals = self.journals();
        let own = store.data_folder();
        let was_undone = |journal: &Journal| journal.state == State::Undone && journal.from.as_deref() == Some(own);
        if has_list || journals.iter().any(was_undone) {
            return;
        }
        match self.migrate(&Migrate::default()) {
            Ok(report) => {
                let registered = report.findings.iter().filter(|it| it.result == Outcome::Registered).count();
                if registered > 0 {
                    tracing::info!(registered, "models of an older program were registered");
                }
            }
            // A folder without models has nothing to migrate.
            Err(MigrateError::NoModels { .. }) => {}
            Err(error) => tracing::error!(%error, "the models of an older program cannot be registered"),
        }
    }

    /// Resolves when what belongs to the start is over.
    pub async fn settled(&self) {
        // The sender lives as long as we do.
        let _ = self.0.settled.subscribe().wait_for(|settled| *settled).await;
    }

    /// Migrates a folder. Blocks until it is done.
    pub fn migrate(&self, request: &Migrate) -> Result<MigrationReport, MigrateError> {
        let mut reports = self.lock();
        if !request.dry_run {
            self.end_unfinished()?;
        }
        let (keeper, from) = match &request.from {
            None => (None, self.0.store.data_folder().to_owned()),
            // The folder of one model.
            Some(path) if path.is_absolute() && path.join("model.json").is_file() => (None, path.clone()),
            Some(path) if path.is_absolute() => {
                keeper_of(path).map_or_else(|| (None, path.clone()), |(keeper, path)| (Some(keeper), path))
            }
            Some(word) => {
                let keeper = word.to_str().and_then(Keeper::parse);
                let keeper = keeper.ok_or_else(|| MigrateError::NotAbsolute { path: word.clone() })?;
                let places = keeper.places(&self.0.homes);
                let place = places.iter().find(|place| place.is_dir()).cloned();
                let name = word.to_string_lossy().into_owned();
                (Some(keeper), place.ok_or(MigrateError::NotThere { name, places })?)
            }
        };
        let candidates = if let Some(keeper) = keeper {
            keeper.candidates(&from)
        } else if from.join("model.json").is_file() {
            plan::candidates(&scan::single(&from, self.0.homes.home.as_deref()))
        } else {
            let models = models_of(&from)?;
            let scan = scan::legacy(&models, self.0.homes.home.as_deref())
                .map_err(|source| MigrateError::Unreadable { path: models.clone(), source })?;
            plan::joined(cortex_cpp::candidates(&from), plan::candidates(&scan))
        };
        let known = self.known(request.include_deleted)?;
        let plan = plan::plan(candidates, &known, canonical);
        self.carry_out(&mut reports, plan, (Some(from), None), request.dry_run)
    }

    /// The way back to an older Jan: says what it would show, and writes a model.json for the others when it is asked
    /// to. `prompt_template` makes one of the old kind for a model that has none in its settings. Blocks.
    pub fn migrate_down(
        &self,
        request: &Down,
        prompt_template: impl Fn(&Model) -> Option<String>,
    ) -> Result<MigrationReport, MigrateError> {
        let mut reports = self.lock();
        if request.write {
            self.end_unfinished()?;
        }
        let store = &self.0.store;
        let folder = request.folder.clone().unwrap_or_else(|| store.data_folder().to_owned());
        if !folder.is_absolute() {
            return Err(MigrateError::NotAbsolute { path: folder });
        }
        let models = models_of(&folder)?;
        let scan = scan::legacy(&models, self.0.homes.home.as_deref())
            .map_err(|source| MigrateError::Unreadable { path: models.clone(), source })?;
        let shown = old_app::shown(&scan);
        let mut listed = Vec::new();
        for model in store.list()?.0 {
            let model = store.current(model.id.as_str()).unwrap_or(model);
            // To make a template takes a while, and those that are shown need none.
            let template =
                |model: &Model| if shown.contains(model.id.as_str()) { None } else { prompt_template(model) };
            let is_taken = fs_err::symlink_metadata(models.join(model.id.as_str())).is_ok();
            listed.push(Listed { id: model.id.clone(), is_taken, model: loadable(store, &model, template) });
        }
        let (files, findings) = old_app::plan(&listed, &scan, &models);
        let plan = Plan { findings, files, ..Plan::default() };
        self.carry_out(&mut reports, plan, (None, Some(folder)), !request.write)
    }

    /// Registers models that a client knows: their files are looked for, and nothing else.
    pub fn take_list(&self, models: Vec<GivenModel>, dry_run: bool) -> Result<MigrationReport, MigrateError> {
        let mut reports = self.lock();
        if !dry_run {
            self.end_unfinished()?;
        }
        let known = self.known(false)?;
        let mut plan = Plan::default();
        let mut taken: HashSet<ModelId> = HashSet::new();
        for model in models {
            if !model.weights.is_absolute() {
                return Err(MigrateError::NotAbsolute { path: model.weights });
            }
            if model.weights.to_str().is_none_or(|text| text.contains(char::is_control)) {
                let id = &model.id;
                return Err(MigrateError::Entry(format!("the path of `{id}` has letters that no path should have")));
            }
            let (result, reason) = if let Some(there) = known.models.get(model.id.as_str()) {
                let same = *there == canonical(&model.weights);
                (Outcome::AlreadyKnown, (!same).then(|| format!("it is on the list, with {}", there.display())))
            } else if known.deleted.contains(model.id.as_str()) {
                (Outcome::Skipped, Some("it was deleted".into()))
            } else if fs_err::metadata(&model.weights).is_ok_and(|there| !there.is_file()) {
                (Outcome::Unresolved, Some("it is no regular file".into()))
            } else if !taken.insert(model.id.clone()) {
                (Outcome::Unresolved, Some("its id is in the list twice; the first one counts".into()))
            } else {
                plan.models.push(PlannedModel {
                    id: model.id.clone(),
                    weights: model.weights.clone(),
                    settings: model.settings,
                    aliases: vec![],
                    has_yaml: false,
                });
                let missing = !model.weights.is_file();
                (Outcome::Registered, missing.then(|| "its file is not there now".to_owned()))
            };
            plan.findings.push(Finding {
                place: model.weights.clone(),
                id: Some(model.id.to_string()),
                weights: Some(model.weights),
                result,
                reason,
                hint: None,
            });
        }
        self.carry_out(&mut reports, plan, (None, None), dry_run)
    }

    fn carry_out(
        &self,
        reports: &mut Vec<MigrationReport>,
        plan: Plan,
        (from, to): (Option<PathBuf>, Option<PathBuf>),
        dry_run: bool,
    ) -> Result<MigrationReport, MigrateError> {
        let store = &self.0.store;
        let now = jiff::Timestamp::now();
        let mut plan = plan;
        for model in &mut plan.models {
            if fs_err::symlink_metadata(store.0.layout.own_yaml(&model.id)).is_err() {
                continue;
            }
            model.has_yaml = true;
            let is_it = |finding: &&mut Finding| {
                finding.result == Outcome::Registered && finding.id.as_deref() == Some(model.id.as_str())
            };
            if let Some(finding) = plan.findings.iter_mut().find(is_it) {
                finding.reason =
                    Some("a model.yaml of this id is there already: it counts, and not the older settings".into());
            }
        }
        if dry_run || (plan.models.is_empty() && plan.files.is_empty()) {
            let state = if dry_run { "dry_run" } else { "done" };
            let at = now.as_second();
            let report = MigrationReport { id: None, state, at, from, to, findings: plan.findings, left: vec![] };
            if !dry_run {
                reports.push(report.clone());
                if reports.len() > KEPT {
                    reports.remove(0);
                }
            }
            return Ok(report);
        }
        let folder = store.0.layout.migrations();
        let journal = Journal {
            id: journal::new_id(&folder, now),
            at: now.as_second(),
            from,
            to,
            made_the_list: !store.0.layout.list().exists(),
            plan,
            not_written: vec![],
            state: State::Begun,
        };
        journal::begin(&store.0.config.files, &folder, &journal).map_err(MigrateError::Journal)?;
        let not_written = self.finish(&journal)?;
        Ok(self.report(&Journal { state: State::Done, not_written, ..journal }))
    }

    /// Ends what a crash or a failure left, in the order in which it was begun: undone one after the other, each then
    /// takes back what it did.
    fn end_unfinished(&self) -> Result<(), MigrateError> {
        for journal in self.journals() {
            let ended = match journal.state {
                State::Begun => self.finish(&journal).map(drop),
                State::Undoing => self.take_back(&journal).map(drop),
                State::Done | State::Undone => continue,
            };
            ended.map_err(|source| MigrateError::Unfinished { id: journal.id.clone(), source: Box::new(source) })?;
            tracing::info!(migration = journal.id, "an unfinished migration was ended");
        }
        Ok(())
    }

    /// Does what a journal says, and says that it is done. Returns the files that could not be written, and why.
    fn finish(&self, journal: &Journal) -> Result<Vec<(ModelId, String)>, MigrateError> {
        let store = &self.0.store;
        let (files, folder) = (&store.0.config.files, store.0.layout.migrations());
        store.register_all(&journal.plan.models)?;
        let not_written = store.write_all(&journal.plan.files);
        for one in &not_written {
            journal::note_not_written(files, &folder, &journal.id, one).map_err(MigrateError::Journal)?;
        }
        journal::note(files, &folder, &journal.id, State::Done).map_err(MigrateError::Journal)?;
        Ok(not_written)
    }

    /// Takes back what a journal says, and says that it is undone. Returns the models that stay.
    fn take_back(&self, journal: &Journal) -> Result<Vec<ModelId>, MigrateError> {
        let store = &self.0.store;
        let note = |state| {
            journal::note(&store.0.config.files, &store.0.layout.migrations(), &journal.id, state)
                .map_err(MigrateError::Journal)
        };
        // What cannot be seen now would be taken for gone.
        if let Some(to) = journal.to.as_ref().filter(|to| !to.is_dir()) {
            let source = io::Error::new(io::ErrorKind::NotFound, "it is not there now");
            return Err(MigrateError::Unreadable { path: to.clone(), source });
        }
        note(State::Undoing)?;
        let mut left = store.unregister_all(&journal.plan.models, journal.made_the_list)?;
        left.extend(store.unwrite_all(&journal.plan.files)?);
        note(State::Undone)?;
        Ok(left)
    }

    /// Takes a migration back: its entries, and the files that it wrote. Models that are others by now stay.
    /// Without an id, the last one that can be.
    pub fn undo(&self, id: Option<&str>) -> Result<MigrationReport, MigrateError> {
        let _one_at_a_time = self.lock();
        let journals = self.journals();
        let journal = match id {
            Some(id) => journals.iter().find(|journal| journal.id == id),
            None => journals.iter().rev().find(|journal| journal.state != State::Undone),
        };
        let unknown = || id.map_or(MigrateError::NoneLeft, |id| MigrateError::Unknown { id: id.to_owned() });
        let journal = journal.ok_or_else(unknown)?;
        if journal.state == State::Undone {
            return Err(MigrateError::NothingToUndo { id: journal.id.clone() });
        }
        let left = self.take_back(journal)?;
        Ok(MigrationReport { left, ..self.report(&Journal { state: State::Undone, ..journal.clone() }) })
    }

    /// The models that a migration registered, for those who must let them go first.
    pub fn models_of(&self, id: Option<&str>) -> Vec<ModelId> {
        let journals = self.journals();
        let journal = match id {
            Some(id) => journals.into_iter().find(|journal| journal.id == id),
            None => journals.into_iter().rev().find(|journal| journal.state != State::Undone),
        };
        journal.map(|journal| journal.plan.models.into_iter().map(|model| model.id).collect()).unwrap_or_default()
    }

    /// All migrations, the oldest first. Blocks.
    pub fn list(&self) -> Vec<MigrationReport> {
        let mut all: Vec<MigrationReport> = self.journals().iter().map(|journal| self.report(journal)).collect();
        all.extend(self.lock().iter().cloned());
        all.sort_by_key(|report| report.at);
        all
    }

    /// What an older program offers in the daemon's own folder: models that were never downloaded, and those of other
    /// machines. Looked for each time, and kept nowhere. Blocks.
    pub fn templates(&self) -> Vec<Template> {
        let data = self.0.store.data_folder();
        let Ok(models) = models_of(data) else { return vec![] };
        let scan = scan::legacy(&models, self.0.homes.home.as_deref());
        scan.map(|scan| plan::templates(&scan, &scan::services_with_keys(data))).unwrap_or_default()
    }

    /// Data folders of older programs on this machine, besides the daemon's own. Blocks.
    pub fn found(&self) -> Vec<PathBuf> {
        places::found(&self.0.homes, self.0.store.data_folder())
    }

    /// One migration. Blocks.
    pub fn get(&self, id: &str) -> Result<MigrationReport, MigrateError> {
        let journal = self.journals().into_iter().find(|journal| journal.id == id);
        journal.map(|journal| self.report(&journal)).ok_or_else(|| MigrateError::Unknown { id: id.to_owned() })
    }

    fn report(&self, journal: &Journal) -> MigrationReport {
        let mut findings = journal.plan.findings.clone();
        if journal.state == State::Done && journal.to.is_none() {
            // What the header says is known a moment later.
            for finding in findings.iter_mut().filter(|finding| finding.result == Outcome::Registered) {
                let model = finding.id.as_ref().and_then(|id| self.0.store.find(id).ok());
                if let Some(ModelState::Broken { reason }) = model.map(|model| model.state()) {
                    finding.reason = Some(format!("it is on the list and cannot be used: {reason}"));
                    finding.hint = Some("get the file again: it is listed as broken until it is whole".into());
                }
            }
        }
        for (id, why) in &journal.not_written {
            let is_it = |finding: &&mut Finding| {
                finding.result == Outcome::Registered && finding.id.as_deref() == Some(id.as_str())
            };
            if let Some(finding) = findings.iter_mut().find(is_it) {
                finding.result = Outcome::Skipped;
                finding.reason = Some(format!("its model.json cannot be written: {why}"));
            }
        }
        MigrationReport {
            id: Some(journal.id.clone()),
            state: match journal.state {
                // One that runs is seen by nobody: they come one after the other.
                State::Begun | State::Undoing => "unfinished",
                State::Done => "done",
                State::Undone => "undone",
            },
            at: journal.at,
            from: journal.from.clone(),
            to: journal.to.clone(),
            findings,
            left: vec![],
        }
    }

    fn journals(&self) -> Vec<Journal> {
        journal::read_all(&self.0.store.0.layout.migrations())
    }

    fn known(&self, include_deleted: bool) -> Result<Known, MigrateError> {
        let store = &self.0.store;
        drop(store.refresh()?);
        let models = store.in_memory();
        let path = |model: &Model| canonical(model.weights().unwrap_or(&model.path));
        let deleted = if include_deleted { HashMap::new() } else { store.deleted()? };
        Ok(Known {
            models: models.iter().map(|model| (model.id.to_string(), path(model))).collect(),
            deleted: deleted.into_keys().map(|id| id.to_string()).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<MigrationReport>> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an older program has to know of a model, or why it cannot use it.
fn loadable(
    store: &ModelStore,
    model: &Model,
    prompt_template: impl Fn(&Model) -> Option<String>,
) -> Result<Loadable, String> {
    let (yaml, files) = store.usable(model).map_err(|error| error.to_string())?;
    let text =
        |path: &Path| path.to_str().map(str::to_owned).ok_or("its path is no text, which the app could not read");
    let projector = yaml.text("mmproj").filter(|path| !path.is_empty());
    let projector = projector.map(|path| text(&store.0.layout.absolute(path))).transpose()?;
    let kept = yaml.text("prompt_template").filter(|template| template.contains("{prompt}")).map(str::to_owned);
    Ok(Loadable {
        weights: text(&files.weights)?,
        projector,
        prompt_template: kept.or_else(|| prompt_template(model)),
        yaml,
    })
}

/// Whose folder it is, when it is none of Jan's, and the folder of its models.
fn keeper_of(from: &Path) -> Option<(Keeper, PathBuf)> {
    let places = [from.to_owned(), from.join("models"), from.join("hub")];
    let of = |wanted: &[Keeper], places: &[PathBuf]| {
        let mut found = places.iter().filter_map(|place| Some((Keeper::of(place)?, place.clone())));
        found.find(|(keeper, _)| wanted.contains(keeper))
    };
    if let Some(found) = of(&[Keeper::Ollama, Keeper::HubCache], &places) {
        return Some(found);
    }
    // A folder of Jan's may look like any of the others.
    if scan::holds_json(&from.join("models")) || scan::holds_json(from) {
        return None;
    }
    let is_lm_studio = from.file_name().is_some_and(|name| name.to_string_lossy().contains("lm"));
    let place = if is_lm_studio && places[1].is_dir() { &places[1..2] } else { &places[..1] };
    of(&[Keeper::LmStudio], place)
}

/// Where a file really is; as it was given, when that cannot be told.
fn canonical(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The folder of models of a data folder; or the folder itself, when that is one.
fn models_of(from: &Path) -> Result<PathBuf, MigrateError> {
    let models = from.join("models");
    if models.is_dir() {
        return Ok(models);
    }
    let entries = fs_err::read_dir(from)
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => MigrateError::NoModels { path: from.to_owned() },
            _ => MigrateError::Unreadable { path: from.to_owned(), source },
        })?
        .flatten();
    let mut folders = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    if folders.any(|folder| folder.join("model.json").is_file()) {
        return Ok(from.to_owned());
    }
    Err(MigrateError::NoModels { path: from.to_owned() })
}
