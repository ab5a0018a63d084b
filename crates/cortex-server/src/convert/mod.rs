//! The only place where the meaning of an OpenAI request is assigned. After it, only valid jobs exist.

mod constraint;
mod content;
mod gbnf;
mod sampling;
mod tools;

use crate::error::ApiError;
use constraint::{constraint, constraint_field, response_format};
use content::{adapters, content, unknown_fields, unknown_of_tools};
use cortex_api::openai::{
    ChatCompletionRequest, ChatMessage, CompletionRequest, InfillRequest, Prompt as WirePrompt, SharedFields,
};
use cortex_engine::{Chat, ChatTurn, EngineError, Infill, Job, LoadSettings, Prompt, ToolChoice, ToolUse};
use cortex_hardware::CacheType;
use cortex_models::{KeepAlive, ModelFiles, ModelId, ModelYaml};
use sampling::sampling;
use serde_json::{Map, Value};
use std::sync::Arc;
use tools::tools;

/// More stop texts than this are a mistake.
const MOST_STOPS: usize = 64;
/// Answers to one request, over all its prompts.
const MOST_ANSWERS: usize = 64;
/// Of the most probable tokens in the place of each, as OpenAI allows it.
const MOST_LOGPROBS: i64 = 20;
/// OpenAI's degrees of thinking, and those that its clients send for others.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// Fields of OpenAI's that concern its service, and not the answer.
const OF_A_SERVICE: &[&str] =
    &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// What a request is answered with: the model and what its yaml says.
#[derive(Clone)]
pub(crate) struct Target<'request> {
    pub(crate) id: &'request ModelId,
    pub(crate) files: ModelFiles,
    pub(crate) yaml: &'request ModelYaml,
    /// How models are loaded that do not say otherwise.
    pub(crate) load: LoadSettings,
}

/// What a request asks for: a job for each answer, in their order, and what of it has no effect.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) jobs: Vec<Job>,
    /// How many of them are of the same prompt.
    pub(crate) per_prompt: usize,
    /// The field that says what the answers must be.
    pub(crate) constraint: Option<&'static str>,
    pub(crate) warnings: Vec<String>,
    /// What stands in front of each answer; none when nothing does.
    pub(crate) echoes: Vec<String>,
}

