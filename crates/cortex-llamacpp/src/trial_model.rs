//! Models with arbitrary weights, written as GGUF files: tiny ones that use every common quantisation, and larger ones of
//! one quantisation each. Pure.
//!
//! A compute module is only proven by a real load and a real decode of one: some kernels are reached
//! through the buffer types that the loader chooses, and never by a bare matrix product.

use cortex_api::worker::Measured;

/// Tokens of the vocabulary.
pub(crate) const VOCABULARY: i32 = 64;
const ALIGNMENT: usize = 32;

/// A tensor type as ggml numbers it, with its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Kind {
    /// ggml's number of the type.
    pub(crate) const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
        }
    }

    /// Numbers in a block.
    const fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// One block of small numbers: scales are 1/64, the rest comes from `noise`.
    fn write_block(self, noise: &mut Noise, out: &mut Vec<u8>) {
        // 1/64 as an IEEE half: sign 0, exponent 9, fraction 0.
        const SCALE: [u8; 2] = [0x00, 0x24];
        let mut bytes = |count: usize, out: &mut Vec<u8>| out.extend((0..count).map(|_| noise.byte()));
        match self {
            Self::F32 => {
                let byte = noise.byte();
                out.extend(((f32::from(byte) - 127.5) / 512.0).to_le_bytes());
            }
            Self::F16 => out.extend([noise.byte(), 0x20 | (noise.byte() & 0x80)]),
            Self::Q4_0 => {
                out.extend(SCALE);
                bytes(16, out);
            }
            Self::Q4_1 => {
                out.extend(SCALE);
                out.extend([0x00, 0xa4 + 0x08]);
                bytes(16, out);
            }
            Self::Q8_0 => {
                out.extend([0x00, 0x14]);
                bytes(32, out);
            }
            Self::Q4K => {
                out.extend([0x00, 0x10, 0x00, 0x10]);
                bytes(12 + 128, out);
            }
            Self::Q5K => {
                out.extend([0x00, 0x0c, 0x00, 0x0c]);
                bytes(12 + 32 + 128, out);
            }
            Self::Q6K => {
                bytes(128 + 64, out);
                bytes(16, out);
                out.extend([0x00, 0x04]);
            }
        }
    }
}

/// Repeatable bytes (a 64-bit linear congruential generator, constants of Knuth's MMIX).
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}

/// How many layers there are, the quantisations of the matrices in each, and how wide they are: the super-blocks of K-quants
/// hold 256 numbers.
pub(crate) struct Layers {
    count: u32,
    width: u64,
    hidden: u64,
    heads: u32,
    /// Of keys and values: most models have fewer of these.
    key_heads: u32,
    kinds: [Kind; 7],
}

impl Layers {
    /// Layers of one quantisation, as narrow as those of the smallest models.
    pub(crate) fn narrow(count: u32, kind: Kind) -> Self {
        Self { count, width: Measured::NARROW, hidden: 3 * Measured::NARROW, heads: 8, key_heads: 2, kinds: [kind; 7] }
    }

