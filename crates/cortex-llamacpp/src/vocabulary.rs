//! The tokens of a model: their texts, and what is made of texts and of them. Only the safe layer of the binding is called.

use crate::llama::{LlamaError, Token, error};
use cortex_api::worker::{EmbedInput, Embeds, FromWorker, InfillTokens, Rejection, Segment, control_token_name};
use llama_cpp_2::{model::LlamaModel, token::LlamaToken};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use std::{cell::OnceCell, sync::Arc};

/// Texts of so many bytes are tokenised whatever comes of it.
const SHORT: usize = 64 * 1024;

/// Facts about a model's vocabulary and layout that the rest of the worker needs.
pub(crate) struct Vocabulary<'model> {
    pub(crate) model: &'model LlamaModel,
    /// Number of tokens.
    pub(crate) size: i32,
    adds_bos: bool,
    /// Bytes of the longest text of a token; found when it is first asked for.
    longest: OnceCell<usize>,
    /// Texts that stand for control tokens; found when they are first asked for.
    controls: OnceCell<Vec<String>>,
}

impl<'model> Vocabulary<'model> {
    /// The vocabulary of a loaded model.
    pub(crate) fn new(model: &'model LlamaModel) -> Self {
        Self {
            model,
            size: model.n_vocab(),
            adds_bos: model.vocab().should_add_bos(),
            longest: OnceCell::new(),
            controls: OnceCell::new(),
        }
    }

    /// Whether there are texts that tokens stand for. llama.cpp aborts when it is asked for one and there are none.
    pub(crate) fn has_texts(&self) -> bool {
        // The pinned binding's own question panics for vocabularies that it does not know, of WordPiece say. These two words are
        // llama.cpp's for none.
        !matches!(self.model.meta_val_str("tokenizer.ggml.model").as_deref(), Ok("no_vocab" | "none") | Err(_))
    }

    /// Context that the model was trained with.
    pub(crate) fn trained_context(&self) -> u32 {
        self.model.n_ctx_train()
    }