/// A chat request as a job for each answer.
pub(crate) fn chat(request: ChatCompletionRequest, target: Target<'_>) -> Result<Order, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty; a chat needs at least one message"));
    }
    let mut shared = request.shared();
    let mut warnings = warnings(&request.rest, &shared, request.strict_parameters)?;
    let unknown = unknown_of_tools(request.tools.as_deref().unwrap_or_default());
    for field in unknown_fields(&request.messages).into_iter().chain(unknown) {
        warnings.push(without_effect(&field, request.strict_parameters)?);
    }
    if request.max_completion_tokens.is_some() {
        (shared.max_tokens, shared.max_tokens_field) = (request.max_completion_tokens, Some("max_completion_tokens"));
    }
    for field in shared.prediction.as_ref().and_then(Value::as_object).into_iter().flat_map(serde_json::Map::keys) {
        if field != "type" && field != "content" {
            warnings.push(without_effect(&format!("prediction.{field}"), request.strict_parameters)?);
        }
    }
    let tools = tools(&request)?;
    let format = response_format(request.response_format)?;
    let own = format.is_some().then_some("response_format").or(constraint_field(&shared));
    if let (Some(_), Some(field @ ("lark" | "grammar"))) = (&tools, own) {
        let message = format!("{field} and tools cannot be combined; leave one out, or set `tool_choice` to none");
        return Err(ApiError::field(field, message));
    }
    if let (Some(ToolUse { choice: ToolChoice::Required | ToolChoice::Named(_), .. }), Some(field)) = (&tools, own) {
        warnings.push(idle(field, "has no effect: tool_choice asks for a call", request.strict_parameters)?);
    }
    if shared.deterministic == Some(true) {
        let guesses = [
            ("prediction", shared.prediction.as_ref().is_some_and(|it| !it.is_null())),
            ("speculative.n_max", shared.speculative_n_max.is_some_and(|most| most > 0)),
        ];
        for (field, _) in guesses.into_iter().filter(|(_, is_given)| *is_given) {
            let why = "has no effect: a deterministic request guesses nothing";
            warnings.push(idle(field, why, request.strict_parameters)?);
        }
    }
    let constraint = own.or(tools.is_some().then_some("tools"));
    let probabilities = match (request.logprobs, request.top_logprobs) {
        (Some(true), top) => Some(count_of_logprobs("top_logprobs", top.unwrap_or(0))?),
        (_, Some(_)) => return Err(ApiError::field("top_logprobs", "top_logprobs needs `logprobs` to be true")),
        _ => None,
    };
    let mut images = Vec::new();
    let turns = request
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| turn(index, message, &mut images))
        .collect::<Result<Vec<_>, _>>()?;
    if !images.is_empty() && target.files.projector.is_none() {
        return Err(EngineError::NoImages.into());
    }
    let mut extra = request.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = request.reasoning_effort {
        if !EFFORTS.contains(&effort.as_str()) {
            let known = EFFORTS.join(", ");
            let message = format!(
                "reasoning_effort is `{effort}`; possible are {known}, and for templates that know others `chat_template_kwargs`"
            );
            return Err(ApiError::field("reasoning_effort", message));
        }
        // Templates that know no degrees know this.
        if effort == "none" {
            extra.entry("enable_thinking").or_insert(Value::Bool(false));
        }
        extra.entry("reasoning_effort").or_insert(Value::String(effort));
    }
    let splits_reasoning = match request.reasoning_format.as_deref() {
        None | Some("auto" | "deepseek") => true,
        Some("none") => false,
        Some(other) => {
            let message = format!("reasoning_format is `{other}`; it must be none, auto or deepseek");
            return Err(ApiError::field("reasoning_format", message));
        }
    };
    let legacy = target.yaml.text("prompt_template").filter(|text| !text.is_empty()).map(str::to_owned);
    let allows_control = request.allow_special.unwrap_or(false);
    let prompt = Prompt::Chat(Box::new(Chat {
        turns,
        extra,
        legacy,
        tools,
        splits_reasoning,
        allows_control,
        images: Arc::new(images),
    }));
    let count = count(shared.n)?;
    let mut job = job(prompt, shared, target)?;
    if format.is_some() && job.constraint.is_some() {
        return Err(ApiError::field(
            "response_format",
            "only one of response_format, json_schema, regex, lark and grammar is possible",
        ));
    }
    job.constraint = job.constraint.or(format);
    job.probabilities = probabilities.or(job.probabilities);
    Ok(Order { jobs: several(&job, count), per_prompt: count, constraint, warnings, echoes: vec![] })
}

