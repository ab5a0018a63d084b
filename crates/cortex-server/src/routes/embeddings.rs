//! `POST /v1/embeddings` and `/v1/rerank`.

use super::{remote, tokens::usable};
use crate::{App, error::ApiError, json};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use cortex_api::{
    openai::{Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingUsage, Embeddings, Ranked, Ranking, RerankRequest},
    worker::{EmbedInput, Embeds},
};
use cortex_engine::EngineError;
use cortex_remote::Call;
use serde_json::{Value, json};

/// More texts than this are a mistake; OpenAI's limit.
const MOST_TEXTS: usize = 2048;

/// The vectors of texts.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    if let Some(answer) = remote::answer(&app, Call::Embeddings, &headers, &body).await? {
        return Ok(answer);
    }
    let request: EmbeddingRequest = json::required(&headers, &body)?;
    let is_base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is `{other}`; it must be float or base64");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let dimensions = match request.dimensions.map(usize::try_from) {
        None => None,
        Some(Ok(count @ 1..)) => Some(count),
        Some(_) => return Err(ApiError::field("dimensions", "dimensions must be 1 or more")),
    };
    let texts = |texts: Vec<String>| texts.into_iter().map(|text| EmbedInput::Text { text }).collect();
    let inputs: Vec<EmbedInput> = match request.input {
        Some(EmbeddingInput::Text(text)) => texts(vec![text]),
        Some(EmbeddingInput::Texts(several)) => texts(several),
        Some(EmbeddingInput::Tokens(tokens)) => vec![EmbedInput::Tokens { tokens }],
        Some(EmbeddingInput::TokenLists(lists)) => {
            lists.into_iter().map(|tokens| EmbedInput::Tokens { tokens }).collect()
        }
        None => return Err(ApiError::field("input", "input is missing: a text, or a list of texts")),
    };
    check_count("input", inputs.len())?;
    let model = usable(&app, &request.model).await?;
    must_make(&app, &model, Embeds::Vectors, &request.model).await?;
    let (vectors, counts) = app.engines.embed(model, inputs).await.map_err(|error| of_field(error, "input"))?;
    let mut data = Vec::new();
    for (index, mut vector) in vectors.into_iter().enumerate() {
        if let Some(count) = dimensions {
            if count > vector.len() {
                let message = format!("dimensions is {count}; vectors of this model have {}", vector.len());
                return Err(ApiError::field("dimensions", message));
            }
            shorten(&mut vector, count);
        }
        let embedding = if is_base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Value::String(BASE64_STANDARD.encode(bytes))
        } else {
            json!(vector)
        };
        data.push(Embedding { object: "embedding".into(), index, embedding });
    }
    Ok(Json(Embeddings { object: "list".into(), data, model: request.model, usage: usage(&counts) }).into_response())
}

/// Documents, the one that answers a question best first.
pub(crate) async fn rerank(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Json<Ranking>, ApiError> {
    let request: RerankRequest = json::required(&headers, &body)?;
    let query = request.query.ok_or_else(|| ApiError::field("query", "query is missing: the question"))?;
    let documents = request.documents.unwrap_or_default();
    check_count("documents", documents.len())?;
    let top = match request.top_n.map(usize::try_from) {
        None => documents.len(),
        Some(Ok(count @ 1..)) => count,
        Some(_) => return Err(ApiError::field("top_n", "top_n must be 1 or more")),
    };
    let inputs = documents
        .iter()
        .map(|document| EmbedInput::Pair { query: query.clone(), document: document.text().to_owned() })
        .collect();
    let model = usable(&app, &request.model).await?;
    must_make(&app, &model, Embeds::Ranks, &request.model).await?;
    let (ranks, counts) = app.engines.embed(model, inputs).await.map_err(|error| of_field(error, "documents"))?;
    let returns = request.return_documents.unwrap_or(false);
    let mut results: Vec<Ranked> = ranks
        .iter()
        .zip(documents)
        .enumerate()
        .map(|(index, (rank, document))| Ranked {
            index,
            relevance_score: rank.first().copied().unwrap_or(0.0),
            document: returns.then_some(document),
        })
        .collect();
    results.sort_by(|left, right| right.relevance_score.total_cmp(&left.relevance_score));
    results.truncate(top);
    Ok(Json(Ranking { object: "list".into(), model: request.model, results, usage: usage(&counts) }))
}

/// An error of the engine, of the field that texts are in here.
fn of_field(error: EngineError, field: &str) -> ApiError {
    let is_of_text = matches!(error, EngineError::ContextExceeded { .. } | EngineError::EmptyPrompt);
    let mut error = ApiError::from(error);
    if is_of_text {
        error.body.error.param = Some(field.to_owned());
    }
    error
}

fn check_count(field: &str, count: usize) -> Result<(), ApiError> {
    if count == 0 || count > MOST_TEXTS {
        return Err(ApiError::field(field, format!("{field} has {count} entries; 1 to {MOST_TEXTS} are possible")));
    }
    Ok(())
}

/// Refuses a model that makes something else.
async fn must_make(app: &App, model: &cortex_engine::Usable, wanted: Embeds, name: &str) -> Result<(), ApiError> {
    let made = app.engines.embeds(model.clone()).await?;
    if made == Some(wanted) {
        return Ok(());
    }
    let makes = match made {
        None => "answers chats",
        Some(Embeds::Vectors) => "makes vectors of texts (/v1/embeddings)",
        Some(Embeds::Ranks) => "orders documents (/v1/rerank)",
    };
    Err(ApiError::field("model", format!("the model `{name}` {makes}; this needs one of another kind")))
}

/// The first numbers of a vector, again of length 1.
fn shorten(vector: &mut Vec<f32>, count: usize) {
    vector.truncate(count);
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        for number in vector {
            #[expect(clippy::cast_possible_truncation, reason = "a number of a vector of length 1")]
            let scaled = (f64::from(*number) / length) as f32;
            *number = scaled;
        }
    }
}

fn usage(counts: &[u32]) -> EmbeddingUsage {
    let all = counts.iter().fold(0u32, |sum, count| sum.saturating_add(*count));
    EmbeddingUsage { prompt_tokens: all, total_tokens: all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_vector_has_the_same_direction_and_length_one() {
        let mut vector = vec![0.6, 0.0, 0.8];
        shorten(&mut vector, 2);
        assert_eq!(vector, [1.0, 0.0]);
        let mut zero = vec![0.0, 0.0];
        shorten(&mut zero, 1);
        assert_eq!(zero, [0.0]);
    }
}
