//! The models as a client sees them: the list, from memory, and one of them.

use super::{fit::as_loaded, registry::unreadable, run::blocking};
use crate::{App, convert::load_settings, error::ApiError, json::Asked};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cortex_engine::{Engines, LoadSettings, LoadedModel, Phase, PromptTemplateUse};
use cortex_hardware::{Budget, Graphics, ModelShape, fit};
use cortex_models::{Downloadable, Gguf, Model, ModelId, ModelState, ResolveError, StoreError, Template};
use cortex_remote::RemoteModel;
use futures::stream;
use serde::Deserialize;
use serde_json::json as value;
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
};

/// Bytes of a list that are made at a time.
const PIECE: usize = 128 * 1024;
/// What `?state=` may be.
const STATES: &[&str] = &["ready", "missing", "broken", "loading", "loaded"];

/// What `GET /v1/models` can be asked.
#[derive(Debug, Default, Deserialize, Hash)]
pub(crate) struct ListQuery {
    /// One model instead of the list.
    id: Option<String>,
    /// As many at most; `-1` is all.
    limit: Option<String>,
    /// Those that come after this id.
    after: Option<String>,
    engine: Option<String>,
    status: Option<String>,
    state: Option<String>,
}

/// All models, from memory. A client that knows this revision already gets 304.
pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(id) = &query.id {
        return one(&app, id).await;
    }
    let limit = limit(query.limit.as_deref())?;
    let (remote, remote_revision) = app.remotes.listed();
    let states = engine_states(&app.engines.loaded());
    let compatibility = compatibility(&app.engines);
    let validators = |tag: &str| {
        [
            (header::ETAG, HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static("\"\""))),
            // Kept, but asked for again every time: that is what the tag is for.
            (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        ]
    };
    let with_templates = query.status.as_deref() == Some("downloadable");
    if let Some(known) = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok())
        && !with_templates
    {
        let (store, sources) = (app.models.clone(), app.sources.clone());
        let revisions = blocking(move || {
            store.current_revision().map(|local| (local, (sources.downloadable().1, remote_revision)))
        });
        let tag = tag(revisions.await?.map_err(|error| unreadable(&error))?, &states, &compatibility, &query);
        if known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag) {
            return Ok((StatusCode::NOT_MODIFIED, validators(&tag)).into_response());
        }
    }
    let (store, sources, migrations) = (app.models.clone(), app.sources.clone(), app.migrations.clone());
    let listed = blocking(move || {
        let (models, local) = store.list()?;
        let (mut there, others) = sources.downloadable();
        let mut templates = if with_templates { migrations.templates() } else { vec![] };
        if !there.is_empty() || !templates.is_empty() {
            // What is here is not offered, whatever its name.
            let names = |model: &Arc<Model>| {
                let aliases = model.aliases.iter().map(ToString::to_string);
                std::iter::once(model.id.to_string()).chain(aliases).collect::<Vec<String>>()
            };
            let here: HashSet<String> = models.iter().flat_map(names).collect();
            there.retain(|model| !here.contains(&model.id));
            templates.retain(|template| !here.contains(&template.id));
        }
        let local_entries = models.iter().cloned().map(Listed::Local).chain(remote.into_iter().map(Listed::Remote));
        let offered = there.into_iter().map(Listed::Downloadable).chain(templates.into_iter().map(Listed::Template));
        Ok((local_entries.chain(offered).collect::<Vec<Listed>>(), (local, (others, remote_revision))))
    });
    let (entries, revisions) = listed.await?.map_err(|error: StoreError| unreadable(&error))?;
    // Templates are looked for anew each time: no tag tells when they change.
    let validators = (!with_templates).then(|| validators(&tag(revisions, &states, &compatibility, &query)));
    if let Some(state) = query.state.as_deref().filter(|state| !STATES.contains(state)) {
        return Err(ApiError::field("state", format!("state is `{state}`; it must be one of {}", STATES.join(", "))));
    }
    let (entries, more) = page(entries, &states, &query, limit)?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let body = list_body(entries, states, compatibility, more);
    Ok(match validators {
        Some(validators) => (validators, json, body).into_response(),
        None => (json, body).into_response(),
    })
}

/// One entry of the list.
enum Listed {
    /// A model that is here.
    Local(Arc<Model>),
    /// A model on another machine.
    Remote(RemoteModel),
    /// A model of a source.
    Downloadable(Arc<Downloadable>),
    /// A model that an older program offers.
    Template(Template),
}

impl Listed {
    fn id(&self) -> &str {
        match self {
            Self::Local(model) => model.id.as_str(),
            Self::Remote(model) => &model.id,
            Self::Downloadable(model) => &model.id,
            Self::Template(template) => &template.id,
        }
    }
}

