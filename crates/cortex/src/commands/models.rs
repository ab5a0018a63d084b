//! `cortex list`, `ps`, `import`, `models …`.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{AliasArguments, DeleteArguments, ListArguments, ReindexArguments, StartArguments},
    client::query_id,
    error::CliError,
    output::bytes,
};
use cortex_api::native::{
    DeleteResponse, List, LoadedModel, LoadedModels, Message, ModelRequest, ReindexRequest, ReindexResponse,
    StartResponse, UpdateResponse,
};
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a list looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// What people want to know.
    Short,
    /// As cortex.cpp printed it, for scripts that read it.
    Cortex,
}

/// Prints the models.
pub(crate) async fn list(context: &Context<'_>, arguments: ListArguments, style: Style) -> Result<(), CliError> {
    ensure_running(context).await?;
    let path = if arguments.available { "/v1/models?status=downloadable" } else { "/v1/models" };
    let mut models: List<Value> = context.client.get(path).await?;
    // Those of other machines are there too.
    models.data.retain(|model| arguments.available || text(model, "status") != "downloadable");
    let filter = arguments.filter.unwrap_or_default().to_lowercase();
    models.data.retain(|model| text(model, "id").to_lowercase().contains(&filter));
    if context.printer.json {
        return context.printer.line(&serde_json::json!(models).to_string());
    }
    let last = if arguments.available { ("SOURCE", "modelSource") } else { ("STATE", "state") };
    let (mut head, own): (Vec<&str>, &[&str]) = match style {
        Style::Short => (vec!["ID"], &["SIZE", last.0]),
        Style::Cortex => (vec!["(Index)", "ID"], &[]),
    };
    let more: Vec<(&str, &str)> = [(arguments.engine, "Engine", "engine"), (arguments.version, "Version", "version")]
        .into_iter()
        .filter_map(|(wanted, title, key)| wanted.then_some((title, key)))
        .collect();
    head.extend(own);
    head.extend(more.iter().map(|(title, _)| *title));
    let memory = [
        (arguments.cpu_mode, "CPU Mode", cpu_mode as fn(&Value) -> String),
        (arguments.gpu_mode, "GPU Mode", gpu_mode),
    ];
    let memory: Vec<_> =
        memory.into_iter().filter_map(|(wanted, title, cell)| wanted.then_some((title, cell))).collect();
    head.extend(memory.iter().map(|(title, _)| *title));
    let row = |(at, model): (usize, &Value)| {
        let id = text(model, "id").to_owned();
        let mut row = match style {
            Style::Short => {
                let size = model["size"].as_u64().map_or_else(|| "-".into(), bytes);
                vec![id, size, text(model, last.1).to_owned()]
            }
            Style::Cortex => vec![(at + 1).to_string(), id],
        };
        row.extend(more.iter().map(|(_, key)| text(model, key).to_owned()));
        row.extend(memory.iter().map(|(_, cell)| cell(model)));
        row
    };
    let rows: Vec<Vec<String>> = models.data.iter().enumerate().map(row).collect();
    match style {
        Style::Short => context.printer.table(&head, &rows)?,
        Style::Cortex => context.printer.grid(&head, &rows)?,
    }
    if rows.is_empty() {
        context.printer.note(if arguments.available {
            "none; `cortex models sources add AUTHOR/REPO` shows what a repository has, `cortex search TEXT` finds some"
        } else {
            "no models; `cortex pull AUTHOR/REPO` downloads one, `cortex import FILE.gguf` takes in one that you have"
        });
    }
    Ok(())
}

/// What a model takes on the processor; empty when nobody knows yet.
fn cpu_mode(model: &Value) -> String {
    let ram = &model["recommendation"]["cpu_mode"]["ram"];
    if ram.is_null() { String::new() } else { format!("RAM: {ram} MiB") }
}

