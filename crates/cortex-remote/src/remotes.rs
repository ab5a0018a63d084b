//! The owner of the remote engines, and the way to them.

mod take_over;

pub use take_over::TakenOver;

use crate::{
    RemoteEngine, RemoteError, RemoteModel, anthropic,
    engine::{Dialect, Place},
    events::Events,
    openai,
    store::{Known, Store},
    template::Template,
};
use bytes::Bytes;
use cortex_models::{Exchange, Exchanged, Outbound, OutboundConfig};
use reqwest::{Method, header};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long an engine may take for the first word of an answer, and between two: large models think.
const SILENCE_LIMIT: Duration = Duration::from_mins(10);
/// How long it may take for its list of models.
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of an answer that is read whole.
const LONGEST_ANSWER: usize = 64 << 20;
/// Bytes of a refusal that are read for their message.
const LONGEST_MESSAGE: usize = 64 << 10;

/// The remote engines. Cheap to clone.
#[derive(Clone)]
pub struct Remotes(Arc<Inner>);

struct Inner {
    store: Store,
    state: Mutex<State>,
    /// One change at a time; the state is free while it is written.
    changing: Mutex<()>,
}

struct State {
    known: Known,
    /// Why the file could not be read: then nothing is written over it.
    damage: Option<RemoteError>,
    outbound: OutboundConfig,
    /// The way to each engine, as long as neither it nor the settings change.
    ways: HashMap<String, Outbound>,
    /// Another one after each change.
    revision: u64,
    /// Models that somebody started, and when, as milliseconds since 1970.
    started: HashMap<String, i64>,
}

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A chat.
    Chat,
    /// A text that goes on.
    Completion,
    /// Vectors.
    Embeddings,
}

/// An answer.
pub enum Reply {
    /// All of it, in OpenAI's words.
    Whole(Value),
    /// Piece by piece.
    Stream(Box<ReplyStream>),
}

impl Remotes {
    /// Reads what is known.
    pub fn open(data_folder: &Path, outbound: OutboundConfig) -> Self {
        let store = Store::new(data_folder);
        let (known, damage) = match store.read() {
            Ok(known) => (known, None),
            Err(error) => {
                tracing::error!(%error, "remote engines are not available");
                (Known::default(), Some(error))
            }
        };
        Self(Arc::new(Inner {
            store,
            changing: Mutex::default(),
            state: Mutex::new(State {
                known,
                damage,
                outbound,
                ways: HashMap::new(),
                revision: 0,
                started: HashMap::new(),
            }),
        }))
    }

