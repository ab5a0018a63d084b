//! OpenAI's chats in the words of Anthropic's messages, and back. Pure.
//!
//! Source: Anthropic's reference of `POST /v1/messages`, version 2023-06-01, and of its streams.

use serde_json::{Map, Value, json};

/// Tokens of an answer where nobody says how many: the interface demands a number.
const DEFAULT_TOKENS: u64 = 4096;
/// What has no meaning there and changes nothing that can be missed.
const WITHOUT_MEANING: &[&str] = &[
    "messages",
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "user",
    "metadata",
    "n",
    "store",
    "engine",
];

/// The request, and what of it has no effect there; the reason when it cannot be said at all.
pub(crate) fn request(chat: &Map<String, Value>) -> Result<(Value, Vec<String>), String> {
    let mut said = Map::new();
    said.insert("model".into(), chat.get("model").cloned().unwrap_or_default());
    if chat.get("n").and_then(Value::as_u64).is_some_and(|n| n > 1) {
        return Err("it gives one answer to a request, and `n` asks for more".into());
    }
    let (system, messages) =
        messages(chat.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default())?;
    if !system.is_empty() {
        said.insert("system".into(), system.into());
    }
    said.insert("messages".into(), messages.into());
    let tokens =
        ["max_completion_tokens", "max_tokens"].iter().find_map(|name| chat.get(*name).filter(|it| it.is_number()));
    said.insert("max_tokens".into(), tokens.cloned().unwrap_or_else(|| DEFAULT_TOKENS.into()));
    for name in ["top_p", "top_k", "stream"] {
        if let Some(value) = chat.get(name).filter(|value| !value.is_null()) {
            said.insert(name.into(), value.clone());
        }
    }
    let mut warnings = Vec::new();
    if let Some(temperature) = chat.get("temperature").and_then(Value::as_f64) {
        // OpenAI's goes up to 2.
        if temperature > 1.0 {
            warnings.push("temperature: this engine takes 1 at most".to_owned());
        }
        said.insert("temperature".into(), json!(temperature.clamp(0.0, 1.0)));
    }
    match chat.get("stop") {
        Some(Value::String(stop)) => said.insert("stop_sequences".into(), json!([stop])),
        Some(Value::Array(stops)) => said.insert("stop_sequences".into(), stops.clone().into()),
        _ => None,
    };
    if let Some(user) = chat.get("user").and_then(Value::as_str) {
        said.insert("metadata".into(), json!({"user_id": user}));
    }
    if let Some(tools) = chat.get("tools").and_then(Value::as_array).filter(|tools| !tools.is_empty()) {
        let tool = |tool: &Value| {
            let function = &tool["function"];
            let schema = if function["parameters"].is_object() {
                function["parameters"].clone()
            } else {
                json!({"type": "object"})
            };
            let mut said = json!({"name": function["name"], "input_schema": schema});
            if function["description"].is_string() {
                said["description"] = function["description"].clone();
            }
            said
        };
        said.insert("tools".into(), tools.iter().map(tool).collect());
        let mut choice = match chat.get("tool_choice") {
            Some(Value::Object(named)) => {
                json!({"type": "tool", "name": named.get("function").map_or(Value::Null, |it| it["name"].clone())})
            }
            Some(Value::String(word)) if word == "required" => json!({"type": "any"}),
            Some(Value::String(word)) if word == "none" => json!({"type": "none"}),
            _ => json!({"type": "auto"}),
        };
        if chat.get("parallel_tool_calls") == Some(&json!(false)) && choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
        said.insert("tool_choice".into(), choice);
    }
    for (name, value) in chat {
        if !WITHOUT_MEANING.contains(&name.as_str()) && !value.is_null() {
            warnings.push(format!("{name}: this engine knows nothing like it"));
        }
    }
    Ok((said.into(), warnings))
}

