//! The conversation with one worker: requests out, answers to whom they belong.

use crate::{
    EngineError,
    answer::{AnswerReader, AnswerWriter, answer},
    chat::ChatTemplate,
};
use cortex_api::worker::{FinishReason, FromWorker, Generate, Loaded, Rejection, RequestId, ToWorker, encode};
use cortex_models::ModelId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot, watch};

/// A worker with its model loaded. The process ends when the last holder drops this, or is told to.
pub(crate) struct Session {
    pub(crate) model: ModelId,
    pub(crate) facts: Loaded,
    pub(crate) template: ChatTemplate,
    pub(crate) pid: u32,
    /// Unbounded, because a cancel comes from a destructor and must not wait. What can be in it is
    /// bounded by the requests that are open: one `generate` and one `cancel` for each.
    to_worker: mpsc::UnboundedSender<String>,
    requests: Requests,
    /// True once the process is gone.
    gone: watch::Receiver<bool>,
}

/// Of all sessions together: a process may serve one after the other, and what comes late for a request must not mean another.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The open requests of a session; shared with the task that reads the worker's lines.
#[derive(Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    writers: HashMap<RequestId, AnswerWriter>,
    /// Those that are no generation: one line answers each.
    questions: HashMap<RequestId, oneshot::Sender<Result<Told, EngineError>>>,
    /// Set once: every later request gets the same reason.
    over: Option<EngineError>,
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer is expected.
    pub(crate) fn any(&self) -> bool {
        let open = self.lock();
        !open.writers.is_empty() || !open.questions.is_empty()
    }

    /// Ends every open request, and those to come, with this error.
    pub(crate) fn end_all(&self, error: &EngineError) {
        let mut open = self.lock();
        open.over.get_or_insert_with(|| error.clone());
        for (_, writer) in open.writers.drain() {
            writer.end(Err(error.clone()));
        }
        for (_, question) in open.questions.drain() {
            let _ = question.send(Err(error.clone()));
        }
    }

    /// Gives a line to the request it belongs to. Lines of requests that were left are ignored.
    pub(crate) fn deliver(&self, message: FromWorker, model: &ModelId) {
        let mut open = self.lock();
        match message {
            FromWorker::Accepted { id, prompt_tokens } => {
                if let Some(writer) = open.writers.get(&id) {
                    writer.accepted(prompt_tokens);
                }
            }
            FromWorker::Text { id, text, probabilities, .. } => {
                if let Some(writer) = open.writers.get(&id) {
                    writer.text(&text, probabilities);
                }
            }
            FromWorker::Rejected { id, reason } => {
                if let Some(writer) = open.writers.remove(&id) {
                    writer.end(Err(rejection(reason, model)));
                } else if let Some(question) = open.questions.remove(&id) {
                    let _ = question.send(Err(rejection(reason, model)));
                }
            }
            FromWorker::Tokens { id, tokens, pieces } => {
                if let Some(question) = open.questions.remove(&id) {
                    let _ = question.send(Ok(Told::Tokens { tokens, pieces }));
                }
            }
            FromWorker::Embedded { id, vectors, tokens } => {
                if let Some(question) = open.questions.remove(&id) {
                    let _ = question.send(Ok(Told::Vectors { vectors, tokens }));
                }
            }
            FromWorker::Detokenized { id, text } => {
                if let Some(question) = open.questions.remove(&id) {
                    let _ = question.send(Ok(Told::Text(text)));
                }
            }
            FromWorker::Finished { id, reason, timings } => {
                if let Some(writer) = open.writers.remove(&id) {
                    writer.end(match reason {
                        FinishReason::Error => Err(EngineError::ComputeFailed { model: model.to_string() }),
                        FinishReason::Stop | FinishReason::Length | FinishReason::Cancelled => Ok((reason, timings)),
                    });
                }
            }
            // Signs of life, and what belongs to the load.
            FromWorker::Stats(_)
            | FromWorker::Hello { .. }
            | FromWorker::Loading { .. }
            | FromWorker::Loaded(_)
            | FromWorker::Rested
            | FromWorker::LoadFailed { .. } => {}
        }
    }
}

