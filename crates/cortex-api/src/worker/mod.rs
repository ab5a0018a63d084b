//! The protocol between the daemon and a worker process: one JSON object a line.
//!
//! The daemon writes [`ToWorker`] to the worker's standard input, the worker answers with
//! [`FromWorker`] on its standard output. Standard error is for logs. The protocol is private: both
//! sides come from one build, and [`FromWorker::Hello`] proves it.

mod sampling;

pub use sampling::{Sampling, SamplingStep};

use serde::{Deserialize, Serialize};

/// The version both sides must agree on exactly.
pub const PROTOCOL: u32 = 11;

/// Names one request on one worker; chosen by the daemon, never reused in a worker's life.
pub type RequestId = u64;

/// What the daemon tells a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Loads the one model of this process. Must come first; again after [`ToWorker::Rest`] only, and of the same model.
    Load(Box<Load>),
    /// Starts a generation. Answered by `accepted` or `rejected`, then `text`, then `finished`.
    Generate(Box<Generate>),
    /// Ends a generation within one token or one prefill chunk. Unknown ids are ignored.
    Cancel {
        /// The request to end.
        id: RequestId,
    },
    /// Asks for the token ids of a prompt. Answered by `tokens`, or `rejected`.
    Tokenize {
        /// Echoed in the answer.
        id: RequestId,
        /// What to tokenise.
        prompt: Vec<Segment>,
        /// Whether the beginning-of-sequence token is put in front, when the model wants one.
        adds_bos: bool,
    },
    /// Asks for the text of tokens, control tokens as they are written. Answered by `detokenized`, or `rejected`.
    Detokenize {
        /// Echoed in the answer.
        id: RequestId,
        /// Ids of the model.
        tokens: Vec<i32>,
    },
    /// Asks a model that makes vectors for those of texts. Answered by `embedded`, or `rejected`.
    Embed {
        /// Echoed in the answer.
        id: RequestId,
        /// What to make vectors of; not empty.
        inputs: Vec<EmbedInput>,
    },
    /// Asks for one `stats` line.
    Stats,
    /// Frees all but the vocabulary and what is mapped of the file, and waits for another `load`. Answered by `rested`.
    Rest,
    /// Frees the model and ends the process with exit code 0.
    Shutdown,
}

/// What to load, and the room it gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// The GGUF file; the first shard of a split one.
    pub model: String,
    /// The compute modules to load, best first choice already made by the daemon.
    pub backends: Vec<String>,
    /// Tokens that ONE request may use, prompt and answer together.
    pub context_length: u32,
    /// Requests that run at the same time; each has its own `context_length` cells.
    pub parallel: u32,
    /// Less of either is no use: the load fails when the system does not give the memory.
    pub is_exact: bool,
    /// Threads for single tokens.
    pub threads: u32,
    /// Threads for prompts.
    pub threads_batch: u32,
    /// Numbers of threads of which the fastest are taken, for tokens and for prompts, in place of those; the first one wins unless
    /// another is clearly faster. Fewer than two leave no choice.
    pub thread_choices: Vec<u32>,
    /// The folder where what was measured for that is kept.
    pub thread_profiles: Option<String>,
    /// The weights stay in memory, where the system allows that.
    pub locks_memory: bool,
    /// Most prompt tokens computed in one step.
    pub batch: u32,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// Graphics processors that compute, by the engine's names; none is the processor alone.
    pub devices: Vec<String>,
    /// The last so many layers are on them; the output counts as one.
    pub device_layers: u32,
    /// Where beginnings of prompts are kept beyond the model's stay in memory, if anywhere.
    pub prompt_cache: Option<PromptCache>,
    /// Bytes that may be used for earlier states of recurrent layers, which cannot be cut back as keys and values can.
    pub checkpoint_bytes: u64,
    /// The GGUF file with what makes vectors of images.
    pub projector: Option<String>,
    /// GGUF files of LoRA adapters, which requests name by their number here.
    pub adapters: Vec<String>,
    /// The GGUF file of a small model with the same tokens, which guesses what this one will say.
    pub draft_model: Option<String>,
    /// The model's own layers for multi-token prediction guess what it will say.
    pub mtp: bool,
    /// What each further entry of a step costs, in percent of the first. Without it that is measured while answers run, and whether
    /// guesses pay depends on how busy the machine is.
    pub entry_cost: Option<u32>,
    /// Cores that nobody else uses, for what is computed before somebody asks for it. Without it the system is asked each time.
    pub idle_cores: Option<u32>,
}