fn limit(given: Option<&str>) -> Result<Option<usize>, ApiError> {
    match given.map(str::trim) {
        None | Some("" | "-1") => Ok(None),
        Some(number) => number
            .parse()
            .map(Some)
            .map_err(|_| ApiError::field("limit", format!("limit is `{number}`; it must be a number, or -1 for all"))),
    }
}

/// What the engines say of models: `loading` or `loaded`.
fn engine_states(loaded: &[LoadedModel]) -> HashMap<ModelId, &'static str> {
    loaded
        .iter()
        .map(|model| {
            let state = match model.phase {
                Phase::Waiting | Phase::Loading => "loading",
                Phase::Ready | Phase::Leaving => "loaded",
            };
            (model.id.clone(), state)
        })
        .collect()
}

/// What is said of a model that is known well enough: whether it fits this machine when nothing else runs; and the file of which that
/// was read. Nothing is read for it.
struct Compatibilities {
    shapes: HashMap<ModelId, (PathBuf, ModelShape)>,
    /// Another one when the shapes are others.
    revision: u64,
    all: Budget,
    load: LoadSettings,
}

fn compatibility(engines: &Engines) -> Compatibilities {
    let (shapes, revision) = engines.known_shapes();
    Compatibilities { shapes, revision, all: engines.budget_of_machine(), load: engines.load_settings() }
}

/// The two members of a model's entry: ours, and that of cortex.cpp.
fn compatible(shape: &ModelShape, all: Budget) -> String {
    const MIB: u64 = 1 << 20;
    let fit = fit(shape, all);
    let on_processor = shape.placed(Graphics::None);
    let (layers, placed) = (shape.layers(), fit.placed);
    let verdict = match (fit.fits(), placed.layers) {
        (false, _) if fit.largest_context.is_none() => "does_not_fit",
        (false, _) => "fits_with_less",
        (true, 0) => "fits_on_cpu",
        (true, on) if on >= layers => "fits_on_gpu",
        (true, _) => "fits_partly_on_gpu",
    };
    let ours = value!({
        "verdict": verdict,
        "needed": fit.needed(),
        "budget": all.memory,
        "device_layers": placed.layers,
        "layers": layers,
        "context_length": shape.context,
        "parallel": shape.parallel,
        "largest_context": fit.largest_context,
    });
    let on_graphics = (placed.layers > 0).then(|| {
        value!({
            "ram": placed.memory.total().div_ceil(MIB),
            "vram": placed.graphics.total().div_ceil(MIB),
            "ngl": layers,
            "context_length": shape.context,
            "recommend_ngl": placed.layers,
        })
    });
    let theirs = value!({
        "cpu_mode": {"ram": on_processor.memory_bytes().div_ceil(MIB)},
        "gpu_mode": on_graphics.into_iter().collect::<Vec<_>>(),
    });
    format!(",\"compatibility\":{ours},\"recommendation\":{theirs}")
}

/// Another one when anything that the answer shows is another.
fn tag(
    (local, others): (u64, (u64, u64)),
    states: &HashMap<ModelId, &'static str>,
    compatibilities: &Compatibilities,
    query: &ListQuery,
) -> String {
    let mut hasher = DefaultHasher::new();
    (compatibilities.revision, format!("{:?}", compatibilities.all)).hash(&mut hasher);
    let mut states: Vec<_> = states.iter().collect();
    states.sort();
    states.hash(&mut hasher);
    (query, others).hash(&mut hasher);
    format!("\"{local:x}-{:x}\"", hasher.finish())
}