    /// What is asked from now on goes by these settings.
    pub fn configure(&self, outbound: OutboundConfig) {
        self.with(|state| {
            state.outbound = outbound;
            state.ways.clear();
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known; it is on disk when this returns without an error.
    fn change<T>(&self, work: impl FnOnce(&mut Known) -> Result<T, RemoteError>) -> Result<T, RemoteError> {
        let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, damage) = self.with(|state| (state.known.clone(), state.damage.clone()));
        if let Some(damage) = damage {
            return Err(damage);
        }
        let mut new = old.clone();
        let given = work(&mut new)?;
        if new != old {
            self.0.store.write(&new)?;
            self.with(|state| {
                state.started.retain(|id, _| new.models.iter().any(|model| model.id == *id));
                state.known = new;
                state.ways.clear();
                state.revision += 1;
            });
        }
        Ok(given)
    }

    /// Why nothing is known, when the file is damaged.
    pub fn damage(&self) -> Option<RemoteError> {
        self.with(|state| state.damage.clone())
    }

    /// All engines, in the order in which they were added.
    pub fn engines(&self) -> Vec<RemoteEngine> {
        self.with(|state| state.known.engines.clone())
    }

    /// One of them.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn engine(&self, name: &str) -> Result<RemoteEngine, RemoteError> {
        let missing = || RemoteError::NoEngine { engine: name.to_owned() };
        self.with(|state| position(&state.known, name).map(|at| state.known.engines[at].clone())).ok_or_else(missing)
    }

    /// Adds an engine. May wait for the disk.
    ///
    /// # Errors
    /// When there is one of that name, or what is said cannot be used.
    pub fn add(&self, said: &Map<String, Value>) -> Result<RemoteEngine, RemoteError> {
        self.change(|known| add_engine(known, said))
    }

    /// Changes what is said of an engine. May wait for the disk.
    ///
    /// # Errors
    /// When there is none, or what is said cannot be used.
    pub fn update(&self, name: &str, said: &Map<String, Value>) -> Result<(), RemoteError> {
        self.change(|known| {
            let at = position(known, name).ok_or_else(|| RemoteError::NoEngine { engine: name.to_owned() })?;
            known.engines[at].change(said, &now())
        })
    }

    /// Forgets an engine and its models. May wait for the disk.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        self.change(|known| {
            let at = position(known, name).ok_or_else(|| RemoteError::NoEngine { engine: name.to_owned() })?;
            let engine = known.engines.remove(at);
            known.models.retain(|model| model.engine != engine.engine);
            Ok(())
        })
    }

    /// Whether there are models of remote engines at all.
    pub fn has_models(&self) -> bool {
        self.with(|state| !state.known.models.is_empty())
    }

    /// All models, and a number that is another one after each change.
    pub fn listed(&self) -> (Vec<RemoteModel>, u64) {
        self.with(|state| (state.known.models.clone(), state.revision))
    }

    /// Counts a model as started, for those who ask what runs: there is nothing to load.
    pub fn start(&self, id: &str) {
        self.with(|state| {
            state.started.entry(id.to_owned()).or_insert_with(|| jiff::Timestamp::now().as_millisecond());
        });
    }

    /// Counts it as stopped; false when it was not started.
    pub fn stop(&self, id: &str) -> bool {
        self.with(|state| state.started.remove(id).is_some())
    }

    /// The models that count as started, and since when.
    pub fn started(&self) -> Vec<(RemoteModel, i64)> {
        self.with(|state| {
            let since = |model: &RemoteModel| Some((model.clone(), *state.started.get(&model.id)?));
            state.known.models.iter().filter_map(since).collect()
        })
    }

    /// One of them.
    pub fn model(&self, id: &str) -> Option<RemoteModel> {
        self.with(|state| state.known.models.iter().find(|model| model.id == id).cloned())
    }

    /// Adds a model. May wait for the disk.
    ///
    /// # Errors
    /// When its engine is not known, or its id is.
    pub fn add_model(&self, said: &Map<String, Value>) -> Result<RemoteModel, RemoteError> {
        self.change(|known| add_model(known, said))
    }

    /// Changes what is said of a model. May wait for the disk.
    ///
    /// # Errors
    /// When there is none, or what is said cannot be used.
    pub fn update_model(&self, id: &str, said: &Map<String, Value>) -> Result<RemoteModel, RemoteError> {
        let parameters = parameters(said)?;
        self.change(|known| {
            if let Some(engine) = said.get("engine").and_then(Value::as_str)
                && position(known, engine).is_none()
            {
                return Err(RemoteError::NoEngine { engine: engine.to_owned() });
            }
            let found = known.models.iter_mut().find(|model| model.id == id);
            let found = found.ok_or_else(|| RemoteError::NoModel { id: id.to_owned() })?;
            let mut new = found.clone();
            for (field, value) in [("model", &mut new.model), ("engine", &mut new.engine)] {
                if let Some(text) = said.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()) {
                    text.clone_into(value);
                }
            }
            if let Some(parameters) = parameters {
                new.inference_params = parameters;
            }
            tell(&mut new, said);
            *found = new.clone();
            Ok(new)
        })
    }

    /// Forgets a model. May wait for the disk.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_model(&self, id: &str) -> Result<(), RemoteError> {
        self.change(|known| {
            let before = known.models.len();
            known.models.retain(|model| model.id != id);
            if known.models.len() == before { Err(RemoteError::NoModel { id: id.to_owned() }) } else { Ok(()) }
        })
    }

    /// The way to an engine: to its hosts only, which the user named and which may therefore be anywhere.
    fn way(&self, engine: &RemoteEngine) -> Outbound {
        self.with(|state| {
            let way = state.ways.entry(engine.engine.clone()).or_insert_with(|| {
                Outbound::new(OutboundConfig {
                    endpoint: OutboundConfig::default().endpoint,
                    // The hub's token is for the hub.
                    token: None,
                    allowed_hosts: engine.origins(),
                    ..state.outbound.clone()
                })
            });
            way.clone()
        })
    }

    /// The list of models of an engine, in its own words.
    ///
    /// # Errors
    /// When it gives none.
    pub async fn list(&self, name: &str) -> Result<Value, RemoteError> {
        let engine = self.engine(name)?;
        let exchange = Exchange {
            method: Method::GET,
            url: engine.place(Place::Models)?,
            headers: engine.headers()?,
            body: Bytes::new(),
            limit: LIST_LIMIT,
        };
        let mut answer = self.ask(&engine, exchange).await?;
        whole(&engine, &mut answer).await
    }

    async fn ask(&self, engine: &RemoteEngine, exchange: Exchange) -> Result<Exchanged, RemoteError> {
        let outbound = |source| RemoteError::Outbound { engine: engine.engine.clone(), source };
        let mut answer = self.way(engine).exchange(exchange).await.map_err(outbound)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let header = |answer: &Exchanged, name: header::HeaderName| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let retry_after = header(&answer, header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let message = match header(&answer, header::LOCATION).filter(|_| status.is_redirection()) {
            // The key must not go where nobody said.
            Some(to) => format!("it wants to be asked at {to}; if that is right, make it the engine's address"),
            None => said(&answer.bytes(LONGEST_MESSAGE).await.unwrap_or_default()),
        };
        Err(RemoteError::Refused {
            engine: engine.engine.clone(),
            status: status.as_u16(),
            message: engine.hide(&message),
            retry_after,
        })
    }

    /// Asks a model, with a request that has come through so many daemons. What of the request has no effect comes with the answer.
    ///
    /// # Errors
    /// When the request cannot be said, or the engine refuses it or gives no answer that makes sense.
    pub async fn call(
        &self,
        model: &RemoteModel,
        call: Call,
        (request, hops): (Map<String, Value>, u8),
    ) -> Result<(Reply, Vec<String>), RemoteError> {
        let engine = self.engine(&model.engine)?;
        let cannot = |reason: String| RemoteError::CannotAsk { engine: engine.engine.clone(), reason };
        let mut request = request;
        for (name, value) in &model.inference_params {
            if name != "stream" && name != "model" && name != "messages" && !request.contains_key(name) {
                request.insert(name.clone(), value.clone());
            }
        }
        request.insert("model".into(), model.model.as_str().into());
        // Which engine is asked is known here alone.
        request.remove("engine");
        let streams = call != Call::Embeddings && request.get("stream") == Some(&Value::Bool(true));
        let with_usage = request.get("stream_options").is_some_and(|options| options["include_usage"] == true);
        let speech = Speech::new(&engine, call, with_usage)?;
        let (body, warnings) = match (&speech.way, call) {
            (Way::Anthropic(_), Call::Chat) => anthropic::request(&request).map_err(cannot)?,
            (Way::Anthropic(_), _) => return Err(cannot("it answers chats only".into())),
            (..) => {
                let own = if call == Call::Chat { engine.request_template() } else { None };
                let body = Value::from(request);
                let body = match own {
                    None => body,
                    Some(source) => {
                        let template = Template::new(source).map(Arc::new);
                        let template = template.map_err(|reason| speech.template("transform_req", reason))?;
                        let rendered = rendered(template, body).await;
                        rendered.map_err(|reason| speech.template("transform_req", reason))?
                    }
                };
                (body, vec![])
            }
        };
        let place = match call {
            Call::Chat => Place::Chat,
            Call::Completion => Place::Completions,
            Call::Embeddings => Place::Embeddings,
        };
        let mut headers = engine.headers()?;
        headers.insert(HOPS, header::HeaderValue::from(u16::from(hops) + 1));
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let accept = if streams { "text/event-stream" } else { "application/json" };
        headers.entry(header::ACCEPT).or_insert(header::HeaderValue::from_static(accept));
        let exchange = Exchange {
            method: Method::POST,
            url: engine.place(place)?,
            headers,
            body: body.to_string().into(),
            limit: SILENCE_LIMIT,
        };
        let mut answer = self.ask(&engine, exchange).await?;
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = kind.starts_with("text/event-stream") || kind.is_empty();
        if streams && is_stream {
            let stream = ReplyStream {
                answer: Some(answer),
                events: Events::default(),
                speech,
                ready: VecDeque::new(),
                is_over: false,
            };
            return Ok((Reply::Stream(Box::new(stream)), warnings));
        }
        let value = whole(&engine, &mut answer).await?;
        let value = speech.whole(value).await?;
        if !streams {
            return Ok((Reply::Whole(value), warnings));
        }
        let ready = openai::chunks(&value).iter().map(Value::to_string).chain([DONE.to_owned()]).collect();
        Ok((
            Reply::Stream(Box::new(ReplyStream {
                answer: None,
                events: Events::default(),
                speech,
                ready,
                is_over: false,
            })),
            warnings,
        ))
    }
}

