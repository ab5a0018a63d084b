//! What is loaded beside a model, and models that see; of small size and with random weights: what they say of an image makes no
//! sense, but another image makes another answer.

use crate::{
    gguf::{GgufBuilder, Size, Tensor, Value},
    numbers::Numbers,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

/// How a projector is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projector {
    /// As that of `LLaVA`: an image is 16 vectors.
    Llava,
    /// As that of Gemma 3: an image is 4 vectors that look at each other, between two marks.
    Gemma,
    /// As that of Qwen2-VL: an image has as many vectors as its size says, with rows and columns.
    Qwen,
}

/// Patches of an image in a row.
const PATCHES: u64 = 4;
/// Pixels of a patch in a row.
const PATCH: u64 = 8;
/// Width of the projector between its layers.
const WIDTH: u64 = 32;

impl GgufBuilder {
    /// Gives all tensors random numbers, the same every time; what scales is near 1.
    #[must_use]
    pub fn random(mut self, seed: u64, most: f32) -> Self {
        let mut numbers = Numbers(seed);
        for Tensor { name, data, .. } in &mut self.tensors {
            let is_scale = name.contains("norm") || name.contains("ln") && name.ends_with("weight");
            for bytes in data.chunks_exact_mut(4) {
                #[expect(clippy::cast_precision_loss, reason = "a random number needs no more")]
                let random = (numbers.below(2001) as f32 / 1000.0 - 1.0) * most;
                bytes.copy_from_slice(&(random + if is_scale { 1.0 } else { 0.0 }).to_le_bytes());
            }
        }
        self
    }
}

/// A projector for models whose vectors are so wide.
pub fn projector(kind: Projector, width: u64) -> Vec<u8> {
    let text = |text: &str| Value::Text(text.into());
    let number = |number: u64| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    let name = match kind {
        Projector::Llava => "mlp",
        Projector::Gemma => "gemma3",
        Projector::Qwen => "qwen2vl_merger",
    };
    let mut builder = GgufBuilder::default()
        .value("general.architecture", text("clip"))
        .value("general.name", text("Tiny Test Projector"))
        .value("clip.has_vision_encoder", Value::Bool(true))
        .value("clip.projector_type", text(name))
        .value("clip.vision.image_size", number(PATCHES * PATCH))
        .value("clip.vision.patch_size", number(PATCH))
        .value("clip.vision.embedding_length", number(WIDTH))
        .value("clip.vision.feed_forward_length", number(2 * WIDTH))
        .value("clip.vision.block_count", number(2))
        .value("clip.vision.projection_dim", number(width))
        .value("clip.vision.attention.head_count", number(2))
        .value("clip.vision.attention.layer_norm_epsilon", Value::F32(1e-6))
        .value("clip.vision.image_mean", Value::Floats(vec![0.5; 3]))
        .value("clip.vision.image_std", Value::Floats(vec![0.5; 3]))
        .value("clip.vision.projector.scale_factor", number(2))
        .value("clip.use_gelu", Value::Bool(true))
        .tensor("v.patch_embd.weight", vec![PATCH, PATCH, 3, WIDTH]);
    for layer in 0..2 {
        for (name, dimensions) in [
            ("attn_q", vec![WIDTH, WIDTH]),
            ("attn_k", vec![WIDTH, WIDTH]),
            ("attn_v", vec![WIDTH, WIDTH]),
            ("attn_out", vec![WIDTH, WIDTH]),
            ("ln1", vec![WIDTH]),
            ("ln2", vec![WIDTH]),
            ("ffn_up", vec![WIDTH, 2 * WIDTH]),
            ("ffn_down", vec![2 * WIDTH, WIDTH]),
        ] {
            let bias = vec![*dimensions.last().unwrap_or(&WIDTH)];
            builder = builder
                .tensor(&format!("v.blk.{layer}.{name}.weight"), dimensions)
                .tensor(&format!("v.blk.{layer}.{name}.bias"), bias);
        }
    }
    let merged = 4 * WIDTH;
    let tensors = match kind {
        Projector::Llava => vec![
            ("v.position_embd.weight", vec![WIDTH, PATCHES * PATCHES]),
            ("mm.0.weight", vec![WIDTH, WIDTH]),
            ("mm.0.bias", vec![WIDTH]),
            ("mm.2.weight", vec![WIDTH, width]),
            ("mm.2.bias", vec![width]),
        ],
        Projector::Gemma => vec![
            ("v.position_embd.weight", vec![WIDTH, PATCHES * PATCHES]),
            ("v.post_ln.weight", vec![WIDTH]),
            ("v.post_ln.bias", vec![WIDTH]),
            ("mm.soft_emb_norm.weight", vec![WIDTH]),
            ("mm.input_projection.weight", vec![width, WIDTH]),
        ],
        Projector::Qwen => vec![
            ("v.patch_embd.weight.1", vec![PATCH, PATCH, 3, WIDTH]),
            ("v.post_ln.weight", vec![WIDTH]),
            ("v.post_ln.bias", vec![WIDTH]),
            ("mm.0.weight", vec![merged, merged]),
            ("mm.0.bias", vec![merged]),
            ("mm.2.weight", vec![merged, width]),
            ("mm.2.bias", vec![width]),
        ],
    };
    for (name, dimensions) in tensors {
        builder = builder.tensor(name, dimensions);
    }
    builder.random(7, 0.3).build()
}

