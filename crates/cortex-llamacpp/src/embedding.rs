//! A model that makes vectors of texts, at work.

use crate::{
    llama::{Context, LlamaError, Token},
    serve::{End, HEARTBEAT},
    stdio::{self, Lines},
    vocabulary::Vocabulary,
};
use cortex_api::worker::{EmbedInput, FromWorker, Rejection, Stats, ToWorker};
use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, TryRecvError},
    time::Instant,
};

/// Texts of one request on their way.
struct Job {
    id: u64,
    inputs: Vec<Vec<Token>>,
    vectors: Vec<Vec<f32>>,
}

/// The loaded model at work: one batch after the other, of texts of one request.
pub(crate) struct Embedder<'model> {
    vocabulary: &'model Vocabulary<'model>,
    context: Context<'model>,
    jobs: VecDeque<Job>,
    stats: Stats,
    last_sign: Instant,
}

impl<'model> Embedder<'model> {
    pub(crate) fn new(vocabulary: &'model Vocabulary<'model>, context: Context<'model>) -> Self {
        Self { vocabulary, context, jobs: VecDeque::new(), stats: Stats::default(), last_sign: Instant::now() }
    }

    pub(crate) fn run(&mut self, lines: &mut Lines, inbox: &Receiver<ToWorker>) -> End {
        loop {
            if self.jobs.is_empty() {
                let Ok(message) = inbox.recv() else { return End::Shutdown };
                if let Some(end) = self.take(message, lines) {
                    return end;
                }
            }
            loop {
                match inbox.try_recv() {
                    Ok(message) => {
                        if let Some(end) = self.take(message, lines) {
                            return end;
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return End::Shutdown,
                }
            }
            self.step(lines);
            if !self.jobs.is_empty() && self.last_sign.elapsed() >= HEARTBEAT {
                self.sign_of_life(lines);
            }
            lines.flush();
        }
    }

    fn take(&mut self, message: ToWorker, lines: &mut Lines) -> Option<End> {
        match message {
            ToWorker::Embed { id, inputs } => match self.tokens(&inputs) {
                Ok(inputs) => self.jobs.push_back(Job { id, inputs, vectors: vec![] }),
                Err(reason) => lines.push(&FromWorker::Rejected { id, reason }),
            },
            ToWorker::Generate(generate) => lines.push(&FromWorker::Rejected {
                id: generate.id,
                reason: Rejection::Invalid {
                    message: "model makes vectors of texts and answers nothing; use /v1/embeddings".into(),
                },
            }),
            ToWorker::Cancel { id } => self.jobs.retain(|job| job.id != id),
            ToWorker::Tokenize { id, prompt, adds_bos } => {
                lines.push(&self.vocabulary.tokens_line(id, &prompt, adds_bos));
            }
            ToWorker::Detokenize { id, tokens } => lines.push(&self.vocabulary.text_line(id, &tokens)),
            ToWorker::Stats => self.sign_of_life(lines),
            ToWorker::Shutdown => return Some(End::Shutdown),
            ToWorker::Rest => return Some(End::Rest),
            ToWorker::Load(_) => stdio::warn("a second `load` is ignored: one process, one model"),
        }
        lines.flush();
        None
    }

    fn tokens(&self, inputs: &[EmbedInput]) -> Result<Vec<Vec<Token>>, Rejection> {
        let invalid = |LlamaError(message)| Rejection::Invalid { message };
        inputs
            .iter()
            .map(|input| {
                let tokens = self.vocabulary.embedded(input).map_err(invalid)?;
                let needed = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                match needed {
                    0 => Err(Rejection::EmptyPrompt),
                    _ if needed > self.context.sequence_length => {
                        Err(Rejection::ContextExceeded { needed, available: self.context.sequence_length })
                    }
                    _ => Ok(tokens),
                }
            })
            .collect()
    }

    /// One batch: as many of the next texts of the first request as there is room for.
    fn step(&mut self, lines: &mut Lines) {
        let Some(job) = self.jobs.front_mut() else { return };
        let (most, mut room) = (self.context.sequences as usize, self.context.batch_size());
        let batch: Vec<&[Token]> = job.inputs[job.vectors.len()..]
            .iter()
            .take(most)
            .map(Vec::as_slice)
            .take_while(|tokens| {
                let fits = tokens.len() <= room;
                room = room.saturating_sub(tokens.len());
                fits
            })
            .collect();
        self.stats.steps += 1;
        self.stats.prompt_tokens += batch.iter().map(|tokens| tokens.len() as u64).sum::<u64>();
        match self.context.embed(&batch) {
            Ok(vectors) => job.vectors.extend(vectors),
            Err(LlamaError(message)) => {
                stdio::warn(&format!("{} texts could not be embedded: {message}", batch.len()));
                let id = job.id;
                self.jobs.pop_front();
                return lines.push(&FromWorker::Rejected { id, reason: Rejection::Compute });
            }
        }
        if job.vectors.len() == job.inputs.len()
            && let Some(Job { id, inputs, vectors }) = self.jobs.pop_front()
        {
            let tokens = inputs.iter().map(|tokens| u32::try_from(tokens.len()).unwrap_or(u32::MAX)).collect();
            lines.push(&FromWorker::Embedded { id, vectors, tokens });
        }
    }

    fn sign_of_life(&mut self, lines: &mut Lines) {
        self.last_sign = Instant::now();
        let running = u32::from(!self.jobs.is_empty());
        let waiting = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX) - running;
        lines.push(&FromWorker::Stats(Stats { running, waiting, ..self.stats }));
    }
}