/// What a model takes with graphics processors; empty when nobody knows yet, or there are none.
fn gpu_mode(model: &Value) -> String {
    let of = |mode: &Value| {
        format!(
            "ngl: {} - context: {} - RAM: {} MiB - VRAM: {} MiB - recommended ngl: {}",
            mode["ngl"], mode["context_length"], mode["ram"], mode["vram"], mode["recommend_ngl"]
        )
    };
    let all = model["recommendation"]["gpu_mode"].as_array();
    all.into_iter().flatten().map(of).collect::<Vec<_>>().join("; ")
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
        // Those of other machines can be used too.
        .filter(|model| text(model, "status") != "downloadable")
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
    if let Some(gpus) = &arguments.gpus {
        super::hardware::activate(context, gpus).await?;
    }
    let id = arguments.id;
    let request = ModelRequest {
        model: Some(id.clone()),
        ctx_len: arguments.ctx_len,
        n_parallel: arguments.parallel,
        exact: Some(true),
        cache_type: arguments.cache_type,
        ngl: arguments.ngl,
        keep_alive: arguments.keep_alive.map(Into::into),
        pin: arguments.pin.then_some(true),
        ..ModelRequest::default()
    };
    let answer: StartResponse = context.client.post("/v1/models/start", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    let asked = (answer.requested_parallel, answer.requested_context_length);
    if (answer.parallel, answer.context_length) != asked {
        context.printer.note(&format!(
            "it has {} × {} tokens of context; {} × {} were asked for, which is more than it was trained with or than fits into memory",
            answer.parallel, answer.context_length, asked.0, asked.1
        ));
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
    let asked = context.client.get("/inferences/server/models?all=true").await;
    if let (Err(CliError::NotRunning { .. }), false) = (&asked, context.printer.json) {
        // cortex.cpp's word for it; the exit code and standard error say more.
        context.printer.line("No models loaded!")?;
    }
    let models: LoadedModels = asked?;
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
                age(model.start_time),
                model.state.clone(),
                bytes(model.reserved),
                format!("{} × {}", model.parallel, model.context_length),
                match (model.requests.min(model.parallel as usize), model.waiting) {
                    (running, 0) => running.to_string(),
                    (running, waiting) => format!("{running} (+{waiting} waiting)"),
                },
                leaves(model),
            ]
        })
        .collect();
    // cortex.cpp's five columns first.
    let head = ["Model", "Engine", "RAM", "VRAM", "Up time", "State", "Reserved", "Context", "Requests", "Leaves"];
    context.printer.grid(&head, &rows)?;
    let memory = models.memory;
    context.printer.note(&format!(
        "{} are set aside for models, {} are left",
        bytes(memory.reserved),
        bytes(memory.free)
    ));
    Ok(())
}

/// When a model leaves by itself.
fn leaves(model: &LoadedModel) -> String {
    match model.leaves_at {
        _ if model.pinned => "never (pinned)".into(),
        Some(moment) => {
            let moment = UNIX_EPOCH + Duration::from_millis(u64::try_from(moment).unwrap_or(0));
            format!("in {}", duration(moment.duration_since(SystemTime::now()).unwrap_or_default()))
        }
        None if model.requests > 0 || model.state != "loaded" => "-".into(),
        None => "when stopped".into(),
    }
}

/// How long ago a moment in unix milliseconds was.
fn age(start: i64) -> String {
    let start = UNIX_EPOCH + Duration::from_millis(u64::try_from(start).unwrap_or(0));
    duration(SystemTime::now().duration_since(start).unwrap_or_default())
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Changes settings of a model.
pub(crate) async fn update(context: &Context<'_>, arguments: &[String]) -> Result<(), CliError> {
    let (id, fields) = fields(arguments)?;
    ensure_running(context).await?;
    let answer: UpdateResponse = context.client.patch(&format!("/v1/models{}", query_id(&id)), &fields).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&format!("Successfully updated model ID '{}'!", answer.model_handle))
}

