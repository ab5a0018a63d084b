//! `cortex engines …`: the engine that is here with its variants, and those on other machines.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{AddEngineArguments, EnginesCommand, InstallArguments, UseArguments},
    client::path_id,
    env,
    error::CliError,
};
use cortex_api::native::Message;
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
            let _: Message = context.client.delete(&path).await?;
            done(context, &format!("Engine {} uninstalled successfully!", engine.name))
        }
        EnginesCommand::Update(engine) => match change(context, &engine.name, "update", &json!({})).await {
            // What was wanted is so.
            Err(CliError::Refused { body }) if body.error.code.as_deref() == Some("up_to_date") => {
                done(context, &body.error.message)
            }
            other => other.and_then(|()| done(context, &format!("Engine {} updated successfully!", engine.name))),
        },
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
fn rows(variants: &[&Value], default: Option<&str>) -> Vec<Vec<String>> {
    let row = |(number, variant): (usize, &&Value)| {
        let is_remote = variant["type"] == "remote";
        let name = if is_remote { text(&variant["variant"]) } else { text(&variant["name"]) };
        let is_default = is_remote || default == Some(name.as_str());
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
    context.printer.grid(&HEAD, &rows(&variants, default["variant"].as_str()))
}

async fn get(context: &Context<'_>, name: &str) -> Result<(), CliError> {
    let variants: Value = context.client.get(&of(name)).await?;
    if context.printer.json {
        return context.printer.line(&variants.to_string());
    }
    let variants: Vec<&Value> = variants.as_array().into_iter().flatten().collect();
    context.printer.grid(&HEAD, &rows(&variants, None))
}

async fn install(context: &Context<'_>, arguments: InstallArguments) -> Result<(), CliError> {
    let InstallArguments { name, version, source, menu } = arguments;
    if let Some(folder) = source {
        context.printer.note(&format!(
            "archives such as those in {} are not installed: the variants of this build are all there",
            folder.display()
        ));
    }
    let variant = if menu { Some(pick(context, &name).await?) } else { None };
    let body = json!({"version": version, "variant": variant});
    change(context, &name, "install", &body).await?;
    done(context, &format!("Engine {name} installed successfully!"))
}

/// Lets a person choose a variant.
async fn pick(context: &Context<'_>, name: &str) -> Result<String, CliError> {
    let variants: Value = context.client.get(&of(name)).await?;
    let names: Vec<String> = variants.as_array().into_iter().flatten().map(|variant| text(&variant["name"])).collect();
    if names.is_empty() {
        return Err(CliError::Usage { message: format!("{name} has no variants to choose from"), hint: None });
    }
    context.printer.note("Select an option");
    for (number, name) in names.iter().enumerate() {
        context.printer.note(&format!("    {}. {name}", number + 1));
    }
    let chosen = context.printer.choose("Select an option", names.len(), None)?;
    chosen.and_then(|number| names.get(number).cloned()).ok_or_else(|| CliError::Usage {
        message: "Invalid selection".into(),
        hint: Some("give the number of a line, or the variant with --variant".into()),
    })
}

async fn choose(context: &Context<'_>, arguments: UseArguments) -> Result<(), CliError> {
    let UseArguments { name, variant } = arguments;
    let variant = match variant {
        Some(variant) => variant,
        None => pick(context, &name).await?,
    };
    change(context, &name, "default", &json!({"variant": variant, "version": "latest"})).await?;
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
