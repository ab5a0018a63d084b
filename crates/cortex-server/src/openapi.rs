//! The API reference: one table of all operations, from which `/openapi.json` and the page at `/` are made.
//!
//! What bodies look like comes from the types that read and write them.

use cortex_api::{
    hardware::{ActivateRequest, Activated, Hardware},
    migrations::{Migration, MigrationList, MigrationRequest},
    native::{
        DeleteResponse, Finding, FitAnswer, FitRequest, Health, ImportRequest, ImportResponse, List, LoadedModels,
        Message, ModelRequest, RegistryHealth, ReindexRequest, ReindexResponse, StartResponse, UpdateResponse,
    },
    openai::{
        ChatCompletion, ChatCompletionRequest, Completion, CompletionRequest, EmbeddingRequest, Embeddings, ErrorBody,
        InfillAnswer, InfillRequest, Ranking, RerankRequest,
    },
    pulls::{Pull, PullInfo, PullRequest, PullResponse, TaskRequest, TaskResponse},
    sources::{HubRepositories, HubSearch, ModelSource, ModelSources, SourceRequest},
};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

type MakeSchema = fn(&mut SchemaGenerator) -> Value;

/// What an answer is, beside its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    /// JSON, or server-sent events where the request says `stream`.
    JsonOrEvents,
    Events,
    Text,
    Html,
    Bytes,
    Socket,
}

/// One operation.
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    summary: &'static str,
    /// Parameters of the query, and what they mean.
    query: &'static [(&'static str, &'static str)],
    body: Option<MakeSchema>,
    /// The body may be left out.
    body_is_optional: bool,
    is_form: bool,
    answer: Option<MakeSchema>,
    kind: Kind,
    status: u16,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn any(_: &mut SchemaGenerator) -> Value {
    json!({"type": "object"})
}

fn settings(_: &mut SchemaGenerator) -> Value {
    json!({"type": "object", "properties": cortex_models::settings_schema()})
}

fn list(_: &mut SchemaGenerator) -> Value {
    json!({"type": "array", "items": {"type": "object"}})
}

impl Operation {
    fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(of::<T>);
        self
    }

    /// A body with any fields.
    fn takes_any(mut self) -> Self {
        self.body = Some(any);
        self
    }

    /// A body with settings of a model.
    fn takes_settings(mut self) -> Self {
        self.body = Some(settings);
        self
    }

    fn or_nothing(mut self) -> Self {
        self.body_is_optional = true;
        self
    }

    fn gives<T: JsonSchema>(mut self) -> Self {
        self.answer = Some(of::<T>);
        self
    }

    fn gives_list(mut self) -> Self {
        self.answer = Some(list);
        self
    }

    fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }
}

fn operation(method: &'static str, path: &'static str, summary: &'static str) -> Operation {
    Operation {
        method,
        path,
        summary,
        query: &[],
        body: None,
        body_is_optional: false,
        is_form: false,
        answer: Some(any),
        kind: Kind::Json,
        status: 200,
    }
}

fn get(path: &'static str, summary: &'static str) -> Operation {
    operation("get", path, summary)
}

fn post(path: &'static str, summary: &'static str) -> Operation {
    operation("post", path, summary)
}

fn patch(path: &'static str, summary: &'static str) -> Operation {
    operation("patch", path, summary)
}

fn delete(path: &'static str, summary: &'static str) -> Operation {
    operation("delete", path, summary)
}

const PAGE: &[(&str, &str)] = &[
    ("limit", "as many at most; -1 is all, 20 where nothing is said"),
    ("order", "asc or desc; the newest first where nothing is said"),
    ("after", "only ids behind this one"),
    ("before", "only ids before this one"),
];

/// All operations, in the order in which they are shown. Each tag is the part of the path that says what it is about.
pub(crate) fn operations() -> Vec<Operation> {
    let mut all = answers();
    all.extend(models());
    all.extend(engines());
    all.extend(conversations());
    all.extend(daemon());
    all
}

fn answers() -> Vec<Operation> {
    vec![
        post("/v1/chat/completions", "Answers a chat, whole or as a stream.")
            .takes::<ChatCompletionRequest>()
            .gives::<ChatCompletion>()
            .of_kind(Kind::JsonOrEvents),
        post("/v1/completions", "Continues a text, whole or as a stream.")
            .takes::<CompletionRequest>()
            .gives::<Completion>()
            .of_kind(Kind::JsonOrEvents),
        post("/infill", "Fills a gap in a text.")
            .takes::<InfillRequest>()
            .gives::<InfillAnswer>()
            .of_kind(Kind::JsonOrEvents),
        post("/v1/embeddings", "The vectors of texts.").takes::<EmbeddingRequest>().gives::<Embeddings>(),
        post("/v1/rerank", "Documents, the one that answers a question best first.")
            .takes::<RerankRequest>()
            .gives::<Ranking>(),
        post("/tokenize", "The tokens of a text.").takes_any(),
        post("/detokenize", "The text of tokens.").takes_any(),
        post("/apply-template", "The prompt that a chat becomes.").takes_any(),
    ]
}

