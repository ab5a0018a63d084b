//! `POST /v1/completions`.

use super::{
    remote,
    run::{self, Started, Total, fingerprint, finish_reason, fresh_id, now, wire_timings},
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
    openai::{Completion, CompletionChoice, CompletionRequest, TextLogprobs},
    worker::TokenProbabilities,
};
use cortex_engine::AnswerEvent;
use cortex_remote::Call;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Continues a text, whole or as a stream.
pub(crate) async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    if let Some(answer) = remote::answer(&app, Call::Completion, &headers, &body).await? {
        return Ok(answer);
    }
    let request: CompletionRequest = json::required(&headers, &body)?;
    let model = request.model.clone();
    let streams = request.stream.unwrap_or(false);
    let with_usage = request.stream_options.is_some_and(|options| options.include_usage);
    let Started { answers, total, warnings, echoes } =
        run::start(&app, &headers, &model, |target| convert::completion(request, &target)).await.map_err(of_prompt)?;
    let mut shape = TextStream {
        id: fresh_id("cmpl"),
        created: now(),
        model,
        with_usage,
        warnings,
        echoes,
        lengths: vec![(0, vec![]); answers.len()],
        total,
    };
    if streams {
        return Ok(sse::stream(answers, shape));
    }
    let (wholes, usage, timings) = run::collect(answers, std::mem::take(&mut shape.total)).await?;
    let mut completion = shape.completion(vec![]);
    for (index, whole) in wholes.into_iter().enumerate() {
        let logprobs = shape.logprobs(index, &whole.probabilities);
        let text = shape.echo(index) + &whole.text;
        completion.choices.push(choice(index, text, logprobs, Some(whole.finish_reason)));
    }
    completion.usage = Some(usage);
    completion.timings = Some(timings);
    completion.warnings = std::mem::take(&mut shape.warnings);
    Ok(Json(completion).into_response())
}

/// An error of a request that says in `prompt` what others do in `messages`.
fn of_prompt(mut error: ApiError) -> ApiError {
    let param = &mut error.body.error.param;
    if param.as_deref() == Some("messages") {
        *param = Some("prompt".into());
    }
    error
}

fn choice(
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<String>,
) -> CompletionChoice {
    CompletionChoice { index: u32::try_from(index).unwrap_or(u32::MAX), text, logprobs, finish_reason }
}

struct TextStream {
    id: String,
    created: i64,
    model: String,
    with_usage: bool,
    warnings: Vec<String>,
    /// What stands in front of each answer, until it was told.
    echoes: Vec<String>,
    /// Characters of the tokens that were told, of each answer, and the bytes of one that is not complete.
    lengths: Vec<(usize, Vec<u8>)>,
    total: Total,
}

/// The most likely tokens by their texts, and the one that was chosen. Of several with the same text, as those of control tokens that have
/// none, the likelier counts.
fn most_likely(told: &TokenProbabilities) -> Map<String, Value> {
    let mut by_text = Map::new();
    for it in told.top.iter().chain([&told.chosen]) {
        by_text.entry(shown(&it.bytes)).or_insert_with(|| it.logprob.into());
    }
    by_text
}

/// The text of a token, or OpenAI's form of its bytes when they are only a part of a character.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // A text takes all that is written.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

/// How many characters of a text are complete with these further bytes; `begun` is what there is of one that is not. Bytes that are of none
/// are shown as one replacement character each time.
fn characters(begun: &mut Vec<u8>, bytes: &[u8]) -> usize {
    begun.extend(bytes);
    let (mut count, mut from) = (0, 0);
    while let Err(error) = std::str::from_utf8(&begun[from..]) {
        let valid = from + error.valid_up_to();
        count += String::from_utf8_lossy(&begun[from..valid]).chars().count();
        let Some(length) = error.error_len() else {
            begun.drain(..valid);
            return count;
        };
        count += 1;
        from = valid + length;
    }
    count += String::from_utf8_lossy(&begun[from..]).chars().count();
    begun.clear();
    count
}

