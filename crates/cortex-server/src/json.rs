//! Request bodies: JSON, of bounded size, with errors that name the field.

use crate::error::ApiError;
use axum::{
    body::Bytes,
    extract::{FromRequestParts, Query},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use cortex_models::ErrorKind;
use serde::de::DeserializeOwned;

/// The query of a request. What is wrong with it is told as everything else.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state).await.map(|Query(asked)| Self(asked)).map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            ApiError::new(ErrorKind::Invalid, "invalid_query", format!("the query is not valid: {why}"))
        })
    }
}

/// The reader's words without the names of our types.
fn plain_words(error: &serde_json::Error) -> String {
    let said = error.to_string();
    if said.starts_with("recursion limit exceeded") {
        return "it is nested more than 127 deep".into();
    }
    let Some((found, expected)) = said.split_once(", expected ") else { return said };
    let (word, place) = expected
        .split_once(" at line ")
        .map_or((expected, String::new()), |(word, place)| (word, format!(" at line {place}")));
    let plain = match word {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "a map" => "an object",
        "a sequence" => "a list",
        "a string" => "a text",
        "a boolean" => "true or false",
        word if word.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {plain}{place}")
}

/// Reads a body that must be there.
pub(crate) fn required<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(ErrorKind::Invalid, "empty_body", "Body can't be empty"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    // Anything else could be sent by a web page without asking first.
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            ErrorKind::Invalid,
            "unsupported_media_type",
            "the body must be JSON, sent with the header `Content-Type: application/json`",
        )
        .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new(
            ErrorKind::Invalid,
            "invalid_json",
            "the body is not valid: it must be a JSON object",
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        // A body that is not JSON has no fields: the path is then empty, or not known.
        if path == "." || error.inner().is_syntax() || error.inner().is_eof() {
            ApiError::new(
                ErrorKind::Invalid,
                "invalid_json",
                format!("the body is not valid: {}", plain_words(error.inner())),
            )
        } else {
            ApiError::field(&path, format!("{path}: {}", plain_words(error.inner())))
        }
    })?;
    reader.end().map_err(|error| {
        ApiError::new(ErrorKind::Invalid, "invalid_json", format!("the body is not valid: {error}"))
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use cortex_api::openai::ChatCompletionRequest;

    fn read(kind: &str, body: &'static str) -> Result<ChatCompletionRequest, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        required(&headers, &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let error = read("application/json", r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":3}]}"#)
            .expect_err("a role is a text");
        assert_eq!(error.body.error.param.as_deref(), Some("messages[1].role"));
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn errors_are_told_without_the_names_of_types() {
        let deep: &'static str = format!(r#"{{"model":"m","json_schema":{}"#, "[".repeat(200)).leak();
        for (body, said) in [
            (r#"{"model":"m","temperature":"hot"}"#, "expected a number"),
            (r#"{"model":"m","max_tokens":"many"}"#, "expected a whole number"),
            (r#"{"model":"m","stop":3}"#, "stop: it must be a text, or a list of texts"),
            ("[]", "it must be a JSON object"),
            (deep, "nested more than 127 deep"),
        ] {
            let message = read("application/json", body).expect_err(said).body.message;
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn only_json_is_read() {
        assert!(read("application/json; charset=utf-8", r#"{"model":"m"}"#).is_ok());
        assert_eq!(read("text/plain", "{}").expect_err("plain").status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(read("application/json", "").expect_err("empty").status, StatusCode::BAD_REQUEST);
        assert!(read("application/json", "{} x").is_err());
        for torn in ["{", r#"{"model": "m"#, r#"{"model": }"#] {
            let error = read("application/json", torn).expect_err(torn);
            assert!(error.body.error.param.is_none() && error.body.message.starts_with("the body is not valid"));
        }
    }
}