fn state_word(model: &Model, states: &HashMap<ModelId, &'static str>) -> &'static str {
    // A model that is loaded answers, whatever became of its file.
    match (states.get(&model.id), model.state()) {
        (Some(state), _) => state,
        (None, ModelState::Ready) => "ready",
        (None, ModelState::Missing) => "missing",
        (None, ModelState::Broken { .. }) => "broken",
    }
}

/// The models that were asked for, and whether there are more.
fn page(
    mut entries: Vec<Listed>,
    states: &HashMap<ModelId, &'static str>,
    query: &ListQuery,
    limit: Option<usize>,
) -> Result<(Vec<Listed>, bool), ApiError> {
    match query.after.as_deref() {
        None | Some("") => {}
        Some(after) => match entries.iter().position(|entry| entry.id() == after) {
            Some(place) => drop(entries.drain(..=place)),
            None => return Err(ApiError::field("after", format!("after: there is no model `{after}`"))),
        },
    }
    let of_engine = |own: &str| query.engine.as_deref().is_none_or(|engine| same_engine(engine, own));
    let of_status = |own: &str| query.status.as_deref().is_none_or(|status| status == own);
    entries.retain(|entry| match entry {
        Listed::Local(model) => {
            let in_state = query.state.as_deref().is_none_or(|state| state_word(model, states) == state);
            let engine = || model.yaml().and_then(|yaml| yaml.text("engine").map(str::to_owned));
            // Whatever is on the list was downloaded, in the words of cortex.cpp.
            in_state
                && of_status("downloaded")
                && (query.engine.is_none() || of_engine(engine().as_deref().unwrap_or("llama-cpp")))
        }
        Listed::Remote(model) => query.state.is_none() && of_status("remote") && of_engine(&model.engine),
        Listed::Downloadable(_) => query.state.is_none() && of_status("downloadable") && of_engine("llama-cpp"),
        Listed::Template(template) => query.state.is_none() && of_engine(&template.engine),
    });
    let more = limit.is_some_and(|limit| entries.len() > limit);
    entries.truncate(limit.unwrap_or(usize::MAX));
    Ok((entries, more))
}

/// `llama-cpp` has had several names.
fn same_engine(left: &str, right: &str) -> bool {
    let one = |name: &str| match name.to_ascii_lowercase().as_str() {
        "" | "llama.cpp" | "cortex.llamacpp" | "nitro" => "llama-cpp".to_owned(),
        other => other.to_owned(),
    };
    one(left) == one(right)
}

/// The body of a list, made piece by piece while it is sent: that of ten thousand models is large.
fn list_body(
    entries: Vec<Listed>,
    states: HashMap<ModelId, &'static str>,
    compatibilities: Compatibilities,
    more: bool,
) -> Body {
    let end = format!("],\"has_more\":{more},\"result\":\"OK\"}}");
    let mut entries = entries.into_iter().peekable();
    let mut text = String::from("{\"object\":\"list\",\"data\":[");
    let mut over = false;
    let mut pieces = std::iter::from_fn(move || {
        if over {
            return None;
        }
        let mut piece = std::mem::take(&mut text);
        piece.reserve(PIECE);
        while piece.len() < PIECE {
            match entries.next() {
                Some(Listed::Local(model)) => {
                    write_entry(&mut piece, &model, state_word(&model, &states));
                    write_compatibility(&mut piece, &model, &compatibilities);
                }
                Some(Listed::Remote(model)) => piece.push_str(&model.shown().to_string()),
                Some(Listed::Downloadable(model)) => write_downloadable(&mut piece, &model),
                Some(Listed::Template(template)) => write_template(&mut piece, &template),
                None => {
                    piece.push_str(&end);
                    over = true;
                    break;
                }
            }
            if entries.peek().is_some() {
                piece.push(',');
            }
        }
        Some(Bytes::from(piece))
    })
    .peekable();
    let first = pieces.next().unwrap_or_default();
    if pieces.peek().is_none() {
        return Body::from(first);
    }
    Body::from_stream(stream::iter(std::iter::once(first).chain(pieces).map(Ok::<_, std::convert::Infallible>)))
}

/// A model as clients read it: flat.
fn write_entry(text: &mut String, model: &Model, state: &str) {
    let id = value!(model.id);
    let aliases = value!(model.aliases);
    let _ = write!(
        text,
        "{{\"id\":{id},\"model\":{id},\"object\":\"model\",\"status\":\"downloaded\",\"state\":\"{state}\",\"aliases\":{aliases}"
    );
    if let ModelState::Broken { reason } = model.state() {
        let _ = write!(text, ",\"reason\":{}", value!(&*reason));
    }
    if let Some((own, common)) = model.members() {
        let _ = write!(text, ",{own},{common}}}");
        return;
    }
    if model.is_pending() {
        text.push_str(",\"details\":\"pending\"");
    }
    text.push_str(",\"engine\":\"llama-cpp\",\"owned_by\":\"user\",\"created\":0}");
}

/// Whether it fits, when that is known of the file that it has now.
fn write_compatibility(text: &mut String, model: &Model, known: &Compatibilities) {
    let Compatibilities { shapes, all, load, .. } = known;
    if model.state() == ModelState::Ready
        && let Some((path, shape)) = shapes.get(&model.id)
        && model.weights().is_some_and(|weights| weights == path)
        && let Some(yaml) = model.yaml()
        && text.pop().is_some()
    {
        text.push_str(&compatible(&as_loaded(shape, load_settings(&yaml, *load), *all), *all));
        text.push('}');
    }
}

/// A model of a source, as clients of cortex.cpp read it.
fn write_downloadable(text: &mut String, model: &Downloadable) {
    let (id, source, card) = (value!(model.id), value!(&*model.source), value!(&*model.card));
    let _ = write!(
        text,
        "{{\"id\":{id},\"model\":{id},\"object\":\"model\",\"status\":\"downloadable\",\"modelSource\":{source},\"engine\":\"llama-cpp\",\"size\":{},\"metadata\":{card}}}",
        model.bytes
    );
}

/// A model that an older program offers: what to pull, or whose it is.
fn write_template(text: &mut String, template: &Template) {
    let mut entry = value!({
        "id": template.id,
        "model": template.id,
        "object": "model",
        "status": "downloadable",
        "template": true,
        "engine": template.engine,
        "name": template.name,
    });
    if template.has_key {
        // That there is one, and never which.
        entry["apiKeyFound"] = true.into();
    }
    if let Some(url) = &template.url {
        entry["source"] = url.as_str().into();
    }
    text.push_str(&entry.to_string());
}

/// One model. Its files are looked at now.
pub(crate) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    one(&app, &id).await
}

