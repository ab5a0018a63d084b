//! How a model is built, from the keys of its header. Pure. Sources: the GGUF specification, and how llama.cpp 0.6 reads each
//! architecture (`load_arch_hparams`).

use super::{
    Gguf, GgufError,
    read::{MOST_TENSORS, Value, read_beginning},
};
use cortex_hardware::{Architecture, BATCH, Layer, Weights};

/// Architectures of which every so many-th layer has full attention and the others a window, when the header does not say
/// which: the period, and whether the full one comes first.
const WINDOWED: &[(&str, u64, bool)] = &[
    ("gemma2", 2, false),
    ("gemma3", 6, false),
    ("gemma3n", 5, false),
    ("gpt-oss", 2, false),
    ("cohere2", 4, false),
    ("llama4", 4, false),
    ("exaone4", 4, false),
    ("olmo2", 4, false),
    ("smallthinker", 4, true),
    ("afmoe", 4, false),
];
/// Those whose window is not in every header.
const WINDOWS: &[(&str, u64)] = &[("gemma2", 4096), ("llama4", 8192)];
/// Architectures that keep nothing between tokens: they read a text as a whole.
const WITHOUT_CACHE: &[&str] = &[
    "bert",
    "nomic-bert",
    "nomic-bert-moe",
    "jina-bert-v2",
    "jina-bert-v3",
    "neo-bert",
    "eurobert",
    "modern-bert",
    "gemma-embedding",
    "dream",
    "llada",
    "llada-moe",
];
/// Architectures of which every fourth layer has attention and the others a state (delta networks).
const DELTA: &[&str] = &["qwen3next", "qwen35", "qwen35moe"];
/// Architectures whose layers compute step after step, and how many nodes of a graph llama.cpp (`graph_max_nodes`) keeps room for:
/// for each token of a batch, and for each tensor.
const MANY_NODES: &[(&str, u64, u64)] = &[
    ("kimi-k3", 160, 64),
    ("glm5-next", 160, 64),
    ("hrm_text", 80, 64),
    ("qwen3next", 40, 32),
    ("kimi-linear", 40, 32),
    ("bailingmoe3", 40, 32),
    ("qwen35", 40, 32),
    ("qwen35moe", 40, 32),
    ("clef", 40, 32),
    ("qwen4exp", 40, 32),
    ("deepseek4", 40, 32),
    ("nanbeige", 40, 32),
    ("minimax-01", 40, 32),
    ("minimax-m3", 40, 32),
    ("hy_v4", 40, 32),
];
/// For all others: none for each token, and so many for each tensor.
const NODES: (u64, u64) = (0, 8);
/// Architectures whose states llama.cpp can take back by a few tokens (`llm_arch_supports_rs_rollback`).
const TAKES_BACK: &[&str] = &[
    "kimi-k3",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "deepseek4",
    "glm5-next",
    "nemotron_h",
    "nemotron_h_moe",
    "lfm2",
    "lfm2moe",
    "bailingmoe3",
];
/// Layers of a model at most; a header that says more is nonsense.
const MOST_LAYERS: u64 = 4096;

impl Gguf {
    /// How the model is built whose file begins with these bytes; `None` when they do not reach as far as the keys that
    /// say it. Of the vocabulary only the number of tokens must be among them.
    pub(crate) fn shape_of_beginning(bytes: &[u8], file_bytes: u64) -> Result<Option<Architecture>, GgufError> {
        let gguf = read_beginning(bytes, file_bytes)?;
        // The keys of the architecture come before those of the tokenizer: all of them are there, then.
        let reaches_tokenizer = gguf.values.keys().any(|key| key.starts_with("tokenizer."));
        Ok(gguf.shape().filter(|shape| reaches_tokenizer && shape.vocabulary > 0))
    }