fn models() -> Vec<Operation> {
    const BY_ID: &[(&str, &str)] = &[("id", "the model, for ids that no path can carry")];
    const DELETED: &[(&str, &str)] = &[
        ("id", "the model, for ids that no path can carry"),
        ("files", "true: also weights that cortex did not write"),
    ];
    const FILES: &[(&str, &str)] = &[("files", "true: also weights that cortex did not write")];
    const LISTED: &[(&str, &str)] = &[
        ("id", "one model instead of the list"),
        ("limit", "as many at most; -1 is all"),
        ("after", "those behind this id"),
        ("engine", "those of this engine"),
        ("status", "downloaded, remote or downloadable"),
        ("state", "ready, missing, broken, loading or loaded"),
    ];
    vec![
        get("/v1/models", "All models, from memory.").query(LISTED),
        patch("/v1/models", "Changes settings of a model whose id no path can carry.")
            .query(BY_ID)
            .takes_settings()
            .gives::<UpdateResponse>(),
        delete("/v1/models", "Deletes a model whose id no path can carry.").query(DELETED).gives::<DeleteResponse>(),
        get("/v1/models/{id}", "One model. Its files are looked at now."),
        patch("/v1/models/{id}", "Changes settings of a model.").takes_settings().gives::<UpdateResponse>(),
        delete("/v1/models/{id}", "Deletes a model; one that is loaded leaves first.")
            .query(FILES)
            .gives::<DeleteResponse>(),
        post("/v1/models/import", "Takes models in by reference, or as copies.").takes::<ImportRequest>(),
        get("/v1/models/health", "What is wrong with the list of models.").gives::<RegistryHealth>(),
        post("/v1/models/reindex", "Builds the list again from what lies in the data folder.")
            .takes::<ReindexRequest>()
            .or_nothing()
            .gives::<ReindexResponse>(),
        post("/v1/models/pull", "Begins a download, or joins the one that is under way.")
            .takes::<PullRequest>()
            .gives::<PullResponse>(),
        delete("/v1/models/pull", "Stops a download.").takes::<TaskRequest>().gives::<TaskResponse>(),
        post("/v1/models/pull/info", "What could be downloaded under a name.")
            .takes::<PullRequest>()
            .gives::<PullInfo>(),
        get("/v1/models/pulls", "All downloads; ended ones for a while.").gives::<List<Pull>>(),
        post("/v1/models/pulls/pause", "Lets a download wait.").takes::<TaskRequest>().gives::<TaskResponse>(),
        post("/v1/models/pulls/resume", "Goes on with a download.").takes::<TaskRequest>().gives::<TaskResponse>(),
        get("/v1/models/pulls/{id}/events", "Follows one download until it is over.").of_kind(Kind::Events),
        get("/v1/models/sources", "The model sources.").gives::<ModelSources>(),
        post("/v1/models/sources", "Adds a model source.").takes::<SourceRequest>().gives::<Message>(),
        delete("/v1/models/sources", "Removes a model source.").takes::<SourceRequest>().gives::<Message>(),
        get("/v1/models/sources/{url}", "One model source.").gives::<ModelSource>(),
        get("/v1/models/hub", "Repositories of an author.")
            .query(&[("author", "whose"), ("tag", "only with this tag")])
            .gives::<HubRepositories>(),
        get("/v1/models/hub/search", "Looks for models on the hub.")
            .query(&[("query", "a part of the name"), ("author", "whose"), ("limit", "as many at most")])
            .gives::<HubSearch>(),
        post("/v1/models/fit", "Whether a model fits, and with how much context.")
            .takes::<FitRequest>()
            .gives::<FitAnswer>(),
        post("/v1/models/start", "Loads a model and keeps it until it is stopped.")
            .takes::<ModelRequest>()
            .gives::<StartResponse>(),
        post("/v1/models/stop", "Unloads a model.").takes::<ModelRequest>().gives::<Message>(),
        get("/v1/models/status", "Whether a model is loaded, by the status code.").query(BY_ID).gives::<Message>(),
        get("/v1/models/status/{id}", "Whether a model is loaded, by the status code.").gives::<Message>(),
        post("/v1/models/add", "Adds a model of an engine on another machine.").takes_any().gives::<ImportResponse>(),
        get("/v1/models/remote/{engine}", "What an engine on another machine says that it has."),
        get("/v1/migrations", "Migrations, and older data folders on this machine.").gives::<MigrationList>(),
        post("/v1/migrations", "Registers what another program has.").takes::<MigrationRequest>().gives::<Migration>(),
        get("/v1/migrations/{id}", "One migration.").gives::<Migration>(),
        post("/v1/migrations/{id}/undo", "Takes a migration back.").gives::<Migration>(),
        get("/inferences/server/models", "The loaded models, and the memory that they have.")
            .query(&[("all", "true: also those that are not loaded yet, or leave")])
            .gives::<LoadedModels>(),
        post("/inferences/server/loadmodel", "A start in cortex.cpp's other words.").takes::<ModelRequest>(),
        post("/inferences/server/unloadmodel", "A stop in cortex.cpp's other words.").takes_any(),
        post("/inferences/server/modelstatus", "Whether a model is loaded, in cortex.cpp's other words.").takes_any(),
    ]
}