/// How much a LoRA adapter counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdapterUse {
    /// Its number in [`Load::adapters`].
    pub adapter: u32,
    /// 1 is as it was made; any finite number.
    pub scale: f32,
}

/// Where beginnings of prompts are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptCache {
    /// The folder of the model, inside of one that all models share.
    pub folder: String,
    /// Bytes that all models may use together.
    pub bytes: u64,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// Two bytes a number.
    #[default]
    F16,
    /// 34 bytes for 32 numbers.
    Q8_0,
    /// 18 bytes for 32 numbers.
    Q4_0,
}

/// A piece of a prompt. Pieces are tokenised separately, so that text of a user can never join
/// with its neighbour into a control token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Segment {
    /// Text to tokenise.
    Text {
        /// The text.
        text: String,
        /// Whether the text of a control token stands for that token.
        special: bool,
    },
    /// Token ids, used as they are.
    Tokens {
        /// Ids below the vocabulary's size.
        tokens: Vec<i32>,
    },
    /// An image, for a model with a projector.
    Image {
        /// A file of a usual format, in base64.
        data: String,
    },
}

/// What to make a vector of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EmbedInput {
    /// A text; what the model wants around it is added.
    Text {
        /// The text.
        text: String,
    },
    /// Token ids, used as they are.
    Tokens {
        /// Ids below the vocabulary's size.
        tokens: Vec<i32>,
    },
    /// A question and a text that may answer it, for a model that tells how well it does.
    Pair {
        /// The question.
        query: String,
        /// The text.
        document: String,
    },
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Names the request in every answer.
    pub id: RequestId,
    /// The prompt. A beginning-of-sequence token is added before the first segment when the model wants one.
    pub prompt: Vec<Segment>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Texts that end the answer; never part of it.
    pub stop: Vec<String>,
    /// Most tokens of the answer; `None` is as many as the context holds.
    pub max_tokens: Option<u32>,
    /// Go on after the model's own end token.
    pub ignore_eos: bool,
    /// Alone in its batches and without reuse, so that a repetition gives the same bits.
    pub deterministic: bool,
    /// Beginnings of prompts are shared among the requests with the same number. Without one nothing is taken from others, and
    /// nothing is kept.
    pub cache_scope: Option<u64>,
    /// A text that the answer is expected to be like: it is guessed from.
    pub prediction: Option<String>,
    /// Tokens that are guessed for one step at most; `None` is as many as pay.
    pub most_guesses: Option<u32>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Tell how probable each token was, and so many of the most probable ones in its place.
    pub probabilities: Option<u32>,
    /// The text of control tokens is part of the answer, but for those that end it: by it, calls of tools are told from text.
    pub shows_control: bool,
    /// The adapters that count, each once; all others do not.
    pub adapters: Vec<AdapterUse>,
    /// What the prompt of the next turn has behind this answer, up to what is said then; its control tokens count. It is computed when
    /// there is nothing else to do. Empty when it is not known.
    pub next_turn: String,
}

/// What an answer must be; a token that would break it is not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Constraint {
    /// JSON that a JSON schema describes.
    JsonSchema {
        /// The schema.
        schema: serde_json::Value,
    },
    /// Text that a regular expression matches from its beginning to its end.
    Regex {
        /// In the syntax of the regex crate.
        pattern: String,
    },
    /// Text that a grammar describes.
    Lark {
        /// In llguidance's dialect of Lark.
        grammar: String,
    },
}

