//! `/v1/engines`: the engine that is here, with its compute modules as variants, and those on other machines.

use super::{registry::missing_field, run::blocking};
use crate::{
    App,
    error::ApiError,
    json::{self, Asked},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::HeaderMap,
};
use cortex_api::native::Message;
use cortex_models::ErrorKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The engine that is here.
const LOCAL: &str = "llama-cpp";
/// What else it is called.
const OTHER_NAMES: &[&str] = &["llama.cpp", "cortex.llamacpp", "nitro"];
/// Its version is ours: programs, worker and compute modules come from one build.
const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Whether a name is that of the engine that is here.
pub(crate) fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case(LOCAL) || OTHER_NAMES.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// `linux-amd64-haswell`: what a compute module is called as a variant.
fn variant_name(module: &str) -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let system = if std::env::consts::OS == "macos" { "mac" } else { std::env::consts::OS };
    format!("{system}-{architecture}-{module}")
}

fn invalid(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, code, message)
}

/// The variants that are there.
async fn variants(app: &App) -> Vec<Value> {
    let modules = app.engines.installed_variants().await;
    let variant =
        |module: &String| json!({"engine": LOCAL, "name": variant_name(module), "type": "local", "version": VERSION});
    modules.iter().map(variant).collect()
}

/// The module of a variant's name, short or long, if it is there.
async fn module_of(app: &App, variant: &str) -> Option<String> {
    let modules = app.engines.installed_variants().await;
    modules.into_iter().find(|module| *module == variant || variant_name(module) == variant)
}

/// All engines.
pub(crate) async fn list(State(app): State<App>) -> Json<Map<String, Value>> {
    let mut engines = Map::new();
    engines.insert(LOCAL.into(), variants(&app).await.into());
    for engine in app.remotes.engines() {
        engines.insert(engine.engine.clone(), json!([engine.shown()]));
    }
    Json(engines)
}

/// One engine; an empty list when nothing of it is there.
pub(crate) async fn get(State(app): State<App>, Path(name): Path<String>) -> Json<Vec<Value>> {
    if is_local(&name) {
        return Json(variants(&app).await);
    }
    Json(app.remotes.engine(&name).map(|engine| engine.shown()).into_iter().collect())
}

/// Adds an engine on another machine.
pub(crate) async fn add(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, ApiError> {
    let said: Map<String, Value> = json::required(&headers, &body)?;
    if said.get("engine").is_none_or(Value::is_null) {
        return Err(missing_field("engine"));
    }
    if [said.get("engine"), said.get("type")].iter().any(|it| it.and_then(Value::as_str).is_none_or(str::is_empty)) {
        return Err(invalid("invalid_value", "Engine name, type are required"));
    }
    let engine = blocking(move || app.remotes.add(&said)).await??;
    let mut answer = json!({"message": "Remote Engine install successfully!"});
    if !engine.has_models_url() {
        answer["warning"] =
            "'get_models_url' not found in metadata, You'll not able to search remote models with this engine".into();
    }
    Ok(Json(answer))
}

/// What may be said of a variant. An empty body says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Which {
    variant: Option<String>,
    version: Option<String>,
}

fn which(headers: &HeaderMap, body: &Bytes) -> Result<Which, ApiError> {
    if body.is_empty() { Ok(Which::default()) } else { json::required(headers, body) }
}

/// A version as it is compared: `v0.1.0` is `0.1.0`, and no version, or `latest`, is the one that is there.
fn is_ours(version: Option<&str>) -> bool {
    let bare = |version: &str| version.trim().trim_start_matches('v').to_owned();
    version.is_none_or(|it| it.is_empty() || it == "latest" || bare(it) == bare(VERSION))
}

