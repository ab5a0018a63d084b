//! One request on its way through a slot.

use crate::{
    drafting::{Acceptance, Candidate},
    images::PlacedImage,
    llama::{AdapterSet, Token},
    lookup::{Guess, Lookup},
    sampling::Chooser,
    text::TextStream,
};
use cortex_api::worker::{FromWorker, RequestId, Timings, TokenProbabilities};
use std::time::Instant;

/// A request that has a slot.
pub(crate) struct Generation {
    /// Its name in every answer.
    pub(crate) id: RequestId,
    /// The whole prompt.
    pub(crate) prompt: Vec<Token>,
    /// The images in it, in order.
    pub(crate) images: Vec<PlacedImage>,
    /// The adapters that count.
    pub(crate) adapters: AdapterSet,
    /// How many of its tokens the cells hold. Smaller than the prompt: it is still being computed.
    pub(crate) computed: usize,
    /// What the prompt of the next turn has behind the answer; see [`Generate::next_turn`](cortex_api::worker::Generate::next_turn).
    pub(crate) next_turn: Vec<Token>,
    /// The token that was chosen last and is not in the cells yet.
    pub(crate) pending: Option<Token>,
    /// Tokens chosen so far, the end token included.
    pub(crate) produced: u32,
    /// Most tokens of the answer.
    pub(crate) limit: u32,
    /// Chooses the next token.
    pub(crate) chooser: Chooser,
    /// Turns tokens into text.
    pub(crate) text: TextStream,
    /// Tokens chosen since text was last sent.
    pub(crate) unsent_tokens: u32,
    /// How probable they were, when that was asked for.
    pub(crate) unsent_probabilities: Vec<TokenProbabilities>,
    /// The text of control tokens is part of the answer.
    pub(crate) shows_control: bool,
    /// Go on after the end token.
    pub(crate) ignore_eos: bool,
    /// After so many tokens of the prompt, in order, a step ends and leaves a checkpoint.
    pub(crate) stops: Vec<usize>,
    /// Alone in its batches.
    pub(crate) deterministic: bool,
    /// Order of admission: the prompt that came first is computed first.
    pub(crate) admitted: u64,
    /// Prompt tokens that did not have to be computed.
    pub(crate) cached: u32,
    /// Those of them that were read from disk.
    pub(crate) restored: u32,
    /// What may come next is guessed, and computed with the next token when it pays.
    pub(crate) speculation: Option<Speculation>,
    /// When the first chunk of the prompt began.
    pub(crate) started: Instant,
    /// When the first token was chosen.
    pub(crate) first_token: Option<Instant>,
}

/// What comes next of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// A token of the answer.
    Answer,
    /// So many tokens of the prompt, up to its end or the next image.
    Text(usize),
    /// An image of the prompt, by its number, or what is left of it.
    Image(usize),
    /// The vectors of an image, which are not there.
    Vectors(usize),
}

/// Guesses of one answer.
pub(crate) struct Speculation {
    lookup: Lookup,
    acceptance: Acceptance,
    /// Tokens of a guess at most.
    most: usize,
    /// Of the next step.
    guess: Option<Guess>,
    /// Guesses that were computed.
    drafted: u32,
    /// Those that were right.
    accepted: u32,
}

impl Speculation {
    /// For the answer to a prompt, which may be like a text, with guesses of so many tokens at most.
    pub(crate) fn new(prediction: &[Token], prompt: &[Token], most: usize) -> Self {
        Self {
            lookup: Lookup::new(prompt, prediction),
            acceptance: Acceptance::default(),
            most,
            guess: None,
            drafted: 0,
            accepted: 0,
        }
    }

    /// A token was chosen.
    fn push(&mut self, token: Token) {
        self.lookup.push(token);
        self.acceptance.fade();
    }
}

impl Generation {
    /// What may come next, when something may; at most so much that the answer does not become too long by it.
    pub(crate) fn guess(&mut self) -> Option<Candidate> {
        let left = self.limit.saturating_sub(self.produced + 1);
        let speculation = self.speculation.as_mut()?;
        let most = speculation.most.min(usize::try_from(left).unwrap_or(usize::MAX));
        let guess = speculation.lookup.guess(most)?;
        let candidate = Candidate { probability: speculation.acceptance.of(&guess), tokens: guess.tokens.len() };
        speculation.guess = Some(guess);
        Some(candidate)
    }

    /// How many tokens a model should guess at most, and how often it is right, when it may.
    pub(crate) fn wants_model(&self) -> Option<(usize, f64)> {
        let left = self.limit.saturating_sub(self.produced + 1);
        let speculation = self.speculation.as_ref().filter(|it| it.guess.is_none())?;
        let most = speculation.most.min(usize::try_from(left).unwrap_or(usize::MAX));
        (most > 0).then(|| (most, speculation.acceptance.of_model()))
    }

    /// Takes what a model guesses.
    pub(crate) fn guessed(&mut self, tokens: Vec<Token>) -> Option<Candidate> {
        let speculation = self.speculation.as_mut()?;
        let candidate = Candidate { probability: speculation.acceptance.of_model(), tokens: tokens.len() };
        speculation.guess = Some(Guess::of_model(tokens));
        Some(candidate)
    }