/// Where the reason lies for which a model could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadFault {
    /// In what was asked for beside the model: with other settings it could be loaded.
    Settings,
    /// In the file, and the reason is known.
    Model,
    /// In the engine or the system: what the engine has said tells more.
    Engine,
}

/// What a worker tells the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// Must be the first line.
    Hello {
        /// [`PROTOCOL`] of the worker.
        protocol: u32,
        /// The worker's version and that of the engine inside.
        build: String,
    },
    /// How far the load is, 0 to 1.
    Loading {
        /// Fraction of the weights that are loaded.
        fraction: f32,
    },
    /// The model answers from now on.
    Loaded(Box<Loaded>),
    /// The model could not be loaded; the process ends.
    LoadFailed {
        /// Why.
        message: String,
        /// Where the reason lies.
        fault: LoadFault,
    },
    /// The prompt is tokenised, fits and will be answered.
    Accepted {
        /// Which request.
        id: RequestId,
        /// Length of the prompt in tokens.
        prompt_tokens: u32,
    },
    /// The request cannot be answered. Nothing else follows for this id.
    Rejected {
        /// Which request.
        id: RequestId,
        /// Why.
        reason: Rejection,
    },
    /// The next piece of the answer: whole characters, never a part of a stop text.
    Text {
        /// Which request.
        id: RequestId,
        /// Not empty.
        text: String,
        /// Tokens that this piece holds.
        tokens: u32,
        /// How probable they were, when that was asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        probabilities: Vec<TokenProbabilities>,
    },
    /// The answer is complete. Nothing else follows for this id.
    Finished {
        /// Which request.
        id: RequestId,
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        timings: Timings,
    },
    /// The token ids asked for.
    Tokens {
        /// Which request.
        id: RequestId,
        /// Ids in order.
        tokens: Vec<i32>,
        /// The bytes of each.
        pieces: Vec<Vec<u8>>,
    },
    /// The text asked for.
    Detokenized {
        /// Which request.
        id: RequestId,
        /// Whole characters; what is none is replaced.
        text: String,
    },
    /// The vectors asked for.
    Embedded {
        /// Which request.
        id: RequestId,
        /// One for each text, in order, of length 1; of a model that ranks, one number each.
        vectors: Vec<Vec<f32>>,
        /// Tokens of each text.
        tokens: Vec<u32>,
    },
    /// What could be freed is free.
    Rested,
    /// A sign of life: on request, and every two seconds while something runs.
    Stats(Stats),
}

/// A token of an answer and how probable it was, before any step of the sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenProbabilities {
    /// The token that was chosen.
    pub chosen: TokenProbability,
    /// The most probable ones in its place, the first of them first.
    pub top: Vec<TokenProbability>,
}

/// How probable a token was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenProbability {
    /// Its id.
    pub token: i32,
    /// The bytes that it stands for; they need not be whole characters.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// Facts about the loaded model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Loaded {
    /// Tokens that one request may use.
    pub context_length: u32,
    /// Requests that run at the same time.
    pub parallel: u32,
    /// Context the model was trained with.
    pub trained_context_length: u32,
    /// Size of the vocabulary.
    pub vocabulary_size: u32,
    /// Jinja source of the chat template, when the file has one.
    pub chat_template: Option<String>,
    /// Text of the beginning-of-sequence token; empty when there is none.
    pub bos_token: String,
    /// Text of the end-of-sequence token; empty when there is none.
    pub eos_token: String,
    /// Texts that stand for control tokens.
    pub control_tokens: Vec<String>,
    /// The tokens around a gap that the model fills, when it was trained to.
    pub infill: Option<InfillTokens>,
    /// The compute module in use.
    pub backend: String,
    /// Bytes of weights.
    pub model_bytes: u64,
    /// What the engine has allocated.
    pub buffers: Vec<Buffer>,
    /// Where the layers are; the output counts as one.
    pub placement: Vec<PlacedLayers>,
    /// What it makes in place of answers.
    pub embeds: Option<Embeds>,
    /// It takes images.
    pub sees_images: bool,
    /// Threads that compute single tokens.
    pub threads: u32,
    /// Threads that compute prompts.
    pub threads_batch: u32,
}

