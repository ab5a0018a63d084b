//! API keys, and what each of them is good for. Pure.

use axum::http::Method;
use std::fmt;

/// What a key allows. Each is more than the one before it only where the table of [`needed`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Answers of models, and which models there are.
    Infer,
    /// Looking at everything, and what changes nothing.
    Read,
    /// Everything.
    Manage,
}

impl Scope {
    /// Its name in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Read => "read",
            Self::Manage => "manage",
        }
    }

    /// The scope of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Infer, Self::Read, Self::Manage].into_iter().find(|scope| scope.name() == name)
    }
}

/// A key that a request may carry.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The secret itself.
    pub key: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
}

impl ApiKey {
    /// A key for everything, as cortex.cpp knows them.
    pub fn full(key: impl Into<String>) -> Self {
        Self { key: key.into(), scopes: vec![Scope::Manage] }
    }

    /// Whether it is good for this.
    pub(crate) fn allows(&self, needed: Scope) -> bool {
        self.scopes.iter().any(|&scope| scope == Scope::Manage || scope == needed)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiKey").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Routes that a model answers.
const ANSWERS: &[&str] = &[
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/infill",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];
/// Routes that ask with a body and change nothing.
const QUESTIONS: &[&str] = &["/v1/models/fit", "/v1/models/pull/info"];

/// What follows `/v1/models/` and is about more than a model that is here.
const ELSEWHERE: &[&str] = &["remote/", "sources", "hub", "pulls", "health"];

/// The scopes one of which a request needs, by its method and the path that the router knows.
pub(crate) fn needed(method: &Method, path: &str) -> &'static [Scope] {
    let looks = matches!(*method, Method::GET | Method::HEAD);
    let below = path.strip_prefix("/v1/models/");
    let lists = path == "/v1/models" || below.is_some_and(|rest| !ELSEWHERE.iter().any(|word| rest.starts_with(word)));
    match () {
        () if ANSWERS.contains(&path) => &[Scope::Infer],
        // Clients that chat ask for the models first.
        () if looks && lists => &[Scope::Infer, Scope::Read],
        () if looks || QUESTIONS.contains(&path) => &[Scope::Read],
        () => &[Scope::Manage],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_route_needs() {
        for (method, path, scopes) in [
            (Method::POST, "/v1/chat/completions", "infer"),
            (Method::POST, "/tokenize", "infer"),
            (Method::GET, "/v1/models", "infer read"),
            (Method::GET, "/v1/models/a/b", "infer read"),
            (Method::GET, "/v1/models/remote/openai", "read"),
            (Method::GET, "/v1/models/hub/search", "read"),
            (Method::PATCH, "/v1/models/a", "manage"),
            (Method::DELETE, "/v1/models/a", "manage"),
            (Method::POST, "/v1/models/start", "manage"),
            (Method::POST, "/v1/models/fit", "read"),
            (Method::GET, "/v1/threads", "read"),
            (Method::POST, "/v1/threads", "manage"),
            (Method::GET, "/v1/configs", "read"),
            (Method::PATCH, "/v1/configs", "manage"),
            (Method::GET, "/metrics", "read"),
            (Method::POST, "/v1/unknown", "manage"),
        ] {
            let found: Vec<&str> = needed(&method, path).iter().map(|scope| scope.name()).collect();
            assert_eq!(found.join(" "), scopes, "{method} {path}");
        }
    }

    #[test]
    fn a_key_for_everything_allows_everything_and_others_what_they_name() {
        let key = |names: &[Scope]| ApiKey { key: "k".into(), scopes: names.to_vec() };
        for scope in [Scope::Infer, Scope::Read, Scope::Manage] {
            assert!(ApiKey::full("k").allows(scope));
            assert_eq!(key(&[Scope::Read]).allows(scope), scope == Scope::Read);
            assert_eq!(Scope::of_name(scope.name()), Some(scope));
        }
        assert!(!key(&[]).allows(Scope::Infer));
        assert!(!format!("{:?}", ApiKey::full("sekret")).contains("sekret"));
    }
}
