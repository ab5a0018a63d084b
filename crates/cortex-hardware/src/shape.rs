//! How a model is built and is to be loaded, as far as its memory and its speed are concerned. Pure.

use crate::speed::Weights;

/// What is known of a model that decides how much memory it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelShape {
    /// Bytes of its weights; those of its files before the header was read.
    pub weight_bytes: u64,
    /// How it is built; `None` before its header was read.
    pub architecture: Option<Architecture>,
    /// Tokens of context that one request may use.
    pub context: u32,
    /// Requests that run at the same time, each with a context of its own; 0 counts as 1.
    pub parallel: u32,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// Layers on graphics processors at most, the output among them; `None` is as many as fit.
    pub most_layers: Option<u32>,
    /// Bytes of memory for what is loaded beside the weights: a projector, adapters.
    pub beside_bytes: u64,
    /// A small model beside it, with as long a context for as many requests.
    pub draft: Option<Box<ModelShape>>,
    /// Its layers for multi-token prediction are loaded too.
    pub mtp: bool,
}

/// How a model is built, as far as its memory is concerned. Widths are numbers for each token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Architecture {
    /// Tokens that it knows.
    pub vocabulary: u64,
    /// Width between the layers.
    pub embedding: u64,
    /// Width inside of a layer: of experts, those that a token passes together.
    pub feed_forward: u64,
    /// Context that it was trained with; 0 when it does not say.
    pub trained_context: u32,
    /// Its layers, without those for multi-token prediction.
    pub layers: Vec<Layer>,
    /// Its layers for multi-token prediction, which are loaded when they are wanted.
    pub mtp_layers: Vec<Layer>,
    /// Bytes of the weights that turn the last numbers into tokens; 0 when they are not known.
    pub output_weights: u64,
    /// They are those that turn tokens into numbers, too.
    pub output_is_copied: bool,
    /// The weights that a token passes, by how they are stored; empty when they are not known.
    pub passed: Vec<Weights>,
    /// Keys or values of a head do not fill blocks of 32 numbers: they cannot be stored in fewer bits.
    pub has_narrow_heads: bool,
    /// Its states, if it has any, can be taken back by a few tokens when guesses were wrong.
    pub takes_states_back: bool,
    /// Nodes of a graph of [`BATCH`](crate::BATCH) tokens for which llama.cpp keeps room; 0 counts as the least that it does.
    pub graph_nodes: u64,
    /// Experts of a layer, of which a token passes a few; 0 when there are none.
    pub experts: u64,
}

/// What one layer keeps between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layer {
    /// Numbers in the keys of a token; 0 when it has no attention.
    pub keys: u64,
    /// Numbers in the values of a token; 0 where they are a part of the keys (multi-head latent attention).
    pub values: u64,
    /// The layer looks back no further than so many tokens. Its cells are kept for the whole context all the same, so
    /// that an earlier part of a prompt can be used again.
    pub window: Option<u32>,
    /// Numbers in the state of a recurrent layer, for each sequence.
    pub state: u64,
    /// Bytes of its weights; 0 when they are not known.
    pub weights: u64,
    /// Numbers that its attention computes of a token for each token before it.
    pub attention: u64,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Two bytes a number.
    #[default]
    F16,
    /// 34 bytes for 32 numbers.
    Q8,
    /// 18 bytes for 32 numbers.
    Q4,
}

impl CacheType {
    /// All of them, by the names that llama.cpp gives them.
    pub const NAMES: [(&str, Self); 3] = [("f16", Self::F16), ("q8_0", Self::Q8), ("q4_0", Self::Q4)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }

    /// The one with this name, in any case of letters; Jan says `q8` and `q4`.
    pub fn of_name(name: &str) -> Option<Self> {
        let is_it = |known: &str| {
            known.eq_ignore_ascii_case(name) || known.strip_suffix("_0").is_some_and(|it| it.eq_ignore_ascii_case(name))
        };
        Self::NAMES.iter().find(|(known, _)| is_it(known)).map(|(_, it)| *it)
    }

    /// Bytes of so many numbers.
    pub(crate) fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F16 => numbers.saturating_mul(2),
            Self::Q8 => numbers.saturating_mul(34) / 32,
            Self::Q4 => numbers.saturating_mul(18) / 32,
        }
    }
}