impl TextStream {
    fn completion(&self, choices: Vec<CompletionChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: fingerprint(),
            choices,
            usage: None,
            timings: None,
            warnings: vec![],
        }
    }

    /// What stands in front of an answer, once.
    fn echo(&mut self, index: usize) -> String {
        self.echoes.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    /// OpenAI's shape of probabilities; `None` when there are none.
    fn logprobs(&mut self, index: usize, probabilities: &[TokenProbabilities]) -> Option<TextLogprobs> {
        let mut logprobs = TextLogprobs::default();
        for it in probabilities {
            let (length, begun) = &mut self.lengths[index];
            logprobs.text_offset.push(*length);
            *length += characters(begun, &it.chosen.bytes);
            logprobs.tokens.push(shown(&it.chosen.bytes));
            logprobs.token_logprobs.push(it.chosen.logprob);
            logprobs.top_logprobs.push(most_likely(it));
        }
        (!probabilities.is_empty()).then_some(logprobs)
    }
}

impl Shape for TextStream {
    fn first(&mut self) -> Vec<String> {
        vec![]
    }

    fn event(&mut self, index: usize, event: AnswerEvent, prompt_tokens: u32) -> Vec<String> {
        let mut completion = match event {
            AnswerEvent::Text { text, probabilities } => {
                let logprobs = self.logprobs(index, &probabilities);
                let text = self.echo(index) + &text;
                self.completion(vec![choice(index, text, logprobs, None)])
            }
            AnswerEvent::Finished { reason, timings } => {
                self.total.add(index, prompt_tokens, &timings);
                let reason = Some(finish_reason(reason, None).to_owned());
                let text = self.echo(index);
                let mut last = self.completion(vec![choice(index, text, None, reason)]);
                last.timings = Some(wire_timings(&timings));
                last
            }
            // Of chats.
            AnswerEvent::Reasoning(_)
            | AnswerEvent::CallBegins { .. }
            | AnswerEvent::Arguments(_)
            | AnswerEvent::CallEnds
            | AnswerEvent::BeginsAnew => return vec![],
        };
        completion.warnings = std::mem::take(&mut self.warnings);
        vec![data(&completion)]
    }

    fn last(&mut self) -> Vec<String> {
        if !self.with_usage {
            return vec![];
        }
        let mut counts = self.completion(vec![]);
        counts.usage = Some(self.total.usage());
        vec![data(&counts)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_api::worker::TokenProbability;

    #[test]
    fn tokens_with_the_same_text_or_none_do_not_hide_each_other() {
        let token = |bytes: &[u8], logprob| TokenProbability { token: 0, bytes: bytes.to_vec(), logprob };
        let top =
            [token(b" a", -0.5), token(b"", -1.0), token(b"\xe2\x96", -2.0), token(b"", -3.0), token(b"\xe2", -4.0)];
        let chosen = token(b"z", -9.0);
        let told: Vec<(String, f64)> = most_likely(&TokenProbabilities { chosen, top: top.to_vec() })
            .into_iter()
            .map(|(text, logprob)| (text, logprob.as_f64().unwrap()))
            .collect();
        let expected = [(" a", -0.5), ("", -1.0), ("bytes:\\xe2\\x96", -2.0), ("bytes:\\xe2", -4.0), ("z", -9.0)];
        let mut expected: Vec<(String, f64)> = expected.map(|(text, logprob)| (text.to_owned(), logprob)).into();
        expected.sort_by(|left, right| left.0.cmp(&right.0));
        let mut told = told;
        told.sort_by(|left, right| left.0.cmp(&right.0));
        assert_eq!(told, expected);
    }

    #[test]
    fn a_character_of_several_tokens_counts_once() {
        let mut begun = vec![];
        let pieces = [b"a".as_slice(), b"\xe2\x96", b"\x81", "é!".as_bytes(), b"\xf0\x9f", b"n\xff\x80", b"\xc3"];
        let counts = pieces.map(|bytes| characters(&mut begun, bytes));
        assert_eq!(counts, [1, 0, 1, 2, 0, 4, 0]);
        let shown: usize = String::from_utf8_lossy(&pieces.concat()).chars().count();
        assert_eq!((counts.iter().sum::<usize>() + 1, begun), (shown, vec![0xc3]));
    }
}
