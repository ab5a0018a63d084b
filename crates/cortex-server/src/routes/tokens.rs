//! `POST /tokenize`, `/detokenize` and `/apply-template`, as llama-server has them, with a `model`.

use super::run;
use crate::{
    App,
    convert::{self, Order, Target},
    error::ApiError,
    json,
};
use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use cortex_api::openai::ChatCompletionRequest;
use cortex_engine::Usable;
use serde::Deserialize;
use serde_json::{Value, json};

/// The body of `/tokenize`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizeRequest {
    model: String,
    content: Option<String>,
    /// Put the beginning-of-sequence token in front, when the model wants one.
    add_special: bool,
    /// The text of a control token stands for that token.
    parse_special: Option<bool>,
    /// Tell the text of each token.
    with_pieces: bool,
}

/// The token ids of a text.
pub(crate) async fn tokenize(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, ApiError> {
    let request: TokenizeRequest = json::required(&headers, &body)?;
    let content =
        request.content.ok_or_else(|| ApiError::field("content", "content is missing: the text to tokenise"))?;
    let model = usable(&app, &request.model).await?;
    let special = request.parse_special.unwrap_or(true);
    let (tokens, pieces) = app.engines.tokenize(model, content, (special, request.add_special)).await?;
    if !request.with_pieces {
        return Ok(Json(json!({ "tokens": tokens })));
    }
    let piece = |(id, bytes): (i32, Vec<u8>)| {
        // What is no text by itself is told as its bytes.
        let piece = String::from_utf8(bytes).map_or_else(|why| json!(why.into_bytes()), Value::String);
        json!({"id": id, "piece": piece})
    };
    Ok(Json(json!({ "tokens": tokens.into_iter().zip(pieces).map(piece).collect::<Vec<_>>() })))
}

/// The body of `/detokenize`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DetokenizeRequest {
    model: String,
    tokens: Option<Vec<i32>>,
}

/// The text of tokens.
pub(crate) async fn detokenize(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: DetokenizeRequest = json::required(&headers, &body)?;
    let tokens = request.tokens.ok_or_else(|| ApiError::field("tokens", "tokens is missing: a list of token ids"))?;
    let model = usable(&app, &request.model).await?;
    let content = app.engines.detokenize(model, tokens).await?;
    Ok(Json(json!({ "content": content })))
}

/// The prompt that a chat becomes.
pub(crate) async fn apply_template(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: ChatCompletionRequest = json::required(&headers, &body)?;
    let (model, yaml, files) = run::find(&app, &request.model).await?;
    let load = convert::load_settings(&yaml, app.engines.load_settings());
    let usable = Usable { id: model.id.clone(), files: files.clone(), load };
    let target = Target { id: &model.id, files, yaml: &yaml, load: app.engines.load_settings() };
    let Order { jobs, .. } = convert::chat(request, target)?;
    let Some(job) = jobs.first() else { return Err(ApiError::field("messages", "messages is empty")) };
    let prompt = app.engines.apply_template(usable, &job.prompt).await?;
    Ok(Json(json!({ "prompt": prompt })))
}

/// A model by its name, loaded as its settings say when it is not.
pub(crate) async fn usable(app: &App, name: &str) -> Result<Usable, ApiError> {
    let (model, yaml, files) = run::find(app, name).await?;
    let load = convert::load_settings(&yaml, app.engines.load_settings());
    Ok(Usable { id: model.id.clone(), files, load })
}