/// The tokens around a gap that a model fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfillTokens {
    /// Stands before the text in front of the gap.
    pub prefix: i32,
    /// Stands before the text behind it.
    pub suffix: i32,
    /// Stands where the text of the gap begins.
    pub middle: i32,
    /// Stands before the name of a repository, of models that were trained with other files around the gap.
    pub repository: Option<i32>,
    /// Stands before the name of a file of it.
    pub separator: Option<i32>,
}

/// What a model makes that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Embeds {
    /// A vector of a text.
    Vectors,
    /// How well a text answers a question.
    Ranks,
}

/// Layers that are on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedLayers {
    /// Where they are, as the engine calls it: `CPU`, `Vulkan0`.
    pub device: String,
    /// How many they are.
    pub layers: u32,
}

/// A block of memory of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Where it is, as the engine calls it: `CPU`, `Vulkan0`.
    pub device: String,
    /// What it is for.
    pub kind: BufferKind,
    /// Its size.
    pub bytes: u64,
}

/// What a block of memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferKind {
    /// The weights.
    Weights,
    /// Keys and values, and the states of recurrent layers.
    Cache,
    /// What a step computes with.
    Compute,
    /// The results of a step.
    Output,
}

/// Why a request cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rejection {
    /// The prompt does not leave room for one token.
    ContextExceeded {
        /// Tokens of the prompt; of a text that is much too long, so many at least.
        needed: u32,
        /// Tokens that one request may use.
        available: u32,
    },
    /// The prompt has no tokens.
    EmptyPrompt,
    /// The engine could not compute it.
    Compute,
    /// The answer cannot be what it must be: the constraint makes no sense, or it cannot go on.
    Constraint {
        /// What and why.
        message: String,
    },
    /// A value is out of its range.
    Invalid {
        /// What and why.
        message: String,
    },
    /// Too much of this kind is under way; later it may be taken.
    Busy {
        /// Of what.
        message: String,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model's end token or a stop text.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// `cancel` was received.
    Cancelled,
    /// The engine could not go on; the slot was given up.
    Error,
}

/// What one answer cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Prompt tokens taken from earlier requests.
    pub cached_tokens: u32,
    /// Those of them that were read from disk.
    pub restored_tokens: u32,
    /// Prompt tokens computed for this request.
    pub prompt_tokens: u32,
    /// Milliseconds from the first chunk of the prompt to the first token.
    pub prompt_ms: f64,
    /// Tokens of the answer, the end token included.
    pub answer_tokens: u32,
    /// Milliseconds from the first token to the last.
    pub answer_ms: f64,
    /// Tokens that were guessed and computed with others before they were known to be right.
    pub drafted_tokens: u32,
    /// Those of them that were right: so many tokens of the answer needed no step of their own.
    pub accepted_tokens: u32,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Requests that have a slot.
    pub running: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// Calls of the engine since the load.
    pub steps: u64,
    /// Tokens produced since the load.
    pub answer_tokens: u64,
    /// Prompt tokens computed since the load.
    pub prompt_tokens: u64,
}

/// What `cortex-llamacpp trial` prints when a compute module passed: a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialResult {
    /// Time of one batch of 32 tokens, the best of several, in microseconds.
    pub batch_microseconds: u64,
    /// Time of one single token, in microseconds.
    pub single_microseconds: u64,
}