    /// Keeps so many tokens of the guess for the next step.
    pub(crate) fn draft(&mut self, tokens: usize) {
        if let Some(speculation) = &mut self.speculation {
            if let Some(guess) = &mut speculation.guess {
                guess.tokens.truncate(tokens);
            }
            speculation.guess.take_if(|guess| guess.tokens.is_empty());
        }
    }

    /// The tokens that are computed with the next one before they are known to be right.
    pub(crate) fn drafted(&self) -> &[Token] {
        self.speculation.as_ref().and_then(|it| it.guess.as_ref()).map_or(&[], |guess| &guess.tokens)
    }

    /// So many of the guessed tokens were right, and the guess is done with.
    pub(crate) fn judge(&mut self, right: usize) {
        let Some(speculation) = &mut self.speculation else { return };
        let Some(guess) = speculation.guess.take() else { return };
        speculation.acceptance.learn(&guess, right);
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        speculation.drafted = speculation.drafted.saturating_add(count(guess.tokens.len()));
        speculation.accepted = speculation.accepted.saturating_add(count(right));
    }

    /// A token was chosen.
    pub(crate) fn produce(&mut self, token: Token) {
        self.first_token.get_or_insert_with(Instant::now);
        self.produced += 1;
        self.unsent_tokens += 1;
        if let Some(speculation) = &mut self.speculation {
            speculation.push(token);
        }
    }

    /// What comes next.
    pub(crate) fn next(&self) -> Next {
        let next = self.images.iter().position(|image| image.range.end > self.computed);
        match next.map(|number| (number, &self.images[number])) {
            _ if self.remaining() == 0 => Next::Answer,
            None => Next::Text(self.until(self.prompt.len())),
            Some((_, image)) if image.range.start > self.computed => Next::Text(self.until(image.range.start)),
            Some((number, PlacedImage { vectors: Some(_), .. })) => Next::Image(number),
            Some((number, _)) => Next::Vectors(number),
        }
    }

    /// Tokens of the prompt up to the next stop, and not beyond an end.
    fn until(&self, end: usize) -> usize {
        let stop = self.stops.iter().find(|&&stop| stop > self.computed);
        stop.map_or(end, |&stop| stop.min(end)) - self.computed
    }

    /// Has the prompt stop there, unless it is there already or an image is.
    pub(crate) fn stop_at(&mut self, tokens: usize) {
        let is_inside = |image: &PlacedImage| image.range.start < tokens && tokens < image.range.end;
        let is_ahead = self.computed < tokens && tokens < self.prompt.len();
        if let (true, Err(at)) = (is_ahead && !self.images.iter().any(is_inside), self.stops.binary_search(&tokens)) {
            self.stops.insert(at, tokens);
        }
    }

    /// Whether the prompt has come to a stop.
    pub(crate) fn is_at_stop(&self) -> bool {
        self.stops.binary_search(&self.computed).is_ok() && self.remaining() > 0
    }

    /// Prompt tokens that still have to be computed.
    pub(crate) fn remaining(&self) -> usize {
        self.prompt.len() - self.computed
    }

    /// A piece of the answer as a line, with what belongs to the tokens since the last one.
    pub(crate) fn text_line(&mut self, text: String) -> FromWorker {
        FromWorker::Text {
            id: self.id,
            text,
            tokens: std::mem::take(&mut self.unsent_tokens),
            probabilities: std::mem::take(&mut self.unsent_probabilities),
        }
    }

    /// What it cost so far.
    pub(crate) fn timings(&self) -> Timings {
        let milliseconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1000.0;
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let computed = self.computed.saturating_sub(self.cached as usize);
        Timings {
            cached_tokens: self.cached,
            restored_tokens: self.restored,
            prompt_tokens: u32::try_from(computed).unwrap_or(u32::MAX),
            prompt_ms: milliseconds(self.started, first),
            answer_tokens: self.produced,
            answer_ms: milliseconds(first, now),
            drafted_tokens: self.speculation.as_ref().map_or(0, |it| it.drafted),
            accepted_tokens: self.speculation.as_ref().map_or(0, |it| it.accepted),
        }
    }
}

#[cfg(test)]
impl Generation {
    /// A request that has computed so many tokens of its prompt.
    pub(crate) fn for_test(prompt: Vec<Token>, computed: usize) -> Self {
        Self {
            id: 1,
            prompt,
            images: vec![],
            adapters: vec![],
            computed,
            next_turn: vec![],
            pending: None,
            produced: 0,
            limit: 1,
            chooser: Chooser::greedy(),
            text: TextStream::new(&[]),
            unsent_tokens: 0,
            unsent_probabilities: vec![],
            shows_control: false,
            ignore_eos: false,
            stops: vec![],
            deterministic: false,
            admitted: 0,
            cached: 0,
            restored: 0,
            speculation: None,
            started: Instant::now(),
            first_token: None,
        }
    }
}
