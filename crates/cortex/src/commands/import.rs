//! `cortex import`: one file, or all of a folder with a preview.

use super::{Context, daemon::ensure_running};
use crate::{cli::ImportArguments, error::CliError, output::bytes};
use cortex_api::native::{BatchResponse, ImportEntry, ImportRequest, ImportResponse};
use cortex_models::ModelId;
use std::path::{Path, PathBuf};

/// Folders below the one that is given.
const DEEPEST: usize = 16;

/// Takes models in.
pub(crate) async fn import(context: &Context<'_>, arguments: ImportArguments) -> Result<(), CliError> {
    let Some(path) = arguments.path.clone().or_else(|| arguments.model_path.clone()) else {
        return Err(CliError::Usage { message: "which file?".into(), hint: Some("cortex import FILE.gguf".into()) });
    };
    let path =
        std::path::absolute(&path).map_err(|source| CliError::System { action: "cannot use the path", source })?;
    if path.is_dir() {
        return import_folder(context, &path, &arguments).await;
    }
    import_file(context, &path, arguments).await
}

async fn import_file(context: &Context<'_>, path: &Path, arguments: ImportArguments) -> Result<(), CliError> {
    let id = match arguments.id {
        Some(id) => id,
        None => ModelId::from_file(path)
            .map_err(|error| CliError::Usage { message: error.to_string(), hint: Some("give one with --id".into()) })?
            .to_string(),
    };
    let option = [(arguments.copy, "copy"), (arguments.move_file, "move"), (arguments.hardlink, "hardlink")]
        .into_iter()
        .find_map(|(wanted, option)| wanted.then(|| option.to_owned()));
    ensure_running(context).await?;
    let request = ImportRequest {
        model: Some(id.clone()),
        model_path: Some(path.to_string_lossy().into_owned()),
        name: arguments.name,
        option: option.clone(),
        ..ImportRequest::default()
    };
    let answer: ImportResponse = context.client.post("/v1/models/import", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    if answer.already_there {
        context.printer.note(&answer.message);
    }
    context.printer.line(&format!("Successfully import model from  '{}' for modelID '{id}'.", path.display()))?;
    let stays = if option.is_none() { "the file stays where it is; " } else { "" };
    context.printer.note(&format!("{stays}`cortex run {id}` starts a chat"));
    Ok(())
}

async fn import_folder(context: &Context<'_>, folder: &Path, arguments: &ImportArguments) -> Result<(), CliError> {
    let usage = |message: &str, hint: &str| CliError::Usage { message: message.into(), hint: Some(hint.into()) };
    if arguments.id.is_some() || arguments.name.is_some() {
        return Err(usage("a folder has no id of its own: each model gets one from its file", "import a single file"));
    }
    if arguments.copy || arguments.move_file || arguments.hardlink {
        return Err(usage("a folder is imported by reference only", "import single files to copy or move them"));
    }
    let mut files = Vec::new();
    search(folder, 0, &mut files);
    if files.is_empty() {
        return Err(usage(&format!("there is no GGUF file in {}", folder.display()), "look into another folder"));
    }
    ensure_running(context).await?;
    let request = |dry_run| ImportRequest {
        models: Some(
            files
                .iter()
                .map(|file| ImportEntry { model: None, model_path: Some(file.to_string_lossy().into_owned()) })
                .collect(),
        ),
        dry_run,
        ..ImportRequest::default()
    };
    if !arguments.yes {
        let plan: BatchResponse = context.client.post("/v1/models/import", &request(true)).await?;
        show(context, &plan, &files)?;
        if arguments.dry_run || plan.imported == 0 {
            return Ok(());
        }
        if !context.printer.confirm(&format!("import {} models by reference?", plan.imported))? {
            context.printer.note("nothing was imported; --yes imports without asking");
            return Ok(());
        }
    }
    let done: BatchResponse = context.client.post("/v1/models/import", &request(arguments.dry_run)).await?;
    if arguments.yes {
        show(context, &done, &files)?;
    }
    context.printer.note(&format!("{} models were imported, {} were refused", done.imported, done.failed));
    Ok(())
}

fn show(context: &Context<'_>, batch: &BatchResponse, files: &[PathBuf]) -> Result<(), CliError> {
    if context.printer.json {
        return context.printer.line(&serde_json::json!(batch).to_string());
    }
    let rows: Vec<Vec<String>> = batch
        .data
        .iter()
        .zip(files)
        .map(|(entry, file)| {
            let what = match (entry.result.as_str(), entry.already_there) {
                ("OK", true) => "there already".to_owned(),
                ("OK", false) => "new".to_owned(),
                _ => format!("refused: {}", entry.message),
            };
            let size = fs_err::metadata(file).map_or_else(|_| "-".into(), |metadata| bytes(metadata.len()));
            vec![entry.model_handle.clone().unwrap_or_else(|| "-".into()), size, what, file.display().to_string()]
        })
        .collect();
    context.printer.table(&["ID", "SIZE", "", "FILE"], &rows)
}

/// GGUF files below a folder: of a set the first part, no projectors. Links to folders are not followed.
fn search(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs_err::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs_err::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < DEEPEST {
                search(&path, depth + 1, files);
            }
        } else if path.is_file() && cortex_models::is_first_of_model(&path) {
            files.push(path);
        }
    }
}
