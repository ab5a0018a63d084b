//! `POST /v1/chat/completions`.

use super::{
    images, remote,
    run::{self, Started, Total, Whole, fingerprint, finish_reason, fresh_id, now, wire_timings},
};
use crate::{
    App, convert,
    error::ApiError,
    json,
    sse::{self, Shape, data},
};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use cortex_api::{
    openai::{
        ChatChoice, ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatLogprobs, ChatMessage, ChunkChoice,
        Content, Delta, FunctionDelta, TokenLogprob, ToolCall, ToolCallDelta,
    },
    worker::{TokenProbabilities, TokenProbability},
};
use cortex_engine::AnswerEvent;
use cortex_remote::Call;

/// Answers a chat, whole or as a stream.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    if let Some(answer) = remote::answer(&app, Call::Chat, &headers, &body).await? {
        return Ok(answer);
    }
    let mut request: ChatCompletionRequest = json::required(&headers, &body)?;
    images::fetch(&app, &mut request).await?;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let with_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let Started { answers, total, warnings, .. } =
        run::start(&app, &headers, &model, |target| convert::chat(request, target)).await?;
    if streams {
        let shape = ChatStream {
            id: fresh_id("chatcmpl"),
            created: now(),
            model,
            with_usage,
            warnings,
            calls: (0..answers.len()).map(|_| Calls::default()).collect(),
            total,
        };
        return Ok(sse::stream(answers, shape));
    }
    let (wholes, usage, timings) = run::collect(answers, total).await?;
    Ok(Json(ChatCompletion {
        id: fresh_id("chatcmpl"),
        object: "chat.completion".into(),
        created: now(),
        model,
        system_fingerprint: fingerprint(),
        choices: (0..).zip(wholes).map(|(index, whole)| choice(index, whole)).collect(),
        usage,
        timings,
        warnings,
    })
    .into_response())
}

fn choice(index: u32, whole: Whole) -> ChatChoice {
    let calls: Vec<ToolCall> = whole
        .calls
        .into_iter()
        .map(|function| ToolCall { id: fresh_id("call"), kind: "function".into(), function })
        .collect();
    // OpenAI's clients expect no text, and not an empty one, beside calls.
    let content = Some(whole.text).filter(|text| !text.is_empty() || calls.is_empty());
    ChatChoice {
        index,
        message: ChatMessage {
            role: "assistant".into(),
            content: content.map(Content::Text),
            reasoning_content: Some(whole.reasoning).filter(|text| !text.is_empty()),
            tool_calls: Some(calls).filter(|calls| !calls.is_empty()),
            ..ChatMessage::default()
        },
        logprobs: logprobs(&whole.probabilities),
        finish_reason: whole.finish_reason,
    }
}

/// OpenAI's shape of probabilities; `None` when there are none.
fn logprobs(probabilities: &[TokenProbabilities]) -> Option<ChatLogprobs> {
    let one = |it: &TokenProbability| TokenLogprob {
        token: String::from_utf8_lossy(&it.bytes).into_owned(),
        logprob: it.logprob,
        bytes: it.bytes.clone(),
        top_logprobs: None,
    };
    let token = |it: &TokenProbabilities| TokenLogprob {
        top_logprobs: Some(it.top.iter().map(one).collect()),
        ..one(&it.chosen)
    };
    (!probabilities.is_empty()).then(|| ChatLogprobs { content: probabilities.iter().map(token).collect() })
}

struct ChatStream {
    id: String,
    created: i64,
    model: String,
    with_usage: bool,
    /// Told with the first chunk.
    warnings: Vec<String>,
    /// The calls of each answer.
    calls: Vec<Calls>,
    total: Total,
}

/// Calls of an answer that is streamed.
#[derive(Default)]
struct Calls {
    /// How many began.
    count: u32,
    /// The arguments of the last one so far.
    last: String,
}

impl ChatStream {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: fingerprint(),
            choices,
            usage: None,
            timings: None,
            warnings: vec![],
        }
    }

    fn delta(&self, index: usize, delta: Delta, finish_reason: Option<&str>) -> ChatCompletionChunk {
        self.chunk(vec![ChunkChoice {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            delta,
            logprobs: None,
            finish_reason: finish_reason.map(str::to_owned),
        }])
    }

    /// What is new of the call that began last.
    fn call(&self, index: usize, id: Option<String>, function: FunctionDelta) -> ChatCompletionChunk {
        let call = ToolCallDelta {
            index: self.calls[index].count.saturating_sub(1),
            kind: id.as_ref().map(|_| "function".into()),
            id,
            function,
        };
        self.delta(index, Delta { tool_calls: Some(vec![call]), ..Delta::default() }, None)
    }
}

impl Shape for ChatStream {
    fn first(&mut self) -> Vec<String> {
        let warnings = std::mem::take(&mut self.warnings);
        let begin = |index| {
            let delta = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
            self.delta(index, delta, None)
        };
        let mut chunks: Vec<ChatCompletionChunk> = (0..self.calls.len()).map(begin).collect();
        if let Some(first) = chunks.first_mut() {
            first.warnings = warnings;
        }
        chunks.iter().map(data).collect()
    }

    fn event(&mut self, index: usize, event: AnswerEvent, prompt_tokens: u32) -> Vec<String> {
        let chunk = match event {
            AnswerEvent::Text { text, probabilities } => {
                let mut chunk = self.delta(index, Delta { content: Some(text), ..Delta::default() }, None);
                chunk.choices[0].logprobs = logprobs(&probabilities);
                chunk
            }
            AnswerEvent::Reasoning(text) => {
                self.delta(index, Delta { reasoning_content: Some(text), ..Delta::default() }, None)
            }
            AnswerEvent::CallBegins { name } => {
                self.calls[index].count += 1;
                self.calls[index].last.clear();
                let function = FunctionDelta { name: Some(name), arguments: String::new() };
                self.call(index, Some(fresh_id("call")), function)
            }
            AnswerEvent::Arguments(arguments) => {
                self.calls[index].last.push_str(&arguments);
                self.call(index, None, FunctionDelta { name: None, arguments })
            }
            AnswerEvent::CallEnds | AnswerEvent::BeginsAnew => return vec![],
            AnswerEvent::Finished { reason, timings } => {
                let calls = &self.calls[index];
                let reason = finish_reason(reason, (calls.count > 0).then_some(calls.last.as_str()));
                let mut chunk = self.delta(index, Delta::default(), Some(reason));
                chunk.timings = Some(wire_timings(&timings));
                self.total.add(index, prompt_tokens, &timings);
                chunk
            }
        };
        vec![data(&chunk)]
    }

    fn last(&mut self) -> Vec<String> {
        if !self.with_usage {
            return vec![];
        }
        let mut counts = self.chunk(vec![]);
        counts.usage = Some(self.total.usage());
        vec![data(&counts)]
    }
}
