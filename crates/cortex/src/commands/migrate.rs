//! `cortex migrate`: what becomes of each folder of an older program, and taking it back.

use super::{Context, daemon::ensure_running};
use crate::{cli::MigrateArguments, error::CliError, output::one_line};
use cortex_api::migrations::{Migration, MigrationList, MigrationRequest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Programs whose places the daemon knows.
const PROGRAMS: &[&str] = &["ollama", "lmstudio", "lm-studio", "huggingface", "hf", "gpt4all"];

/// Migrates, shows migrations, or takes one back.
pub(crate) async fn migrate(context: &Context<'_>, arguments: MigrateArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    if arguments.list {
        return list(context).await;
    }
    let done: Migration = if let Some(name) = &arguments.undo {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        context.client.post(&format!("/v1/migrations/{name}/undo"), &serde_json::json!({})).await?
    } else {
        let absolute = |path: std::path::PathBuf| {
            if path.to_str().is_some_and(|word| PROGRAMS.contains(&word)) && !path.exists() {
                return Ok(path);
            }
            std::path::absolute(path).map_err(|source| CliError::System { action: "cannot find the folder", source })
        };
        let from = arguments.from.map(absolute).transpose()?;
        let folder = arguments.folder.map(absolute).transpose()?;
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let request = MigrationRequest {
            from: from.map(text),
            dry_run: arguments.dry_run,
            include_deleted: arguments.include_deleted,
            to: arguments.to,
            folder: folder.map(text),
            write: arguments.write,
            models: None,
        };
        context.client.post("/v1/migrations", &request).await?
    };
    if context.printer.json {
        return context.printer.line(&serde_json::json!(done).to_string());
    }
    if arguments.undo.is_some() {
        return undone(context, &done);
    }
    report(context, &done)?;
    let would = if done.state == "dry_run" { "would be taken over" } else { "taken over" };
    for engine in &done.remote_engines {
        context.printer.line(&one_line(&format!("{would}: the engine `{engine}` on another machine, with its key")))?;
    }
    for model in &done.remote_models {
        context.printer.line(&one_line(&format!("{would}: its model {model}")))?;
    }
    for problem in &done.remote_problems {
        context.printer.note(&one_line(problem));
    }
    if done.data.is_empty() && done.to.is_none() && done.remote_engines.is_empty() {
        let list: MigrationList = context.client.get("/v1/migrations").await?;
        for folder in &list.found {
            context.printer.note(&format!("an older data folder; `cortex migrate --from '{folder}'` brings it in"));
        }
    }
    Ok(())
}

/// Each folder with what became of it; then the numbers.
fn report(context: &Context<'_>, done: &Migration) -> Result<(), CliError> {
    for finding in &done.data {
        let what = finding.id.as_deref().unwrap_or(&finding.place);
        let word = word(&finding.result, done.to.is_some());
        let reason = finding.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        context.printer.line(&one_line(&format!("{word:13} {what}{reason}")))?;
        if let Some(hint) = &finding.hint {
            context.printer.line(&one_line(&format!("{:13} → {hint}", "")))?;
        }
    }
    let would = if done.state == "dry_run" { "would be " } else { "" };
    if let Some(folder) = &done.to {
        context.printer.note(&format!(
            "in {folder} the old app shows {} models, {} {would}added, {} not shown",
            done.already_known, done.registered, done.skipped
        ));
        if done.state == "dry_run" && done.registered > 0 {
            context.printer.note("`--write` adds them: a model.json each, in a folder of its own");
        }
    } else {
        context.printer.note(&format!(
            "{} {would}registered, {} known, {} skipped, {} to look at",
            done.registered, done.already_known, done.skipped, done.unresolved
        ));
    }
    if let Some(id) = &done.id {
        context.printer.note(&format!("`cortex migrate --undo {id}` takes it back"));
    }
    Ok(())
}

/// What became of a folder, for a person. On the way back it is told as the old app sees it.
fn word(result: &str, is_back: bool) -> String {
    match result {
        "already_known" if is_back => "shown".into(),
        "registered" if is_back => "added".into(),
        "skipped" if is_back => "not shown".into(),
        other => other.replace('_', " "),
    }
}

fn undone(context: &Context<'_>, done: &Migration) -> Result<(), CliError> {
    let gone = done.registered.saturating_sub(done.left.len());
    if done.to.is_some() {
        context.printer.line(&format!("{gone} model.json files that were written for the old app are gone"))?;
        for id in &done.left {
            context.printer.note(&format!("that of `{id}` stays: it was changed meanwhile"));
        }
        return Ok(());
    }
    context.printer.line(&format!("{gone} models are no longer on the list; their files are where they were"))?;
    for id in &done.left {
        context.printer.note(&format!("`{id}` stays: it is another model by now"));
    }
    Ok(())
}

async fn list(context: &Context<'_>) -> Result<(), CliError> {
    let list: MigrationList = context.client.get("/v1/migrations").await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(list).to_string());
    }
    let rows: Vec<Vec<String>> = list
        .data
        .iter()
        .map(|done| {
            vec![
                done.id.clone().unwrap_or_else(|| "-".into()),
                done.state.clone(),
                done.registered.to_string(),
                done.unresolved.to_string(),
                match (&done.from, &done.to) {
                    (Some(from), _) => from.clone(),
                    (None, Some(to)) => format!("back to {to}"),
                    (None, None) => "a list".into(),
                },
            ]
        })
        .collect();
    context.printer.table(&["NAME", "STATE", "REGISTERED", "TO LOOK AT", "FROM"], &rows)?;
    for folder in &list.found {
        context.printer.note(&format!("an older data folder; `cortex migrate --from '{folder}'` brings it in"));
    }
    Ok(())
}