/// Through how many daemons like this one a request has come: one that asks itself would never end.
pub const HOPS: &str = "x-cortex-hops";
/// The end of a stream in OpenAI's words.
const DONE: &str = "[DONE]";

/// How an engine's answers are understood.
struct Speech {
    engine: RemoteEngine,
    way: Way,
    /// The engine has said why the answer ended.
    has_ended: bool,
}

enum Way {
    /// As they are.
    OpenAi,
    Anthropic(Box<anthropic::Stream>),
    Template(Arc<Template>),
}

impl Speech {
    fn new(engine: &RemoteEngine, call: Call, with_usage: bool) -> Result<Self, RemoteError> {
        let mut speech = Self { engine: engine.clone(), way: Way::OpenAi, has_ended: false };
        let own = if call == Call::Chat { engine.response_template() } else { None };
        if let Some(source) = own {
            let template = Template::new(source).map_err(|reason| speech.template("transform_resp", reason))?;
            speech.way = Way::Template(Arc::new(template));
        } else if engine.dialect() == Dialect::Anthropic {
            speech.way = Way::Anthropic(Box::new(anthropic::Stream::new(seconds(), with_usage)));
        }
        Ok(speech)
    }

    fn template(&self, which: &'static str, reason: String) -> RemoteError {
        RemoteError::Template { engine: self.engine.engine.clone(), which, reason }
    }

