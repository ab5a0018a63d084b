//! Loaded models: start, stop, status, and which there are.

use super::{
    registry::{ById, bad_request, missing_field},
    remote,
    run::{blocking, find},
};
use crate::{
    App,
    convert::{keep_alive, load_settings},
    error::ApiError,
    json::{self, Asked},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::HeaderMap,
};
use cortex_api::{
    native::{
        LoadedModel, LoadedModels, MemoryLedger, MemoryUse, Message, ModelRequest, PlacedOn, Placement, StartResponse,
    },
    worker::{Buffer, BufferKind},
};
use cortex_engine::{ContextOrigin, LoadOrder, LoadSettings, Phase};
use cortex_hardware::{CacheType, Memory};
use cortex_models::{ErrorKind, KeepAlive, Model, ModelId};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::SystemTime};

/// Loads a model and keeps it until it is stopped, or for the time that the request says.
pub(crate) async fn start(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<StartResponse>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    if let Some(model) = app.remotes.model(&name) {
        app.remotes.engine(&model.engine)?;
        app.remotes.start(&model.id);
        return Ok(Json(StartResponse { message: "Started successfully!".into(), ..StartResponse::default() }));
    }
    let (model, yaml, files) = find(&app, &name).await.map_err(bad_request)?;
    let stored = load_settings(&yaml, app.engines.load_settings());
    let order = ordered(&request, stored)?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?.unwrap_or(KeepAlive::Forever);
    let started = app.engines.start_model(&model.id, &files, (stored, order), (keep_alive, request.pin)).await?;
    Ok(Json(StartResponse {
        message: "Started successfully!".into(),
        context_length: started.context,
        parallel: started.parallel,
        requested_context_length: order.context_length.unwrap_or(started.requested_context),
        requested_parallel: started.requested_parallel,
    }))
}

/// What a start request orders. What differs from the stored settings is an order, and is not cut to what fits; clients
/// send the settings back as they read them.
pub(crate) fn ordered(request: &ModelRequest, stored: LoadSettings) -> Result<LoadOrder, ApiError> {
    let order = |field: &str, given: Option<i64>, stored: u32, most: u32| match given {
        None => Ok(stored),
        Some(number) => match u32::try_from(number) {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(ApiError::field(field, format!("{field} is {number}; it must be between 1 and {most}"))),
        },
    };
    // 0 is what the model's settings mean with it: no opinion.
    let asked = request.ctx_len.filter(|&tokens| tokens != 0);
    let said = order("ctx_len", asked, stored.context_length, 1 << 28)?;
    let exact = request.exact.unwrap_or(false);
    let is_sent_back = said == stored.context_length || Some(said) == stored.stored_context;
    let is_context_meant = asked.is_some() && (exact || !is_sent_back);
    let parallel = order("n_parallel", request.n_parallel, stored.parallel, 64)?;
    let wrong_type = |name: &str| {
        let names = CacheType::NAMES.map(|(name, _)| name).join(", ");
        ApiError::field("cache_type", format!("cache_type is {name}; it must be one of {names}"))
    };
    let cache_type = match request.cache_type.as_deref() {
        None | Some("") => stored.cache_type,
        Some(name) => CacheType::of_name(name).ok_or_else(|| wrong_type(name))?,
    };
    let device_layers = match request.ngl {
        None => stored.device_layers,
        Some(layers @ -1..=65_536) => u32::try_from(layers).ok(),
        Some(layers) => {
            return Err(ApiError::field("ngl", format!("ngl is {layers}; it must be between -1 and 65536")));
        }
    };
    let threads = order("cpu_threads", request.cpu_threads.filter(|&threads| threads > 0), stored.threads, 512)?;
    let is_parallel_meant = parallel != stored.parallel || exact && request.n_parallel.is_some();
    Ok(LoadOrder {
        context_length: is_context_meant.then_some(said),
        parallel: is_parallel_meant.then_some(parallel),
        threads: Some(threads).filter(|&it| it != stored.threads || exact && request.cpu_threads.is_some()),
        cache_type: Some(cache_type).filter(|&it| it != stored.cache_type || exact && request.cache_type.is_some()),
        device_layers: Some(device_layers).filter(|&it| it != stored.device_layers || exact && request.ngl.is_some()),
    })
}

/// Loads the models that should be there from the start, one after the other. What cannot be loaded is told in the log.
pub async fn preload(app: App, names: Vec<String>) {
    for name in names {
        let loaded = async {
            let (model, yaml, files) = find(&app, &name).await?;
            let load = (load_settings(&yaml, app.engines.load_settings()), LoadOrder::default());
            let started = app.engines.start_model(&model.id, &files, load, (KeepAlive::Forever, None)).await;
            started.map_err(ApiError::from)
        };
        if let Err(error) = loaded.await {
            tracing::warn!(model = %name, error = %error.body.message, "a model of preloadModels cannot be loaded");
        }
    }
}

