//! Which path leads where, and what every request passes first.

use crate::{
    App,
    edge::{self, Admitted, LocalUser, Refusal},
    error::ApiError,
    routes::{
        chat, completions, configs, embeddings, engines, events, files, fit, hardware, infill, list, metrics,
        migrations, models, pulls, registry, remote, sources, system, threads, tokens,
    },
};
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::PathAndQuery},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use cortex_models::ErrorKind;
use futures::FutureExt;
use percent_encoding::percent_decode_str;
use std::{net::SocketAddr, panic::AssertUnwindSafe};
use tower::ServiceExt;

/// The whole service. Needs `ConnectInfo<SocketAddr>`.
pub fn router(app: App) -> Router {
    let routes = Router::new()
        .route("/", get(system::reference))
        .route("/openapi.json", get(system::document))
        .route("/healthz", get(system::healthz))
        .route("/health", get(system::health))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/system/doctor", get(system::doctor))
        .route("/v1/hardware", get(hardware::get))
        .route("/v1/hardware/activate", post(hardware::activate))
        .route("/processManager/destroy", delete(system::destroy))
        .route("/v1/events", get(events::events))
        .route("/v1/models", get(list::list).patch(registry::update_by_id).delete(registry::delete_by_id))
        .route("/v1/models/import", post(registry::import))
        .route("/v1/models/health", get(registry::health))
        .route("/v1/models/reindex", post(registry::reindex))
        .route("/v1/models/pull", post(pulls::create).delete(pulls::cancel))
        .route("/v1/models/pull/info", post(pulls::info))
        .route("/v1/models/pulls", get(pulls::list))
        .route("/v1/models/pulls/pause", post(pulls::pause))
        .route("/v1/models/pulls/resume", post(pulls::resume))
        .route("/v1/models/pulls/{id}/events", get(pulls::follow))
        .route("/events", get(pulls::events))
        .route("/v1/models/sources", get(sources::list).post(sources::add).delete(sources::remove))
        .route("/v1/models/sources/{*url}", get(sources::get))
        .route("/v1/models/hub", get(sources::repositories))
        .route("/v1/models/hub/search", get(sources::search))
        .route("/v1/migrations", get(migrations::list).post(migrations::create))
        .route("/v1/migrations/{id}", get(migrations::get))
        .route("/v1/migrations/{id}/undo", post(migrations::undo))
        .route("/v1/models/fit", post(fit::fit))
        .route("/v1/models/add", post(remote::add))
        .route("/v1/models/remote/{engine}", get(remote::list))
        .route("/v1/engines", get(engines::list).post(engines::add))
        .route("/v1/engines/{name}", get(engines::get))
        .route("/v1/engines/{name}/install", get(engines::follow).post(engines::install).delete(engines::uninstall))
        .route("/v1/engines/{name}/default", get(engines::default).post(engines::set_default))
        .route("/v1/engines/{name}/update", post(engines::update))
        .route("/v1/engines/{name}/load", post(engines::load).delete(engines::unload))
        .route("/v1/engines/{name}/releases", get(engines::releases))
        .route("/v1/engines/{name}/releases/{version}", get(engines::release))
        .route("/v1/models/start", post(models::start))
        .route("/v1/models/stop", post(models::stop))
        .route("/v1/models/status", get(models::status_by_id))
        .route("/v1/models/status/{*id}", get(models::status))
        .route("/v1/models/{*id}", get(list::get).patch(registry::update).delete(registry::delete))
        .route("/v1/configs", get(configs::show).patch(configs::update))
        .route("/v1/threads", get(threads::list).post(threads::create))
        .route(
            "/v1/threads/{id}",
            get(threads::get).patch(threads::update).post(threads::update).delete(threads::remove),
        )
        .route("/v1/threads/{id}/messages", get(threads::messages).post(threads::create_message))
        .route(
            "/v1/threads/{id}/messages/{message}",
            get(threads::message)
                .patch(threads::update_message)
                .post(threads::update_message)
                .delete(threads::remove_message),
        )
        .route("/v1/assistants", get(threads::assistants).post(threads::create_assistant))
        .route(
            "/v1/assistants/{id}",
            get(threads::assistant)
                .patch(threads::update_assistant)
                .post(threads::post_assistant)
                .delete(threads::remove_assistant),
        )
        .route("/v1/files", get(files::list).post(files::create).layer(DefaultBodyLimit::max(files::LONGEST)))
        .route("/v1/files/{id}", get(files::get).delete(files::remove))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/inferences/server/models", get(models::loaded))
        .route("/inferences/server/loadmodel", post(models::load))
        .route("/inferences/server/unloadmodel", post(models::unload))
        .route("/inferences/server/modelstatus", post(models::model_status))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/rerank", post(embeddings::rerank))
        .route("/infill", post(infill::create))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route_layer(from_fn_with_state(app.clone(), metrics::count))
        .fallback(|uri: Uri| async move {
            ApiError::new(ErrorKind::NotFound, "unknown_route", format!("there is no route {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::new(
                ErrorKind::Invalid,
                "method_not_allowed",
                format!("{} is not answered to {method}", uri.path()),
            )
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .layer(DefaultBodyLimit::max(app.config().body_limit))
        .with_state(app.clone());
    Router::new().fallback(move |request: Request| pass(app.clone(), routes.clone(), request))
}

/// Every request passes here: who asks, under which name, from which page; then the route.
async fn pass(app: App, routes: Router, mut request: Request) -> Response {
    if let Some(uri) = canonical(request.uri()) {
        *request.uri_mut() = uri;
    }
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let Some(&ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() else {
        return ApiError::new(ErrorKind::Internal, "internal_error", "the peer is not known").into_response();
    };
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let config = app.config();
    let admitted = edge::admit(&config, peer.ip(), (&method, &path), (request.headers(), authority.as_deref()));
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tracing::warn!(%method, path, ?refusal, "refused");
            let is_of_key = matches!(refusal, Refusal::Key | Refusal::Scope(_));
            let mut response = ApiError::from(refusal).into_response();
            if is_of_key && config.cors {
                let origin = edge::reader(&config, &method, request.headers());
                add_cors(&Admitted { origin }, request.headers(), response.headers_mut());
            }
            return response;
        }
    };
    let user = LocalUser::of(&config, peer.ip(), request.headers());
    request.extensions_mut().insert(user);
    if percent_decode_str(&path).decode_utf8().is_err() {
        return ApiError::new(ErrorKind::Invalid, "invalid_path", "the path is not UTF-8 text").into_response();
    }
    let asked = request.headers().clone();
    let mut response = match AssertUnwindSafe(routes.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        // A route that panicked; the others go on.
        Err(_) => {
            tracing::error!(%method, path, "a route panicked");
            ApiError::new(ErrorKind::Internal, "internal_error", "internal error; the log says more").into_response()
        }
    };
    response = body_too_large(response);
    if method == Method::OPTIONS {
        response = preflight(&asked, &response);
    }
    if config.cors || method == Method::OPTIONS {
        add_cors(&admitted, &asked, response.headers_mut());
    }
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response
}

/// What the body limit says, in our words.
fn body_too_large(response: Response) -> Response {
    let is_ours = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if response.status() != StatusCode::PAYLOAD_TOO_LARGE || is_ours {
        return response;
    }
    ApiError::new(
        ErrorKind::Invalid,
        "body_too_large",
        "the body is too large; `bodyLimitBytes` in the settings is the limit",
    )
    .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    .into_response()
}

/// A route answers OPTIONS with 405 and its methods, an unknown path with 404: that is all a preflight asks.
fn preflight(asked: &HeaderMap, response: &Response) -> Response {
    let Some(methods) = response.headers().get(header::ALLOW).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    answer
}

fn add_cors(admitted: &Admitted, asked: &HeaderMap, headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = &admitted.origin else {
        // A page that may not read is told nothing, not even which methods there are.
        headers.remove(header::ACCESS_CONTROL_ALLOW_METHODS);
        headers.remove(header::ACCESS_CONTROL_ALLOW_HEADERS);
        return;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if asked.contains_key("access-control-request-private-network") {
        headers.insert("access-control-allow-private-network", HeaderValue::from_static("true"));
    }
}

/// Paths by which older clients call the same routes.
const ALIASES: &[(&str, &str)] = &[
    ("/inferences/server/chat_completion", "/v1/chat/completions"),
    ("/inferences/server/embedding", "/v1/embeddings"),
    ("/v1/reranking", "/v1/rerank"),
    ("/rerank", "/v1/rerank"),
    ("/hardware/hardware", "/v1/hardware"),
    ("/hardware/hardware/activate", "/v1/hardware/activate"),
    ("/configs", "/v1/configs"),
    ("/engines", "/v1/engines"),
    ("/engines/engines", "/v1/engines"),
    ("/models/add", "/v1/models/add"),
    ("/models", "/v1/models"),
    ("/models/import", "/v1/models/import"),
    ("/models/fit", "/v1/models/fit"),
    ("/models/start", "/v1/models/start"),
    ("/models/stop", "/v1/models/stop"),
    ("/models/status", "/v1/models/status"),
    ("/models/health", "/v1/models/health"),
    ("/models/reindex", "/v1/models/reindex"),
    ("/models/pull", "/v1/models/pull"),
    ("/models/pull/info", "/v1/models/pull/info"),
    ("/models/pulls", "/v1/models/pulls"),
    ("/models/sources", "/v1/models/sources"),
    ("/models/hub", "/v1/models/hub"),
    ("/models/hub/search", "/v1/models/hub/search"),
];
/// Paths without an id in them.
const FIXED: &[&str] = &[
    "/openapi.json",
    "/healthz",
    "/health",
    "/metrics",
    "/v1/system/doctor",
    "/v1/hardware",
    "/v1/hardware/activate",
    "/processManager/destroy",
    "/v1/events",
    "/v1/models",
    "/v1/models/health",
    "/v1/models/import",
    "/v1/models/reindex",
    "/v1/models/pull",
    "/v1/models/pull/info",
    "/v1/models/pulls",
    "/v1/models/pulls/pause",
    "/v1/models/pulls/resume",
    "/events",
    "/v1/models/sources",
    "/v1/models/hub",
    "/v1/models/hub/search",
    "/v1/migrations",
    "/v1/models/fit",
    "/v1/models/start",
    "/v1/models/stop",
    "/v1/models/status",
    "/v1/configs",
    "/v1/engines",
    "/v1/models/add",
    "/v1/threads",
    "/v1/assistants",
    "/v1/files",
    "/inferences/server/models",
    "/inferences/server/loadmodel",
    "/inferences/server/unloadmodel",
    "/inferences/server/modelstatus",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/rerank",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];
/// What stands before an id, which is case-sensitive.
const BEFORE_ID: &[(&str, &str)] = &[
    ("/v1/models/pulls/", "/v1/models/pulls/"),
    ("/models/pulls/", "/v1/models/pulls/"),
    ("/v1/models/sources/", "/v1/models/sources/"),
    ("/models/sources/", "/v1/models/sources/"),
    ("/v1/models/status/", "/v1/models/status/"),
    ("/models/status/", "/v1/models/status/"),
    ("/v1/models/remote/", "/v1/models/remote/"),
    ("/models/remote/", "/v1/models/remote/"),
    ("/v1/engines/", "/v1/engines/"),
    ("/engines/", "/v1/engines/"),
    ("/v1/files/", "/v1/files/"),
    ("/v1/threads/", "/v1/threads/"),
    ("/v1/assistants/", "/v1/assistants/"),
    ("/v1/models/", "/v1/models/"),
    ("/models/", "/v1/models/"),
];

/// What may follow an id, and a further word or id.
const AFTER_ID: &[(&str, &[&str])] = &[
    ("/v1/engines/", &["install", "default", "update", "load", "releases"]),
    ("/v1/threads/", &["messages"]),
    ("/v1/files/", &["content"]),
    ("/v1/models/pulls/", &["events"]),
];

/// An id, with what follows it as the router knows it.
fn with_known_words(prefix: &str, rest: &str) -> String {
    let words = AFTER_ID.iter().find(|(known, _)| *known == prefix).map(|(_, words)| *words).unwrap_or_default();
    let mut parts: Vec<&str> = rest.split('/').collect();
    if let Some(part) = parts.get_mut(1)
        && let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(part))
    {
        *part = word;
    }
    parts.join("/")
}

/// The path that the router knows, where an older client wrote it in another way: fixed parts match
/// whatever their case, ids do not.
fn canonical(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    let fixed = ALIASES
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(trimmed))
        .map(|&(_, path)| path)
        .or_else(|| FIXED.iter().copied().find(|fixed| fixed.eq_ignore_ascii_case(trimmed)));
    let new = if let Some(fixed) = fixed {
        fixed.to_owned()
    } else {
        let (prefix, id) = BEFORE_ID.iter().find_map(|&(written, known)| {
            let (head, id) = path.split_at_checked(written.len())?;
            (head.eq_ignore_ascii_case(written) && !id.is_empty()).then_some((known, id))
        })?;
        format!("{prefix}{}", with_known_words(prefix, id))
    };
    if new == path {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{new}{query}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_parts_match_whatever_their_case_and_ids_do_not() {
        for (written, known) in [
            ("/processmanager/destroy", Some("/processManager/destroy")),
            ("/v1/Models", Some("/v1/models")),
            ("/models?limit=-1", Some("/v1/models?limit=-1")),
            ("/Models/My:Model", Some("/v1/models/My:Model")),
            ("/V1/models/Status/A%20b", Some("/v1/models/status/A%20b")),
            ("/models/START", Some("/v1/models/start")),
            ("/Engines/Llama-CPP/Install", Some("/v1/engines/Llama-CPP/install")),
            ("/v1/engines/llama-cpp/Releases/V1", Some("/v1/engines/llama-cpp/releases/V1")),
            ("/v1/threads/Install/MESSAGES/M1", Some("/v1/threads/Install/messages/M1")),
            ("/v1/models/a/Install", None),
            ("/inferences/server/chat_completion", Some("/v1/chat/completions")),
            ("/v1/models/", Some("/v1/models")),
            ("/v1/models/abc", None),
            ("/v1/chat/completions", None),
            ("/other", None),
        ] {
            let uri: Uri = written.parse().unwrap();
            assert_eq!(canonical(&uri).map(|uri| uri.to_string()).as_deref(), known, "{written}");
        }
    }
}
