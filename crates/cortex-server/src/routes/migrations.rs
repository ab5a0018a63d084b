//! Bringing models of older programs in, and taking that back.

use super::{
    registry::{bad_request, missing_field},
    run::blocking,
};
use crate::{App, error::ApiError, json};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::HeaderMap,
};
use cortex_api::migrations::{Migration, MigrationFinding, MigrationList, MigrationRequest};
use cortex_models::{
    Down, Gguf, GivenModel, LegacyRemotes, Migrate, MigrateError, MigrationReport, Model, ModelId, ModelStore, Outcome,
};
use cortex_remote::{Remotes, TakenOver};
use std::path::PathBuf;

/// Models of one list.
const MOST_IN_LIST: usize = 100_000;

/// Migrates a folder, or takes a list of models.
pub(crate) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Migration>, ApiError> {
    let request = if body.is_empty() { MigrationRequest::default() } else { json::required(&headers, &body)? };
    app.migrations.settled().await;
    let migrations = app.migrations.clone();
    if request.models.is_some() && request.from.is_some() {
        return Err(ApiError::field("from", "models and from exclude each other: a list, or a folder"));
    }
    if let Some(to) = &request.to {
        if to != "jan-legacy" {
            return Err(ApiError::field("to", format!("to is `{to}`; the way back leads to jan-legacy only")));
        }
        if request.from.is_some() || request.models.is_some() {
            return Err(ApiError::field("to", "to leads back: it excludes from and models"));
        }
        let folder = request.folder.filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let down = Down { folder, write: request.write && !request.dry_run };
        let report = blocking(move || migrations.migrate_down(&down, older_template)).await?;
        return report.map(|report| Json(shown(report))).map_err(|error| refused(&error));
    }
    if request.folder.is_some() || request.write {
        return Err(ApiError::field("to", "folder and write are for the way back, and need `to`"));
    }
    let report = if let Some(models) = request.models {
        if models.len() > MOST_IN_LIST {
            let message = format!("models has {} entries; {MOST_IN_LIST} are possible", models.len());
            return Err(ApiError::field("models", message));
        }
        let mut given = Vec::with_capacity(models.len());
        for (at, model) in models.into_iter().enumerate() {
            let field = |name: &str| format!("models[{at}].{name}");
            let id = model.id.ok_or_else(|| missing_field(&field("id")))?;
            let path = model.path.ok_or_else(|| missing_field(&field("path")))?;
            let id = ModelId::new(&id).map_err(|error| ApiError::field(&field("id"), error.to_string()))?;
            cortex_models::check_settings(&model.settings)
                .map_err(|error| ApiError::field(&field("settings"), format!("models[{at}]: {error}")))?;
            given.push(GivenModel { id, weights: PathBuf::from(path), settings: model.settings });
        }
        blocking(move || migrations.take_list(given, request.dry_run)).await?
    } else {
        let migrate = Migrate {
            from: request.from.filter(|from| !from.is_empty()).map(PathBuf::from),
            dry_run: request.dry_run,
            include_deleted: request.include_deleted,
        };
        let folder = migrate.from.clone().unwrap_or_else(|| app.models.data_folder().to_owned());
        let dry_run = migrate.dry_run;
        let report = blocking(move || migrations.migrate(&migrate)).await?;
        let is_without_models = matches!(report, Err(MigrateError::NoModels { .. }));
        // A word such as `ollama` is no folder of theirs.
        let taken = if (report.is_ok() || is_without_models) && folder.is_absolute() {
            let (remotes, models, from) = (app.remotes.clone(), app.models.clone(), folder.clone());
            blocking(move || take_over(&remotes, &models, &from, dry_run)).await?
        } else {
            TakenOver::default()
        };
        let mut migration = match report {
            Ok(report) => shown(report),
            // It has no models, but engines.
            Err(_) if is_without_models && !taken.engines.is_empty() => shown(MigrationReport {
                id: None,
                state: if dry_run { "dry_run" } else { "done" },
                at: 0,
                from: Some(folder),
                to: None,
                findings: vec![],
                left: vec![],
            }),
            Err(error) => return Err(refused(&error)),
        };
        migration.remote_engines = taken.engines;
        migration.remote_models = taken.models;
        migration.remote_problems = taken.problems;
        return Ok(Json(migration));
    };
    report.map(|report| Json(shown(report))).map_err(|error| refused(&error))
}

