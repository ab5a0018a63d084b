//! The one place where a failure becomes a status and a body.

use crate::{SettingsRefusal, edge::Refusal};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cortex_api::openai::ErrorBody;
use cortex_engine::EngineError;
use cortex_models::{ErrorKind, OutboundError};
use cortex_remote::RemoteError;
use cortex_threads::{Fault, ThreadsError};

/// The code of what is not there among conversations.
const MISSING: &str = "not_found";

/// A failure on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: Box<ErrorBody>,
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    /// A failure of one kind, with a stable code.
    pub(crate) fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        let (status, family) = of_kind(kind);
        Self { status, body: Box::new(ErrorBody::new(family, code, message, None)), retry_after: None }
    }

    /// A field that is wrong.
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Invalid, "invalid_value", message);
        error.body.error.param = Some(field.to_owned());
        error
    }

    /// Whether it says that a conversation, or something of one, is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.body.error.code.as_deref() == Some(MISSING)
    }

    /// With one more field, where a route's contract asks for it.
    pub(crate) fn with(mut self, field: &str, value: impl Into<serde_json::Value>) -> Self {
        self.body.more.insert(field.to_owned(), value.into());
        self
    }

    /// With another status, where a route's contract asks for it.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// A failure with an error's own words and hint.
    pub(crate) fn told(kind: ErrorKind, code: &str, error: &dyn std::fmt::Display, hint: Option<String>) -> Self {
        let message = match hint {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        };
        Self::new(kind, code, message)
    }
}

fn of_kind(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "invalid_request_error"),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "invalid_request_error"),
        ErrorKind::DoesNotFit => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error"),
        ErrorKind::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error"),
        ErrorKind::Cancelled | ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let mut answer = Self::told(error.kind(), error.code(), &error, error.hint());
        answer.retry_after = error.retry_after();
        if let EngineError::InvalidRequest { message } = &error {
            // The worker's message begins with the name of the field, or the number of an image.
            let field = message.split_whitespace().next();
            answer.body.error.param = field.map(|field| if field == "image" { "messages" } else { field }.to_owned());
        }
        if matches!(error, EngineError::ContextExceeded { .. }) {
            answer.body.error.param = Some("messages".into());
        }
        answer
    }
}

impl From<ThreadsError> for ApiError {
    fn from(error: ThreadsError) -> Self {
        if error.fault() == Fault::Disk {
            tracing::error!(%error, "a conversation cannot be read or written");
            let message = match error {
                ThreadsError::Damaged { .. } => error.to_string(),
                _ => "the disk failed; the log says more".into(),
            };
            return Self::new(ErrorKind::Internal, "conversation_unreadable", message);
        }
        // cortex.cpp answers 400 to all of these but one.
        let kind = if matches!(error, ThreadsError::FileGone) { ErrorKind::NotFound } else { ErrorKind::Invalid };
        Self::new(kind, if error.is_missing() { MISSING } else { "invalid_value" }, error.to_string())
    }
}

impl From<RemoteError> for ApiError {
    fn from(error: RemoteError) -> Self {
        let bad_gateway = |told: Self| told.with_status(StatusCode::BAD_GATEWAY);
        let told = |kind: ErrorKind| Self::told(kind, error.code(), &error, None);
        match &error {
            RemoteError::Invalid { field, reason } => {
                // The words of cortex.cpp where it has some.
                let message = if reason.starts_with(field.as_str()) { reason.clone() } else { error.to_string() };
                Self::field(field, message)
            }
            RemoteError::NoEngine { .. }
            | RemoteError::EngineExists { .. }
            | RemoteError::NoModel { .. }
            | RemoteError::ModelExists { .. }
            | RemoteError::Template { .. }
            | RemoteError::CannotAsk { .. } => told(ErrorKind::Invalid),
            RemoteError::Disk { .. } => told(ErrorKind::Internal),
            RemoteError::Outbound { source: OutboundError::Timeout { .. }, .. } => {
                told(ErrorKind::Unavailable).with_status(StatusCode::GATEWAY_TIMEOUT)
            }
            RemoteError::Outbound { .. } | RemoteError::Nonsense { .. } => bad_gateway(told(ErrorKind::Unavailable)),
            RemoteError::Refused { engine, status, retry_after, .. } => match status {
                // Ours would be taken for a word about the key of this daemon.
                401 | 403 => {
                    let hint = format!(
                        "the key that is set for it is not right; set another one with POST /v1/engines/{engine}/update"
                    );
                    bad_gateway(Self::told(ErrorKind::Unavailable, error.code(), &error, Some(hint)))
                }
                429 => {
                    let mut busy = told(ErrorKind::Busy);
                    busy.retry_after = *retry_after;
                    busy
                }
                404 => told(ErrorKind::NotFound),
                400..=499 => told(ErrorKind::Invalid),
                _ => bad_gateway(told(ErrorKind::Unavailable)),
            },
        }
    }
}

impl From<SettingsRefusal> for ApiError {
    fn from(refusal: SettingsRefusal) -> Self {
        match refusal {
            SettingsRefusal::Nothing(_) => Self::new(ErrorKind::Invalid, "nothing_updated", refusal.to_string()),
            SettingsRefusal::Invalid(_) => Self::new(ErrorKind::Invalid, "invalid_value", refusal.to_string()),
            SettingsRefusal::File(_) => Self::new(ErrorKind::Internal, "settings_file", refusal.to_string()),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let forbidden = |code: &str, message: String| {
            Self::new(ErrorKind::Invalid, code, message).with_status(StatusCode::FORBIDDEN)
        };
        match refusal {
            Refusal::Host(host) => forbidden(
                "host_not_allowed",
                format!("the host `{host}` is not a name of this daemon; add it to `allowedHosts` in the settings"),
            ),
            Refusal::Origin(origin) => forbidden(
                "origin_not_allowed",
                format!(
                    "pages of `{origin}` may not use this daemon; add the origin to `allowedOrigins` in the settings, or start with --allowed_origins"
                ),
            ),
            Refusal::NotLocal => forbidden("not_local", "only programs on the daemon's own machine may stop it".into()),
            Refusal::Scope(needed) => {
                let names = needed.iter().map(|scope| scope.name()).filter(|name| *name != "manage");
                let names: Vec<&str> = names.chain(["manage"]).collect();
                forbidden(
                    "insufficient_scope",
                    format!("this API key is not for that: it needs the scope `{}`", names.join("` or `")),
                )
            }
            Refusal::Key => {
                let mut error = Self::new(ErrorKind::Invalid, "invalid_api_key", "Invalid API Key")
                    .with_status(StatusCode::UNAUTHORIZED);
                error.body.error.kind = "authentication_error".into();
                error
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