/// Unloads a model.
pub(crate) async fn stop(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Message>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.ok_or_else(|| missing_field("model"))?;
    if app.remotes.model(&name).is_some() && app.remotes.stop(&name) {
        return Ok(Json(Message { message: "Stopped successfully!".into() }));
    }
    let resolved = resolve(&app, &name).await;
    // A model that left the list may still be loaded.
    let id = resolved.as_ref().map_or_else(|_| ModelId::existing(name.clone()), |model| model.id.clone());
    if app.engines.stop(&id).await {
        return Ok(Json(Message { message: "Stopped successfully!".into() }));
    }
    resolved?;
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("Model failed to stop: `{name}` is not loaded")))
}

/// What the class routes of cortex.cpp are asked with.
#[derive(Debug, Deserialize)]
pub(crate) struct OfClass {
    model: Option<String>,
    model_id: Option<String>,
}

impl OfClass {
    fn id(self) -> Result<String, ApiError> {
        self.model_id.or(self.model).ok_or_else(|| missing_field("model"))
    }
}

/// What they answer.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    status: String,
}

/// `POST /inferences/server/loadmodel`: a start in other words. A path of weights is not taken: a model is imported first.
pub(crate) async fn load(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Status>, ApiError> {
    let request: ModelRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    if is_loaded(&app, &name).await {
        let message = format!("Model {name} is already loaded");
        return Err(ApiError::new(ErrorKind::Conflict, "already_loaded", message));
    }
    let Json(_) = start(State(app.clone()), headers, body).await?;
    let id = resolve(&app, &name).await.map(|model| model.id.clone()).ok();
    let pid = app.engines.loaded().iter().find(|loaded| Some(&loaded.id) == id.as_ref()).map_or(0, |loaded| loaded.pid);
    Ok(Json(Status { status: format!("Model loaded successfully with pid: {pid}") }))
}

/// `POST /inferences/server/unloadmodel`: a stop in other words.
pub(crate) async fn unload(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Status>, ApiError> {
    let name = json::required::<OfClass>(&headers, &body)?.id()?;
    let id = resolve(&app, &name).await.map_or_else(|_| ModelId::existing(name.clone()), |model| model.id.clone());
    let pid = app.engines.loaded().iter().find(|loaded| loaded.id == id).map_or(0, |loaded| loaded.pid);
    if app.engines.stop(&id).await || app.remotes.stop(&name) {
        return Ok(Json(Status { status: format!("Model unloaded successfully with pid: {pid}") }));
    }
    Err(not_loaded(&name))
}

/// `POST /inferences/server/modelstatus`.
pub(crate) async fn model_status(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Status>, ApiError> {
    let name = json::required::<OfClass>(&headers, &body)?.id()?;
    if is_loaded(&app, &name).await {
        return Ok(Json(Status { status: "Model is loaded".into() }));
    }
    Err(not_loaded(&name))
}

fn not_loaded(name: &str) -> ApiError {
    ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("Model is not loaded yet: {name}"))
}

async fn is_loaded(app: &App, name: &str) -> bool {
    loaded_status(app, name).await.is_ok()
}

/// Whether a model is loaded, by the status code.
pub(crate) async fn status(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Message>, ApiError> {
    loaded_status(&app, &id).await
}

/// The same for ids that no path can carry.
pub(crate) async fn status_by_id(State(app): State<App>, Asked(by_id): Asked<ById>) -> Result<Json<Message>, ApiError> {
    let id = by_id.id.ok_or_else(|| ApiError::field("id", "the query needs `?id=`"))?;
    loaded_status(&app, &id).await
}

async fn resolve(app: &App, name: &str) -> Result<Arc<Model>, ApiError> {
    let (store, name) = (app.models.clone(), name.to_owned());
    blocking(move || store.resolve(&name)).await?.map_err(ApiError::from).map_err(bad_request)
}

async fn loaded_status(app: &App, name: &str) -> Result<Json<Message>, ApiError> {
    if let Some(model) = app.remotes.model(name) {
        return remote::status(app, &model);
    }
    let model = resolve(app, name).await?;
    if app.engines.loaded().iter().any(|loaded| loaded.id == model.id && loaded.phase == Phase::Ready) {
        return Ok(Json(Message { message: "Model is running".into() }));
    }
    Err(ApiError::new(ErrorKind::Invalid, "model_not_loaded", format!("the model `{}` is not loaded", model.id)))
}

fn memory_use(buffers: &[Buffer]) -> MemoryUse {
    let of = |kind: BufferKind| buffers.iter().filter(|it| it.kind == kind).map(|it| it.bytes).sum();
    MemoryUse {
        weights: of(BufferKind::Weights),
        cache: of(BufferKind::Cache),
        compute: of(BufferKind::Compute),
        output: of(BufferKind::Output),
    }
}

/// Which of the models.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    /// Also those that are not loaded yet, or leave.
    all: bool,
}

/// The loaded models, and the memory that they have.
pub(crate) async fn loaded(State(app): State<App>, Asked(which): Asked<Which>) -> Json<LoadedModels> {
    let models = app.engines.loaded();
    let mut data: Vec<LoadedModel> = models
        .iter()
        .filter(|model| which.all || matches!(model.phase, Phase::Ready | Phase::Leaving))
        .map(wire)
        .chain(remote::started(&app))
        .collect();
    data.sort_by(|left, right| left.id.cmp(&right.id));
    let (now, left) = (Memory::probe(), app.engines.memory_left());
    let memory = MemoryLedger {
        total: now.total,
        available: now.available,
        kept_free: now.kept_free(),
        reserved: models.iter().map(|model| model.reserved).sum(),
        free: left.for_models(),
    };
    Json(LoadedModels { object: "list".into(), data, memory })
}

fn wire(model: &cortex_engine::LoadedModel) -> LoadedModel {
    let placement = placement(model);
    LoadedModel {
        id: model.id.to_string(),
        engine: "llama-cpp".into(),
        start_time: milliseconds(model.since),
        model_size: model.model_bytes,
        vram: placement.devices.iter().filter(|it| it.device != "CPU").map(|it| it.bytes).sum(),
        ram: if model.pid == 0 { 0 } else { cortex_hardware::process_resident_bytes(model.pid) },
        object: "model".into(),
        requests: model.requests,
        waiting: model.waiting,
        state: match model.phase {
            Phase::Waiting => "waiting",
            Phase::Loading => "loading",
            Phase::Ready => "loaded",
            Phase::Leaving => "leaving",
        }
        .into(),
        context_length: model.context_length,
        requested_context_length: model.requested_context,
        context_origin: match model.context_origin {
            ContextOrigin::Unknown => "",
            ContextOrigin::Order => "a start request",
            ContextOrigin::Model => "ctx_len of model.yaml",
            ContextOrigin::Settings => "contextLength of the settings",
            ContextOrigin::Trained => "the context that it was trained with",
            ContextOrigin::Comfortable => "what fits comfortably",
            ContextOrigin::Memory => "there was no memory for more",
        }
        .into(),
        cache_type: model.cache_type.name().into(),
        parallel: model.parallel,
        requested_parallel: model.requested_parallel,
        threads: model.threads.0,
        prompt_threads: model.threads.1,
        pid: model.pid,
        memory: memory_use(&model.buffers),
        reserved: model.reserved,
        placement,
        pinned: model.pinned,
        leaves_at: model.leaves_at.map(milliseconds),
    }
}

/// Where a model runs. What a driver keeps in the memory of the machine (`Vulkan_Host`) counts as the processor's, and so do
/// its ways of arranging weights (`CPU_REPACK`).
fn placement(model: &cortex_engine::LoadedModel) -> Placement {
    let name = |device: &str| {
        let is_here = device.starts_with("CPU") || device.ends_with("_Host");
        if is_here { "CPU".to_owned() } else { device.to_owned() }
    };
    let mut devices: Vec<PlacedOn> = Vec::new();
    let mut add = |device: &str, layers: u32, bytes: u64| {
        let device = name(device);
        match devices.iter_mut().find(|it| it.device == device) {
            Some(known) => (known.layers, known.bytes) = (known.layers + layers, known.bytes.saturating_add(bytes)),
            None => devices.push(PlacedOn { device, layers, bytes }),
        }
    };
    for placed in &model.placement {
        add(&placed.device, placed.layers, 0);
    }
    for buffer in &model.buffers {
        add(&buffer.device, 0, buffer.bytes);
    }
    devices.sort_by(|left, right| left.device.cmp(&right.device));
    Placement {
        device_layers: devices.iter().filter(|it| it.device != "CPU").map(|it| it.layers).sum(),
        layers: devices.iter().map(|it| it.layers).sum(),
        devices,
        reason: model.why_not_graphics.clone(),
    }
}

/// Unix milliseconds.
fn milliseconds(moment: SystemTime) -> i64 {
    let age = moment.duration_since(std::time::UNIX_EPOCH).ok();
    age.and_then(|age| i64::try_from(age.as_millis()).ok()).unwrap_or(0)
}
