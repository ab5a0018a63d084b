//! `cortex engines …`: the engine that is here with its variants, and those on other machines.

use super::{Context, daemon::ensure_running};
use crate::{
    bars::Bars,
    cli::{AddEngineArguments, EnginesCommand, InstallArguments, UseArguments},
    client::{Events, path_id},
    env,
    error::CliError,
};
use cortex_api::{
    native::Message,
    pulls::{DownloadFrame, DownloadItem, Pull, TaskRequest, TaskResponse},
};
use futures::StreamExt as _;
use serde_json::{Value, json};

/// The head of the tables.
const HEAD: [&str; 5] = ["#", "Name", "Version", "Variant", "Status"];

/// Does what is asked.
pub(crate) async fn engines(context: &Context<'_>, command: EnginesCommand) -> Result<(), CliError> {
    if let EnginesCommand::Install(InstallArguments { source: Some(folder), .. }) = &command
        && !folder.is_dir()
    {
        // One of the two failures that scripts of cortex.cpp take for none.
        return context.printer.line(&format!("Folder does not exist: {}", folder.display()));
    }
    ensure_running(context).await?;
    match command {
        EnginesCommand::List => list(context).await,
        EnginesCommand::Get(engine) => get(context, &engine.name).await,
        EnginesCommand::Install(arguments) => install(context, arguments).await,
        EnginesCommand::Uninstall(engine) => {
            let path = format!("{}/install", of(&engine.name));
            let body = json!({"variant": engine.variant, "version": engine.version});
            let _: Message = context.client.delete_with(&path, &body).await?;
            done(context, &format!("Engine {} uninstalled successfully!", engine.name))
        }
        EnginesCommand::Update(engine) => update(context, &engine.name).await,
        EnginesCommand::Use(arguments) => choose(context, arguments).await,
        EnginesCommand::Load(engine) => {
            change(context, &engine.name, "load", &json!({})).await?;
            done(context, "Engine loaded successfully")
        }
        EnginesCommand::Unload(engine) => {
            let _: Message = context.client.delete(&format!("{}/load", of(&engine.name))).await?;
            done(context, "Engine unloaded successfully")
        }
        EnginesCommand::Add(arguments) => add(context, arguments).await,
    }
}

fn of(name: &str) -> String {
    format!("/v1/engines/{}", path_id(name))
}

async fn change(context: &Context<'_>, name: &str, what: &str, body: &Value) -> Result<(), CliError> {
    let _: Message = context.client.post(&format!("{}/{what}", of(name)), body).await?;
    Ok(())
}