fn engines() -> Vec<Operation> {
    vec![
        get("/v1/engines", "All engines: the variants of the one that is here, and those on other machines."),
        post("/v1/engines", "Adds an engine on another machine.").takes_any(),
        get("/v1/engines/{name}", "The variants of an engine.").gives_list(),
        get("/v1/engines/{name}/install", "Follows all installs of variants, from now on.").of_kind(Kind::Events),
        post("/v1/engines/{name}/install", "Installs a variant.").takes_any().or_nothing(),
        delete("/v1/engines/{name}/install", "Removes variants that were installed, or an engine.")
            .takes_any()
            .or_nothing()
            .gives::<Message>(),
        get("/v1/engines/{name}/default", "The variant that loads take."),
        post("/v1/engines/{name}/default", "Chooses the variant that loads take.").takes_any().gives::<Message>(),
        post("/v1/engines/{name}/update", "Changes what is said of an engine on another machine.")
            .takes_any()
            .or_nothing(),
        post("/v1/engines/{name}/load", "Makes an engine ready.").gives::<Message>(),
        delete("/v1/engines/{name}/load", "Unloads all models of an engine.").gives::<Message>(),
        get("/v1/engines/{name}/releases", "What can be installed.").gives_list(),
        get("/v1/engines/{name}/releases/{version}", "The variants of a release.")
            .query(&[("show", "all or compatible")])
            .gives_list(),
    ]
}

fn conversations() -> Vec<Operation> {
    vec![
        get("/v1/threads", "Lists threads.").query(PAGE),
        post("/v1/threads", "Makes a thread.").takes_any(),
        get("/v1/threads/{id}", "One thread."),
        patch("/v1/threads/{id}", "Changes the metadata of a thread.").takes_any(),
        post("/v1/threads/{id}", "The same, as OpenAI's clients do it.").takes_any(),
        delete("/v1/threads/{id}", "Removes a thread."),
        get("/v1/threads/{id}/messages", "Lists messages.").query(PAGE),
        post("/v1/threads/{id}/messages", "Adds a message.").takes_any(),
        get("/v1/threads/{id}/messages/{message}", "One message."),
        patch("/v1/threads/{id}/messages/{message}", "Changes a message.").takes_any(),
        post("/v1/threads/{id}/messages/{message}", "The same, as OpenAI's clients do it.").takes_any(),
        delete("/v1/threads/{id}/messages/{message}", "Removes a message."),
        get("/v1/assistants", "Lists assistants.").query(PAGE),
        post("/v1/assistants", "Makes an assistant.").takes_any(),
        get("/v1/assistants/{id}", "One assistant; without `OpenAI-Beta: assistants=v2`, that of a thread."),
        patch("/v1/assistants/{id}", "Changes an assistant.").takes_any(),
        post("/v1/assistants/{id}", "Changes an assistant, or gives a thread one.").takes_any().with_status(201),
        delete("/v1/assistants/{id}", "Removes an assistant."),
        get("/v1/files", "Lists files.").query(&[
            ("limit", "as many at most; -1 is all, 20 where nothing is said"),
            ("order", "asc or desc; the newest first where nothing is said"),
            ("after", "only ids behind this one"),
            ("before", "only ids before this one"),
            ("purpose", "only those for this"),
        ]),
        Operation { is_form: true, ..post("/v1/files", "Takes one file in.").takes_any() },
        get("/v1/files/{id}", "What is known of a file.").query(&[("thread", "a thread of an older Jan")]),
        delete("/v1/files/{id}", "Removes a file."),
        get("/v1/files/{id}/content", "The content of a file.")
            .query(&[("thread", "a thread of an older Jan")])
            .of_kind(Kind::Bytes),
    ]
}

