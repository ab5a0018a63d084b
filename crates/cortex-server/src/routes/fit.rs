//! Whether a model fits this machine.

use super::{
    models::ordered,
    pulls::pull_error,
    registry::missing_field,
    run::{blocking, find},
};
use crate::{App, convert::load_settings, error::ApiError, json};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use cortex_api::native::{
    ExpectedSpeed, FitAnswer, FitList, FitRequest, FitResponse, GraphicsFit, MemoryUse, ModelRequest,
};
use cortex_engine::{Engines, LoadSettings, NARROW_HEADS};
use cortex_hardware::{Bound, Budget, CacheType, Fit, Graphics, Memory, ModelShape, fit as fit_of};
use cortex_models::{ErrorKind, ModelId};

/// Says what a model needs, and whether there is room for it: of a file that is here, or of the files of a repository on
/// the hub. Loads and downloads nothing.
pub(crate) async fn fit(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<FitAnswer>, ApiError> {
    let request: FitRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    let order = ModelRequest {
        ctx_len: request.ctx_len,
        n_parallel: request.n_parallel,
        cache_type: request.cache_type.clone(),
        ngl: request.ngl,
        exact: request.exact,
        ..ModelRequest::default()
    };
    if std::path::Path::new(&name).is_absolute() {
        return of_file(&app, name, &order).await;
    }
    let (model, yaml, files) = match find(&app, &name).await {
        Ok(found) => found,
        Err(error) if error.status == StatusCode::NOT_FOUND && is_of_hub(&name) => {
            return of_hub(&app, &name, &order).await;
        }
        Err(error) => return Err(error),
    };
    let load = as_ordered(&order, load_settings(&yaml, app.engines.load_settings()))?;
    let (engines, id, path) = (app.engines.clone(), model.id.clone(), files.weights.clone());
    let guesser_of = files.clone();
    let (shape, room) = blocking(move || (files.shape(), Room::of(&engines, &id))).await?;
    let shape = shape.map_err(|error| ApiError::told(ErrorKind::Invalid, "model_broken", &error, None))?;
    let wrong = guesser_of.check_guesser(&shape);
    app.engines.remember_shape(&model.id, &path, &shape);
    let mut answer = of_shape(&app, &model.id, &shape, load, &room);
    if let (Err(why), FitAnswer::Model(fit)) = (wrong, &mut answer) {
        cannot_be_loaded(fit, &why.to_string());
    }
    Ok(Json(answer))
}

/// How a start with these words would load a model.
fn as_ordered(order: &ModelRequest, stored: LoadSettings) -> Result<LoadSettings, ApiError> {
    Ok(ordered(order, stored)?.over(stored))
}

/// A shape with what a load would give it on a machine that has this for models.
pub(super) fn as_loaded(shape: &ModelShape, load: LoadSettings, all: Budget) -> ModelShape {
    ModelShape {
        context: load.context_of(shape, all),
        parallel: load.parallel,
        cache_type: load.cache_type,
        most_layers: load.device_layers,
        ..shape.clone()
    }
}

/// What a file needs that is no model yet.
async fn of_file(app: &App, name: String, order: &ModelRequest) -> Result<Json<FitAnswer>, ApiError> {
    let load = as_ordered(order, app.engines.load_settings())?;
    let (engines, id) = (app.engines.clone(), ModelId::existing(&name));
    let (shape, room, id) = blocking(move || {
        let room = Room::of(&engines, &id);
        (cortex_models::shape(std::path::Path::new(&name)), room, id)
    })
    .await?;
    let (architecture, weight_bytes) =
        shape.map_err(|error| ApiError::told(ErrorKind::Invalid, "not_a_model", &error, None))?;
    let shape = ModelShape { weight_bytes, architecture, ..ModelShape::default() };
    Ok(Json(of_shape(app, &id, &shape, load, &room)))
}

fn of_shape(app: &App, id: &ModelId, shape: &ModelShape, load: LoadSettings, room: &Room) -> FitAnswer {
    let speed = expected(&app.engines, Some(id), shape, load);
    FitAnswer::Model(Box::new(predicted((id.to_string(), None), shape, load, room, speed)))
}

/// Whether a name may be one of the hub: names of models that are not here are asked for by mistake, too.
fn is_of_hub(name: &str) -> bool {
    name.contains('/') || name.matches(':').count() >= 2
}

/// What the models of a repository need.
async fn of_hub(app: &App, name: &str, order: &ModelRequest) -> Result<Json<FitAnswer>, ApiError> {
    let load = as_ordered(order, app.engines.load_settings())?;
    let shapes = app.pulls.shapes(name).await.map_err(|error| pull_error(&error))?;
    let unknown =
        || ApiError::told(ErrorKind::NotFound, "model_not_found", &format!("there is no model `{name}`"), None);
    let shapes = shapes.ok_or_else(unknown)?;
    let engines = app.engines.clone();
    let nobody = ModelId::existing(name);
    let room = blocking(move || Room::of(&engines, &nobody)).await?;
    let mut data: Vec<FitResponse> = shapes
        .models
        .iter()
        .map(|it| {
            let speed = expected(&app.engines, None, &it.shape, load);
            predicted((it.model.clone(), it.quantization.clone()), &it.shape, load, &room, speed)
        })
        .collect();
    if !shapes.is_choice {
        return Ok(Json(FitAnswer::Model(Box::new(data.remove(0)))));
    }
    // A model that has to do with one request at a time, or a shorter context, is one that fits.
    let (recommended, why) = shapes.recommended(|it| data.iter().any(|fit| fit.model == it.model && fit.loads));
    Ok(Json(FitAnswer::Models(FitList {
        object: "list".into(),
        model: name.to_owned(),
        recommended: recommended.map(|at| data[at].model.clone()),
        reason: why.into(),
        data,
    })))
}

/// Tokens of the prompt for which the speed is told.
const PROMPT: u32 = 512;

/// How fast a model would be on the processor, and whether that will be known later.
fn expected(
    engines: &Engines,
    id: Option<&ModelId>,
    shape: &ModelShape,
    load: LoadSettings,
) -> (Option<ExpectedSpeed>, bool) {
    let known = shape.architecture.as_ref().filter(|it| !it.passed.is_empty());
    // Looking back at keys and values of fewer bits takes longer, and was not measured.
    let Some(architecture) = known.filter(|_| load.cache_type == CacheType::F16) else {
        return (None, false);
    };
    let Some(expected) = engines.expected_speed(id, architecture, PROMPT) else {
        return (None, engines.is_speed_pending());
    };
    let rounded = |number: f64| (number * 10.0).round() / 10.0;
    let speed = ExpectedSpeed {
        prompt_tokens: PROMPT,
        prompt_per_second: rounded(expected.prompt),
        predicted_per_second: rounded(expected.answer),
        bound: match expected.bound {
            Bound::Computation => "computation",
            Bound::Memory => "memory bandwidth",
        }
        .into(),
        source: match (expected.is_observed, expected.is_rough) {
            (true, _) => "measured",
            (false, true) => "estimated while something else was computed",
            (false, false) => "estimated",
        }
        .into(),
    };
    (Some(speed), false)
}

/// What a model could have.
struct Room {
    /// What it could have, when all models have left that may.
    budget: Budget,
    /// What there is on this machine.
    all: Budget,
    /// What the system says is available now.
    available: u64,
    /// The models that stay.
    pinned: Vec<String>,
}

impl Room {
    fn of(engines: &Engines, id: &ModelId) -> Self {
        let pinned = engines.pinned().iter().filter(|pinned| *pinned != id).map(ToString::to_string).collect();
        Self {
            budget: engines.budget_for(id),
            all: engines.budget_of_machine(),
            available: Memory::probe().available,
            pinned,
        }
    }
}

/// The prediction for one model.
fn predicted(
    (model, quantization): (String, Option<String>),
    shape: &ModelShape,
    load: LoadSettings,
    room: &Room,
    (speed, speed_pending): (Option<ExpectedSpeed>, bool),
) -> FitResponse {
    let trained_context = shape.architecture.as_ref().map(|it| it.trained_context).filter(|&trained| trained > 0);
    let shape = as_loaded(shape, load, room.all);
    let fit = fit_of(&shape, room.budget);
    // What runs on a graphics processor is not predicted.
    let (speed, speed_pending) = if fit.placed.layers > 0 { (None, false) } else { (speed, speed_pending) };
    let (parts, graphics) = (fit.placed.parts(), fit.placed.graphics);
    let (mut verdict, loads) = verdict(&shape, &fit, load);
    if load.fixed_context && load.context_length > shape.context {
        verdict = format!("{verdict}; it was trained with {} tokens of context, and gets no more", shape.context);
    }
    if !fit.fits() && !room.pinned.is_empty() {
        verdict = format!("{verdict}; pinned models keep their memory: {}", room.pinned.join(", "));
    }
    let stores_cache = shape.stores_cache();
    let mut response = FitResponse {
        object: "fit".into(),
        model,
        quantization,
        context_length: shape.context,
        parallel: shape.parallel,
        cache_type: shape.cache_type.name().into(),
        memory: MemoryUse { weights: parts.weights, cache: parts.cache, compute: parts.compute, output: parts.output },
        process: parts.process,
        needed: fit.needed(),
        graphics: (fit.budget.graphics != Graphics::None).then(|| GraphicsFit {
            device_layers: fit.placed.layers,
            layers: shape.layers(),
            needed: graphics.total(),
            budget: match fit.budget.graphics {
                Graphics::Own(bytes) => Some(bytes),
                Graphics::None | Graphics::Shared => None,
            },
        }),
        speed,
        speed_pending,
        available: room.available,
        budget: fit.budget.memory,
        fits: fit.fits(),
        loads,
        largest_context: fit.largest_context,
        trained_context,
        verdict,
    };
    if !stores_cache {
        cannot_be_loaded(&mut response, NARROW_HEADS);
    }
    response
}

/// Says of a prediction that something else than memory is in the way.
fn cannot_be_loaded(fit: &mut FitResponse, why: &str) {
    fit.loads = false;
    fit.verdict = format!("it cannot be loaded: {why}; beside that, {}", fit.verdict);
}

/// For a person, and whether a load would find a way: what was not ordered may be less.
fn verdict(shape: &ModelShape, fit: &Fit, load: LoadSettings) -> (String, bool) {
    if fit.fits() {
        let (layers, on) = (shape.layers(), fit.placed.layers);
        let where_to = match (fit.budget.graphics, on) {
            (Graphics::None, _) => "it fits; models run on the processor".into(),
            (_, 0) => "it fits, on the processor; none of it is on a graphics processor".into(),
            (_, on) if on >= layers => "it fits on the graphics processor".into(),
            (_, on) => {
                format!("it fits; {on} of its {layers} layers on the graphics processor, the rest on the processor")
            }
        };
        return (where_to, true);
    }
    let missing = mebibytes(fit.needed() - fit.budget.memory);
    let least = if load.fixed_parallel { shape.parallel } else { 1 };
    if let Some(parallel) = shape.most_parallel(least, fit.budget) {
        return (
            format!(
                "it does not fit by {missing}; for {} at the same time it does, and is loaded so",
                requests(parallel)
            ),
            true,
        );
    }
    let fewer = ModelShape { parallel: least, ..shape.clone() };
    match fewer.largest_context(shape.context, fit.budget) {
        Some(largest) => {
            let with = format!("with a context of {largest} tokens for {} at the same time", requests(least));
            if load.fixed_context {
                (format!("it does not fit by {missing}; {with} it would (`--ctx {largest} --parallel {least}`)"), false)
            } else {
                (format!("it does not fit by {missing}; {with} it does, and is loaded so"), true)
            }
        }
        None => (format!("it does not fit by {missing}, whatever the context"), false),
    }
}

fn requests(count: u32) -> String {
    if count == 1 { "one request".into() } else { format!("{count} requests") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