    /// One layer, as wide as those of models with a few billion weights.
    pub(crate) fn wide(kind: Kind) -> Self {
        Self { count: 1, width: Measured::WIDE, hidden: 3 * Measured::WIDE, heads: 32, key_heads: 8, kinds: [kind; 7] }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Numbers in the matrices of all layers.
    pub(crate) fn weights(&self) -> f64 {
        f64::from(self.count) * number(2 * self.width * (self.width + self.key_width()) + 3 * self.width * self.hidden)
    }

    /// Bytes of these matrices, which are of one quantisation.
    pub(crate) fn bytes(&self) -> f64 {
        let kind = self.kinds[0];
        let mut block = Vec::new();
        kind.write_block(&mut Noise(0), &mut block);
        self.weights() / number(kind.block() as u64) * number(block.len() as u64)
    }

    /// Numbers of the keys of a token.
    fn key_width(&self) -> u64 {
        self.width / u64::from(self.heads) * u64::from(self.key_heads)
    }

    /// Numbers of the attention of all layers, for each token that it looks back at.
    pub(crate) fn attention(&self) -> f64 {
        f64::from(self.count) * number(2 * self.width)
    }

    /// The whole file.
    pub(crate) fn file(&self) -> Vec<u8> {
        file(self)
    }

    fn tensors(&self) -> Vec<(String, Kind, Vec<u64>)> {
        let Self { width, hidden, kinds: [q, k, v, output, gate, up, down], .. } = *self;
        let vocabulary = u64::from(VOCABULARY.cast_unsigned());
        let mut tensors = vec![("token_embd.weight".to_owned(), Kind::F16, vec![width, vocabulary])];
        for at in 0..self.count {
            let of_layer = [
                ("attn_norm", Kind::F32, vec![width]),
                ("attn_q", q, vec![width, width]),
                ("attn_k", k, vec![width, self.key_width()]),
                ("attn_v", v, vec![width, self.key_width()]),
                ("attn_output", output, vec![width, width]),
                ("ffn_norm", Kind::F32, vec![width]),
                ("ffn_gate", gate, vec![width, hidden]),
                ("ffn_up", up, vec![width, hidden]),
                ("ffn_down", down, vec![hidden, width]),
            ];
            tensors
                .extend(of_layer.map(|(name, kind, dimensions)| (format!("blk.{at}.{name}.weight"), kind, dimensions)));
        }
        tensors.push(("output_norm.weight".to_owned(), Kind::F32, vec![width]));
        tensors.push(("output.weight".to_owned(), Kind::F16, vec![width, vocabulary]));
        tensors
    }
}

/// Every common quantisation once: less than a megabyte.
pub(crate) fn bytes() -> Vec<u8> {
    use Kind::{Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};
    Layers { count: 1, width: 256, hidden: 512, heads: 4, key_heads: 4, kinds: [Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0, Q4_0] }
        .file()
}

/// The quantisations whose speed is worth to be known; others are taken for the most similar of them.
pub(crate) const MEASURED: [Kind; 7] = [Kind::F16, Kind::Q4_0, Kind::Q4_1, Kind::Q8_0, Kind::Q4K, Kind::Q5K, Kind::Q6K];

#[expect(clippy::cast_precision_loss, reason = "millions")]
fn number(count: u64) -> f64 {
    count as f64
}

fn file(layers: &Layers) -> Vec<u8> {
    let tensors = layers.tensors();
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    let mut entries = Vec::new();
    let mut count = 0u64;
    let mut text = |key: &str, value: &str, entries: &mut Vec<u8>| {
        put_text(key, entries);
        entries.extend(8u32.to_le_bytes());
        put_text(value, entries);
        count += 1;
    };
    text("general.architecture", "llama", &mut entries);
    text("tokenizer.ggml.model", "no_vocab", &mut entries);
    for (key, value) in [
        ("llama.vocab_size", VOCABULARY.cast_unsigned()),
        ("llama.context_length", 8192),
        ("llama.embedding_length", narrow(layers.width)),
        ("llama.block_count", layers.count),
        ("llama.feed_forward_length", narrow(layers.hidden)),
        ("llama.attention.head_count", layers.heads),
        ("llama.attention.head_count_kv", layers.key_heads),
        ("llama.rope.dimension_count", 64),
    ] {
        put_text(key, &mut entries);
        entries.extend(4u32.to_le_bytes());
        entries.extend(value.to_le_bytes());
        count += 1;
    }
    put_text("llama.attention.layer_norm_rms_epsilon", &mut entries);
    entries.extend(6u32.to_le_bytes());
    entries.extend(1e-5f32.to_le_bytes());
    count += 1;
    file.extend(count.to_le_bytes());
    file.extend(entries);

    let mut noise = Noise(42);
    let mut weights = Vec::new();
    for (name, kind, dimensions) in tensors {
        weights.resize(weights.len().next_multiple_of(ALIGNMENT), 0);
        put_text(&name, &mut file);
        file.extend((u32::try_from(dimensions.len()).unwrap_or(0)).to_le_bytes());
        for dimension in &dimensions {
            file.extend(dimension.to_le_bytes());
        }
        file.extend(kind.id().to_le_bytes());
        file.extend((weights.len() as u64).to_le_bytes());
        let numbers = usize::try_from(dimensions.iter().product::<u64>()).unwrap_or(0);
        for _ in 0..numbers / kind.block() {
            kind.write_block(&mut noise, &mut weights);
        }
    }
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file.extend(weights);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    file
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_same_every_time_and_small() {
        assert_eq!(bytes(), bytes());
        assert!(bytes().len() < 1024 * 1024, "{}", bytes().len());
        assert!(Layers::wide(Kind::Q4K).file().len() < 40 << 20);
        let layers = Layers::narrow(3, Kind::Q6K);
        let all_else = file(&Layers { count: 0, ..Layers::narrow(0, Kind::Q6K) }).len() as u64;
        let share = layers.bytes() / number(layers.file().len() as u64 - all_else);
        assert!((0.98..1.0).contains(&share), "{share}");
    }
}
