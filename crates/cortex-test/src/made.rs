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
    let mut builder = of_bytes("qwen2vl", 2);
    for layer in 0..2 {
        for (name, length) in [("q", QWEN_WIDTH), ("k", QWEN_WIDTH / 2), ("v", QWEN_WIDTH / 2)] {
            builder = builder.tensor(&format!("blk.{layer}.attn_{name}.bias"), vec![length]);
        }
    }
    builder.value("qwen2vl.rope.dimension_sections", Value::Ints(vec![2, 3, 3, 0])).random(11, 0.3).build()
}

/// Tokens that most layers of [`windowed`] look back at.
pub const WINDOW: u32 = 64;

/// A text model like Gemma 3, of which one layer in six looks at everything and the others at the last [`WINDOW`] tokens. Its tokens are
/// bytes, and the control tokens `<s>` and `</s>`.
pub fn windowed() -> Vec<u8> {
    let mut builder = of_bytes("gemma3", 6)
        .value("gemma3.attention.sliding_window", Value::U32(WINDOW))
        .value("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .value("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    for layer in 0..6 {
        for (name, length) in [
            ("attn_q_norm", QWEN_WIDTH / 4),
            ("attn_k_norm", QWEN_WIDTH / 4),
            ("post_attention_norm", QWEN_WIDTH),
            ("post_ffw_norm", QWEN_WIDTH),
        ] {
            builder = builder.tensor(&format!("blk.{layer}.{name}.weight"), vec![length]);
        }
    }
    builder.random(17, 0.3).build()
}

/// A small model of this architecture whose tokens are bytes, with the usual tensors.
fn of_bytes(architecture: &str, layers: u64) -> GgufBuilder {
    let (tokens, kinds) = byte_tokens();
    let count = tokens.len();
    let size = Size {
        vocabulary: count as u64,
        embedding: QWEN_WIDTH,
        feed_forward: 128,
        layers,
        heads: 4,
        kept_heads: 2,
        context: 4096,
    };
    let mut builder = GgufBuilder::llama_of(size)
        .with("general.architecture", Value::Text(architecture.into()))
        .with("tokenizer.ggml.tokens", Value::Texts(tokens))
        .with("tokenizer.ggml.scores", Value::Floats(vec![0.0; count]))
        .with("tokenizer.ggml.token_type", Value::Ints(kinds));
    for (key, _) in &mut builder.values {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("{architecture}.{rest}");
        }
    }
    builder
}

/// Width of the vectors of [`hybrid`].
const HYBRID_WIDTH: u64 = 64;
/// Its layers, of which each fourth one has keys and values and the others a state.
const HYBRID_LAYERS: u64 = 4;
/// Heads of keys and of values in a layer with a state, and their width.
const STATE_HEADS: (u64, u64, u64) = (2, 4, 16);

/// A model like Qwen 3.5, most of whose layers are recurrent. Its tokens are bytes, and the control tokens `<s>` and `</s>`.
pub fn hybrid() -> Vec<u8> {
    hybrid_of(false).build()
}

/// The same with a layer for multi-token prediction, which is often right: the next token depends on the last one above all, in the model as
/// in that layer.
pub fn predicting() -> Vec<u8> {
    predicting_of().build()
}

/// A small model for [`predicting`], which has keys and values only: it guesses as that one answers, and is often right.
pub fn guessing() -> Vec<u8> {
    let large = predicting_of();
    let mut builder = of_bytes("llama", 1).random(19, 0.3);
    builder.tensors.retain(|it| it.name != "output.weight");
    for Tensor { name, data, .. } in &mut builder.tensors {
        if let Some(same) = large
            .tensors
            .iter()
            .find(|it| it.name == *name && ["token_embd.weight", "output_norm.weight"].contains(&name.as_str()))
        {
            data.clone_from(&same.data);
        } else if ["attn_output", "ffn_down"].iter().any(|part| name.contains(part)) {
            scale(data, 0.01);
        }
    }
    builder.tensors.extend(large.tensors.into_iter().filter(|it| it.name == "output.weight"));
    builder.build()
}

fn scale(data: &mut [u8], by: f32) {
    for bytes in data.chunks_exact_mut(4) {
        let number = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.copy_from_slice(&(number * by).to_le_bytes());
    }
}

fn predicting_of() -> GgufBuilder {
    let mut builder = hybrid_of(true);
    for Tensor { name, data, .. } in &mut builder.tensors {
        if ["ssm_out", "attn_output", "ffn_down"].iter().any(|part| name.contains(part)) {
            scale(data, 0.01);
        } else if name == "output.weight" {
            // So that one token is far more likely than the others.
            scale(data, 10.0);
        } else if name.ends_with("eh_proj.weight") {
            // Of the token and of what the model held, the token is taken.
            let row = |at: u64| (0..2 * HYBRID_WIDTH).map(move |from| if from == at { 1.0f32 } else { 0.0 });
            *data = (0..HYBRID_WIDTH).flat_map(row).flat_map(f32::to_le_bytes).collect();
        }
    }
    builder
}