    /// Bytes of weights.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.model.size()
    }

    /// Width of the window of sliding-window attention; 0 when the model has none.
    pub(crate) fn sliding_window(&self) -> i32 {
        let text = |key: &str| self.model.meta_val_str(key).ok();
        text("general.architecture")
            .and_then(|architecture| text(&format!("{architecture}.attention.sliding_window")))
            .and_then(|number| number.parse().ok())
            .map_or(0, |number: i32| number.max(0))
    }

    /// Whether the state of a sequence cannot be cut back to an earlier position.
    pub(crate) fn is_recurrent(&self) -> bool {
        self.model.is_recurrent() || self.model.is_hybrid()
    }

    /// The Jinja source of the chat template.
    pub(crate) fn chat_template(&self) -> Option<String> {
        self.model.meta_val_str("tokenizer.chat_template").ok().filter(|text| !text.is_empty())
    }

    /// Text of the beginning-of-sequence token; empty when there is none.
    pub(crate) fn bos_text(&self) -> String {
        self.text_of(self.model.vocab().bos())
    }

    /// Text of the end-of-sequence token; empty when there is none.
    pub(crate) fn eos_text(&self) -> String {
        self.text_of(self.model.vocab().eos())
    }

    /// So many tokens a text has at least: known without tokenising it, which takes a second for a megabyte and holds up all others.
    pub(crate) fn least_tokens(&self, bytes: usize) -> usize {
        // Spaces may become longer marks, which makes tokens of them no longer than that.
        let longest = || (0..self.size).map(|token| self.piece(token, true).len()).max().unwrap_or(1).max(1);
        if bytes < SHORT { 0 } else { bytes / *self.longest.get_or_init(longest) }
    }

    /// The tokens around a gap; `None` when the model lacks any of them.
    pub(crate) fn infill(&self) -> Option<InfillTokens> {
        let vocabulary = self.model.vocab();
        let known = |token: LlamaToken| (0..self.size).contains(&token.0).then_some(token.0);
        Some(InfillTokens {
            prefix: known(vocabulary.fim_pre())?,
            suffix: known(vocabulary.fim_suf())?,
            middle: known(vocabulary.fim_mid())?,
            repository: known(vocabulary.fim_rep()),
            separator: known(vocabulary.fim_sep()),
        })
    }

    fn text_of(&self, token: LlamaToken) -> String {
        if token.0 < 0 || token.0 >= self.size {
            return String::new();
        }
        self.model.vocab().text(token).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What the model makes, when it is not answers. Source: llama.cpp's `pooling_type`: 1 to 3 are ways to make one vector of
    /// those of all tokens, 4 is a rank.
    pub(crate) fn embeds(&self) -> Option<Embeds> {
        let text = |key: &str| self.model.meta_val_str(key).ok();
        let architecture = text("general.architecture")?;
        match text(&format!("{architecture}.pooling_type")).as_deref() {
            Some("1" | "2" | "3") => Some(Embeds::Vectors),
            Some("4") => Some(Embeds::Ranks),
            _ => None,
        }
    }

    /// The tokens of something to make a vector of, with what the model wants around them.
    pub(crate) fn embedded(&self, input: &EmbedInput) -> Result<Vec<Token>, LlamaError> {
        let vocabulary = self.model.vocab();
        let of = |text: &str, adds_special| vocabulary.tokenize(text.as_bytes(), adds_special, false).into_iter();
        match input {
            EmbedInput::Text { text } => Ok(of(text, true).map(|token| token.0).collect()),
            EmbedInput::Tokens { tokens } => self.check(tokens, "input").map(|()| tokens.clone()),
            EmbedInput::Pair { query, document } if self.rank_template().is_some() => {
                let template = self.rank_template().unwrap_or_default();
                let controls = self.controls.get_or_init(|| self.control_texts());
                let is_plain = |text: &str| !controls.iter().any(|control| text.contains(control.as_str()));
                let parts = rank_parts(&template, query, document);
                if is_plain(query) && is_plain(document) {
                    // In one piece, as the model was trained.
                    let whole = parts.into_iter().map(|(text, _)| text).collect();
                    return self.tokenize(&[Segment::Text { text: whole, special: true }], false);
                }
                let segment = |(text, is_foreign): (String, bool)| Segment::Text { text, special: !is_foreign };
                self.tokenize(&parts.into_iter().map(segment).collect::<Vec<_>>(), false)
            }
            EmbedInput::Pair { query, document } => {
                // Beginning, question, end, separator, text, end: each where the vocabulary has it.
                let end = if vocabulary.eos().0 >= 0 { vocabulary.eos() } else { vocabulary.sep() };
                let begin = vocabulary.should_add_bos().then(|| vocabulary.bos());
                let ends = vocabulary.should_add_eos().then_some(end);
                let between = vocabulary.should_add_sep().then(|| vocabulary.sep());
                let tokens = begin.into_iter().chain(of(query, false)).chain(ends).chain(between);
                // A vocabulary of BERT's has no end, but separates and ends with the same token.
                let last = ends.or(between);
                Ok(tokens.chain(of(document, false)).chain(last).map(|token| token.0).filter(|&it| it >= 0).collect())
            }
        }
    }

    /// How a question and a document are put to a model that ranks, where it says so: a text with places for both. Source: llama.cpp's
    /// `llama_model_chat_template` with the name `rerank`.
    fn rank_template(&self) -> Option<String> {
        self.model.meta_val_str("tokenizer.chat_template.rerank").ok().filter(|text| !text.is_empty())
    }

    /// The answer to a question about the tokens of a text.
    pub(crate) fn tokens_line(&self, id: u64, prompt: &[Segment], adds_bos: bool) -> FromWorker {
        match self.tokenize(prompt, adds_bos) {
            Ok(tokens) => {
                let pieces = tokens.iter().map(|&token| self.piece(token, true)).collect();
                FromWorker::Tokens { id, tokens, pieces }
            }
            Err(LlamaError(message)) => FromWorker::Rejected { id, reason: Rejection::Invalid { message } },
        }
    }

    /// The answer to a question about the text of tokens.
    pub(crate) fn text_line(&self, id: u64, tokens: &[Token]) -> FromWorker {
        match self.check(tokens, "tokens") {
            Ok(()) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.piece(token, true)).collect();
                FromWorker::Detokenized { id, text: String::from_utf8_lossy(&bytes).into_owned() }
            }
            Err(LlamaError(message)) => FromWorker::Rejected { id, reason: Rejection::Invalid { message } },
        }
    }

    /// Texts that stand for control tokens when a segment is special.
    pub(crate) fn control_texts(&self) -> Vec<String> {
        let vocabulary = self.model.vocab();
        (0..self.size)
            .map(LlamaToken)
            .filter(|&token| vocabulary.is_control(token) || vocabulary.is_eog(token))
            .map(|token| self.text_of(token))
            .filter(|text| !text.is_empty())
            .collect()
    }

    /// Whether the token is one that templates set between messages and no text becomes.
    pub(crate) fn is_control(&self, token: Token) -> bool {
        (0..self.size).contains(&token) && self.model.vocab().is_control(LlamaToken(token))
    }

    /// Whether the token ends an answer.
    pub(crate) fn ends_answer(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }

    /// The bytes that a token stands for; control tokens stand for none, unless they are to be shown.
    pub(crate) fn piece(&self, token: Token, shows_control: bool) -> Vec<u8> {
        self.model.vocab().token_to_piece(LlamaToken(token), shows_control, None)
    }

    /// The first of some ids that is not in the vocabulary, as an error that begins with the name of their field.
    pub(crate) fn check(&self, tokens: &[Token], field: &str) -> Result<(), LlamaError> {
        match tokens.iter().find(|&&token| token < 0 || token >= self.size) {
            Some(wrong) => {
                error(format!("{field} has the token {wrong}, which is not in the vocabulary of {} tokens", self.size))
            }
            None => Ok(()),
        }
    }

    /// Tokenises each segment on its own. The beginning-of-sequence token comes first exactly once, if it should be added.
    pub(crate) fn tokenize(&self, prompt: &[Segment], adds_bos: bool) -> Result<Vec<Token>, LlamaError> {
        let vocabulary = self.model.vocab();
        let mut tokens = Vec::new();
        for segment in prompt {
            match segment {
                Segment::Text { text, special } => {
                    // A NUL is data for the tokeniser: lengths are passed, not terminators.
                    tokens
                        .extend(vocabulary.tokenize(text.as_bytes(), false, *special).into_iter().map(|token| token.0));
                }
                Segment::Tokens { tokens: given } => {
                    self.check(given, "prompt")?;
                    tokens.extend(given);
                }
                Segment::Image { .. } => return error("an image stands where only text is possible"),
            }
        }
        let bos = vocabulary.bos().0;
        if adds_bos && self.adds_bos && bos >= 0 && tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// What constraints need to know of the tokens: the bytes of each, and the names of control tokens behind the byte that marks
    /// them. Takes some ten milliseconds.
    pub(crate) fn trie(&self) -> TokEnv {
        let vocabulary = self.model.vocab();
        let id = |token: LlamaToken| token.0.cast_unsigned();
        let end = if vocabulary.eot().0 >= 0 { vocabulary.eot() } else { vocabulary.eos() };
        let mut ends = vec![id(end)];
        let mut words = Vec::new();
        for token in (0..self.size).map(LlamaToken) {
            if vocabulary.is_eog(token) && token != end {
                ends.push(id(token));
            }
            let text = self.piece(token.0, false);
            let name = || String::from_utf8(self.piece(token.0, true)).ok().filter(|name| !name.is_empty());
            words.push(match text.is_empty().then(name).flatten() {
                Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], control_token_name(&name).as_bytes()].concat(),
                None => text,
            });
        }
        let info = TokRxInfo::new(self.size.cast_unsigned(), id(end));
        Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words).with_eos_tokens(&ends)))
    }
}