    async fn whole(&self, value: Value) -> Result<Value, RemoteError> {
        match &self.way {
            Way::OpenAi => Ok(value),
            Way::Anthropic(_) => Ok(anthropic::answer(&value, seconds())),
            Way::Template(template) => {
                let rendered = rendered(Arc::clone(template), value).await;
                rendered.map_err(|reason| self.template("transform_resp", reason))
            }
        }
    }

    /// The chunks of one event.
    async fn event(&mut self, data: &str) -> Result<Vec<String>, RemoteError> {
        if data.trim() == DONE {
            self.has_ended = true;
            return Ok(vec![DONE.to_owned()]);
        }
        let value: Value = serde_json::from_str(data).map_err(|why| RemoteError::Nonsense {
            engine: self.engine.engine.clone(),
            reason: format!("an event of its stream is no JSON: {why}"),
        })?;
        let ends = |choice: &Value| choice["finish_reason"].is_string();
        self.has_ended |=
            value["error"].is_object() || value["choices"].as_array().is_some_and(|all| all.iter().any(ends));
        let mut chunks = match &mut self.way {
            Way::Anthropic(stream) => {
                let mut chunks: Vec<String> = stream.event(&value).iter().map(Value::to_string).collect();
                if stream.has_ended() {
                    self.has_ended = true;
                    chunks.push(DONE.to_owned());
                }
                chunks
            }
            Way::OpenAi => vec![value.to_string()],
            Way::Template(template) => match rendered(Arc::clone(template), value).await {
                Ok(chunk) => vec![chunk.to_string()],
                Err(reason) => return Err(self.template("transform_resp", reason)),
            },
        };
        for chunk in &mut chunks {
            *chunk = self.engine.hide_in_answer(chunk);
        }
        Ok(chunks)
    }
}

/// An answer that comes piece by piece. Dropping it ends the request.
pub struct ReplyStream {
    answer: Option<Exchanged>,
    events: Events,
    speech: Speech,
    ready: VecDeque<String>,
    /// Nothing more comes.
    is_over: bool,
}

impl ReplyStream {
    /// The next chunk, as JSON text in OpenAI's words, or `[DONE]` at its end; nothing after that.
    pub async fn next(&mut self) -> Option<Result<String, RemoteError>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                if chunk == DONE {
                    (self.answer, self.is_over) = (None, false);
                    self.ready.clear();
                }
                return Some(Ok(chunk));
            }
            if std::mem::take(&mut self.is_over) {
                if self.speech.has_ended {
                    // Some engines end without saying so.
                    return Some(Ok(DONE.to_owned()));
                }
                let engine = self.speech.engine.engine.clone();
                let reason = "its stream ended amid the answer".into();
                return Some(Err(self.fail(RemoteError::Nonsense { engine, reason })));
            }
            let answer = self.answer.as_mut()?;
            let engine = &self.speech.engine.engine;
            let piece = answer.chunk().await;
            let events = match piece {
                Err(source) => {
                    let error = RemoteError::Outbound { engine: engine.clone(), source };
                    return Some(Err(self.fail(error)));
                }
                Ok(Some(bytes)) => match self.events.push(&bytes) {
                    Ok(events) => events,
                    Err(reason) => {
                        let error = RemoteError::Nonsense { engine: engine.clone(), reason: reason.into() };
                        return Some(Err(self.fail(error)));
                    }
                },
                Ok(None) => {
                    (self.answer, self.is_over) = (None, true);
                    self.events.finish().into_iter().collect()
                }
            };
            for event in events {
                match self.speech.event(&event).await {
                    Ok(chunks) => self.ready.extend(chunks),
                    Err(error) => return Some(Err(self.fail(error))),
                }
            }
        }
    }

    fn fail(&mut self, error: RemoteError) -> RemoteError {
        self.answer = None;
        self.ready.clear();
        error
    }
}

