//! The only place where the meaning of an OpenAI request is assigned. After it, only valid jobs exist.

use crate::error::ApiError;
use cortex_api::{
    openai::{
        ChatCompletionRequest, ChatMessage, CompletionRequest, Content, Prompt as WirePrompt, ResponseFormat,
        SharedFields,
    },
    worker::{Constraint, Sampling, SamplingStep},
};
use cortex_engine::{Chat, ChatTurn, Job, LoadSettings, Prompt, ToolChoice, ToolUse};
use cortex_hardware::CacheType;
use cortex_models::{KeepAlive, ModelId, ModelYaml};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// More stop texts than this are a mistake.
const MOST_STOPS: usize = 64;
/// Answers to one request, over all its prompts.
const MOST_ANSWERS: usize = 64;
/// More tools than this are a mistake.
const MOST_TOOLS: usize = 256;
/// Of the most probable tokens in the place of each, as OpenAI allows it.
const MOST_LOGPROBS: i64 = 20;
/// Bytes of a schema, a regular expression or a grammar: they are compiled before the first token.
const LARGEST_CONSTRAINT: usize = 256 * 1024;
/// Fields of OpenAI's that concern its service, and not the answer.
const OF_A_SERVICE: &[&str] =
    &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"];

/// What a request is answered with: the model and what its yaml says.
#[derive(Clone)]
pub(crate) struct Target<'request> {
    pub(crate) id: &'request ModelId,
    pub(crate) weights: PathBuf,
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
}

/// A chat request as a job for each answer.
pub(crate) fn chat(request: ChatCompletionRequest, target: Target<'_>) -> Result<Order, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty; a chat needs at least one message"));
    }
    let warnings = warnings(&request.rest, request.strict_parameters)?;
    let mut shared = request.shared();
    if request.max_completion_tokens.is_some() {
        (shared.max_tokens, shared.max_tokens_field) = (request.max_completion_tokens, Some("max_completion_tokens"));
    }
    let tools = tools(&request)?;
    let format = response_format(request.response_format)?;
    let own = format.is_some().then_some("response_format").or(constraint_field(&shared));
    if let (Some(_), Some(field)) = (&tools, own) {
        let message = format!("{field} and tools cannot be combined yet; leave one out, or set `tool_choice` to none");
        return Err(ApiError::field(field, message));
    }
    let constraint = own.or(tools.is_some().then_some("tools"));
    let probabilities = match (request.logprobs, request.top_logprobs) {
        (Some(true), top) => Some(count_of_logprobs("top_logprobs", top.unwrap_or(0))?),
        (_, Some(_)) => return Err(ApiError::field("top_logprobs", "top_logprobs needs `logprobs` to be true")),
        _ => None,
    };
    let turns = request
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| turn(index, message))
        .collect::<Result<Vec<_>, _>>()?;
    let mut extra = request.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = request.reasoning_effort {
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
    let prompt = Prompt::Chat(Box::new(Chat { turns, extra, legacy, tools, splits_reasoning, allows_control }));
    let count = count(shared.n)?;
    let mut job = job(prompt, shared, target)?;
    if format.is_some() && job.constraint.is_some() {
        return Err(ApiError::field(
            "response_format",
            "only one of response_format, json_schema, regex and lark is possible",
        ));
    }
    job.constraint = job.constraint.or(format);
    job.probabilities = probabilities.or(job.probabilities);
    Ok(Order { jobs: several(&job, count), per_prompt: count, constraint, warnings })
}