/// The system's text, and the messages of the others.
fn messages(chat: &[Value]) -> Result<(String, Vec<Value>), String> {
    let (mut system, mut messages) = (String::new(), Vec::<Value>::new());
    let mut push = |role: &str, blocks: Vec<Value>| match messages.last_mut() {
        // Results of tools that ran side by side come together, and so do turns of one side.
        Some(last) if last["role"] == role => {
            if let Some(content) = last["content"].as_array_mut() {
                content.extend(blocks);
            }
        }
        _ => messages.push(json!({"role": role, "content": blocks})),
    };
    for message in chat {
        let content = &message["content"];
        match message["role"].as_str().unwrap_or_default() {
            "system" | "developer" => {
                if !system.is_empty() {
                    system.push_str("\n\n");
                }
                system.push_str(&text(content));
            }
            "tool" => {
                let result =
                    json!({"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": text(content)});
                push("user", vec![result]);
            }
            "assistant" => {
                let mut blocks = blocks(content)?;
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                    let input =
                        if arguments.trim().is_empty() { Ok(json!({})) } else { serde_json::from_str(arguments) };
                    let input: Value = input.map_err(|why| format!("the arguments of a call are no JSON: {why}"))?;
                    blocks.push(
                        json!({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": input}),
                    );
                }
                if !blocks.is_empty() {
                    push("assistant", blocks);
                }
            }
            _ => push("user", blocks(content)?),
        }
    }
    Ok((system, messages))
}

/// The text of a content.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

/// The blocks of a content; empty texts are none, they would be refused.
fn blocks(content: &Value) -> Result<Vec<Value>, String> {
    let block = |text: &str| (!text.is_empty()).then(|| json!({"type": "text", "text": text}));
    match content {
        Value::String(text) => Ok(block(text).into_iter().collect()),
        Value::Array(parts) => {
            let mut blocks = Vec::new();
            for part in parts {
                match part["type"].as_str().unwrap_or_default() {
                    "text" => blocks.extend(block(part["text"].as_str().unwrap_or_default())),
                    "image_url" => {
                        let url = part["image_url"]["url"].as_str().or(part["image_url"].as_str()).unwrap_or_default();
                        blocks.push(json!({"type": "image", "source": image(url)?}));
                    }
                    other => return Err(format!("it takes no content of the type `{other}`")),
                }
            }
            Ok(blocks)
        }
        _ => Ok(vec![]),
    }
}

fn image(url: &str) -> Result<Value, String> {
    let Some(data) = url.strip_prefix("data:") else { return Ok(json!({"type": "url", "url": url})) };
    let (kind, data) = data.split_once(";base64,").ok_or("an image is no base64 data URL")?;
    Ok(json!({"type": "base64", "media_type": kind, "data": data}))
}

/// Why an answer ended, in OpenAI's words.
fn finish_reason(reason: &Value) -> Value {
    match reason.as_str() {
        None => Value::Null,
        Some("max_tokens" | "model_context_window_exceeded") => "length".into(),
        Some("tool_use") => "tool_calls".into(),
        Some("refusal") => "content_filter".into(),
        Some(_) => "stop".into(),
    }
}

fn usage(of: &Value) -> Value {
    let number = |name: &str| of[name].as_u64().unwrap_or(0);
    let cached = number("cache_read_input_tokens");
    let prompt = number("input_tokens") + cached + number("cache_creation_input_tokens");
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": number("output_tokens"),
        "total_tokens": prompt + number("output_tokens"),
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

/// A whole answer.
pub(crate) fn answer(message: &Value, created: i64) -> Value {
    let blocks = || message["content"].as_array().into_iter().flatten();
    let of = |kind: &str, field: &str| -> String {
        let texts = blocks().filter(|block| block["type"] == kind).filter_map(|block| block[field].as_str());
        texts.collect()
    };
    let calls: Vec<Value> = blocks()
        .filter(|block| block["type"] == "tool_use")
        .map(|block| {
            let function = json!({"name": block["name"], "arguments": block["input"].to_string()});
            json!({"id": block["id"], "type": "function", "function": function})
        })
        .collect();
    let (text, thinking) = (of("text", "text"), of("thinking", "thinking"));
    let mut said = json!({"role": "assistant", "content": if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() }});
    if !thinking.is_empty() {
        said["reasoning_content"] = thinking.into();
    }
    if !calls.is_empty() {
        said["tool_calls"] = calls.into();
    }
    json!({
        "id": message["id"],
        "object": "chat.completion",
        "created": created,
        "model": message["model"],
        "choices": [{"index": 0, "message": said, "logprobs": null, "finish_reason": finish_reason(&message["stop_reason"])}],
        "usage": usage(&message["usage"]),
    })
}

/// A stream, event by event.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    id: Value,
    model: Value,
    created: i64,
    usage: Map<String, Value>,
    with_usage: bool,
    /// Calls that began, less one.
    calls: Option<u64>,
    finish_reason: Value,
    has_ended: bool,
}

impl Stream {
    pub(crate) fn new(created: i64, with_usage: bool) -> Self {
        Self { created, with_usage, ..Self::default() }
    }