fn daemon() -> Vec<Operation> {
    vec![
        get("/", "This reference, for people.").of_kind(Kind::Html),
        get("/openapi.json", "This reference, for programs."),
        get("/healthz", "Answers as soon as the daemon listens.").of_kind(Kind::Html),
        get("/health", "The same with facts.").gives::<Health>(),
        get("/metrics", "What is counted, in the text form of Prometheus.").of_kind(Kind::Text),
        get("/v1/system/doctor", "What is well and what is not.").gives::<List<Finding>>(),
        get("/v1/hardware", "What this machine has.").gives::<Hardware>(),
        post("/v1/hardware/activate", "Chooses the graphics processors that models may use.")
            .takes::<ActivateRequest>()
            .gives::<Activated>(),
        get("/v1/configs", "The settings that can be changed while the daemon runs; secrets only as being there."),
        patch("/v1/configs", "Changes settings, in the file and in effect.").takes_any(),
        get("/v1/events", "What changes, as server-sent events.")
            .query(&[("types", "only events of these types, separated by commas")])
            .of_kind(Kind::Events),
        get("/events", "Frames of downloads, over a WebSocket.").of_kind(Kind::Socket).with_status(101),
        delete("/processManager/destroy", "Ends the daemon; only from this machine.").gives::<Message>(),
    ]
}

/// What an operation is about.
fn tag(path: &str) -> &str {
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != "v1");
    match parts.next().unwrap_or("daemon") {
        "chat" | "completions" | "infill" | "embeddings" | "rerank" | "tokenize" | "detokenize" | "apply-template" => {
            "Answers"
        }
        "models" | "inferences" | "migrations" => "Models",
        "engines" => "Engines",
        "threads" | "assistants" | "files" => "Conversations",
        _ => "Daemon",
    }
}