/// A text completion as a job for each answer.
pub(crate) fn completion(request: CompletionRequest, target: &Target<'_>) -> Result<Order, ApiError> {
    let warnings = warnings(&request.rest, request.strict_parameters)?;
    if request.best_of.is_some_and(|best_of| best_of != request.n.unwrap_or(1)) {
        return Err(ApiError::field(
            "best_of",
            "best_of must be the same as n; only answers that are told are computed",
        ));
    }
    if request.echo == Some(true) {
        return Err(unsupported("echo"));
    }
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(unsupported("suffix"));
    }
    let probabilities = request.logprobs.map(|wanted| count_of_logprobs("logprobs", wanted)).transpose()?;
    let shared = request.shared();
    let prompts = match request.prompt {
        Some(WirePrompt::Text(text)) => vec![Prompt::Text(text)],
        Some(WirePrompt::Tokens(tokens)) => vec![Prompt::Tokens(tokens)],
        Some(WirePrompt::Texts(texts)) => texts.into_iter().map(Prompt::Text).collect(),
        None => return Err(ApiError::field("prompt", "prompt is missing")),
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
    Ok(Order { jobs, per_prompt: count, constraint: constraint_field(&shared), warnings })
}

fn unsupported(field: &str) -> ApiError {
    let mut error = ApiError::field(field, format!("{field} is not supported yet; leave it out"));
    error.body.error.code = Some("unsupported_parameter".into());
    error
}

/// Fields that nobody knows: a warning for each, or a refusal where that is asked for.
fn warnings(rest: &Map<String, Value>, is_strict: Option<bool>) -> Result<Vec<String>, ApiError> {
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
            _ if is_strict == Some(true) => {
                return Err(ApiError::field(
                    field,
                    format!("{field} has no effect here, and strict_parameters is set"),
                ));
            }
            "id_slot" => {
                warnings.push("id_slot has no effect: the place of a request is chosen by what is in it".into());
            }
            _ => warnings.push(format!("{field} is not known and has no effect")),
        }
    }
    Ok(warnings)
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
        job.sampling.seed = job.sampling.seed.map(|seed| seed.wrapping_add(further));
        job
    };
    (0..count).map(one).collect()
}

/// What the model may call.
fn tools(request: &ChatCompletionRequest) -> Result<Option<ToolUse>, ApiError> {
    let given = request.tools.as_deref().unwrap_or_default();
    let wrong = |message: String| Err(ApiError::field("tool_choice", message));
    let choice = match &request.tool_choice {
        None | Some(Value::Null) => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => ToolChoice::Auto,
            "required" | "any" => ToolChoice::Required,
            other => return wrong(format!("tool_choice is `{other}`; it must be none, auto, required or a function")),
        },
        Some(choice) => match choice.pointer("/function/name").and_then(Value::as_str) {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => return wrong("tool_choice must be none, auto, required, or name a function".into()),
        },
    };
    if given.is_empty() {
        return match choice {
            ToolChoice::Auto => Ok(None),
            _ => wrong("tool_choice asks for a call, and there are no tools".into()),
        };
    }
    if given.len() > MOST_TOOLS {
        let message = format!("tools has {} entries; at most {MOST_TOOLS} are possible", given.len());
        return Err(ApiError::field("tools", message));
    }
    let mut functions = Vec::new();
    for (index, tool) in given.iter().enumerate() {
        let field = format!("tools[{index}]");
        let Some(function) = tool.function.clone().filter(|_| tool.kind == "function") else {
            let message =
                format!("{field} is of type `{}`; only functions are supported, with their `function`", tool.kind);
            return Err(ApiError::field(&field, message));
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if function.name.is_empty() || function.name.len() > 128 || !function.name.chars().all(is_name) {
            let message = format!(
                "{field}.function.name is `{}`; it must be of 1 to 128 letters, digits, `_`, `-` and `.`",
                function.name
            );
            return Err(ApiError::field(&format!("{field}.function.name"), message));
        }
        if let Some(parameters) = &function.parameters {
            check_schema(&format!("{field}.function.parameters"), parameters)?;
        }
        functions.push(function);
    }
    if let ToolChoice::Named(name) = &choice
        && !functions.iter().any(|function| function.name == *name)
    {
        return wrong(format!("tool_choice names `{name}`, which is not among the tools"));
    }
    Ok(Some(ToolUse { functions, choice, parallel: request.parallel_tool_calls.unwrap_or(true) }))
}