/// What `cortex-llamacpp measure` prints: how fast this machine is. Times are seconds; a step computes one token, or a batch of
/// them, through all layers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds of processor time that the measurement took: what else was computed meanwhile disturbed it.
    pub processor_seconds: f64,
    /// Bytes of memory that can be read in a second.
    pub bytes_per_second: f64,
    /// What a byte of the weights takes longer in a model that no cache holds, when single tokens are computed.
    pub from_memory: f64,
    /// Bytes of the weights of a model that caches hold, and of the one that they do not.
    pub sizes: (f64, f64),
    /// What a step of one token takes beside its layers.
    pub step: f64,
    /// What one number of the attention takes for one token: the product of a query with a key, or of a weight with a value.
    pub attention: f64,
    /// The same for a token of a batch.
    pub batch_attention: f64,
    /// By how weights are stored, in layers as narrow as [`Measured::NARROW`].
    pub types: Vec<MeasuredType>,
    /// The share of the time that a weight takes in layers as wide as [`Measured::WIDE`], when single tokens are computed.
    pub wide: f64,
    /// The same for a batch.
    pub batch_wide: f64,
}

impl Measured {
    /// Numbers between the layers of the models that were measured.
    pub const NARROW: u64 = 512;
    /// The same of those with wide layers.
    pub const WIDE: u64 = 2048;
}

/// How fast this machine computes with weights that are stored in one way: seconds for each weight, with all that is computed
/// between the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredType {
    /// How they are stored, as ggml numbers it.
    pub kind: u32,
    /// When single tokens are computed.
    pub single: f64,
    /// For a token of a batch.
    pub batch: f64,
}

/// What `cortex-llamacpp devices` prints, one line of JSON for all: what the modules for graphics processors can compute on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The engine's name for it: `Vulkan0`.
    pub name: String,
    /// What its driver calls it.
    pub description: String,
    /// Where it is on the bus: `0000:01:00.0`; empty when the driver does not say.
    pub bus: String,
    /// It computes in the memory of the machine and has none of its own.
    pub is_integrated: bool,
    /// Bytes of memory that it can use.
    pub total: u64,
    /// Bytes of that which are free.
    pub free: u64,
}

/// White space between the parts of JSON that an answer must be, as a regular expression: none, a space, or a new line and its
/// indentation, which is every usual layout. Small models lose themselves in what is longer.
pub const JSON_WHITE_SPACE: &str = r"( |\n[ \t]{0,20})?";

/// The name by which a grammar calls a control token. Grammars know names in angle brackets only: a token with another
/// text, `[TOOL_CALLS]` say, has to get this name where the vocabulary is told to llguidance.
pub fn control_token_name(text: &str) -> String {
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or_default();
    let is_name = !inner.is_empty()
        && !inner.contains(|letter: char| letter.is_whitespace() || matches!(letter, '<' | '>'))
        // This would be a range of numbers.
        && !inner.starts_with('[');
    if is_name {
        return text.to_owned();
    }
    let inner = text.replace(|letter: char| letter.is_whitespace() || matches!(letter, '<' | '>'), "_");
    format!("<|{inner}|>")
}

/// Encodes one message as a line, newline included.
pub fn encode(message: &impl Serialize) -> String {
    let mut line = serde_json::to_string(message).expect("protocol types have string keys only");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_its_text() {
        let text = FromWorker::Text { id: 1, text: "a\nb\u{2028}\"".into(), tokens: 2, probabilities: vec![] };
        let line = encode(&text);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<FromWorker>(&line).expect("parses"), text);
    }

    #[track_caller]
    fn check(control: &str, expected: &str) {
        assert_eq!(control_token_name(control), expected);
    }

    #[test]
    fn names_are_such_that_a_grammar_reads_them() {
        check("<|call|>", "<|call|>");
        check("<｜tool▁sep｜>", "<｜tool▁sep｜>");
        check("<|\"|>", "<|\"|>");
        check("[ARGS]", "<|[ARGS]|>");
        check("<[1]>", "<|_[1]_|>");
        check("<two words>", "<|_two_words_|>");
        check("<>", "<|__|>");
    }
}