async fn one(app: &App, id: &str) -> Result<Response, ApiError> {
    if let Some(model) = app.remotes.model(id) {
        let mut shown = model.shown();
        shown["result"] = "OK".into();
        return Ok(Json(shown).into_response());
    }
    let (store, name) = (app.models.clone(), id.to_owned());
    let found = blocking(move || {
        let model = store.current(&name)?;
        let template = template_use(&model);
        Ok::<_, ResolveError>((model, template))
    });
    let (model, template) = found.await?.map_err(|error| {
        let told = ApiError::from(error).with("id", id).with("object", "model");
        told.with("result", "Fail to get model information")
    })?;
    let mut text = String::new();
    write_entry(&mut text, &model, state_word(&model, &engine_states(&app.engines.loaded())));
    write_compatibility(&mut text, &model, &compatibility(&app.engines));
    if let Some(template) = template {
        text.pop();
        let (used, reason) = (template.used(), value!(template.reason()));
        let _ = write!(text, ",\"prompt_template_used\":\"{used}\",\"prompt_template_reason\":{reason}}}");
    }
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response())
}

/// What becomes of the prompt template of a model's settings; `None` when it has none. Reads the header.
fn template_use(model: &Model) -> Option<PromptTemplateUse> {
    let yaml = model.yaml()?;
    let prompt_template = yaml.text("prompt_template").filter(|text| !text.is_empty())?;
    let weights = model.weights()?;
    let header = Gguf::open(weights).ok()?;
    let bos = Gguf::bos_text(weights).unwrap_or_default();
    Some(cortex_engine::prompt_template_use(header.text("tokenizer.chat_template"), &bos, prompt_template))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_all() {
        assert_eq!(limit(None).unwrap(), None);
        assert_eq!(limit(Some("-1")).unwrap(), None);
        assert_eq!(limit(Some("300")).unwrap(), Some(300));
        assert!(limit(Some("many")).is_err());
    }

    #[test]
    fn a_tag_changes_with_what_is_shown() {
        let loaded = HashMap::from([(ModelId::existing("a"), "loaded")]);
        let query = ListQuery { limit: Some("1".into()), ..ListQuery::default() };
        let none = Compatibilities {
            shapes: HashMap::new(),
            revision: 0,
            all: Budget::default(),
            load: LoadSettings::default(),
        };
        let known = Compatibilities { revision: 1, shapes: HashMap::new(), ..none };
        let tags = [
            tag((1, (0, 0)), &HashMap::new(), &none, &ListQuery::default()),
            tag((2, (0, 0)), &HashMap::new(), &none, &ListQuery::default()),
            tag((1, (0, 0)), &loaded, &none, &ListQuery::default()),
            tag((1, (0, 0)), &HashMap::new(), &none, &query),
            tag((1, (1, 0)), &HashMap::new(), &none, &ListQuery::default()),
            tag((1, (0, 1)), &HashMap::new(), &none, &ListQuery::default()),
            tag((1, (0, 0)), &HashMap::new(), &known, &ListQuery::default()),
        ];
        let different: std::collections::HashSet<&String> = tags.iter().collect();
        assert_eq!(different.len(), tags.len());
        assert_eq!(tags[0], tag((1, (0, 0)), &HashMap::new(), &none, &ListQuery::default()));
    }

    #[test]
    fn engines_are_the_same_under_their_older_names() {
        assert!(same_engine("llama-cpp", "cortex.llamacpp") && same_engine("nitro", ""));
        assert!(!same_engine("openai", "llama-cpp"));
    }
}
