//! Carries one answer from a worker to one client without ever making the worker wait.
//!
//! Text is appendable: a slow client gets longer pieces, not a longer queue, so memory is bounded by
//! the answer itself.

use crate::{
    EngineError, Killer,
    chat::{Piece, ReplyParser},
    engines::Replay,
    lease::Lease,
    worker::Running,
};
use cortex_api::worker::{FinishReason, Timings, TokenProbabilities};
use futures::future::BoxFuture;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerEvent {
    /// Text to append, with how probable its tokens were when that was asked for. One of the two is not empty.
    Text {
        /// The text.
        text: String,
        /// The tokens.
        probabilities: Vec<TokenProbabilities>,
    },
    /// Text to append to what the model thinks. Not empty.
    Reasoning(String),
    /// The model calls a tool.
    CallBegins {
        /// Which one.
        name: String,
    },
    /// Text to append to the arguments of the call that began last. Not empty.
    Arguments(String),
    /// The call is complete.
    CallEnds,
    /// The worker has died, and the next one answers from the beginning: what came before does not count. Only of answers
    /// of which it was said that they are shown whole.
    BeginsAnew,
    /// The answer is complete; nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        timings: Timings,
    },
}

#[derive(Default)]
struct State {
    /// Length of the prompt in tokens, once the worker accepted the request.
    accepted: Option<u32>,
    text: String,
    probabilities: Vec<TokenProbabilities>,
    end: Option<Result<(FinishReason, Timings), EngineError>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's end.
pub(crate) struct AnswerWriter(Arc<Shared>);

/// The client's end, before it is tied to a lease.
pub(crate) struct AnswerReader(Arc<Shared>);

/// A connected pair.
pub(crate) fn answer() -> (AnswerWriter, AnswerReader) {
    let shared = Arc::new(Shared::default());
    (AnswerWriter(Arc::clone(&shared)), AnswerReader(shared))
}

impl AnswerWriter {
    pub(crate) fn accepted(&self, prompt_tokens: u32) {
        self.0.lock().accepted = Some(prompt_tokens);
        self.0.changed.notify_one();
    }

    pub(crate) fn text(&self, text: &str, probabilities: Vec<TokenProbabilities>) {
        let mut state = self.0.lock();
        state.text.push_str(text);
        state.probabilities.extend(probabilities);
        drop(state);
        self.0.changed.notify_one();
    }