/// Installs a variant: those of this build are all there, and others cannot be had.
pub(crate) async fn install(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Message>, ApiError> {
    must_be_local(&name)?;
    let Which { variant, version } = which(&headers, &body)?;
    if !is_ours(version.as_deref()) {
        let version = version.unwrap_or_default();
        return Err(invalid("no_release", format!("No release found for {version}; this build has {VERSION}")));
    }
    if let Some(variant) = variant.filter(|variant| !variant.is_empty())
        && module_of(&app, &variant).await.is_none()
    {
        let there: Vec<String> = app.engines.installed_variants().await.iter().map(|it| variant_name(it)).collect();
        let message = format!("Failed to find a suitable variant for {name}; there are {}", there.join(", "));
        return Err(invalid("no_variant", message));
    }
    Ok(Json(Message { message: "Engine starts installing!".into() }))
}

/// Removes an engine on another machine. The modules of this build are part of it, and stay.
pub(crate) async fn uninstall(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Message>, ApiError> {
    let gone = |name: &str| Json(Message { message: format!("Engine {name} uninstalled successfully!") });
    if !is_local(&name) {
        let (remotes, engine) = (app.remotes.clone(), name.clone());
        blocking(move || remotes.remove(&engine)).await??;
        return Ok(gone(&name));
    }
    let Which { variant, version } = which(&headers, &body)?;
    match (variant, version) {
        (None, Some(_)) => Err(invalid("no_variant", "No variant provided")),
        (Some(variant), _) if module_of(&app, &variant).await.is_none() => {
            Err(invalid("no_variant", "Engine variant does not exist!"))
        }
        _ => Err(invalid(
            "part_of_cortex",
            format!("the compute modules of {name} are part of this build of cortex and cannot be removed one by one"),
        )),
    }
}

fn must_be_local(name: &str) -> Result<(), ApiError> {
    if is_local(name) {
        Ok(())
    } else {
        Err(invalid("engine_not_supported", format!("Engine {name} is not supported yet!")))
    }
}

/// The variant that loads take.
pub(crate) async fn default(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    must_be_local(&name)?;
    let report = app.engines.choose_variant().await;
    let Some(module) = &report.chosen else {
        return Err(invalid("no_default", format!("Default engine variant for {name} is not set yet!")));
    };
    Ok(Json(json!({"engine": LOCAL, "variant": variant_name(module), "version": VERSION})))
}

/// Chooses the variant that loads take from now on; what is loaded leaves.
pub(crate) async fn set_default(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Message>, ApiError> {
    must_be_local(&name)?;
    if body.is_empty() {
        return Err(invalid("empty_body", "Request body is required"));
    }
    let Which { variant, version } = which(&headers, &body)?;
    let variant = variant.filter(|it| !it.is_empty()).ok_or_else(|| invalid("missing_field", "Variant is required"))?;
    let version = version.filter(|it| !it.is_empty()).ok_or_else(|| invalid("missing_field", "Version is required"))?;
    let missing = || {
        let bare = version.trim_start_matches('v');
        invalid("no_variant", format!("Engine variant {bare}-{variant} is not installed yet!"))
    };
    let module = module_of(&app, &variant).await.filter(|_| is_ours(Some(&version))).ok_or_else(missing)?;
    let before = app.engines.variants().chosen.clone();
    let failed = |error: std::io::Error| {
        ApiError::new(ErrorKind::Internal, "not_written", format!("the choice cannot be kept: {error}"))
    };
    app.engines.pin_variant(Some(module.clone())).await.map_err(failed)?;
    let report = app.engines.choose_variant().await;
    if report.chosen.as_deref() != Some(module.as_str()) {
        app.engines.pin_variant(None).await.map_err(failed)?;
        let why = report.dropped.iter().find(|dropped| dropped.name == module).map_or("", |dropped| &dropped.reason);
        return Err(invalid("does_not_work", format!("{variant} does not work on this processor: {why}")));
    }
    if before.as_deref() != Some(module.as_str()) {
        unload_all(&app).await;
    }
    let version = VERSION.trim_start_matches('v');
    Ok(Json(Message { message: format!("Engine {} {version} set as default", variant_name(&module)) }))
}

async fn unload_all(app: &App) {
    for model in app.engines.loaded().iter() {
        app.engines.stop(&model.id).await;
    }
}

/// There is nothing newer than this build for the engine that is here; of one elsewhere the facts are changed.
pub(crate) async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Message>, ApiError> {
    if is_local(&name) {
        let report = app.engines.choose_variant().await;
        let Some(module) = &report.chosen else {
            return Err(invalid("no_default", format!("Default engine variant for {name} is not set yet!")));
        };
        let message = format!("Engine {name}, {} is already up-to-date! Version {VERSION}", variant_name(module));
        return Err(invalid("up_to_date", message));
    }
    app.remotes.engine(&name)?;
    if body.is_empty() {
        return Err(invalid("empty_body", "Request body is empty!"));
    }
    let said: Map<String, Value> = json::required(&headers, &body)?;
    blocking(move || app.remotes.update(&name, &said)).await??;
    Ok(Json(Message { message: "Remote Engine update successfully!".into() }))
}

/// An engine is always ready: its processes start with models.
pub(crate) async fn load(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Message>, ApiError> {
    if !is_local(&name) {
        app.remotes.engine(&name)?;
    } else if app.engines.choose_variant().await.chosen.is_none() {
        return Err(invalid("engine_not_ready", "Engine is not ready! Please install first!"));
    }
    Ok(Json(Message { message: format!("Engine {name} loaded successfully!") }))
}

/// Unloads all models of an engine.
pub(crate) async fn unload(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Message>, ApiError> {
    if is_local(&name) {
        unload_all(&app).await;
    } else {
        let engine = app.remotes.engine(&name)?.engine;
        for (model, _) in app.remotes.started() {
            if model.engine == engine {
                app.remotes.stop(&model.id);
            }
        }
    }
    Ok(Json(Message { message: format!("Engine {name} unloaded successfully!") }))
}

/// What can be installed: what this build has.
pub(crate) async fn releases(Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    must_be_release(&name)?;
    Ok(Json(json!([{"url": "", "name": VERSION, "draft": false, "prerelease": false, "published_at": ""}])))
}

fn must_be_release(name: &str) -> Result<(), ApiError> {
    if is_local(name) {
        return Ok(());
    }
    Err(invalid(
        "engine_not_supported",
        format!("Failed to get engine releases: Not Found: there is no engine {name} here"),
    ))
}

/// `?show=` of a release.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Show {
    show: Option<String>,
}

/// The variants of a release; `latest` is the one that is here.
pub(crate) async fn release(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
    Asked(asked): Asked<Show>,
) -> Result<Json<Vec<Value>>, ApiError> {
    must_be_release(&name)?;
    let only_compatible = match asked.show.as_deref() {
        None | Some("all" | "") => false,
        Some("compatible") => true,
        Some(_) => return Err(invalid("invalid_value", "Invalid show value. Can either be `all` or `compatible` ")),
    };
    if !is_ours(Some(&version)) {
        return Err(invalid("no_release", format!("No release found for {version}; this build has {VERSION}")));
    }
    let report = app.engines.choose_variant().await;
    let fails = |module: &str| report.dropped.iter().any(|dropped| dropped.name == module);
    let modules = app.engines.installed_variants().await.into_iter();
    let variant =
        |module: String| json!({"name": variant_name(&module), "size": 0, "download_count": 0, "created_at": ""});
    Ok(Json(modules.filter(|module| !only_compatible || !fails(module)).map(variant).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_understood_as_clients_write_them() {
        for name in ["llama-cpp", "llama.cpp", "cortex.llamacpp", "Nitro"] {
            assert!(is_local(name), "{name}");
        }
        assert!(!is_local("openai"));
        let bare = VERSION.trim_start_matches('v');
        for version in [None, Some(""), Some("latest"), Some(VERSION), Some(bare)] {
            assert!(is_ours(version), "{version:?}");
        }
        assert!(!is_ours(Some("v9.9.9")) && variant_name("zen4").ends_with("-zen4"));
    }
}