/// The pieces of a template for ranks, with a question and a document at their places, and whether each is one of those.
fn rank_parts(template: &str, query: &str, document: &str) -> Vec<(String, bool)> {
    let (mut parts, mut rest) = (vec![], template);
    let places = [("{query}", query), ("{document}", document)];
    while let Some((at, name, text)) =
        places.iter().filter_map(|(name, text)| Some((rest.find(name)?, *name, *text))).min_by_key(|(at, ..)| *at)
    {
        parts.push((rest[..at].to_owned(), false));
        parts.push((text.to_owned(), true));
        rest = &rest[at + name.len()..];
    }
    parts.push((rest.to_owned(), false));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_for_ranks_has_both_at_their_places() {
        let parts = rank_parts("<q>{query}</q>{document}!{query}", "a {document}", "b");
        let texts: Vec<(&str, bool)> = parts.iter().map(|(text, is_foreign)| (text.as_str(), *is_foreign)).collect();
        // What a question spells is no place.
        let expected = [
            ("<q>", false),
            ("a {document}", true),
            ("</q>", false),
            ("b", true),
            ("!", false),
            ("a {document}", true),
            ("", false),
        ];
        assert_eq!(texts, expected);
        assert_eq!(rank_parts("x", "a", "b").len(), 1);
    }
}
