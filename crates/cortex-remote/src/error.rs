//! Why a remote engine, or one of its models, cannot be used.

use cortex_models::OutboundError;

/// Why a remote engine, or one of its models, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// There is no such engine.
    #[error("Remote engine '{engine}' is not installed")]
    NoEngine {
        /// Which one was meant.
        engine: String,
    },
    /// There is one of that name.
    #[error("Engine '{engine}' already exists")]
    EngineExists {
        /// Its name.
        engine: String,
    },
    /// There is no such model.
    #[error("Model not found: {id}")]
    NoModel {
        /// Which one was meant.
        id: String,
    },
    /// There is a model with that id.
    #[error("Fail to import model, model_id '{id}' already exists!")]
    ModelExists {
        /// Its id.
        id: String,
    },
    /// Something that was said of an engine or a model cannot be used.
    #[error("{field}: {reason}")]
    Invalid {
        /// What.
        field: String,
        /// Why.
        reason: String,
    },
    /// A template gave an error, or something that is no JSON.
    #[error("the template {which} of the remote engine `{engine}` cannot be used: {reason}")]
    Template {
        /// Whose.
        engine: String,
        /// Which.
        which: &'static str,
        /// Why.
        reason: String,
    },
    /// The request cannot be said in the words of the engine.
    #[error("the remote engine `{engine}` cannot do this: {reason}")]
    CannotAsk {
        /// Which engine.
        engine: String,
        /// What it cannot do.
        reason: String,
    },
    /// It answered with a refusal.
    #[error("the remote engine `{engine}` answered {status}: {message}")]
    Refused {
        /// Which engine.
        engine: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
        /// Seconds until it should be asked again.
        retry_after: Option<u32>,
    },
    /// It answered with something that makes no sense.
    #[error("the answer of the remote engine `{engine}` makes no sense: {reason}")]
    Nonsense {
        /// Which engine.
        engine: String,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be reached, or its answer broke off.
    #[error("the remote engine `{engine}` cannot be used now: {source}")]
    Outbound {
        /// Which engine.
        engine: String,
        /// Why.
        #[source]
        source: OutboundError,
    },
    /// The file with the engines cannot be read or written.
    #[error("the list of remote engines cannot be {action}: {reason}")]
    Disk {
        /// Read or written.
        action: &'static str,
        /// What the system says.
        reason: String,
    },
}

impl RemoteError {
    pub(crate) fn invalid(field: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.to_owned(), reason: reason.into() }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEngine { .. } => "engine_not_found",
            Self::EngineExists { .. } => "engine_exists",
            Self::NoModel { .. } => "model_not_found",
            Self::ModelExists { .. } => "model_exists",
            Self::Invalid { .. } => "invalid_value",
            Self::Template { .. } => "invalid_template",
            Self::CannotAsk { .. } => "not_supported_by_engine",
            Self::Refused { .. } => "remote_engine_refused",
            Self::Nonsense { .. } => "remote_engine_nonsense",
            Self::Outbound { .. } => "remote_engine_unreachable",
            Self::Disk { .. } => "remote_engines_unreadable",
        }
    }
}