/// What the answer must be, in OpenAI's words.
fn response_format(format: Option<ResponseFormat>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = format else { return Ok(None) };
    let schema = match format.kind.as_str() {
        "text" => return Ok(None),
        // llama-server takes a schema here too.
        "json_object" => format.schema.unwrap_or_else(|| serde_json::json!({"type": "object"})),
        "json_schema" => {
            let given = format.json_schema.as_ref().and_then(|given| given.get("schema")).cloned();
            given.or(format.schema).ok_or_else(|| {
                ApiError::field("response_format.json_schema.schema", "response_format.json_schema.schema is missing")
            })?
        }
        other => {
            let message = format!("response_format.type is `{other}`; it must be text, json_object or json_schema");
            return Err(ApiError::field("response_format.type", message));
        }
    };
    check_schema("response_format", &schema)?;
    Ok(Some(Constraint::JsonSchema { schema }))
}

fn check_schema(field: &str, schema: &Value) -> Result<(), ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(ApiError::field(field, format!("{field} is not a JSON schema: it must be an object")));
    }
    check_size(field, schema.to_string().len())
}

fn check_size(field: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes > LARGEST_CONSTRAINT {
        let message = format!("{field} has {bytes} bytes; at most {LARGEST_CONSTRAINT} are possible");
        return Err(ApiError::field(field, message));
    }
    Ok(())
}

/// What the answer must be, in llama-server's words and ours.
fn constraint(fields: &SharedFields) -> Result<Option<Constraint>, ApiError> {
    let mut found = Vec::new();
    if let Some(schema) = &fields.json_schema {
        check_schema("json_schema", schema)?;
        found.push(Constraint::JsonSchema { schema: schema.clone() });
    }
    if let Some(pattern) = fields.regex.clone() {
        check_size("regex", pattern.len())?;
        found.push(Constraint::Regex { pattern });
    }
    if let Some(grammar) = fields.lark.clone() {
        check_size("lark", grammar.len())?;
        found.push(Constraint::Lark { grammar });
    }
    if fields.grammar.as_ref().is_some_and(|grammar| !grammar.is_empty()) {
        return Err(ApiError::field(
            "grammar",
            "grammar (GBNF) is not supported; use `json_schema`, `regex` or `lark`",
        ));
    }
    if found.len() > 1 {
        return Err(ApiError::field("json_schema", "only one of json_schema, regex and lark is possible"));
    }
    Ok(found.pop())
}

/// Its field, when there is one.
fn constraint_field(fields: &SharedFields) -> Option<&'static str> {
    let given = [
        ("json_schema", fields.json_schema.is_some()),
        ("regex", fields.regex.is_some()),
        ("lark", fields.lark.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(field, _)| field)
}

fn logit_bias(given: Option<&Value>) -> Result<Vec<(i32, f32)>, ApiError> {
    let wrong = |why: String| ApiError::field("logit_bias", format!("logit_bias {why}; it maps token ids to numbers"));
    let pairs: Vec<(Value, Value)> = match given {
        None | Some(Value::Null) => vec![],
        Some(Value::Object(map)) => {
            map.iter().map(|(token, bias)| (Value::String(token.clone()), bias.clone())).collect()
        }
        Some(Value::Array(pairs)) => pairs
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([token, bias]) => Ok((token.clone(), bias.clone())),
                _ => Err(wrong(format!("has the entry {pair}"))),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong(format!("is {other}"))),
    };
    let one = |(token, bias): (Value, Value)| {
        let id = match &token {
            Value::String(text) => text.parse().ok(),
            other => other.as_i64().and_then(|id| i32::try_from(id).ok()),
        };
        let id = id.ok_or_else(|| wrong(format!("has the token {token}")))?;
        #[expect(clippy::cast_possible_truncation, reason = "a bias needs no more than a float's precision")]
        let number = match &bias {
            // llama-server's way to take a token away.
            Value::Bool(false) => Some(f32::MIN),
            other => other.as_f64().map(|number| number as f32),
        };
        Ok((id, number.ok_or_else(|| wrong(format!("has the bias {bias}")))?))
    };
    pairs.into_iter().map(one).collect()
}

