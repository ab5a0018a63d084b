//! Whether a model fits this machine.

use super::{
    models::ordered,
    registry::missing_field,
    run::{blocking, find},
};
use crate::{App, convert::load_settings, error::ApiError, json};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use cortex_api::native::{FitRequest, FitResponse, MemoryUse, ModelRequest};
use cortex_hardware::{CacheType, Cpu, Hardware, ModelShape, fit as fit_of};
use cortex_models::ErrorKind;

/// Says what a model needs, and whether there is room for it. Loads nothing.
pub(crate) async fn fit(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<FitResponse>, ApiError> {
    let request: FitRequest = json::required(&headers, &body)?;
    let name = request.model.clone().ok_or_else(|| missing_field("model"))?;
    let (model, yaml, weights) = find(&app, &name).await?;
    let order = ModelRequest { ctx_len: request.ctx_len, n_parallel: request.n_parallel, ..ModelRequest::default() };
    let load = ordered(&order, load_settings(&yaml, app.engines.load_settings()))?;
    let (engines, id) = (app.engines.clone(), model.id.clone());
    let (shape, hardware) = blocking(move || {
        let hardware = Hardware { cpu: Cpu::probe(), memory: engines.memory_for(&id) };
        (cortex_models::shape(&weights), hardware)
    })
    .await?;
    let (architecture, weight_bytes) =
        shape.map_err(|error| ApiError::told(ErrorKind::Invalid, "model_broken", &error, None))?;
    let trained_context = architecture.as_ref().map(|it| it.trained_context).filter(|&trained| trained > 0);
    let shape = ModelShape {
        weight_bytes,
        architecture,
        // No more than it was trained with is ever given.
        context: load.context_length.min(trained_context.unwrap_or(u32::MAX)),
        parallel: load.parallel,
        cache_type: CacheType::F16,
    };
    let fit = fit_of(&shape, &hardware);
    let verdict = match fit.largest_context {
        _ if fit.fits() => "it fits; models run on the processor".to_owned(),
        Some(largest) => format!(
            "it does not fit by {}; with a context of {largest} tokens it would (`--ctx {largest}`)",
            mebibytes(fit.needed - fit.budget)
        ),
        None => format!("it does not fit by {}, whatever the context", mebibytes(fit.needed - fit.budget)),
    };
    Ok(Json(FitResponse {
        object: "fit".into(),
        model: model.id.to_string(),
        context_length: shape.context,
        parallel: shape.parallel,
        memory: MemoryUse { weights: fit.weights, cache: fit.cache, compute: fit.compute, output: fit.output },
        process: fit.process,
        needed: fit.needed,
        available: hardware.memory.available,
        budget: fit.budget,
        fits: fit.fits(),
        largest_context: fit.largest_context,
        trained_context,
        verdict,
    }))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
