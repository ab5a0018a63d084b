//! `/v1/engines`: the engine that is here, with its compute modules as variants, and those on other machines.

mod install;
mod variants;

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
use cortex_packages::{Installed, PackageError, bare};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

pub(in crate::routes) use install::{Installs, frame};
pub(crate) use install::{follow, install, uninstall};
pub use variants::platform;
use variants::{LOCAL, VERSION, Variant};

/// What else it is called.
const OTHER_NAMES: &[&str] = &["llama.cpp", "cortex.llamacpp", "nitro"];
/// Whether a name is that of the engine that is here.
pub(crate) fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case(LOCAL) || OTHER_NAMES.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn invalid(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, code, message)
}

/// The variants that are there.
fn shown(app: &App) -> Vec<Value> {
    variants::all(app).iter().map(Variant::shown).collect()
}

/// All engines.
pub(crate) async fn list(State(app): State<App>) -> Json<Map<String, Value>> {
    let mut engines = Map::new();
    engines.insert(LOCAL.into(), shown(&app).into());
    for engine in app.remotes.engines() {
        engines.insert(engine.engine.clone(), json!([engine.shown()]));
    }
    Json(engines)
}

/// One engine; an empty list when nothing of it is there.
pub(crate) async fn get(State(app): State<App>, Path(name): Path<String>) -> Json<Vec<Value>> {
    if is_local(&name) {
        return Json(shown(&app));
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
    /// A folder of this machine with an archive.
    source: Option<PathBuf>,
}

fn which(headers: &HeaderMap, body: &Bytes) -> Result<Which, ApiError> {
    if body.is_empty() { Ok(Which::default()) } else { json::required(headers, body) }
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
    let Some(variant) = variants::chosen(&app).await else {
        return Err(invalid("no_default", format!("Default engine variant for {name} is not set yet!")));
    };
    Ok(Json(json!({"engine": LOCAL, "variant": variant.name, "version": variant.version})))
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
    let Which { variant, version, .. } = which(&headers, &body)?;
    let variant = variant.filter(|it| !it.is_empty()).ok_or_else(|| invalid("missing_field", "Variant is required"))?;
    let version = version.filter(|it| !it.is_empty()).ok_or_else(|| invalid("missing_field", "Version is required"))?;
    let missing = || {
        let bare = bare(&version);
        invalid("no_variant", format!("Engine variant {bare}-{variant} is not installed yet!"))
    };
    let _turn = app.packages.choosing().await;
    let chosen = variants::find(&app, &variant, Some(&version)).ok_or_else(missing)?;
    let of_module = |it: &Installed| it.module == chosen.module && it.is_current;
    let in_use: Vec<Installed> = app.packages.installed().into_iter().filter(of_module).collect();
    let before = variants::chosen(&app).await;
    let pinned = app.engines.pinned_module();
    use_packages_of(&app, &chosen).await?;
    let pin = async |module: Option<String>| {
        let engines = app.engines.clone();
        blocking(move || engines.pin_module(module.as_deref())).await?.map_err(|error: std::io::Error| {
            ApiError::new(ErrorKind::Internal, "not_written", format!("the choice cannot be kept: {error}"))
        })
    };
    pin(Some(chosen.module.clone())).await?;
    if !chosen.is_graphics {
        let report = app.engines.choose_variant().await;
        if report.chosen.as_deref() != Some(chosen.module.as_str()) {
            pin(pinned).await?;
            for package in app.packages.installed().iter().filter(|it| it.module == chosen.module) {
                let version = in_use.iter().find(|it| it.variant == package.variant).map(|it| it.version.as_str());
                app.packages.set_current(&package.variant, version).await?;
            }
            let dropped = report.dropped.iter().find(|dropped| dropped.name == chosen.module);
            let why = dropped.map_or("", |dropped| &dropped.reason);
            return Err(invalid("does_not_work", format!("{variant} does not work on this processor: {why}")));
        }
    }
    if before.as_ref().is_none_or(|before| (&before.name, &before.version) != (&chosen.name, &chosen.version)) {
        unload_all(&app).await;
    }
    let version = bare(&chosen.version);
    Ok(Json(Message { message: format!("Engine {} {version} set as default", chosen.name) }))
}

/// Of all that have its module, this one is what loads find.
async fn use_packages_of(app: &App, chosen: &Variant) -> Result<(), ApiError> {
    for other in app.packages.installed() {
        let is_it = other.variant == chosen.name && !chosen.is_of_build;
        if other.module == chosen.module && !is_it && other.is_current {
            app.packages.set_current(&other.variant, None).await?;
        }
    }
    if !chosen.is_of_build && !chosen.is_current {
        app.packages.set_current(&chosen.name, Some(&chosen.version)).await?;
    }
    Ok(())
}

async fn unload_all(app: &App) {
    for model in app.engines.loaded().iter() {
        app.engines.stop(&model.id).await;
    }
}

/// Installs what is newer; of an engine elsewhere the facts are changed.
pub(crate) async fn update(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    if is_local(&name) {
        return install::update(&app, &name).await;
    }
    app.remotes.engine(&name)?;
    if body.is_empty() {
        return Err(invalid("empty_body", "Request body is empty!"));
    }
    let said: Map<String, Value> = json::required(&headers, &body)?;
    blocking(move || app.remotes.update(&name, &said)).await??;
    Ok(Json(json!({"message": "Remote Engine update successfully!"})))
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

/// What can be installed: what this build has, and what the index has.
pub(crate) async fn releases(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    must_be_release(&name)?;
    let of_index = app.packages.releases().await.map_err(|error| {
        let told = format!("Failed to get engine releases: {}", unprefixed(&error));
        ApiError::told(error.kind(), error.code(), &told, error.hint())
    })?;
    let mut shown: Vec<Value> = of_index
        .iter()
        .map(|it| {
            json!({"url": it.url, "name": it.version, "draft": it.draft, "prerelease": it.prerelease,
                   "published_at": it.published_at})
        })
        .collect();
    if !of_index.iter().any(|it| bare(&it.version) == bare(VERSION)) {
        shown.push(json!({"url": "", "name": VERSION, "draft": false, "prerelease": false, "published_at": ""}));
    }
    Ok(Json(shown.into()))
}

/// What went wrong, without the words of another route.
fn unprefixed(error: &PackageError) -> String {
    let text = error.to_string();
    text.strip_prefix("Failed to fetch engine releases: ").unwrap_or(&text).to_owned()
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
    let is_of_build = matches!(version.as_str(), "latest") || bare(&version) == bare(VERSION);
    let archives = match app.packages.release(Some(&version)).await {
        Ok(release) => release.archives,
        Err(PackageError::NoRelease { .. }) if is_of_build => vec![],
        Err(error) => return Err(error.into()),
    };
    let report = app.engines.choose_variant().await;
    let fails = |module: &str| only_compatible && report.dropped.iter().any(|dropped| dropped.name == module);
    let of_build = variants::all(&app).into_iter().filter(|it| is_of_build && it.is_of_build && !fails(&it.module));
    let mut shown: Vec<Value> = of_build
        .filter(|it| !archives.iter().any(|archive| archive.variant == it.name))
        .map(|it| json!({"name": it.name, "size": 0, "download_count": 0, "created_at": ""}))
        .collect();
    shown.extend(archives.iter().map(|archive| {
        json!({"name": archive.variant, "size": archive.bytes, "download_count": archive.download_count,
               "created_at": archive.created_at})
    }));
    Ok(Json(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_as_clients_write_them() {
        for name in ["llama-cpp", "llama.cpp", "cortex.llamacpp", "Nitro"] {
            assert!(is_local(name), "{name}");
        }
        assert!(!is_local("openai"));
    }
}