/// Takes over what an older program knows of other machines, or only says what that would be. Blocks.
fn take_over(remotes: &Remotes, models: &ModelStore, folder: &std::path::Path, dry_run: bool) -> TakenOver {
    let old = LegacyRemotes::read(folder);
    let is_taken = |id: &str| models.resolve(id).is_ok();
    if dry_run {
        return remotes.would_take_over(&old, &is_taken);
    }
    remotes.take_over(&old, &is_taken).unwrap_or_else(|error| {
        // The models are there all the same.
        let problem = format!("the engines on other machines cannot be taken over: {error}");
        TakenOver { problems: vec![problem], ..TakenOver::default() }
    })
}

/// All migrations.
pub(crate) async fn list(State(app): State<App>) -> Result<Json<MigrationList>, ApiError> {
    let migrations = app.migrations.clone();
    let (reports, found) = blocking(move || (migrations.list(), migrations.found())).await?;
    let found = found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
    Ok(Json(MigrationList { object: "list".into(), data: reports.into_iter().map(shown).collect(), found }))
}

/// One migration.
pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Migration>, ApiError> {
    let migrations = app.migrations.clone();
    let report = blocking(move || migrations.get(&id)).await?;
    report
        .map(|report| Json(shown(report)))
        .map_err(|error| ApiError::told(error.kind(), "migration_not_found", &error, error.hint()))
}

/// Takes a migration back; models that are loaded leave first. `last` is the last one that can be.
pub(crate) async fn undo(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Migration>, ApiError> {
    app.migrations.settled().await;
    let (migrations, wanted) = (app.migrations.clone(), (id != "last").then_some(id));
    let name = wanted.clone();
    let models = blocking(move || migrations.models_of(name.as_deref())).await?;
    for model in &models {
        app.engines.stop(model).await;
    }
    let migrations = app.migrations.clone();
    let report = blocking(move || migrations.undo(wanted.as_deref())).await?;
    report.map(|report| Json(shown(report))).map_err(|error| refused(&error))
}

/// The chat template of a model as an older program takes it. Reads the header.
fn older_template(model: &Model) -> Option<String> {
    let header = Gguf::open(model.weights()?).ok()?;
    cortex_engine::legacy_prompt_template(header.text("tokenizer.chat_template")?)
}

fn refused(error: &MigrateError) -> ApiError {
    let code = match error {
        MigrateError::NoModels { .. } | MigrateError::NotThere { .. } => "no_models",
        MigrateError::NotAbsolute { .. } | MigrateError::Entry(_) => "invalid_value",
        MigrateError::Unreadable { .. } => "unreadable",
        MigrateError::Unknown { .. } => "migration_not_found",
        MigrateError::NothingToUndo { .. } | MigrateError::NoneLeft => "nothing_to_undo",
        MigrateError::Journal(_) | MigrateError::Store(_) | MigrateError::Unfinished { .. } => "migration_failed",
    };
    let answer = ApiError::told(error.kind(), code, error, error.hint());
    if matches!(error, MigrateError::NoModels { .. }) { bad_request(answer) } else { answer }
}

fn shown(report: MigrationReport) -> Migration {
    let count = |result| report.findings.iter().filter(|finding| finding.result == result).count();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Migration {
        object: "migration".into(),
        state: report.state.into(),
        created: report.at,
        registered: count(Outcome::Registered),
        already_known: count(Outcome::AlreadyKnown),
        skipped: count(Outcome::Skipped),
        unresolved: count(Outcome::Unresolved),
        id: report.id,
        from: report.from.map(text),
        to: report.to.map(text),
        data: report
            .findings
            .into_iter()
            .map(|finding| MigrationFinding {
                place: text(finding.place),
                id: finding.id,
                weights: finding.weights.map(text),
                result: finding.result.as_str().into(),
                reason: finding.reason,
                hint: finding.hint,
            })
            .collect(),
        left: report.left.iter().map(ToString::to_string).collect(),
        remote_engines: vec![],
        remote_models: vec![],
        remote_problems: vec![],
    }
}