fn hybrid_of(has_mtp: bool) -> GgufBuilder {
    let text = |text: &str| Value::Text(text.into());
    let number = |number: u64| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    let (key_heads, value_heads, head) = STATE_HEADS;
    let (keys, values) = (key_heads * head, value_heads * head);
    let (width, inside) = (HYBRID_WIDTH, 2 * HYBRID_WIDTH);
    let (tokens, kinds) = byte_tokens();
    let count = tokens.len();
    let mut builder = GgufBuilder::default()
        .value("general.architecture", text("qwen35"))
        .value("general.name", text("Tiny Test Hybrid"))
        .value("qwen35.block_count", number(HYBRID_LAYERS + u64::from(has_mtp)))
        .value("qwen35.nextn_predict_layers", number(has_mtp.into()))
        .value("qwen35.context_length", number(4096))
        .value("qwen35.embedding_length", number(width))
        .value("qwen35.feed_forward_length", number(inside))
        .value("qwen35.attention.head_count", number(4))
        .value("qwen35.attention.head_count_kv", number(2))
        .value("qwen35.attention.key_length", number(head))
        .value("qwen35.attention.value_length", number(head))
        .value("qwen35.attention.layer_norm_rms_epsilon", Value::F32(1e-6))
        .value("qwen35.rope.dimension_count", number(head))
        .value("qwen35.rope.dimension_sections", Value::Ints(vec![3, 3, 2, 0]))
        .value("qwen35.full_attention_interval", number(4))
        .value("qwen35.ssm.conv_kernel", number(4))
        .value("qwen35.ssm.state_size", number(head))
        .value("qwen35.ssm.group_count", number(key_heads))
        .value("qwen35.ssm.time_step_rank", number(value_heads))
        .value("qwen35.ssm.inner_size", number(values))
        .value("tokenizer.ggml.model", text("llama"))
        .value("tokenizer.ggml.tokens", Value::Texts(tokens))
        .value("tokenizer.ggml.scores", Value::Floats(vec![0.0; count]))
        .value("tokenizer.ggml.token_type", Value::Ints(kinds))
        .value("tokenizer.ggml.bos_token_id", Value::U32(1))
        .value("tokenizer.ggml.eos_token_id", Value::U32(2))
        .value("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .value("tokenizer.ggml.add_space_prefix", Value::Bool(false))
        .tensor("token_embd.weight", vec![width, count as u64])
        .tensor("output_norm.weight", vec![width])
        .tensor("output.weight", vec![width, count as u64]);
    for layer in 0..HYBRID_LAYERS + u64::from(has_mtp) {
        let is_mtp = layer == HYBRID_LAYERS;
        let mut tensors = vec![
            ("attn_norm.weight", vec![width]),
            ("post_attention_norm.weight", vec![width]),
            ("ffn_gate.weight", vec![width, inside]),
            ("ffn_up.weight", vec![width, inside]),
            ("ffn_down.weight", vec![inside, width]),
        ];
        if is_mtp {
            tensors.extend([
                ("nextn.eh_proj.weight", vec![2 * width, width]),
                ("nextn.enorm.weight", vec![width]),
                ("nextn.hnorm.weight", vec![width]),
            ]);
        }
        tensors.extend(if is_mtp || (layer + 1).is_multiple_of(4) {
            vec![
                // The question and its gate.
                ("attn_q.weight", vec![width, 2 * 4 * head]),
                ("attn_k.weight", vec![width, 2 * head]),
                ("attn_v.weight", vec![width, 2 * head]),
                ("attn_output.weight", vec![4 * head, width]),
                ("attn_q_norm.weight", vec![head]),
                ("attn_k_norm.weight", vec![head]),
            ]
        } else {
            vec![
                ("attn_qkv.weight", vec![width, 2 * keys + values]),
                ("attn_gate.weight", vec![width, values]),
                ("ssm_conv1d.weight", vec![4, 2 * keys + values]),
                ("ssm_dt.bias", vec![value_heads]),
                ("ssm_a", vec![value_heads]),
                ("ssm_beta.weight", vec![width, value_heads]),
                ("ssm_alpha.weight", vec![width, value_heads]),
                ("ssm_norm.weight", vec![head]),
                ("ssm_out.weight", vec![values, width]),
            ]
        });
        for (name, dimensions) in tensors {
            builder = builder.tensor(&format!("blk.{layer}.{name}"), dimensions);
        }
    }
    let mut builder = builder.random(13, 0.3);
    // A state fades: it would grow without end otherwise.
    for tensor in builder.tensors.iter_mut().filter(|it| it.name.ends_with("ssm_a")) {
        tensor.data = [-0.02f32, -0.05, -0.1, -0.01].iter().flat_map(|it| it.to_le_bytes()).collect();
    }
    builder
}

/// Tokens for bytes behind an unknown one and the control tokens `<s>` and `</s>`, and what kind each is.
fn byte_tokens() -> (Vec<String>, Vec<i32>) {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect();
    (tokens, [2, 3, 3].into_iter().chain(std::iter::repeat_n(6, 256)).collect())
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