/// A text completion as a job for each answer.
pub(crate) fn completion(request: CompletionRequest, target: &Target<'_>) -> Result<Order, ApiError> {
    let shared = request.shared();
    let warnings = warnings(&request.rest, &shared, request.strict_parameters)?;
    if request.best_of.is_some_and(|best_of| best_of != request.n.unwrap_or(1)) {
        return Err(ApiError::field(
            "best_of",
            "best_of must be the same as n; only answers that are told are computed",
        ));
    }
    let probabilities = request.logprobs.map(|wanted| count_of_logprobs("logprobs", wanted)).transpose()?;
    let prompts = match request.prompt {
        Some(WirePrompt::Text(text)) => vec![Prompt::Text(text)],
        Some(WirePrompt::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
        Some(WirePrompt::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        Some(WirePrompt::TokenLists(lists)) => lists.into_iter().map(Prompt::Tokens).collect(),
        None => return Err(ApiError::field("prompt", "prompt is missing")),
    };
    let tells_probabilities = probabilities.is_some() || shared.n_probs.is_some_and(|count| count > 0);
    let echoes = if request.echo == Some(true) { echoes(&prompts, tells_probabilities)? } else { vec![] };
    let prompts = match request.suffix.filter(|suffix| !suffix.is_empty()) {
        None => prompts,
        Some(suffix) => prompts.into_iter().map(|prompt| with_gap(prompt, &suffix)).collect::<Result<_, _>>()?,
    };
    let count = count(shared.n)?;
    if prompts.is_empty() || prompts.len() * count > MOST_ANSWERS {
        let message = format!("prompt has {} texts; 1 to {MOST_ANSWERS} answers are possible", prompts.len());
        return Err(ApiError::field("prompt", message));
    }
    let mut jobs = Vec::new();
    for prompt in prompts {
        let mut job = job(prompt, shared.clone(), target.clone())?;
        job.probabilities = probabilities.or(job.probabilities);
        jobs.extend(several(&job, count));
    }
    let echoes = echoes.into_iter().flat_map(|text| std::iter::repeat_n(text, count)).collect();
    Ok(Order { jobs, per_prompt: count, constraint: constraint_field(&shared), warnings, echoes })
}

/// The text of a gap.
pub(crate) fn infill(request: InfillRequest, target: Target<'_>) -> Result<Order, ApiError> {
    let shared = request.shared();
    let warnings = warnings(&request.rest, &shared, request.strict_parameters)?;
    if request.input_prefix.is_none() && request.input_suffix.is_none() {
        return Err(ApiError::field(
            "input_prefix",
            "input_prefix and input_suffix are missing: what stands around the gap",
        ));
    }
    if count(shared.n)? != 1 {
        return Err(ApiError::field("n", "n must be 1 here"));
    }
    let constraint = constraint_field(&shared);
    let gap = Infill {
        before: request.input_prefix.unwrap_or_default() + &request.prompt.unwrap_or_default(),
        behind: request.input_suffix.unwrap_or_default(),
        others: request
            .input_extra
            .unwrap_or_default()
            .into_iter()
            .map(|file| (file.filename.unwrap_or_else(|| "tmp".into()), file.text))
            .collect(),
    };
    let job = job(Prompt::Infill(gap), shared, target)?;
    Ok(Order { jobs: vec![job], per_prompt: 1, constraint, warnings, echoes: vec![] })
}

/// What stands in front of each answer.
fn echoes(prompts: &[Prompt], tells_probabilities: bool) -> Result<Vec<String>, ApiError> {
    if tells_probabilities {
        let message = "echo cannot be combined with logprobs: how probable the prompt was is not computed";
        return Err(ApiError::field("echo", message));
    }
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        _ => Err(ApiError::field("echo", "echo needs a prompt that is text")),
    };
    prompts.iter().map(text).collect()
}

/// A text whose answer stands before another one.
fn with_gap(prompt: Prompt, suffix: &str) -> Result<Prompt, ApiError> {
    match prompt {
        Prompt::Text(before) => Ok(Prompt::Infill(Infill { before, behind: suffix.to_owned(), others: vec![] })),
        _ => Err(ApiError::field("suffix", "suffix needs a prompt that is text")),
    }
}

fn unsupported(field: &str) -> ApiError {
    let mut error = ApiError::field(field, format!("{field} is not supported yet; leave it out"));
    error.body.error.code = Some("unsupported_parameter".into());
    error
}

/// Fields that nobody knows, and those that others keep from any effect: a warning for each, or a refusal where that is asked for.
fn warnings(
    rest: &Map<String, Value>,
    shared: &SharedFields,
    is_strict: Option<bool>,
) -> Result<Vec<String>, ApiError> {
    let mut warnings = Vec::new();
    for (field, value) in
        rest.iter().filter(|(field, value)| !value.is_null() && !OF_A_SERVICE.contains(&field.as_str()))
    {
        match field.as_str() {
            // They change what is answered: without them it would be something else than was asked for.
            "functions" | "function_call" => {
                return Err(ApiError::field(
                    field,
                    format!("{field} is the older name of `tools` and `tool_choice`; use these"),
                ));
            }
            "audio" | "web_search_options" => return Err(unsupported(field)),
            "modalities" if value != &serde_json::json!(["text"]) => return Err(unsupported(field)),
            "modalities" => {}
            "id_slot" if is_strict != Some(true) => {
                warnings.push("id_slot has no effect: the place of a request is chosen by what is in it".into());
            }
            _ => warnings.push(without_effect(field, is_strict)?),
        }
    }
    for (field, why) in sampling::without_effect(shared) {
        warnings.push(idle(field, why, is_strict)?);
    }
    Ok(warnings)
}

/// What is said of a field that nobody knows.
fn without_effect(field: &str, is_strict: Option<bool>) -> Result<String, ApiError> {
    idle(field, "is not known and has no effect", is_strict)
}

/// What is said of a field that has no effect, and why: a warning, or a refusal where that is asked for.
fn idle(field: &str, why: &str, is_strict: Option<bool>) -> Result<String, ApiError> {
    if is_strict == Some(true) {
        return Err(ApiError::field(field, format!("{field} has no effect here, and strict_parameters is set")));
    }
    Ok(format!("{field} {why}"))
}

fn count(wanted: Option<i64>) -> Result<usize, ApiError> {
    match wanted.map(usize::try_from) {
        None => Ok(1),
        Some(Ok(count @ 1..=MOST_ANSWERS)) => Ok(count),
        Some(_) => Err(ApiError::field("n", format!("n must be between 1 and {MOST_ANSWERS}"))),
    }
}

fn count_of_logprobs(field: &str, wanted: i64) -> Result<u32, ApiError> {
    let most = 0..=MOST_LOGPROBS;
    u32::try_from(wanted)
        .ok()
        .filter(|_| most.contains(&wanted))
        .ok_or_else(|| ApiError::field(field, format!("{field} is {wanted}; it must be between 0 and {MOST_LOGPROBS}")))
}

/// The same job several times; random numbers that begin somewhere begin somewhere else each time.
fn several(job: &Job, count: usize) -> Vec<Job> {
    let one = |number: usize| {
        let mut job = job.clone();
        let further = u32::try_from(number).unwrap_or(0);
        job.sampling.seed = job.sampling.seed.map(|seed| sampling::a_seed(u64::from(seed) + u64::from(further)));
        job
    };
    (0..count).map(one).collect()
}

fn turn(index: usize, message: ChatMessage, images: &mut Vec<String>) -> Result<ChatTurn, ApiError> {
    let role = match message.role.as_str() {
        // OpenAI's newer name of the same thing.
        "developer" | "system" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => "tool",
        other => {
            return Err(ApiError::field(
                &format!("messages[{index}].role"),
                format!("messages[{index}].role is `{other}`; it must be system, developer, user, assistant or tool"),
            ));
        }
    };
    let (content, places) = content(index, message.content, images)?;
    Ok(ChatTurn {
        role: role.to_owned(),
        content,
        name: message.name,
        reasoning_content: message.reasoning_content,
        tool_calls: message.tool_calls.unwrap_or_default(),
        tool_call_id: message.tool_call_id,
        images: places,
    })
}

fn job(prompt: Prompt, fields: SharedFields, target: Target<'_>) -> Result<Job, ApiError> {
    let yaml = target.yaml;
    let sampling = sampling(&fields, yaml)?;
    let constraint = constraint(&fields)?;
    let mut stop = fields.stop.map(cortex_api::openai::OneOrMany::into_vec).unwrap_or_default();
    if stop.len() > MOST_STOPS {
        return Err(ApiError::field(
            "stop",
            format!("stop has {} texts; at most {MOST_STOPS} are possible", stop.len()),
        ));
    }
    stop.extend(yaml.texts("stop"));
    let stored = |key: &str| yaml.number(key).and_then(whole_number).filter(|number| *number > 0);
    let max_tokens = match fields.max_tokens {
        None => stored("max_tokens").and_then(|most| u32::try_from(most).ok()),
        // "As many as fit", as in llama-server.
        Some(-1) => None,
        Some(tokens) if tokens >= 1 => Some(u32::try_from(tokens).unwrap_or(u32::MAX)),
        Some(tokens) => {
            let field = fields.max_tokens_field.unwrap_or("max_tokens");
            return Err(ApiError::field(field, format!("{field} is {tokens}; it must be 1 or more")));
        }
    };
    Ok(Job {
        model: target.id.clone(),
        load: load_settings(target.yaml, target.load),
        adapters: adapters(fields.lora.as_ref(), yaml)?,
        files: target.files,
        prompt,
        sampling,
        stop,
        max_tokens,
        ignore_eos: fields.ignore_eos.or(yaml.truth("ignore_eos")).unwrap_or(false),
        deterministic: fields.deterministic.unwrap_or(false),
        // The route says whose it is: it knows the key.
        cache_scope: fields.cache_prompt.unwrap_or(true).then_some(0),
        prediction: prediction(fields.prediction.as_ref())?,
        most_guesses: fields
            .speculative_n_max
            .map(|most| {
                let field = "speculative.n_max";
                u32::try_from(most)
                    .map_err(|_| ApiError::field(field, format!("{field} is {most}; it must be 0 or more")))
            })
            .transpose()?,
        constraint,
        probabilities: fields
            .n_probs
            .or_else(|| stored("n_probs").map(|most| i64::from(most).min(MOST_LOGPROBS)))
            .filter(|&count| count > 0)
            .map(|count| count_of_logprobs("n_probs", count))
            .transpose()?,
        keep_alive: keep_alive(fields.keep_alive.as_ref())?,
    })
}

/// The text that an answer is expected to be like: OpenAI's `{"type": "content", "content": …}`.
fn prediction(wanted: Option<&Value>) -> Result<Option<String>, ApiError> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_null()) else { return Ok(None) };
    let text = match &wanted["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part["text"].as_str()).collect(),
        _ => None,
    };
    let is_content = wanted["type"] == "content";
    text.filter(|_| is_content).map(Some).ok_or_else(|| {
        let message = "prediction must be {\"type\": \"content\", \"content\": …}, with a text or parts of type text";
        ApiError::field("prediction", message)
    })
}

