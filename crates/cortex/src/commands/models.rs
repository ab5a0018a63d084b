//! `cortex list`, `ps`, `import`, `models …`.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{ImportArguments, ListArguments, StartArguments},
    client::query_id,
    error::CliError,
    output::bytes,
};
use cortex_api::native::{ImportRequest, ImportResponse, List, LoadedModel, Message, ModelRequest};
use cortex_models::ModelId;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Prints the models.
pub(crate) async fn list(context: &Context<'_>, arguments: ListArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let mut models: List<Value> = context.client.get("/v1/models").await?;
    let filter = arguments.filter.unwrap_or_default().to_lowercase();
    models.data.retain(|model| text(model, "id").to_lowercase().contains(&filter));
    if context.printer.json {
        return context.printer.line(&serde_json::json!(models).to_string());
    }
    let rows: Vec<Vec<String>> = models
        .data
        .iter()
        .map(|model| {
            let size = model["size"].as_u64().map_or_else(|| "-".into(), bytes);
            vec![text(model, "id").to_owned(), size, text(model, "state").to_owned()]
        })
        .collect();
    context.printer.table(&["ID", "SIZE", "STATE"], &rows)?;
    if rows.is_empty() {
        context.printer.note("no models; `cortex import FILE.gguf` adds one");
    }
    Ok(())
}

fn text<'value>(value: &'value Value, key: &str) -> &'value str {
    value[key].as_str().unwrap_or_default()
}

/// The ids of all models, each with its aliases.
pub(crate) async fn names(context: &Context<'_>) -> Result<Vec<(String, Vec<String>)>, CliError> {
    let models: List<Value> = context.client.get("/v1/models").await?;
    Ok(models
        .data
        .iter()
        .map(|model| {
            let aliases = model["aliases"].as_array().into_iter().flatten();
            let aliases = aliases.filter_map(|alias| alias.as_str().map(str::to_owned)).collect();
            (text(model, "id").to_owned(), aliases)
        })
        .collect())
}

/// Prints what is known of a model.
pub(crate) async fn get(context: &Context<'_>, id: &str) -> Result<(), CliError> {
    ensure_running(context).await?;
    let model: Value = context.client.get(&format!("/v1/models{}", query_id(id))).await?;
    context.printer.line(&serde_json::to_string_pretty(&model).unwrap_or_default())
}

/// Loads a model and keeps it.
pub(crate) async fn start(context: &Context<'_>, arguments: StartArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let id = arguments.id;
    let request = ModelRequest { model: Some(id.clone()), ctx_len: arguments.ctx_len, ..ModelRequest::default() };
    let answer: Message = context.client.post("/v1/models/start", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&format!("{id} model started successfully. Use `cortex run {id}` for interactive chat shell"))
}

/// Unloads a model.
pub(crate) async fn stop(context: &Context<'_>, id: &str) -> Result<(), CliError> {
    let request = ModelRequest { model: Some(id.to_owned()), ..ModelRequest::default() };
    let answer: Message = context.client.post("/v1/models/stop", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line("Model stopped!")
}

/// Says whether a model is loaded; the exit code says it too.
pub(crate) async fn status(context: &Context<'_>, id: &str) -> Result<(), CliError> {
    let answer: Message = context.client.get(&format!("/v1/models/status{}", query_id(id))).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&answer.message)
}

/// Prints the loaded models.
pub(crate) async fn ps(context: &Context<'_>) -> Result<(), CliError> {
    let models: List<LoadedModel> = context.client.get("/inferences/server/models").await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(models).to_string());
    }
    if models.data.is_empty() {
        return context.printer.line("No models loaded!");
    }
    let rows: Vec<Vec<String>> = models
        .data
        .iter()
        .map(|model| {
            vec![
                model.id.clone(),
                model.engine.clone(),
                bytes(model.ram),
                bytes(model.vram),
                model.context_length.to_string(),
                model.requests.to_string(),
                age(model.start_time),
            ]
        })
        .collect();
    context.printer.table(&["MODEL", "ENGINE", "RAM", "VRAM", "CONTEXT", "REQUESTS", "UP TIME"], &rows)
}

/// How long ago a moment in unix milliseconds was.
fn age(start: i64) -> String {
    let start = UNIX_EPOCH + Duration::from_millis(u64::try_from(start).unwrap_or(0));
    let seconds = SystemTime::now().duration_since(start).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Takes a file in by reference.
pub(crate) async fn import(context: &Context<'_>, arguments: ImportArguments) -> Result<(), CliError> {
    let Some(path) = arguments.path.or(arguments.model_path) else {
        return Err(CliError::Usage { message: "which file?".into(), hint: Some("cortex import FILE.gguf".into()) });
    };
    let path =
        std::path::absolute(&path).map_err(|source| CliError::System { action: "cannot use the path", source })?;
    let id = match arguments.id {
        Some(id) => id,
        None => ModelId::from_file(&path)
            .map_err(|error| CliError::Usage { message: error.to_string(), hint: Some("give one with --id".into()) })?
            .to_string(),
    };
    ensure_running(context).await?;
    let request = ImportRequest {
        model: Some(id.clone()),
        model_path: Some(path.to_string_lossy().into_owned()),
        name: arguments.name,
        option: None,
    };
    let answer: ImportResponse = context.client.post("/v1/models/import", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&format!("Successfully import model from  '{}' for modelID '{id}'.", path.display()))?;
    context.printer.note(&format!("the file stays where it is; `cortex run {id}` starts a chat"));
    Ok(())
}