/// Says that it is done.
fn done(context: &Context<'_>, text: &str) -> Result<(), CliError> {
    if context.printer.json {
        return context.printer.line(&json!({"message": text}).to_string());
    }
    context.printer.line(text)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The rows of some variants, numbered from one.
fn rows(variants: &[&Value], default: &Value) -> Vec<Vec<String>> {
    let row = |(number, variant): (usize, &&Value)| {
        let is_remote = variant["type"] == "remote";
        let name = if is_remote { text(&variant["variant"]) } else { text(&variant["name"]) };
        let is_default = default["variant"] == name.as_str() && default["version"] == variant["version"];
        let status = if is_default { "Default" } else { "Installed" };
        vec![(number + 1).to_string(), text(&variant["engine"]), text(&variant["version"]), name, status.into()]
    };
    variants.iter().enumerate().map(row).collect()
}

async fn list(context: &Context<'_>) -> Result<(), CliError> {
    let engines: Value = context.client.get("/v1/engines").await?;
    if context.printer.json {
        return context.printer.line(&engines.to_string());
    }
    // None that works here is no failure of a list.
    let default: Value = context.client.get("/v1/engines/llama-cpp/default").await.unwrap_or_default();
    let variants: Vec<&Value> =
        engines.as_object().into_iter().flat_map(|all| all.values()).filter_map(Value::as_array).flatten().collect();
    context.printer.grid(&HEAD, &rows(&variants, &default))
}

async fn get(context: &Context<'_>, name: &str) -> Result<(), CliError> {
    let variants: Value = context.client.get(&of(name)).await?;
    if context.printer.json {
        return context.printer.line(&variants.to_string());
    }
    let variants: Vec<&Value> = variants.as_array().into_iter().flatten().collect();
    context.printer.grid(&HEAD, &rows(&variants, &Value::Null))
}

/// Starts an install with a request, and shows it until it is over. What there was to do; `None` when it was done at once.
async fn installed(context: &Context<'_>, name: &str, what: &str, body: &Value) -> Result<Option<String>, CliError> {
    // Listens first: a short install is over before a second request.
    let following = context.client.follow(&format!("{}/install", of(name))).await;
    let following = match following {
        // An engine on another machine has nothing to follow.
        Err(CliError::Refused { .. }) => None,
        following => Some(following?),
    };
    let mut events = Events::default();
    let begun: Value = context.client.post(&format!("{}/{what}", of(name)), body).await?;
    let task = begun["task"]["id"].as_str().map(str::to_owned);
    let (Some(task), Some(following)) = (task, following) else { return Ok(None) };
    let mut stream = following.bytes_stream();
    let mut bars = None;
    let ended = || CliError::Ended { hint: "`cortex engines list` shows what became of the install".into() };
    loop {
        let bytes = tokio::select! {
            bytes = stream.next() => bytes.and_then(Result::ok).ok_or_else(ended)?,
            _ = tokio::signal::ctrl_c() => {
                let stop = TaskRequest { task_id: Some(task.clone()), discard: true };
                let _: TaskResponse = context.client.delete_with("/v1/models/pull", &stop).await?;
                context.printer.note("the install was cancelled");
                return Err(CliError::Cancelled);
            }
        };
        for event in events.push(&bytes) {
            let frame: DownloadFrame =
                serde_json::from_str(&event).map_err(|error| CliError::Connection(error.to_string()))?;
            if frame.task.id != task {
                continue;
            }
            let (kind, message, pull) = (frame.kind.clone(), frame.message.clone(), shown_as_pull(frame));
            if pull.bytes > 0 {
                bars.get_or_insert_with(|| Bars::new(context.printer, &pull)).show(&pull);
            }
            if let (Some(bars), false) = (&mut bars, matches!(kind.as_str(), "DownloadStarted" | "DownloadUpdated")) {
                bars.end();
            }
            match kind.as_str() {
                "DownloadSuccess" => return Ok(Some(task)),
                "DownloadError" => return Err(CliError::Pull { message: message.unwrap_or_default() }),
                "DownloadStopped" => return Err(CliError::Cancelled),
                _ => {}
            }
        }
    }
}

/// An install as bars show it.
fn shown_as_pull(frame: DownloadFrame) -> Pull {
    let sum = |of: fn(&DownloadItem) -> u64| frame.task.items.iter().map(of).sum();
    Pull {
        bytes: sum(|item| item.bytes),
        downloaded_bytes: sum(|item| item.downloaded_bytes),
        id: frame.task.id,
        object: "pull".into(),
        model: String::new(),
        state: "downloading".into(),
        bytes_per_second: 0,
        seconds_left: None,
        repository: String::new(),
        revision: String::new(),
        commit: None,
        aliases: vec![],
        reason: None,
        message: None,
        code: None,
        items: frame.task.items,
    }
}

async fn install(context: &Context<'_>, arguments: InstallArguments) -> Result<(), CliError> {
    let InstallArguments { name, mut variant, mut version, source, menu } = arguments;
    if menu {
        let releases: Value = context.client.get(&format!("{}/releases", of(&name))).await?;
        let names = names_in(&releases);
        let chosen = pick(context, &name, &names).await?;
        context.printer.note(&format!("Selected version: {chosen}"));
        let release: Value = context.client.get(&format!("{}/releases/{}", of(&name), path_id(&chosen))).await?;
        let of_release = pick(context, &chosen, &names_in(&release)).await?;
        context.printer.note(&format!("Selected {of_release} - {chosen}"));
        (variant, version) = (Some(of_release), Some(chosen));
    }
    let source = match source {
        None => None,
        // The daemon has another working folder.
        Some(folder) => Some(
            std::path::absolute(&folder)
                .map_err(|source| CliError::System { action: "cannot find the folder", source })?,
        ),
    };
    let body = json!({"version": version, "variant": variant, "source": source});
    let task = installed(context, &name, "install", &body).await?;
    // cortex.cpp's words: from a folder, and from elsewhere.
    let how = if task.is_none() { "installed" } else { "downloaded" };
    done(context, &format!("Engine {name} {how} successfully!"))
}

async fn update(context: &Context<'_>, name: &str) -> Result<(), CliError> {
    match installed(context, name, "update", &json!({})).await {
        // What was wanted is so.
        Err(CliError::Refused { body }) if body.error.code.as_deref() == Some("up_to_date") => {
            done(context, &body.error.message)
        }
        other => other.and_then(|_| done(context, &format!("Engine {name} updated successfully!"))),
    }
}

fn names_in(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|entry| text(&entry["name"])).collect()
}