/// The room that a model's yaml asks for.
pub(crate) fn load_settings(yaml: &ModelYaml, defaults: LoadSettings) -> LoadSettings {
    let positive = |key: &str| {
        yaml.number(key).and_then(whole_number).and_then(|value| u32::try_from(value).ok()).filter(|&it| it > 0)
    };
    LoadSettings {
        stored_context: positive("ctx_len"),
        parallel: positive("n_parallel").unwrap_or(defaults.parallel),
        threads: positive("cpu_threads").unwrap_or(defaults.threads),
        cache_type: yaml
            .values()
            .get("cache_type")
            .and_then(Value::as_str)
            .and_then(CacheType::of_name)
            .unwrap_or(defaults.cache_type),
        // Negative is as many as fit.
        device_layers: yaml
            .number("ngl")
            .and_then(whole_number)
            .map_or(defaults.device_layers, |layers| u32::try_from(layers).ok()),
        keep_alive: yaml.values().get("keep_alive").and_then(KeepAlive::parse),
        pin: yaml.values().get("pin").and_then(Value::as_bool).unwrap_or(false),
        ..defaults
    }
}

/// How long a model stays after a request, as the request says it.
pub(crate) fn keep_alive(given: Option<&Value>) -> Result<Option<KeepAlive>, ApiError> {
    let wrong = |value: &Value| {
        ApiError::field("keep_alive", format!("keep_alive is {value}; it must be {}", KeepAlive::EXPECTED))
    };
    match given {
        None | Some(Value::Null) => Ok(None),
        Some(value) => KeepAlive::parse(value).map(Some).ok_or_else(|| wrong(value)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range and whole")]
fn whole_number(value: f64) -> Option<i32> {
    (value.fract() == 0.0 && value.abs() <= f64::from(i32::MAX)).then_some(value as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_api::worker::{Constraint, SamplingStep};

    fn order(body: &str) -> Result<Order, ApiError> {
        let yaml = ModelYaml::parse("temperature: 0.5\nctx_len: 2048\nstop: [</s>]\nseed: -1\n").unwrap();
        order_for(body, &yaml)
    }

    fn order_for(body: &str, yaml: &ModelYaml) -> Result<Order, ApiError> {
        let request: ChatCompletionRequest = serde_json::from_str(body).unwrap();
        let target = Target {
            id: &ModelId::existing("m"),
            files: ModelFiles::of_weights("/m.gguf".into()),
            yaml,
            load: LoadSettings { context_length: 8192, parallel: 4, ..LoadSettings::default() },
        };
        chat(request, target)
    }

    fn convert(body: &str) -> Result<Job, ApiError> {
        order(body).map(|order| order.jobs.into_iter().next().expect("a job"))
    }

    #[test]
    fn the_request_wins_over_the_model_and_the_model_over_the_default() {
        let job = convert(r#"{"messages":[{"role":"user","content":"x"}],"top_p":0.5,"stop":"END","seed":7}"#).unwrap();
        assert!((job.sampling.temperature - 0.5).abs() < f32::EPSILON);
        assert!((job.sampling.top_p - 0.5).abs() < f32::EPSILON);
        assert_eq!((job.sampling.top_k, job.sampling.seed), (40, Some(7)));
        assert_eq!(job.stop, ["END", "</s>"]);
        assert_eq!(job.load.stored_context, Some(2048));
    }

    #[test]
    fn what_settings_say_counts_until_a_request_says_something_else() {
        let yaml = ModelYaml::parse("max_tokens: 5\nignore_eos: true\nn_probs: 3\nseed: 4294967290\n").unwrap();
        let job = |fields: &str| {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{fields}}}"#);
            order_for(&body, &yaml).unwrap().jobs.remove(0)
        };
        let stored = job("");
        assert_eq!((stored.max_tokens, stored.ignore_eos, stored.probabilities), (Some(5), true, Some(3)));
        assert_eq!(stored.sampling.seed, Some(4_294_967_290));
        let asked = job(r#","max_tokens":-1,"ignore_eos":false,"n_probs":0,"seed":1"#);
        assert_eq!((asked.max_tokens, asked.ignore_eos, asked.probabilities), (None, false, None));
    }

    #[test]
    fn no_seed_is_the_one_that_means_any() {
        let seeds = |fields: &str| {
            let order = with(fields).unwrap();
            order.jobs.iter().map(|job| job.sampling.seed).collect::<Vec<_>>()
        };
        assert_eq!(seeds(r#""seed":4294967295"#), [Some(0)]);
        assert_eq!(seeds(r#""seed":4294967294,"n":3"#), [Some(u32::MAX - 1), Some(0), Some(1)]);
        assert_eq!(seeds(r#""seed":-7"#), [None]);
    }

    #[test]
    fn what_stands_in_the_way_of_a_field_is_told() {
        for (fields, warned) in [
            (r#""mirostat":2,"top_k":1,"top_p":1"#, &["top_k has no effect: mirostat is in its place"][..]),
            (r#""mirostat":2,"temperature":0,"top_k":1"#, &[]),
            (
                r#""samplers":["temperature"],"min_p":0.1,"dry_multiplier":0"#,
                &["min_p has no effect: `samplers` does not have its step"],
            ),
            (r#""samplers":["min_p"],"min_p":0.1,"top_k":0"#, &[]),
            (
                r#""tools":[{"type":"function","zap":1,"function":{"name":"f","bar":1,"x":[]}}]"#,
                &[
                    "tools[0].zap is not known and has no effect",
                    "tools[0].function.bar is not known and has no effect",
                ],
            ),
        ] {
            assert_eq!(with(fields).unwrap().warnings, warned, "{fields}");
            let strict = with(&format!(r#"{fields},"strict_parameters":true"#));
            assert_eq!(strict.is_err(), !warned.is_empty(), "{fields}");
        }
        let prefix = r#"{"messages":[{"role":"user","content":"x","refusal":null,"annotations":[],"prefix":true}]}"#;
        assert_eq!(order(prefix).unwrap().warnings, ["messages[0].prefix is not known and has no effect"]);
        assert!(with(r#""reasoning_effort":"banana""#).is_err() && with(r#""reasoning_effort":"low""#).is_ok());
        assert!(with(r#""repeat_last_n":-5"#).is_err() && with(r#""repeat_last_n":-1"#).is_ok());
    }

    #[test]
    fn the_newer_name_of_max_tokens_wins_and_minus_one_is_no_limit() {
        let limit = |fields: &str| {
            convert(&format!(r#"{{"messages":[{{"role":"user","content":"x"}}],{fields}}}"#)).map(|job| job.max_tokens)
        };
        assert_eq!(limit(r#""max_tokens":5,"max_completion_tokens":7"#).unwrap(), Some(7));
        assert_eq!(limit(r#""max_tokens":-1"#).unwrap(), None);
        assert!(limit(r#""max_tokens":0"#).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, field) in [
            (r#"{"messages":[]}"#, "messages"),
            (r#"{"messages":[{"role":"king","content":"x"}]}"#, "messages[0].role"),
            (r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, "messages[0].content"),
            (r#"{"messages":[{"role":"user","content":"x"}],"temperature":9}"#, "temperature"),
        ] {
            assert_eq!(convert(body).expect_err(body).body.error.param.as_deref(), Some(field));
        }
    }

    fn with(fields: &str) -> Result<Order, ApiError> {
        order(&format!(r#"{{"messages":[{{"role":"user","content":"x"}}],{fields}}}"#))
    }

    #[test]
    fn a_field_that_makes_no_sense_is_named() {
        let tool = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        for (fields, field) in [
            (r#""n":0"#, "n"),
            (r#""n":1000"#, "n"),
            (r#""top_logprobs":3"#, "top_logprobs"),
            (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs"),
            (r#""logit_bias":{"x":1}"#, "logit_bias"),
            (r#""logit_bias":[[1]]"#, "logit_bias"),
            (r#""logit_bias":"no""#, "logit_bias"),
            (r#""samplers":["top_k","magic"]"#, "samplers"),
            (r#""mirostat":-1"#, "mirostat"),
            (r#""grammar":"root ::= [z-a]""#, "grammar"),
            (r#""regex":"a","lark":"start: b""#, "json_schema"),
            (r#""response_format":{"type":"yaml"}"#, "response_format.type"),
            (r#""response_format":{"type":"json_schema"}"#, "response_format.json_schema.schema"),
            (r#""response_format":{"type":"json_object","schema":7}"#, "response_format"),
            (r#""reasoning_format":"loud""#, "reasoning_format"),
            (r#""tools":[{"type":"magic"}]"#, "tools[0]"),
            (r#""tools":[{"type":"function","function":{"name":"a b"}}]"#, "tools[0].function.name"),
            (r#""tool_choice":"required""#, "tool_choice"),
            (&format!(r#"{tool},"tool_choice":"always""#), "tool_choice"),
            (&format!(r#"{tool},"tool_choice":{{"type":"function","function":{{"name":"g"}}}}"#), "tool_choice"),
            (&format!(r#"{tool},"lark":"start: \"a\"""#), "lark"),
            (r#""functions":[]"#, "functions"),
            (r#""audio":{}"#, "audio"),
            (r#""wishes":3,"strict_parameters":true"#, "wishes"),
        ] {
            let error = with(fields).expect_err(fields);
            assert_eq!(error.body.error.param.as_deref(), Some(field), "{fields}");
            assert_eq!(error.status, axum::http::StatusCode::BAD_REQUEST, "{fields}");
        }
    }

    #[test]
    fn what_has_no_effect_is_told_and_what_is_of_a_service_is_not() {
        let warnings = |fields: &str| with(fields).expect(fields).warnings;
        assert_eq!(
            warnings(r#""wishes":3,"user":"me","store":false,"nothing":null"#),
            ["wishes is not known and has no effect"]
        );
        assert!(warnings(r#""id_slot":1"#)[0].starts_with("id_slot has no effect"));
        assert!(warnings(r#""cache_prompt":false,"modalities":["text"]"#).is_empty());
    }

    #[test]
    fn several_answers_begin_their_random_numbers_apart() {
        let order = with(r#""n":3,"seed":7"#).unwrap();
        assert_eq!(order.jobs.iter().map(|job| job.sampling.seed).collect::<Vec<_>>(), [Some(7), Some(8), Some(9)]);
    }

    #[test]
    fn biases_steps_and_constraints_reach_the_engine() {
        let job = |fields: &str| with(fields).expect(fields).jobs.remove(0);
        assert_eq!(job(r#""logit_bias":{"42":-5}"#).sampling.logit_bias, [(42, -5.0)]);
        assert_eq!(job(r#""logit_bias":[[42,false]]"#).sampling.logit_bias, [(42, f32::MIN)]);
        assert_eq!(
            job(r#""samplers":["temp","top_k"]"#).sampling.order,
            [SamplingStep::Temperature, SamplingStep::TopK]
        );
        let any_object = Some(Constraint::JsonSchema { schema: serde_json::json!({"type": "object"}) });
        assert_eq!(job(r#""response_format":{"type":"json_object"}"#).constraint, any_object);
        assert_eq!(
            job(r#""response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}"#)
                .constraint,
            any_object
        );
        assert_eq!(job(r#""regex":"a+""#).constraint, Some(Constraint::Regex { pattern: "a+".into() }));
        assert_eq!(
            job(r#""grammar":"root ::= [a-c]""#).constraint,
            Some(Constraint::Regex { pattern: "[a-c]".into() })
        );
        assert_eq!(job(r#""grammar":"""#).constraint, None);
        assert_eq!(job(r#""logprobs":true"#).probabilities, Some(0));
        assert_eq!(job(r#""n_probs":4"#).probabilities, Some(4));
        let Prompt::Chat(chat) = job(r#""reasoning_effort":"none""#).prompt else { panic!("a chat") };
        assert_eq!(chat.extra.get("enable_thinking"), Some(&Value::Bool(false)));
    }

    #[test]
    fn parts_of_text_are_joined() {
        let job = convert(
            r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#,
        )
        .unwrap();
        let Prompt::Chat(chat) = job.prompt else { panic!("a chat") };
        let turns = chat.turns;
        assert_eq!((turns[0].role.as_str(), turns[0].content.as_str()), ("system", "a\nb"));
    }
}