/// Adds an engine to what is known.
fn add_engine(known: &mut Known, said: &Map<String, Value>) -> Result<RemoteEngine, RemoteError> {
    let engine = RemoteEngine::new(said, known.next_id.max(1), &now())?;
    if position(known, &engine.engine).is_some() {
        return Err(RemoteError::EngineExists { engine: engine.engine });
    }
    known.next_id = engine.id + 1;
    known.engines.push(engine.clone());
    Ok(engine)
}

/// Adds a model to what is known.
fn add_model(known: &mut Known, said: &Map<String, Value>) -> Result<RemoteModel, RemoteError> {
    let text = |field: &str| said.get(field).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let model = text("model").ok_or_else(|| RemoteError::invalid("model", "it must be the model's name, a text"))?;
    let engine =
        text("engine").ok_or_else(|| RemoteError::invalid("engine", "it must be the engine's name, a text"))?;
    let id = text("id").unwrap_or(model);
    if id.len() > 512 || id.chars().any(char::is_control) {
        return Err(RemoteError::invalid("model", "an id is at most 512 bytes, without control characters"));
    }
    let inference_params = parameters(said)?.unwrap_or_default();
    let at = position(known, engine).ok_or_else(|| RemoteError::NoEngine { engine: engine.to_owned() })?;
    if known.models.iter().any(|model| model.id == id) {
        return Err(RemoteError::ModelExists { id: id.to_owned() });
    }
    let mut new = RemoteModel {
        id: id.to_owned(),
        model: model.to_owned(),
        engine: known.engines[at].engine.clone(),
        inference_params,
        other: Map::new(),
    };
    tell(&mut new, said);
    known.models.push(new.clone());
    Ok(new)
}

fn position(known: &Known, name: &str) -> Option<usize> {
    known.engines.iter().position(|engine| engine.engine == name)
}

/// The parameters of a model that a client sends.
fn parameters(said: &Map<String, Value>) -> Result<Option<Map<String, Value>>, RemoteError> {
    match said.get("inference_params") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(parameters)) => Ok(Some(parameters.clone())),
        Some(_) => Err(RemoteError::invalid("inference_params", "it must be an object")),
    }
}

/// Keeps what else is said of a model.
fn tell(model: &mut RemoteModel, said: &Map<String, Value>) {
    for (name, value) in said {
        if !matches!(name.as_str(), "id" | "model" | "engine" | "inference_params" | "object" | "status")
            && !value.is_null()
        {
            model.other.insert(name.clone(), value.clone());
        }
    }
}

/// An answer that is read whole.
async fn whole(engine: &RemoteEngine, answer: &mut Exchanged) -> Result<Value, RemoteError> {
    let outbound = |source| RemoteError::Outbound { engine: engine.engine.clone(), source };
    let bytes = answer.bytes(LONGEST_ANSWER).await.map_err(outbound)?;
    let nonsense = |reason: String| RemoteError::Nonsense { engine: engine.engine.clone(), reason };
    let text = String::from_utf8(bytes).map_err(|_| nonsense("it is no text".into()))?;
    let value: Value = serde_json::from_str(&engine.hide_in_answer(&text)).map_err(|why| {
        let is_page = text.trim_start().starts_with('<');
        nonsense(if is_page { "it is a web page".to_owned() } else { format!("it is no JSON: {why}") })
    })?;
    if value.is_object() { Ok(value) } else { Err(nonsense("it is no JSON object".into())) }
}

/// What a template gives, away from the thread that carries the others' answers.
async fn rendered(template: Arc<Template>, value: Value) -> Result<Value, String> {
    let work = tokio::task::spawn_blocking(move || template.render(&value));
    work.await.unwrap_or_else(|_| Err("it could not be run".into()))
}

/// What a refusal says, in whatever shape it says it.
fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let json: Option<Value> = serde_json::from_str(&text).ok();
    let told = json.as_ref().and_then(|json| {
        [&json["error"]["message"], &json["error"], &json["message"], &json["detail"]]
            .into_iter()
            .find_map(Value::as_str)
    });
    let told = told.unwrap_or(if text.trim_start().starts_with('<') { "a web page" } else { text.trim() });
    let told: String = told.chars().filter(|letter| !letter.is_control()).take(1000).collect();
    if told.is_empty() { "nothing more".into() } else { told }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
