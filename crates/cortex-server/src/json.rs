//! Request bodies: JSON, of bounded size, with errors that name the field.

use crate::error::ApiError;
use axum::{
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
};
use cortex_models::ErrorKind;
use serde::de::DeserializeOwned;

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
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        // A body that is not JSON has no fields: the path is then empty, or not known.
        if path == "." || error.inner().is_syntax() || error.inner().is_eof() {
            ApiError::new(ErrorKind::Invalid, "invalid_json", format!("the body is not valid: {}", error.inner()))
        } else {
            ApiError::field(&path, format!("{path}: {}", error.inner()))
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