/// The steps of the sampling, by llama-server's names.
fn order(given: Option<&[String]>) -> Result<Vec<SamplingStep>, ApiError> {
    let Some(names) = given else { return Ok(SamplingStep::ALL.to_vec()) };
    let step = |name: &String| {
        // Its other names of the same steps.
        let name = match name.as_str() {
            "typical_p" => "typ_p",
            "temp" => "temperature",
            other => other,
        };
        serde_json::from_value(Value::String(name.to_owned())).map_err(|_| {
            let known: Vec<String> = SamplingStep::ALL
                .iter()
                .filter_map(|it| Some(serde_json::to_value(it).ok()?.as_str()?.to_owned()))
                .collect();
            ApiError::field("samplers", format!("samplers has `{name}`; possible are {}", known.join(", ")))
        })
    };
    names.iter().map(step).collect()
}

fn turn(index: usize, message: ChatMessage) -> Result<ChatTurn, ApiError> {
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
    let content = match message.content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut texts = Vec::new();
            for part in parts {
                match part.text {
                    Some(text) if part.kind == "text" => texts.push(text),
                    None if part.kind == "text" => {
                        let field = format!("messages[{index}].content");
                        return Err(ApiError::field(
                            &field,
                            format!("{field} has a part of type `text` without its text"),
                        ));
                    }
                    _ => {
                        return Err(ApiError::field(
                            &format!("messages[{index}].content"),
                            format!(
                                "messages[{index}].content has a part of type `{}`; only text is supported so far",
                                part.kind
                            ),
                        ));
                    }
                }
            }
            texts.join("\n")
        }
    };
    Ok(ChatTurn {
        role: role.to_owned(),
        content,
        name: message.name,
        reasoning_content: message.reasoning_content,
        tool_calls: message.tool_calls.unwrap_or_default(),
        tool_call_id: message.tool_call_id,
    })
}