    /// The first end counts.
    pub(crate) fn end(&self, end: Result<(FinishReason, Timings), EngineError>) {
        self.0.lock().end.get_or_insert(end);
        self.0.changed.notify_one();
    }
}

impl AnswerReader {
    /// Waits until the worker has accepted the request; its prompt's length.
    pub(crate) async fn accepted(&self) -> Result<u32, EngineError> {
        loop {
            {
                let state = self.0.lock();
                if let Some(tokens) = state.accepted {
                    return Ok(tokens);
                }
                if let Some(Err(error)) = &state.end {
                    return Err(error.clone());
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// What came since the last call. Not to be called again after the end.
    pub(crate) async fn next(&self) -> Result<AnswerEvent, EngineError> {
        loop {
            {
                let mut state = self.0.lock();
                if !state.text.is_empty() {
                    let probabilities = std::mem::take(&mut state.probabilities);
                    return Ok(AnswerEvent::Text { text: std::mem::take(&mut state.text), probabilities });
                }
                if let Some(end) = state.end.take() {
                    return end.map(|(reason, timings)| AnswerEvent::Finished { reason, timings });
                }
            }
            self.0.changed.notified().await;
        }
    }
}

/// A running answer. Dropping it cancels the request and gives the lease back.
pub struct Answer {
    /// Declared before the lease: the request is cancelled before the model may leave.
    running: Running,
    prompt_tokens: u32,
    /// Takes the text apart, and whether it consists of calls only; `None` when it is shown as it comes.
    parser: Option<(ReplyParser, bool)>,
    /// What it found and was not told yet.
    found: VecDeque<AnswerEvent>,
    /// How to ask again; gone once something was shown, or after the one replay.
    replay: Option<Replay>,
    /// Nothing is shown before the end.
    is_whole: bool,
    /// Something came that counts as shown, unless nothing is before the end.
    has_come: bool,
    /// The replay while it is under way. Kept here, so that [`Answer::next`] may be dropped and called again.
    replaying: Option<BoxFuture<'static, Result<Answer, EngineError>>>,
    ended: bool,
    lease: Lease,
}

impl Answer {
    pub(crate) fn new(
        running: Running,
        prompt_tokens: u32,
        parser: Option<(ReplyParser, bool)>,
        replay: Option<Replay>,
        lease: Lease,
    ) -> Self {
        Self {
            running,
            prompt_tokens,
            parser,
            found: VecDeque::new(),
            replay,
            is_whole: false,
            has_come: false,
            replaying: None,
            ended: false,
            lease,
        }
    }

    /// Says that nothing of it is shown to anybody before its end, so that it may begin anew until then.
    pub fn is_shown_whole(&mut self) {
        self.is_whole = true;
    }

    /// Length of the prompt in tokens.
    pub fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// The next piece; `None` after the end or an error. When the worker dies before anything was
    /// shown, the request is sent once more to the next one; of an answer that is shown whole the next piece is then
    /// [`AnswerEvent::BeginsAnew`], when others came before. Nothing is lost when the returned future is dropped.
    pub async fn next(&mut self) -> Option<Result<AnswerEvent, EngineError>> {
        loop {
            if let Some(event) = self.found.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Some(replaying) = &mut self.replaying {
                match replaying.await {
                    Ok(again) => {
                        let has_come = self.has_come;
                        *self = again;
                        if has_come {
                            return Some(Ok(AnswerEvent::BeginsAnew));
                        }
                    }
                    Err(error) => {
                        self.replaying = None;
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
            }
            let event = self.running.reader.next().await;
            // What has grown until memory ran out would do so again.
            let ran_out =
                self.has_come && matches!(&event, Err(EngineError::WorkerDied { killer: Some(Killer::Memory), .. }));
            if event.as_ref().is_err_and(EngineError::lost_the_worker)
                && !ran_out
                && let Some(replay) = self.replay.take()
            {
                self.replaying = Some(Box::pin(replay.again()));
                continue;
            }
            self.has_come = true;
            // Whatever came was seen: from here on nothing can be sent again.
            if !self.is_whole {
                self.replay = None;
            }
            if let Ok(AnswerEvent::Finished { timings, reason: FinishReason::Stop | FinishReason::Length }) = &event {
                self.lease.answered(*timings);
            }
            self.ended = !matches!(event, Ok(AnswerEvent::Text { .. }));
            let Some((parser, has_calls_only)) = &mut self.parser else { return Some(event) };
            match event {
                Ok(AnswerEvent::Text { text, probabilities }) => {
                    self.found = told(parser.push(&text), probabilities, *has_calls_only);
                    if parser.is_done() {
                        self.running.end();
                    }
                }
                Ok(end) => {
                    self.found = told(parser.finish(), vec![], *has_calls_only);
                    self.found.push_back(end);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What was found in a piece of text. The probabilities of its tokens stand with the first text, or alone. Where there are calls
/// only, text is the beginning of one that was cut.
fn told(pieces: Vec<Piece>, probabilities: Vec<TokenProbabilities>, has_calls_only: bool) -> VecDeque<AnswerEvent> {
    let mut probabilities = Some(probabilities).filter(|it| !it.is_empty());
    let mut events: VecDeque<AnswerEvent> = pieces
        .into_iter()
        .filter(|piece| !has_calls_only || !matches!(piece, Piece::Text(_)))
        .map(|piece| match piece {
            Piece::Text(text) => AnswerEvent::Text { text, probabilities: probabilities.take().unwrap_or_default() },
            Piece::Reasoning(text) => AnswerEvent::Reasoning(text),
            Piece::CallBegins { name } => AnswerEvent::CallBegins { name },
            Piece::Arguments(text) => AnswerEvent::Arguments(text),
            Piece::CallEnds => AnswerEvent::CallEnds,
        })
        .collect();
    events.extend(probabilities.map(|probabilities| AnswerEvent::Text { text: String::new(), probabilities }));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_client_gets_longer_pieces_and_then_the_end() {
        let (writer, reader) = answer();
        writer.accepted(3);
        writer.text("he", vec![]);
        writer.text("llo", vec![]);
        writer.end(Ok((FinishReason::Stop, Timings::default())));
        assert_eq!(reader.accepted().await, Ok(3));
        assert_eq!(reader.next().await, Ok(AnswerEvent::Text { text: "hello".into(), probabilities: vec![] }));
        assert_eq!(
            reader.next().await,
            Ok(AnswerEvent::Finished { reason: FinishReason::Stop, timings: Timings::default() })
        );
    }

    #[tokio::test]
    async fn a_refusal_is_told_instead_of_an_acceptance() {
        let (writer, reader) = answer();
        writer.end(Err(EngineError::EmptyPrompt));
        writer.end(Err(EngineError::ShuttingDown));
        assert_eq!(reader.accepted().await, Err(EngineError::EmptyPrompt));
    }
}