/// Lets a person choose one of several.
async fn pick(context: &Context<'_>, of_what: &str, names: &[String]) -> Result<String, CliError> {
    if names.is_empty() {
        return Err(CliError::Usage { message: format!("{of_what} has no variants to choose from"), hint: None });
    }
    context.printer.note("Select an option");
    for (number, name) in names.iter().enumerate() {
        context.printer.note(&format!("    {}. {name}", number + 1));
    }
    let (printer, count) = (context.printer, names.len());
    let chosen = tokio::task::spawn_blocking(move || printer.choose("Select an option", count, None));
    let chosen = chosen.await.map_err(|error| CliError::Connection(error.to_string()))??;
    chosen.and_then(|number| names.get(number).cloned()).ok_or_else(|| CliError::Usage {
        message: "Invalid selection".into(),
        hint: Some("give the number of a line, or the variant with --variant".into()),
    })
}

async fn choose(context: &Context<'_>, arguments: UseArguments) -> Result<(), CliError> {
    let UseArguments { name, variant, version } = arguments;
    let (variant, version) = if let Some(variant) = variant {
        (variant, version)
    } else {
        let there: Value = context.client.get(&of(&name)).await?;
        let there: Vec<&Value> = there.as_array().into_iter().flatten().collect();
        let shown: Vec<String> =
            there.iter().map(|it| format!("{} - {}", text(&it["name"]), text(&it["version"]))).collect();
        let chosen = pick(context, &name, &shown).await?;
        let at = shown.iter().position(|it| *it == chosen).unwrap_or(0);
        (text(&there[at]["name"]), Some(text(&there[at]["version"])))
    };
    let version = version.unwrap_or_else(|| "latest".into());
    change(context, &name, "default", &json!({"variant": variant, "version": version})).await?;
    done(context, &format!("Engine {name} updated successfully!"))
}

async fn add(context: &Context<'_>, arguments: AddEngineArguments) -> Result<(), CliError> {
    let AddEngineArguments { name, url, key_from } = arguments;
    let key = match key_from {
        None => String::new(),
        Some(variable) => env::text(&variable).ok_or_else(|| CliError::Usage {
            message: format!("the environment variable {variable} is not set"),
            hint: Some(format!("export {variable}=… first")),
        })?,
    };
    let body = json!({"engine": name, "type": "remote", "url": url, "api_key": key});
    let _: Message = context.client.post("/v1/engines", &body).await?;
    done(context, &format!("Engine {name} installed successfully!"))
}