fn job(prompt: Prompt, fields: SharedFields, target: Target<'_>) -> Result<Job, ApiError> {
    let yaml = target.yaml;
    let neutral = Sampling::default();
    #[expect(clippy::cast_possible_truncation, reason = "settings like 0.7 need no more than a float's precision")]
    let number = |given: Option<f32>, key: &str, neutral: f32| {
        given.unwrap_or_else(|| yaml.number(key).map_or(neutral, |value| value as f32))
    };
    let whole = |given: Option<i32>, key: &str, neutral: i32| {
        given.unwrap_or_else(|| yaml.number(key).and_then(whole_number).unwrap_or(neutral))
    };
    let mirostat = whole(fields.mirostat, "mirostat", 0);
    let sampling = Sampling {
        temperature: number(fields.temperature, "temperature", 0.7),
        dynatemp_range: number(fields.dynatemp_range, "dynatemp_range", neutral.dynatemp_range),
        dynatemp_exponent: number(fields.dynatemp_exponent, "dynatemp_exponent", neutral.dynatemp_exponent),
        top_k: whole(fields.top_k, "top_k", 40).max(0),
        top_p: number(fields.top_p, "top_p", 0.95),
        min_p: number(fields.min_p, "min_p", 0.05),
        typical_p: number(fields.typical_p, "typ_p", neutral.typical_p),
        top_n_sigma: number(fields.top_n_sigma, "top_n_sigma", neutral.top_n_sigma),
        xtc_probability: number(fields.xtc_probability, "xtc_probability", neutral.xtc_probability),
        xtc_threshold: number(fields.xtc_threshold, "xtc_threshold", neutral.xtc_threshold),
        repeat_penalty: number(fields.repeat_penalty, "repeat_penalty", neutral.repeat_penalty),
        // -1 is the whole context, as in llama.cpp.
        repeat_last_n: u32::try_from(whole(fields.repeat_last_n, "repeat_last_n", 64)).unwrap_or(u32::MAX),
        presence_penalty: number(fields.presence_penalty, "presence_penalty", neutral.presence_penalty),
        frequency_penalty: number(fields.frequency_penalty, "frequency_penalty", neutral.frequency_penalty),
        dry_multiplier: number(fields.dry_multiplier, "dry_multiplier", neutral.dry_multiplier),
        dry_base: number(fields.dry_base, "dry_base", neutral.dry_base),
        dry_allowed_length: whole(fields.dry_allowed_length, "dry_allowed_length", neutral.dry_allowed_length),
        dry_penalty_last_n: whole(fields.dry_penalty_last_n, "dry_penalty_last_n", neutral.dry_penalty_last_n),
        dry_sequence_breakers: fields.dry_sequence_breakers.clone().unwrap_or(neutral.dry_sequence_breakers),
        mirostat: u8::try_from(mirostat)
            .map_err(|_| ApiError::field("mirostat", format!("mirostat is {mirostat}; it must be 0 (off), 1 or 2")))?,
        mirostat_tau: number(fields.mirostat_tau, "mirostat_tau", neutral.mirostat_tau),
        mirostat_eta: number(fields.mirostat_eta, "mirostat_eta", neutral.mirostat_eta),
        order: order(fields.samplers.as_deref())?,
        logit_bias: logit_bias(fields.logit_bias.as_ref())?,
        seed: seed(fields.seed.or_else(|| yaml.number("seed").and_then(whole_number).map(i64::from))),
    };
    // The worker checks too; here the field is named before a model is loaded for nothing.
    if let Some((field, message)) = sampling.out_of_range() {
        return Err(ApiError::field(field, message));
    }
    let constraint = constraint(&fields)?;
    let mut stop = fields.stop.map(cortex_api::openai::OneOrMany::into_vec).unwrap_or_default();
    if stop.len() > MOST_STOPS {
        return Err(ApiError::field(
            "stop",
            format!("stop has {} texts; at most {MOST_STOPS} are possible", stop.len()),
        ));
    }
    stop.extend(yaml.texts("stop"));
    let max_tokens = match fields.max_tokens {
        // -1 is "as many as fit", as in llama-server.
        None | Some(-1) => None,
        Some(tokens) if tokens >= 1 => Some(u32::try_from(tokens).unwrap_or(u32::MAX)),
        Some(tokens) => {
            let field = fields.max_tokens_field.unwrap_or("max_tokens");
            return Err(ApiError::field(field, format!("{field} is {tokens}; it must be 1 or more")));
        }
    };
    Ok(Job {
        model: target.id.clone(),
        load: load_settings(target.yaml, target.load),
        weights: target.weights,
        prompt,
        sampling,
        stop,
        max_tokens,
        ignore_eos: fields.ignore_eos.unwrap_or(false),
        deterministic: fields.deterministic.unwrap_or(false),
        constraint,
        probabilities: fields
            .n_probs
            .filter(|&count| count > 0)
            .map(|count| count_of_logprobs("n_probs", count))
            .transpose()?,
        keep_alive: keep_alive(fields.keep_alive.as_ref())?,
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

/// A negative seed is a fresh one every time; of a large one the lower half counts.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the lower 32 bits are what is wanted")]
fn seed(given: Option<i64>) -> Option<u32> {
    given.filter(|&seed| seed >= 0).map(|seed| seed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: &str) -> Result<Order, ApiError> {
        let request: ChatCompletionRequest = serde_json::from_str(body).unwrap();
        let yaml = ModelYaml::parse("temperature: 0.5\nctx_len: 2048\nstop: [</s>]\nseed: -1\n").unwrap();
        let target = Target {
            id: &ModelId::existing("m"),
            weights: "/m.gguf".into(),
            yaml: &yaml,
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
            (r#""grammar":"root ::= [a-z]""#, "grammar"),
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
            (&format!(r#"{tool},"response_format":{{"type":"json_object"}}"#), "response_format"),
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