    /// Whether the engine said that the answer is whole.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The chunks that say the same as an event.
    pub(crate) fn event(&mut self, event: &Value) -> Vec<Value> {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let message = &event["message"];
                (self.id, self.model) = (message["id"].clone(), message["model"].clone());
                self.learn(&message["usage"]);
                vec![self.chunk(&json!({"role": "assistant", "content": ""}), &Value::Null)]
            }
            "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                let index = self.calls.map_or(0, |last| last + 1);
                self.calls = Some(index);
                let block = &event["content_block"];
                let function = json!({"name": block["name"], "arguments": ""});
                let call = json!({"index": index, "id": block["id"], "type": "function", "function": function});
                vec![self.chunk(&json!({"tool_calls": [call]}), &Value::Null)]
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let said = match delta["type"].as_str().unwrap_or_default() {
                    "text_delta" => json!({"content": delta["text"]}),
                    "thinking_delta" => json!({"reasoning_content": delta["thinking"]}),
                    "input_json_delta" => {
                        let function = json!({"arguments": delta["partial_json"]});
                        json!({"tool_calls": [{"index": self.calls.unwrap_or(0), "function": function}]})
                    }
                    _ => return vec![],
                };
                vec![self.chunk(&said, &Value::Null)]
            }
            "message_delta" => {
                self.learn(&event["usage"]);
                self.finish_reason = finish_reason(&event["delta"]["stop_reason"]);
                vec![]
            }
            "message_stop" => {
                self.has_ended = true;
                let reason = std::mem::take(&mut self.finish_reason);
                let mut chunks = vec![self.chunk(&json!({}), &reason)];
                if self.with_usage {
                    let mut last = self.chunk(&json!({}), &Value::Null);
                    last["choices"] = json!([]);
                    last["usage"] = usage(&Value::from(self.usage.clone()));
                    chunks.push(last);
                }
                chunks
            }
            "error" => vec![json!({"error": event["error"]})],
            _ => vec![],
        }
    }

    fn learn(&mut self, usage: &Value) {
        for (name, value) in usage.as_object().into_iter().flatten().filter(|(_, value)| value.is_number()) {
            self.usage.insert(name.clone(), value.clone());
        }
    }

    fn chunk(&self, delta: &Value, finish_reason: &Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(chat: &Value) -> (Value, Vec<String>) {
        request(chat.as_object().unwrap()).unwrap()
    }

    #[test]
    fn a_chat_with_tools_and_images_is_said_in_the_other_words() {
        let chat = json!({
            "model": "m", "stream": true, "temperature": 1.5, "stop": "x", "user": "u", "seed": 4, "max_completion_tokens": 9,
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "developer", "content": [{"type": "text", "text": "D"}]},
                {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ]},
                {"role": "tool", "tool_call_id": "1", "content": "one"},
                {"role": "tool", "tool_call_id": "2", "content": "two"},
                {"role": "user", "content": "and?"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
            "tool_choice": "required", "parallel_tool_calls": false,
        });
        let (found, warnings) = said(&chat);
        assert_eq!(
            found,
            json!({
                "model": "m", "system": "S\n\nD", "max_tokens": 9, "stream": true, "temperature": 1.0, "stop_sequences": ["x"],
                "metadata": {"user_id": "u"},
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}, {"type": "tool_use", "id": "2", "name": "g", "input": {}}]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "1", "content": "one"},
                        {"type": "tool_result", "tool_use_id": "2", "content": "two"},
                        {"type": "text", "text": "and?"},
                    ]},
                ],
                "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            })
        );
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert_eq!(said(&json!({"messages": []})).0["max_tokens"], DEFAULT_TOKENS);
        for (chat, why) in [
            (json!({"n": 2}), "`n`"),
            (json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}), "input_audio"),
            (json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]}), "no JSON"),
        ] {
            assert!(request(chat.as_object().unwrap()).expect_err(why).contains(why));
        }
    }

    #[test]
    fn an_answer_is_said_in_openai_s_words() {
        let message = json!({
            "id": "msg", "model": "m", "stop_reason": "tool_use",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}],
            "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 2},
        });
        let found = answer(&message, 7);
        let choice = &found["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["message"]["reasoning_content"]),
            (&json!("ab"), &json!("hm"))
        );
        assert_eq!(choice["message"]["tool_calls"][0]["function"], json!({"name": "f", "arguments": "{\"x\":1}"}));
        assert_eq!((&choice["finish_reason"], &found["usage"]["total_tokens"]), (&json!("tool_calls"), &json!(10)));
    }

    #[test]
    fn a_stream_is_said_in_openai_s_words() {
        let mut stream = Stream::new(7, true);
        let events = [
            json!({"type": "message_start", "message": {"id": "msg", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "ping"}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"a\":"}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}),
            json!({"type": "message_stop"}),
        ];
        let chunks: Vec<Value> = events.iter().flat_map(|event| stream.event(event)).collect();
        let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
        assert_eq!(deltas[1]["content"], "Hi");
        assert_eq!(deltas[2]["tool_calls"][0]["function"]["name"], "f");
        assert_eq!(
            (&deltas[3]["tool_calls"][0]["index"], &deltas[4]["tool_calls"][0]["function"]["arguments"]),
            (&json!(0), &json!("1}"))
        );
        assert_eq!(
            (&chunks[5]["choices"][0]["finish_reason"], &chunks[5]["id"]),
            (&json!("tool_calls"), &json!("msg"))
        );
        assert_eq!(
            (&chunks[6]["usage"]["prompt_tokens"], &chunks[6]["usage"]["completion_tokens"]),
            (&json!(3), &json!(9))
        );
        assert!(stream.has_ended() && chunks.len() == 7);
        assert_eq!(
            Stream::new(7, false).event(&json!({"type": "error", "error": {"message": "busy"}})),
            [json!({"error": {"message": "busy"}})]
        );
    }
}
