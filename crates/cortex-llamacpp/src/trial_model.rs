//! A tiny model that uses every common quantisation, written as a GGUF file. Pure.
//!
//! A compute module is only proven by a real load and a real decode of one: some kernels are reached
//! through the buffer types that the loader chooses, and never by a bare matrix product.

/// Width of the embedding: the super-blocks of K-quants hold 256 numbers.
const WIDTH: u64 = 256;
/// Width of the feed-forward layer.
const HIDDEN: u64 = 512;
/// Tokens of the vocabulary.
pub(crate) const VOCABULARY: i32 = 64;
const ALIGNMENT: usize = 32;

/// A tensor type as ggml numbers it, with its block.
#[derive(Clone, Copy)]
enum Kind {
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
    const fn id(self) -> u32 {
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

struct Tensor {
    name: &'static str,
    kind: Kind,
    dimensions: &'static [u64],
}

const TENSORS: &[Tensor] = &[
    Tensor { name: "token_embd.weight", kind: Kind::F16, dimensions: &[WIDTH, VOCABULARY as u64] },
    Tensor { name: "blk.0.attn_norm.weight", kind: Kind::F32, dimensions: &[WIDTH] },
    Tensor { name: "blk.0.attn_q.weight", kind: Kind::Q4_0, dimensions: &[WIDTH, WIDTH] },
    Tensor { name: "blk.0.attn_k.weight", kind: Kind::Q4_1, dimensions: &[WIDTH, WIDTH] },
    Tensor { name: "blk.0.attn_v.weight", kind: Kind::Q4K, dimensions: &[WIDTH, WIDTH] },
    Tensor { name: "blk.0.attn_output.weight", kind: Kind::Q5K, dimensions: &[WIDTH, WIDTH] },
    Tensor { name: "blk.0.ffn_norm.weight", kind: Kind::F32, dimensions: &[WIDTH] },
    Tensor { name: "blk.0.ffn_gate.weight", kind: Kind::Q6K, dimensions: &[WIDTH, HIDDEN] },
    Tensor { name: "blk.0.ffn_up.weight", kind: Kind::Q8_0, dimensions: &[WIDTH, HIDDEN] },
    Tensor { name: "blk.0.ffn_down.weight", kind: Kind::Q4_0, dimensions: &[HIDDEN, WIDTH] },
    Tensor { name: "output_norm.weight", kind: Kind::F32, dimensions: &[WIDTH] },
    Tensor { name: "output.weight", kind: Kind::F16, dimensions: &[WIDTH, VOCABULARY as u64] },
];

/// The whole file.
pub(crate) fn bytes() -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((TENSORS.len() as u64).to_le_bytes());
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
        ("llama.context_length", 256),
        ("llama.embedding_length", 256),
        ("llama.block_count", 1),
        ("llama.feed_forward_length", 512),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 4),
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
    for tensor in TENSORS {
        weights.resize(weights.len().next_multiple_of(ALIGNMENT), 0);
        put_text(tensor.name, &mut file);
        file.extend((u32::try_from(tensor.dimensions.len()).unwrap_or(0)).to_le_bytes());
        for dimension in tensor.dimensions {
            file.extend(dimension.to_le_bytes());
        }
        file.extend(tensor.kind.id().to_le_bytes());
        file.extend((weights.len() as u64).to_le_bytes());
        let numbers = usize::try_from(tensor.dimensions.iter().product::<u64>()).unwrap_or(0);
        for _ in 0..numbers / tensor.kind.block() {
            tensor.kind.write_block(&mut noise, &mut weights);
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
    }
}