/// Width of the vectors of [`qwen`].
pub const QWEN_WIDTH: u64 = 64;

/// A text model like that of Qwen2-VL, whose positions have rows and columns. Its tokens are bytes.
pub fn qwen() -> Vec<u8> {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect();
    let count = tokens.len();
    let size = Size {
        vocabulary: count as u64,
        embedding: QWEN_WIDTH,
        feed_forward: 128,
        layers: 2,
        heads: 4,
        kept_heads: 2,
        context: 1024,
    };
    // Those before the bytes are unknown, and control tokens.
    let kinds = [2, 3, 3].into_iter().chain(std::iter::repeat_n(6, 256)).collect();
    let mut builder = GgufBuilder::llama_of(size);
    for layer in 0..size.layers {
        for (name, length) in [("q", QWEN_WIDTH), ("k", QWEN_WIDTH / 2), ("v", QWEN_WIDTH / 2)] {
            builder = builder.tensor(&format!("blk.{layer}.attn_{name}.bias"), vec![length]);
        }
    }
    let mut builder = builder
        .with("general.architecture", Value::Text("qwen2vl".into()))
        .with("tokenizer.ggml.tokens", Value::Texts(tokens))
        .with("tokenizer.ggml.scores", Value::Floats(vec![0.0; count]))
        .with("tokenizer.ggml.token_type", Value::Ints(kinds))
        .value("llama.rope.dimension_sections", Value::Ints(vec![2, 3, 3, 0]));
    for (key, _) in &mut builder.values {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("qwen2vl.{rest}");
        }
    }
    builder.random(11, 0.3).build()
}

/// [`png`] in base64.
pub fn picture(colour: [u8; 3], size: (u32, u32)) -> String {
    STANDARD.encode(png(colour, size))
}

/// An image of one colour with a square of another, as a PNG.
///
/// # Panics
/// When it cannot be written.
pub fn png(colour: [u8; 3], (width, height): (u32, u32)) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        let is_square = x < width / 2 && y < height / 2;
        Rgb(if is_square { [255 - colour[0], colour[1], colour[2]] } else { colour })
    });
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).expect("a PNG");
    file.into_inner()
}

/// A LoRA adapter for SmolLM2-135M: random changes of its first layer.
pub fn adapter(seed: u64) -> Vec<u8> {
    const SMOL_WIDTH: u64 = 576;
    const RANK: u64 = 4;
    let text = |text: &str| Value::Text(text.into());
    GgufBuilder::default()
        .value("general.type", text("adapter"))
        .value("general.architecture", text("llama"))
        .value("adapter.type", text("lora"))
        .value("adapter.lora.alpha", Value::F32(8.0))
        .tensor("blk.0.attn_q.weight.lora_a", vec![SMOL_WIDTH, RANK])
        .tensor("blk.0.attn_q.weight.lora_b", vec![RANK, SMOL_WIDTH])
        .tensor("blk.0.attn_output.weight.lora_a", vec![SMOL_WIDTH, RANK])
        .tensor("blk.0.attn_output.weight.lora_b", vec![RANK, SMOL_WIDTH])
        .random(seed, 0.3)
        .build()
}