fn rejection(reason: Rejection, model: &ModelId) -> EngineError {
    match reason {
        Rejection::Compute => EngineError::ComputeFailed { model: model.to_string() },
        Rejection::ContextExceeded { needed, available } => EngineError::ContextExceeded { needed, available },
        Rejection::EmptyPrompt => EngineError::EmptyPrompt,
        Rejection::Constraint { message } => EngineError::Constraint { message },
        Rejection::Busy { message } => EngineError::TooMany { message },
        Rejection::Invalid { message } => EngineError::InvalidRequest { message },
    }
}

/// What a worker says in answer to a question.
pub(crate) enum Told {
    /// Token ids, and the bytes of each.
    Tokens { tokens: Vec<i32>, pieces: Vec<Vec<u8>> },
    /// The text of tokens.
    Text(String),
    /// Vectors, and the tokens of each text.
    Vectors { vectors: Vec<Vec<f32>>, tokens: Vec<u32> },
}

/// What the process side hands over once the model is loaded.
pub(crate) struct Connection {
    pub(crate) pid: u32,
    pub(crate) to_worker: mpsc::UnboundedSender<String>,
    pub(crate) requests: Requests,
    pub(crate) gone: watch::Receiver<bool>,
}

impl Session {
    pub(crate) fn new(model: ModelId, facts: Loaded, connection: Connection) -> (Self, Option<String>) {
        let (template, warning) = ChatTemplate::new(&facts);
        let Connection { pid, to_worker, requests, gone } = connection;
        (Self { model, facts, template, pid, to_worker, requests, gone }, warning)
    }

    /// Sends a request; `make` builds it around the id that it gets.
    pub(crate) fn generate(self: &Arc<Self>, make: impl FnOnce(RequestId) -> Generate) -> Result<Running, EngineError> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (writer, reader) = answer();
        {
            let mut open = self.requests.lock();
            if let Some(error) = &open.over {
                return Err(error.clone());
            }
            open.writers.insert(id, writer);
        }
        // When the line cannot be taken the worker is going; its end is told to all who are registered.
        let _ = self.to_worker.send(encode(&ToWorker::Generate(Box::new(make(id)))));
        Ok(Running { reader, id, session: Arc::clone(self) })
    }

    /// Asks what is answered in one line; `make` builds the question around the id that it gets.
    pub(crate) async fn ask(&self, make: impl FnOnce(RequestId) -> ToWorker) -> Result<Told, EngineError> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (question, answer) = oneshot::channel();
        {
            let mut open = self.requests.lock();
            if let Some(error) = &open.over {
                return Err(error.clone());
            }
            open.questions.insert(id, question);
        }
        let _ = self.to_worker.send(encode(&make(id)));
        answer.await.map_err(|_| EngineError::ShuttingDown)?
    }

    /// Asks the worker to end by itself.
    pub(crate) fn shut_down(&self) {
        let _ = self.to_worker.send(encode(&ToWorker::Shutdown));
    }

    /// Ends every open request with this error; the worker keeps running.
    pub(crate) fn end_requests(&self, error: &EngineError) {
        self.requests.end_all(error);
    }

    /// Resolves when the process is gone.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.clone();
        // A dropped sender means that the watching task ended, which it does after the process.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// An open request. Dropping it cancels.
pub(crate) struct Running {
    pub(crate) reader: AnswerReader,
    id: RequestId,
    session: Arc<Session>,
}

impl Running {
    /// Ends the request early; its end comes as every other.
    pub(crate) fn end(&self) {
        let _ = self.session.to_worker.send(encode(&ToWorker::Cancel { id: self.id }));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.session.requests.lock().writers.remove(&self.id).is_some() {
            let _ = self.session.to_worker.send(encode(&ToWorker::Cancel { id: self.id }));
        }
    }
}