/// `--field value` or `--field=value`, of which one is the id.
fn fields(arguments: &[String]) -> Result<(String, Map<String, Value>), CliError> {
    let usage = |message: String| CliError::Usage {
        message,
        hint: Some("cortex models update --model_id ID --ctx_len 4096 --temperature 0.2".into()),
    };
    let (mut id, mut fields) = (None, Map::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(name) = argument.strip_prefix("--") else {
            return Err(usage(format!("`{argument}` is no field; fields begin with --")));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match arguments.next() {
                Some(value) => (name, value.clone()),
                None => return Err(usage(format!("--{name} has no value"))),
            },
        };
        let name = name.replace('-', "_");
        match name.as_str() {
            "model_id" | "id" => id = Some(value),
            // Taken and ignored, as ever: `alias` gives another name.
            "model" => {}
            "stop" | "files" => {
                fields.insert(name, value.split(',').map(str::trim).filter(|text| !text.is_empty()).collect());
            }
            known if cortex_models::is_setting(known) => {
                fields.insert(name, Value::String(value));
            }
            _ => {
                return Err(usage(format!(
                    "there is no field `{name}`; there are {}",
                    cortex_models::settings().join(", ")
                )));
            }
        }
    }
    let id = id.ok_or_else(|| usage("which model? --model_id is missing".into()))?;
    if fields.is_empty() {
        return Err(usage("no field is to be changed".into()));
    }
    Ok((id, fields))
}

/// Shows or changes the other names of a model.
pub(crate) async fn alias(context: &Context<'_>, arguments: AliasArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let path = format!("/v1/models{}", query_id(&arguments.id));
    let model: Value = context.client.get(&path).await?;
    let known = model["aliases"].as_array().into_iter().flatten().filter_map(|alias| alias.as_str().map(str::to_owned));
    let mut aliases: Vec<String> = known.collect();
    if !arguments.aliases.is_empty() {
        if arguments.remove {
            aliases.retain(|alias| !arguments.aliases.contains(alias));
        } else {
            aliases.extend(arguments.aliases);
        }
        let _: UpdateResponse = context.client.patch(&path, &serde_json::json!({"aliases": aliases})).await?;
        let model: Value = context.client.get(&path).await?;
        aliases =
            model["aliases"].as_array().into_iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    }
    if context.printer.json {
        return context.printer.line(&serde_json::json!({"id": text(&model, "id"), "aliases": aliases}).to_string());
    }
    if aliases.is_empty() {
        context.printer.note(&format!("`{}` has no other names", text(&model, "id")));
    }
    aliases.iter().try_for_each(|alias| context.printer.line(alias))
}

/// Deletes a model.
pub(crate) async fn delete(context: &Context<'_>, arguments: DeleteArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let files = if arguments.files { "&files=true" } else { "" };
    let path = format!("/v1/models{}{files}", query_id(&arguments.id));
    let answer: DeleteResponse = context.client.delete(&path).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&format!("Model {} deleted successfully", answer.id))?;
    for file in &answer.left {
        context.printer.note(&format!("left in place: {} ({}): {}", file.path, bytes(file.bytes), file.reason));
    }
    Ok(())
}

/// Puts models back on the list.
pub(crate) async fn reindex(context: &Context<'_>, arguments: ReindexArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let request = ReindexRequest { include_deleted: arguments.include_deleted };
    let answer: ReindexResponse = context.client.post("/v1/models/reindex", &request).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    for id in &answer.added {
        context.printer.line(id)?;
    }
    for file in &answer.left_out {
        context.printer.note(&format!("left out: {}: {}", file.path, file.reason));
    }
    context.printer.note(&match answer.added.len() {
        1 => "1 model was added; aliases are not known any more".to_owned(),
        count => format!("{count} models were added; their aliases are not known any more"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<(String, Map<String, Value>), CliError> {
        fields(&arguments.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn fields_come_in_any_order_and_spelling() {
        let (id, fields) =
            read(&["--ctx_len", "4096", "--model_id", "a b", "--temperature=-0.5", "--stop", "</s>, END"]).unwrap();
        assert_eq!(id, "a b");
        assert_eq!(
            Value::Object(fields),
            serde_json::json!({"ctx_len": "4096", "temperature": "-0.5", "stop": ["</s>", "END"]})
        );
    }

    #[test]
    fn what_is_no_field_is_told() {
        for (arguments, word) in [
            (&["--model_id", "x", "--nobody", "1"] as &[&str], "nobody"),
            (&["--model_id", "x"], "no field"),
            (&["--ctx_len", "1"], "which model"),
            (&["--model_id", "x", "--ctx_len"], "no value"),
            (&["x"], "fields begin with --"),
        ] {
            assert!(read(arguments).unwrap_err().to_string().contains(word), "{arguments:?}");
        }
    }
}
