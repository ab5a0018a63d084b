//! The only place where the meaning of an OpenAI request is assigned. After it, only valid jobs exist.

use crate::error::ApiError;
use cortex_api::{
    openai::{ChatCompletionRequest, ChatMessage, CompletionRequest, Content, Prompt as WirePrompt, SamplingFields},
    worker::Sampling,
};
use cortex_engine::{ChatTurn, Job, LoadSettings, Prompt};
use cortex_hardware::CacheType;
use cortex_models::{KeepAlive, ModelId, ModelYaml};
use serde_json::Value;
use std::path::PathBuf;

/// More stop texts than this are a mistake.
const MOST_STOPS: usize = 64;

/// What a request is answered with: the model and what its yaml says.
pub(crate) struct Target<'request> {
    pub(crate) id: &'request ModelId,
    pub(crate) weights: PathBuf,
    pub(crate) yaml: &'request ModelYaml,
    /// How models are loaded that do not say otherwise.
    pub(crate) load: LoadSettings,
}

/// A chat request as a job.
pub(crate) fn chat(request: ChatCompletionRequest, target: Target<'_>) -> Result<Job, ApiError> {
    only_one(request.n, "n")?;
    if request.logprobs == Some(true) {
        return Err(unsupported("logprobs"));
    }
    let tools_wanted = request.tool_choice.as_ref().is_none_or(|choice| choice != "none");
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && tools_wanted {
        return Err(unsupported("tools"));
    }
    let format = request.response_format.as_ref().and_then(|format| format.get("type")).and_then(Value::as_str);
    if format.is_some_and(|format| format != "text") {
        return Err(unsupported("response_format"));
    }
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty; a chat needs at least one message"));
    }
    let sampling = request.sampling();
    let turns = request
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| turn(index, message))
        .collect::<Result<Vec<_>, _>>()?;
    let extra = request.chat_template_kwargs.unwrap_or_default();
    let legacy = target.yaml.text("prompt_template").filter(|text| !text.is_empty()).map(str::to_owned);
    job(Prompt::Chat { turns, extra, legacy }, sampling, target)
}

/// A text completion as a job.
pub(crate) fn completion(request: CompletionRequest, target: Target<'_>) -> Result<Job, ApiError> {
    only_one(request.n, "n")?;
    only_one(request.best_of, "best_of")?;
    if request.echo == Some(true) {
        return Err(unsupported("echo"));
    }
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(unsupported("suffix"));
    }
    if request.logprobs.as_ref().is_some_and(|wanted| !wanted.is_null() && wanted != &Value::Bool(false)) {
        return Err(unsupported("logprobs"));
    }
    let sampling = request.sampling();
    let prompt = match request.prompt {
        Some(WirePrompt::Text(text)) => Prompt::Text(text),
        Some(WirePrompt::Tokens(tokens)) => Prompt::Tokens(tokens),
        Some(WirePrompt::Texts(mut texts)) if texts.len() == 1 => Prompt::Text(texts.remove(0)),
        Some(WirePrompt::Texts(_)) => {
            return Err(ApiError::field("prompt", "prompt has several texts; send one request for each"));
        }
        None => return Err(ApiError::field("prompt", "prompt is missing")),
    };
    job(prompt, sampling, target)
}

fn unsupported(field: &str) -> ApiError {
    let mut error = ApiError::field(field, format!("{field} is not supported yet; leave it out"));
    error.body.error.code = Some("unsupported_parameter".into());
    error
}

fn only_one(count: Option<i64>, field: &str) -> Result<(), ApiError> {
    match count {
        None | Some(1) => Ok(()),
        Some(_) => {
            Err(ApiError::field(field, format!("{field} must be 1; send one request for each answer that you want")))
        }
    }
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
        tool_calls: message.tool_calls,
        tool_call_id: message.tool_call_id,
    })
}

fn job(prompt: Prompt, fields: SamplingFields, target: Target<'_>) -> Result<Job, ApiError> {
    let yaml = target.yaml;
    #[expect(clippy::cast_possible_truncation, reason = "settings like 0.7 need no more than a float's precision")]
    let number = |given: Option<f32>, key: &str, neutral: f32| {
        given.unwrap_or_else(|| yaml.number(key).map_or(neutral, |value| value as f32))
    };
    let whole = |given: Option<i32>, key: &str, neutral: i32| {
        given.unwrap_or_else(|| yaml.number(key).and_then(whole_number).unwrap_or(neutral))
    };
    let sampling = Sampling {
        temperature: number(fields.temperature, "temperature", 0.7),
        top_k: whole(fields.top_k, "top_k", 40).max(0),
        top_p: number(fields.top_p, "top_p", 0.95),
        min_p: number(fields.min_p, "min_p", 0.05),
        typical_p: number(fields.typical_p, "typ_p", 1.0),
        repeat_penalty: number(fields.repeat_penalty, "repeat_penalty", 1.0),
        // -1 is the whole context, as in llama.cpp.
        repeat_last_n: u32::try_from(whole(fields.repeat_last_n, "repeat_last_n", 64)).unwrap_or(u32::MAX),
        presence_penalty: number(fields.presence_penalty, "presence_penalty", 0.0),
        frequency_penalty: number(fields.frequency_penalty, "frequency_penalty", 0.0),
        seed: seed(fields.seed.or_else(|| yaml.number("seed").and_then(whole_number).map(i64::from))),
    };
    // The worker checks too; here the field is named before a model is loaded for nothing.
    if let Some((field, message)) = sampling.out_of_range() {
        return Err(ApiError::field(field, message));
    }
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
            return Err(ApiError::field("max_tokens", format!("max_tokens is {tokens}; it must be 1 or more")));
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

    fn convert(body: &str) -> Result<Job, ApiError> {
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
            (r#"{"messages":[{"role":"user","content":"x"}],"n":2}"#, "n"),
            (r#"{"messages":[{"role":"user","content":"x"}],"tools":[{}]}"#, "tools"),
            (
                r#"{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}}"#,
                "response_format",
            ),
        ] {
            assert_eq!(convert(body).expect_err(body).body.error.param.as_deref(), Some(field));
        }
    }

    #[test]
    fn parts_of_text_are_joined() {
        let job = convert(
            r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#,
        )
        .unwrap();
        let Prompt::Chat { turns, .. } = job.prompt else { panic!("a chat") };
        assert_eq!((turns[0].role.as_str(), turns[0].content.as_str()), ("system", "a\nb"));
    }
}
