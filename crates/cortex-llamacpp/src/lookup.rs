//! What may come next, by what came after the same words before: prompt lookup decoding. Pure.
//!
//! Answers repeat: names, code that is changed a little, quotations of the prompt. Where the last tokens of a text stood before, the
//! tokens that followed them then are a good guess, and cost nothing.

use crate::llama::Token;
use std::collections::HashMap;

/// Tokens that have to be the same before anything is guessed.
pub(crate) const SHORTEST: usize = 3;
/// Longer matches are no better.
const LONGEST: usize = 32;
/// Earlier places that are compared.
const COMPARED: usize = 8;
/// There was none before.
const NONE: u32 = u32::MAX;

/// The tokens of a prompt and its answer so far, by their last [`SHORTEST`] ones. Takes 4 bytes a token for the tokens, 4 for the
/// places, and about 20 for the map.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// So many of the first tokens are no text that was, but one that is expected.
    expected: usize,
    tokens: Vec<Token>,
    /// Where the latest run of these tokens ends: the index of what follows.
    latest: HashMap<[Token; SHORTEST], u32>,
    /// For each token but the first ones: where the run that ends with it ended before; by the index of what follows.
    earlier: Vec<u32>,
}

/// What may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guess {
    /// How many tokens before it are the same as now, at least [`SHORTEST`].
    pub(crate) same: usize,
    /// They are of the text that is expected.
    pub(crate) is_expected: bool,
    /// The tokens, the next one first; not empty.
    pub(crate) tokens: Vec<Token>,
}

impl Guess {
    /// What a model guesses: it does not come from anything that was the same.
    pub(crate) fn of_model(tokens: Vec<Token>) -> Self {
        Self { same: 0, is_expected: false, tokens }
    }
}

impl Lookup {
    /// Of a prompt, whose answer is expected to be like some tokens, if there are any.
    pub(crate) fn new(prompt: &[Token], expected: &[Token]) -> Self {
        // What the prompt ends with stands before what is expected too: so the first tokens of the answer are guessed.
        let end = if expected.is_empty() { &[] } else { &prompt[prompt.len().saturating_sub(SHORTEST)..] };
        let mut lookup = Self { expected: end.len() + expected.len(), ..Self::default() };
        for &token in end.iter().chain(expected).chain(prompt) {
            lookup.push(token);
        }
        lookup
    }

    /// The text goes on.
    pub(crate) fn push(&mut self, token: Token) {
        self.tokens.push(token);
        let end = self.tokens.len();
        let before = match self.tokens.last_chunk::<SHORTEST>() {
            Some(last) => self.latest.insert(*last, u32::try_from(end).unwrap_or(NONE)).unwrap_or(NONE),
            None => NONE,
        };
        self.earlier.push(before);
    }

    /// At most so many tokens that followed the longest repetition of the end of the text; of equals what is expected, then the latest.
    pub(crate) fn guess(&self, most: usize) -> Option<Guess> {
        let end = self.tokens.len();
        let mut best: Option<(usize, usize)> = None;
        let mut at = *self.earlier.last()?;
        for _ in 0..COMPARED {
            if at == NONE {
                break;
            }
            let place = at as usize;
            let same = self.same(place, end);
            if best.is_none_or(|(longest, _)| same > longest || same == longest && place < self.expected) {
                best = Some((same, place));
            }
            at = self.earlier[place - 1];
        }
        let (same, place) = best?;
        // What repeats itself goes on repeating itself: the guess may reach into what it guesses.
        let period = end - place;
        let repeated = (0..most).map(|offset| self.tokens[place + offset % period]);
        // An image is not written again.
        let tokens: Vec<Token> = repeated.take_while(|&token| token >= 0).collect();
        (!tokens.is_empty()).then_some(Guess { same, is_expected: place < self.expected, tokens })
    }

    /// How many tokens before two places are the same.
    fn same(&self, left: usize, right: usize) -> usize {
        let pairs = self.tokens[..left].iter().rev().zip(self.tokens[..right].iter().rev());
        pairs.take(LONGEST).take_while(|(left, right)| left == right).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[Token], most: usize, expected: Option<(usize, &[Token])>) {
        let found = Lookup::new(tokens, &[]).guess(most);
        assert_eq!(found, expected.map(|(same, tokens)| Guess { same, is_expected: false, tokens: tokens.to_vec() }));
    }

    #[test]
    fn what_followed_the_same_tokens_is_guessed() {
        check(&[1, 2, 3, 4, 5, 6, 9, 1, 2, 3], 2, Some((3, &[4, 5])));
        check(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 9, Some((4, &[6, 9, 2, 3, 4, 5, 6, 9, 2])));
        check(&[1, 2, 3, 4, 9, 2, 3], 2, None);
        check(&[1, 2], 2, None);
        check(&[1, 2, 3, 4, -8, -7, 1, 2, 3], 4, Some((3, &[4])));
        check(&[1, 2, 3, -8, -7, 1, 2, 3], 4, None);
        check(&[], 2, None);
        check(&[1, 2, 3, 4, 1, 2, 3], 0, None);
    }

    #[test]
    fn the_longest_repetition_wins_then_the_latest() {
        // 7 1 2 3 stood there once, 1 2 3 later and with something else after it.
        check(&[7, 1, 2, 3, 40, 8, 1, 2, 3, 50, 7, 1, 2, 3], 1, Some((4, &[40])));
        check(&[7, 1, 2, 3, 40, 8, 1, 2, 3, 50, 9, 1, 2, 3], 1, Some((3, &[50])));
    }

    #[test]
    fn a_loop_goes_on() {
        check(&[5, 5, 5, 5, 5], 3, Some((4, &[5, 5, 5])));
        check(&[1, 2, 1, 2, 1, 2], 4, Some((4, &[1, 2, 1, 2])));
    }

    #[test]
    fn an_answer_is_part_of_the_text() {
        let mut lookup = Lookup::new(&[1, 2, 3, 4], &[]);
        for token in [1, 2, 3] {
            assert_eq!(lookup.guess(1), None);
            lookup.push(token);
        }
        assert_eq!(lookup.guess(1), Some(Guess { same: 3, is_expected: false, tokens: vec![4] }));
    }

    #[test]
    fn what_is_expected_is_guessed_from_its_first_token_on() {
        let mut lookup = Lookup::new(&[1, 2, 3, 4], &[10, 11, 12, 13]);
        assert_eq!(lookup.guess(2), Some(Guess { same: 3, is_expected: true, tokens: vec![10, 11] }));
        for token in [10, 11] {
            lookup.push(token);
        }
        assert_eq!(lookup.guess(9).map(|it| it.tokens[..2].to_vec()), Some(vec![12, 13]));
        // The answer is another one.
        lookup.push(7);
        assert_eq!(lookup.guess(2), None);
    }
}