    /// Bytes of its tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).fold(0, u64::saturating_add)
    }

    /// How the model is built; `None` when the header says too little.
    pub fn shape(&self) -> Option<Architecture> {
        let count = self.of_architecture("block_count").filter(|count| (1..=MOST_LAYERS).contains(count))?;
        let embedding = self.of_architecture("embedding_length")?;
        let experts = self.of_architecture("expert_used_count").unwrap_or(0);
        let of_expert = self.of_architecture("expert_feed_forward_length");
        let dense = self.largest("feed_forward_length").unwrap_or(0);
        let of_experts = of_expert.unwrap_or(dense).saturating_mul(experts);
        // The last ones predict further tokens, and are not passed by others.
        let own = count.saturating_sub(self.of_architecture("nextn_predict_layers").unwrap_or(0)).max(1);
        let mut layers: Vec<Layer> = (0..count).map(|at| self.layer(at, at < own, embedding)).collect();
        let (mut input, mut output) = (0u64, 0u64);
        let mut output_is_copied = true;
        let passed = self.passed(experts, own);
        for tensor in &self.tensors {
            let place = layer_of(&tensor.name).and_then(|at| layers.get_mut(at));
            let bytes = match place {
                Some(layer) => &mut layer.weights,
                None if tensor.name.starts_with("token_embd.") => &mut input,
                None => &mut output,
            };
            *bytes = bytes.saturating_add(tensor.bytes);
            output_is_copied &= tensor.name != "output.weight";
        }
        let output_weights = output.saturating_add(if output_is_copied { input } else { 0 });
        let mtp_layers = layers.split_off(usize::try_from(own).unwrap_or(usize::MAX).min(layers.len()));
        Some(Architecture {
            mtp_layers,
            has_narrow_heads: self.has_narrow_heads(embedding),
            takes_states_back: TAKES_BACK.contains(&self.architecture()),
            graph_nodes: self.graph_nodes(),
            vocabulary: self.vocabulary(),
            embedding,
            feed_forward: if experts > 0 { of_experts.max(dense) } else { dense },
            trained_context: u32::try_from(self.of_architecture("context_length").unwrap_or(0)).unwrap_or(u32::MAX),
            layers,
            output_weights,
            output_is_copied,
            passed,
            experts: self.of_architecture("expert_count").unwrap_or(0),
        })
    }

    /// Whether keys or values of a head are no multiple of 32 numbers. Values of latent attention are a part of the keys.
    fn has_narrow_heads(&self, embedding: u64) -> bool {
        let heads = self.of_layer("attention.head_count", 0).unwrap_or(0);
        let usual = embedding.checked_div(heads).unwrap_or(0);
        let lengths =
            ["attention.key_length", "attention.value_length"].map(|key| self.of_architecture(key).unwrap_or(usual));
        let in_windows = ["attention.key_length_swa", "attention.value_length_swa"]
            .map(|key| self.of_architecture(key).unwrap_or(0));
        let is_latent = self.of_architecture("attention.key_length_mla").is_some_and(|length| length > 0);
        let keys_only = if is_latent { 1 } else { 2 };
        lengths[..keys_only].iter().chain(&in_windows).any(|length| !length.is_multiple_of(32))
    }

    /// Nodes of a graph for which llama.cpp keeps room.
    fn graph_nodes(&self) -> u64 {
        let known = MANY_NODES.iter().find(|(name, ..)| *name == self.architecture());
        let (of_token, of_tensor) = known.map_or(NODES, |&(_, of_token, of_tensor)| (of_token, of_tensor));
        // The first file of a set says how many all of them have.
        let of_set = self.unsigned("split.tensors.count").filter(|&count| count <= MOST_TENSORS);
        let tensors = of_set.unwrap_or(0).max(self.tensor_count).max(self.tensors.len() as u64);
        (of_token * BATCH).max(of_tensor.saturating_mul(tensors))
    }

    /// The weights that a token passes. Those that turn it into numbers are looked up, of which one row is read; where they
    /// turn numbers into tokens as well, all of them are passed.
    fn passed(&self, experts_of_a_token: u64, own_layers: u64) -> Vec<Weights> {
        let experts = self.of_architecture("expert_count").unwrap_or(0);
        let has_output = self.tensors.iter().any(|tensor| tensor.name == "output.weight");
        let mut passed: Vec<Weights> = Vec::new();
        let is_own = |name: &str| layer_of(name).is_none_or(|at| (at as u64) < own_layers);
        for tensor in self.tensors.iter().filter(|tensor| is_own(&tensor.name)) {
            let is_output = match tensor.name.as_str() {
                "output.weight" => true,
                "token_embd.weight" if has_output => continue,
                name => name == "token_embd.weight",
            };
            let all: u64 = tensor.dimensions.iter().fold(1, |all, length| all.saturating_mul(*length));
            let share = |amount: u64| match experts {
                1.. if tensor.name.contains("_exps") => amount / experts * experts_of_a_token,
                _ => amount,
            };
            let more = Weights { kind: tensor.kind, count: share(all), bytes: share(tensor.bytes), is_output };
            match passed.iter_mut().find(|it| (it.kind, it.is_output) == (more.kind, is_output)) {
                Some(known) => {
                    known.count = known.count.saturating_add(more.count);
                    known.bytes = known.bytes.saturating_add(more.bytes);
                }
                None => passed.push(more),
            }
        }
        passed
    }

    fn vocabulary(&self) -> u64 {
        match self.values.get("tokenizer.ggml.tokens") {
            Some(Value::Array { length, .. }) => *length,
            _ => self.of_architecture("vocab_size").unwrap_or(0),
        }
    }

    fn layer(&self, at: u64, is_own: bool, embedding: u64) -> Layer {
        let architecture = self.architecture();
        if WITHOUT_CACHE.contains(&architecture) {
            return Layer::default();
        }
        let heads = self.of_layer("attention.head_count", at).unwrap_or(0);
        let kept_heads = self.of_layer("attention.head_count_kv", at).unwrap_or(heads);
        let usual = embedding.checked_div(heads).unwrap_or(0);
        // Of latent attention the keys hold what the values are made of, once for all heads.
        let is_latent = self.of_architecture("attention.key_length_mla").is_some_and(|length| length > 0);
        let window = self.window(at);
        let (key, value) = match window {
            // A few models have other widths where they look back less far.
            Some(_) => ("attention.key_length_swa", "attention.value_length_swa"),
            None => ("attention.key_length", "attention.value_length"),
        };
        let length = |key: &str, otherwise: &str| {
            self.of_architecture(key).or_else(|| self.of_architecture(otherwise)).unwrap_or(usual)
        };
        let keys = kept_heads.saturating_mul(length(key, "attention.key_length"));
        let values = kept_heads.saturating_mul(length(value, "attention.value_length"));
        let attention = Layer {
            keys,
            values: if is_latent { 0 } else { values },
            window,
            attention: heads.saturating_mul(
                length(key, "attention.key_length").saturating_add(length(value, "attention.value_length")),
            ),
            ..Layer::default()
        };
        let state = self.state(embedding);
        match architecture {
            "mamba" | "mamba2" | "rwkv6" | "rwkv6qwen2" | "rwkv7" | "arwkv7" => Layer { state, ..Layer::default() },
            // Both in each layer.
            "falcon-h1" => Layer { state, ..attention },
            name if DELTA.contains(&name) => {
                let period = self.of_architecture("full_attention_interval").unwrap_or(4).max(1);
                if (at + 1).is_multiple_of(period) || !is_own { attention } else { Layer { state, ..Layer::default() } }
            }
            // A layer without heads is a recurrent one, where the model has such; or one that only computes.
            _ if kept_heads == 0 => {
                let only_computes = architecture.starts_with("nemotron_h")
                    && self.of_layer("feed_forward_length", at).is_some_and(|width| width > 0);
                if only_computes { Layer::default() } else { Layer { state, ..Layer::default() } }
            }
            _ => attention,
        }
    }

    /// How far a layer looks back; `None` is all the way.
    fn window(&self, at: u64) -> Option<u32> {
        let architecture = self.architecture();
        let preset = WINDOWS.iter().find(|(name, _)| *name == architecture).map(|(_, window)| *window);
        let window = self.of_architecture("attention.sliding_window").or(preset).filter(|window| *window > 0)?;
        let key = format!("{architecture}.attention.sliding_window_pattern");
        let is_windowed = match self.values.get(&key) {
            Some(Value::Numbers(pattern)) => pattern.get(usize::try_from(at).ok()?).is_some_and(|&is_one| is_one > 0),
            said => {
                // Phi-3 and others state a window that llama.cpp does not use.
                let (_, preset, full_first) = *WINDOWED.iter().find(|(name, ..)| *name == architecture)?;
                let period = match said {
                    Some(Value::Unsigned(period)) => *period,
                    _ => preset,
                };
                match period {
                    0 => true,
                    period if full_first => !at.is_multiple_of(period),
                    period => at % period < period - 1,
                }
            }
        };
        is_windowed.then(|| u32::try_from(window).unwrap_or(u32::MAX))
    }

    /// Numbers that a recurrent layer keeps of a sequence: what the convolution has seen, and its state.
    fn state(&self, embedding: u64) -> u64 {
        let number = |key: &str| self.of_architecture(key).unwrap_or(0);
        let wkv = number("wkv.head_size");
        if wkv > 0 {
            let shifted = self.of_architecture("token_shift_count").unwrap_or(2);
            return embedding.saturating_mul(shifted.saturating_add(wkv));
        }
        let short = number("shortconv.l_cache");
        if short > 0 {
            return embedding.saturating_mul(short - 1);
        }
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let groups = number("ssm.group_count").saturating_mul(2).saturating_mul(state);
        let seen = number("ssm.conv_kernel").saturating_sub(1).saturating_mul(inner.saturating_add(groups));
        seen.saturating_add(state.saturating_mul(inner))
    }

    /// A number of a layer: one for all, or one for each.
    fn of_layer(&self, key: &str, at: u64) -> Option<u64> {
        match self.values.get(&format!("{}.{key}", self.architecture()))? {
            Value::Unsigned(number) => Some(*number),
            Value::Numbers(numbers) => numbers.get(usize::try_from(at).ok()?).copied(),
            _ => None,
        }
    }

    /// The largest of a number of all layers.
    fn largest(&self, key: &str) -> Option<u64> {
        match self.values.get(&format!("{}.{key}", self.architecture()))? {
            Value::Unsigned(number) => Some(*number),
            Value::Numbers(numbers) => numbers.iter().max().copied(),
            _ => None,
        }
    }
}

/// The number of the layer that a tensor belongs to: `blk.3.attn_q.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}