/// The document, as it is for a daemon at this address.
///
/// `server` is its URL.
pub fn document(server: &str) -> Value {
    let settings = SchemaSettings::openapi3();
    let mut generator = settings.into_generator();
    let error = of::<ErrorBody>(&mut generator);
    let mut paths = Map::new();
    for operation in operations() {
        let described = describe(&operation, &mut generator, &error);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "cortex",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One daemon that runs language models on this machine. Routes of cortex.cpp without /v1 lead to the same places.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "needed where the settings name keys"}},
        },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator, error: &Value) -> Value {
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(operation.query.iter().map(|(name, meaning)| {
        json!({"name": name, "in": "query", "required": false, "description": meaning, "schema": {"type": "string"}})
    }));
    let mut content = Map::new();
    let schema = operation.answer.map_or(json!({}), |answer| answer(generator));
    let text = json!({"schema": {"type": "string"}});
    match operation.kind {
        Kind::Json => drop(content.insert("application/json".into(), json!({"schema": schema}))),
        Kind::JsonOrEvents => {
            content.insert("application/json".into(), json!({"schema": schema}));
            content.insert("text/event-stream".into(), text);
        }
        Kind::Events => drop(content.insert("text/event-stream".into(), text)),
        Kind::Text => drop(content.insert("application/openmetrics-text".into(), text)),
        Kind::Html => drop(content.insert("text/html".into(), text)),
        Kind::Bytes => {
            let bytes = json!({"schema": {"type": "string", "format": "binary"}});
            content.insert("application/octet-stream".into(), bytes);
        }
        Kind::Socket => {}
    }
    let mut good = json!({"description": "done"});
    if !content.is_empty() {
        good["content"] = content.into();
    }
    let mut responses = Map::new();
    if operation.status == 201 {
        responses.insert("200".into(), good.clone());
    }
    responses.insert(operation.status.to_string(), good);
    let told = json!({"description": "why not", "content": {"application/json": {"schema": error}}});
    responses.insert("default".into(), told);
    let mut described = json!({
        "summary": operation.summary,
        "tags": [tag(operation.path)],
        "operationId": operation_id(operation),
        "responses": responses,
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = operation.body {
        let content = if operation.is_form {
            let fields = json!({"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}});
            json!({"multipart/form-data": {"schema": {"type": "object", "properties": fields, "required": ["file", "purpose"]}}})
        } else {
            json!({"application/json": {"schema": body(generator)}})
        };
        described["requestBody"] = json!({"required": !operation.body_is_optional, "content": content});
    }
    described
}

/// `get_v1_models_id`.
fn operation_id(operation: &Operation) -> String {
    let words = operation.path.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut id = operation.method.to_owned();
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    id
}

/// The page for people: plain text in a plain layout, from this daemon alone.
pub(crate) fn page(server: &str) -> String {
    let document = document(server);
    let mut html = String::from(HEAD);
    let _ = write!(
        html,
        "<h1>cortex {}</h1><p>The API at <code>{}</code>; <a href=\"/openapi.json\">as OpenAPI</a>.</p>",
        env!("CARGO_PKG_VERSION"),
        escaped(server)
    );
    let mut last = "";
    for operation in operations() {
        let tag = tag(operation.path);
        if tag != last {
            let _ = write!(html, "<h2>{tag}</h2>");
            last = tag;
        }
        let described = &document["paths"][operation.path][operation.method];
        let _ = write!(
            html,
            "<details><summary><b>{}</b> <code>{}</code> {}</summary>",
            operation.method.to_uppercase(),
            escaped(operation.path),
            escaped(operation.summary)
        );
        for parameter in described["parameters"].as_array().into_iter().flatten() {
            let of = |field: &str| escaped(parameter[field].as_str().unwrap_or_default());
            let _ = write!(html, "<p><code>{}</code> ({}) {}</p>", of("name"), of("in"), of("description"));
        }
        for (what, content) in
            [("takes", &described["requestBody"]["content"]), ("gives", &described["responses"]["200"]["content"])]
        {
            for (kind, media) in content.as_object().into_iter().flatten() {
                let _ = write!(html, "<p>{what} <code>{}</code></p>", escaped(kind));
                fields(&mut html, &document, &media["schema"]);
            }
        }
        html.push_str("</details>");
    }
    html.push_str("</body></html>\n");
    html
}

/// The fields of an object, with what they mean.
fn fields(html: &mut String, document: &Value, schema: &Value) {
    let named = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    let schema = named.map_or(schema, |name| &document["components"]["schemas"][name]);
    let Some(properties) = schema["properties"].as_object() else { return };
    html.push_str("<table>");
    for (name, property) in properties {
        let meaning = property["description"].as_str().unwrap_or_default();
        let kind =
            property["type"].as_str().or_else(|| property["$ref"].as_str()?.rsplit('/').next()).unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            escaped(name),
            escaped(kind),
            escaped(meaning)
        );
    }
    html.push_str("</table>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>cortex</title><style>\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
summary{cursor:pointer;padding:.2rem 0}table{border-collapse:collapse;margin:.3rem 0 1rem}td{padding:.1rem .6rem;vertical-align:top}\
details>p{margin:.3rem 0}</style></head><body>";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The routes as the router names them: `get /v1/models/{id}`.
    fn routes() -> BTreeSet<String> {
        let source = include_str!("router.rs");
        let source = &source[..source.find(".fallback(").expect("the routes end")];
        let mut found = BTreeSet::new();
        for route in source.split(".route(").skip(1) {
            let path = route.split('"').nth(1).expect("a path").replace("{*", "{");
            for method in ["get", "post", "patch", "delete"] {
                let is_there = route.match_indices(&format!("{method}(")).any(|(at, _)| {
                    let before = route[..at].chars().next_back();
                    before.is_none_or(|letter| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':')
                });
                if is_there {
                    found.insert(format!("{method} {path}"));
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let described: Vec<String> = operations().iter().map(|it| format!("{} {}", it.method, it.path)).collect();
        let set: BTreeSet<String> = described.iter().cloned().collect();
        assert_eq!(set.len(), described.len(), "an operation stands there twice");
        let routes = routes();
        assert!(routes.len() > 80, "{routes:?}");
        let (missing, more): (Vec<_>, Vec<_>) = (routes.difference(&set).collect(), set.difference(&routes).collect());
        assert!(missing.is_empty() && more.is_empty(), "not described: {missing:?}; no route: {more:?}");
    }

    #[test]
    fn the_document_is_the_one_that_was_checked_in() {
        let now = serde_json::to_string_pretty(&document("http://127.0.0.1:39281")).unwrap() + "\n";
        let checked_in = include_str!("../../../docs/openapi.json");
        assert!(
            now == checked_in,
            "the API changed: look at it, and write it with `cortex openapi > docs/openapi.json`"
        );
    }

    #[test]
    fn the_page_shows_every_operation_and_runs_nothing() {
        let page = page("http://127.0.0.1:1\"><script>");
        assert!(!page.contains("<script") && page.matches("<details>").count() == operations().len());
        assert!(page.contains("Randomness; 0 takes the most likely token."));
    }
}
