//! How models of many architectures are built, from headers with the keys of real ones.

use cortex_hardware::{Architecture, Layer};
use cortex_models::Gguf;
use cortex_test::gguf::{GgufBuilder, Value};
use std::io::Cursor;

/// A header with these keys, each behind the name of the architecture.
fn shape(architecture: &str, keys: &[(&str, Value)]) -> Architecture {
    let mut builder = GgufBuilder::default()
        .value("general.architecture", Value::Text(architecture.into()))
        .tensor("token_embd.weight", vec![32, 8]);
    for (key, value) in keys {
        builder = builder.value(&format!("{architecture}.{key}"), value.clone());
    }
    let bytes = builder.build();
    Gguf::read(Cursor::new(&bytes), bytes.len() as u64).unwrap().shape().unwrap()
}

fn number(number: u32) -> Value {
    Value::U32(number)
}

/// Layers, width, width inside, heads, heads with keys and values of their own.
fn usual(layers: u32, width: u32, inside: u32, heads: u32, kept: u32) -> Vec<(&'static str, Value)> {
    vec![
        ("block_count", number(layers)),
        ("context_length", number(4096)),
        ("embedding_length", number(width)),
        ("feed_forward_length", number(inside)),
        ("attention.head_count", number(heads)),
        ("attention.head_count_kv", number(kept)),
    ]
}

fn attention(keys: u64, values: u64) -> Layer {
    Layer { keys, values, ..Layer::default() }
}

#[track_caller]
fn all(architecture: &str, keys: &[(&str, Value)], layer: Layer, count: usize, inside: u64) {
    let found = shape(architecture, keys);
    assert_eq!((found.layers.len(), found.feed_forward), (count, inside), "{architecture}");
    assert!(kept(&found).iter().all(|it| *it == layer), "{architecture}: {:?}", found.layers[0]);
}

/// What the layers keep; what they compute is another matter.
fn kept(found: &Architecture) -> Vec<Layer> {
    found.layers.iter().map(|layer| Layer { attention: 0, ..*layer }).collect()
}

#[test]
fn attention_computes_for_each_head_with_keys_and_values() {
    let of = |architecture: &str, keys: &[(&str, Value)]| shape(architecture, keys).layers[0].attention;
    // Heads that share keys and values compute with them each on its own.
    assert_eq!(of("llama", &usual(32, 4096, 14_336, 32, 8)), 32 * (128 + 128));
    let latent = [
        ("attention.key_length", number(576)),
        ("attention.value_length", number(512)),
        ("attention.key_length_mla", number(192)),
    ];
    let keys: Vec<_> = usual(61, 7168, 18_432, 128, 1).into_iter().chain(latent).collect();
    assert_eq!(of("deepseek2", &keys), 128 * (576 + 512));
    assert_eq!(of("bert", &usual(12, 384, 1536, 12, 12)), 0);
}

#[test]
fn models_whose_layers_are_all_alike() {
    let with = |mut keys: Vec<(&'static str, Value)>, more: &[(&'static str, Value)]| {
        keys.extend(more.iter().cloned());
        keys
    };
    let lengths =
        |key: u32, value: u32| vec![("attention.key_length", number(key)), ("attention.value_length", number(value))];
    // Llama-3.1-8B and Mistral-7B, SmolLM2-135M, Qwen2.5-0.5B, Granite-3-2B.
    all("llama", &usual(32, 4096, 14_336, 32, 8), attention(1024, 1024), 32, 14_336);
    all("llama", &usual(30, 576, 1536, 9, 3), attention(192, 192), 30, 1536);
    all("qwen2", &usual(24, 896, 4864, 14, 2), attention(128, 128), 24, 4864);
    all("granite", &usual(40, 2048, 8192, 32, 8), attention(512, 512), 40, 8192);
    // Qwen3-8B: heads that are wider than the width divided by them.
    all("qwen3", &with(usual(36, 2560, 9728, 32, 8), &lengths(128, 128)), attention(1024, 1024), 36, 9728);
    // Qwen3-30B-A3B, Mixtral-8x7B: the experts of a token together.
    let experts = [("expert_used_count", number(8)), ("expert_feed_forward_length", number(768))];
    let keys = with(with(usual(48, 2048, 5632, 32, 4), &lengths(128, 128)), &experts);
    all("qwen3moe", &keys, attention(512, 512), 48, 6144);
    let keys = with(usual(32, 4096, 14_336, 32, 8), &[("expert_used_count", number(2))]);
    all("llama", &keys, attention(1024, 1024), 32, 28_672);
    // Phi-3-mini states a window that is not used.
    let keys = with(usual(32, 3072, 8192, 32, 32), &[("attention.sliding_window", number(2047))]);
    all("phi3", &keys, attention(3072, 3072), 32, 8192);
    // DeepSeek-V3 with latent attention, and a file of V2-Lite from before.
    let latent = [("attention.key_length_mla", number(192)), ("attention.value_length_mla", number(128))];
    let keys = with(with(usual(61, 7168, 18_432, 128, 1), &lengths(576, 512)), &latent);
    all("deepseek2", &keys, attention(576, 0), 61, 18_432);
    let keys = with(usual(27, 2048, 10_944, 16, 16), &lengths(192, 128));
    all("deepseek2", &keys, attention(3072, 2048), 27, 10_944);
    // A text as a whole: nothing is kept.
    all("bert", &usual(12, 384, 1536, 12, 12), Layer::default(), 12, 1536);
    // Mamba-130M: only a state.
    let mamba = [("ssm.conv_kernel", 4), ("ssm.inner_size", 1536), ("ssm.state_size", 16)];
    let keys = with(usual(24, 768, 0, 0, 0), &mamba.map(|(key, value)| (key, number(value))));
    all("mamba", &keys, Layer { state: 3 * 1536 + 16 * 1536, ..Layer::default() }, 24, 0);
    let keys = with(usual(24, 2048, 7168, 0, 0), &[("wkv.head_size", number(64))]);
    all("rwkv6", &keys, Layer { state: 2048 * (2 + 64), ..Layer::default() }, 24, 7168);
}

#[test]
fn models_whose_layers_look_back_differently_far() {
    let windows = |architecture: &str, layers: u32, more: &[(&str, Value)]| -> Vec<bool> {
        let mut keys: Vec<(&str, Value)> = usual(layers, 2048, 8192, 8, 4).into_iter().collect();
        keys.extend(more.iter().map(|(key, value)| (*key, value.clone())));
        shape(architecture, &keys).layers.iter().map(|layer| layer.window.is_some()).collect()
    };
    let window = [("attention.sliding_window", number(1024))];
    assert_eq!(windows("gemma2", 4, &[]), [true, false, true, false], "its window is known");
    assert_eq!(windows("gemma3", 7, &window), [true, true, true, true, true, false, true]);
    assert_eq!(windows("gemma3", 3, &[]), [false; 3]);
    assert_eq!(windows("gpt-oss", 4, &window), [true, false, true, false]);
    assert_eq!(windows("cohere2", 5, &window), [true, true, true, false, true]);
    assert_eq!(windows("smallthinker", 5, &window), [false, true, true, true, false]);
    assert_eq!(windows("llama", 2, &window), [false, false], "not every window that is stated is used");
    let pattern = |value| [window[0].clone(), ("attention.sliding_window_pattern", value)];
    assert_eq!(windows("gemma3", 3, &pattern(number(3))), [true, true, false]);
    assert_eq!(windows("any", 3, &pattern(Value::Bools(vec![false, true, false]))), [false, true, false]);
}

#[test]
fn models_with_layers_of_several_kinds() {
    let ssm = [("ssm.conv_kernel", 4), ("ssm.inner_size", 3072), ("ssm.state_size", 128), ("ssm.group_count", 1)];
    let state = 3 * (3072 + 2 * 128) + 128 * 3072;
    let keys = |layers: u32, more: Vec<(&'static str, Value)>| {
        let mut keys = usual(layers, 1536, 4096, 12, 4);
        keys.retain(|(key, _)| !more.iter().any(|(other, _)| key == other));
        keys.extend(ssm.map(|(key, value)| (key, number(value))));
        keys.extend(more);
        keys
    };
    let recurrent = Layer { state, ..Layer::default() };
    // Granite-4-H: heads for some layers only.
    let heads = vec![("attention.head_count_kv", Value::Ints(vec![0, 0, 4]))];
    assert_eq!(kept(&shape("granitehybrid", &keys(3, heads))), [recurrent, recurrent, attention(512, 512)]);
    // Nemotron-H: a layer that has neither only computes.
    let kinds = vec![
        ("attention.head_count_kv", Value::Ints(vec![0, 0, 4])),
        ("feed_forward_length", Value::Ints(vec![0, 12_288, 0])),
    ];
    let found = shape("nemotron_h", &keys(3, kinds));
    assert_eq!(kept(&found), [recurrent, Layer::default(), attention(512, 512)]);
    assert_eq!(found.feed_forward, 12_288);
    assert_eq!(kept(&shape("falcon-h1", &keys(1, vec![]))), [Layer { state, ..attention(512, 512) }]);
    let found = shape("qwen3next", &keys(4, vec![]));
    assert_eq!(kept(&found), [recurrent, recurrent, recurrent, attention(512, 512)]);
    // Layers for multi-token prediction come last and look back at everything; they are no part of the model's way.
    let found =
        shape("qwen35", &keys(6, vec![("nextn_predict_layers", number(1)), ("full_attention_interval", number(4))]));
    assert_eq!(kept(&found), [recurrent, recurrent, recurrent, attention(512, 512), recurrent]);
    assert_eq!(found.mtp_layers.iter().map(|it| (it.keys, it.state)).collect::<Vec<_>>(), [(512, 0)]);
    // One tensor: llama.cpp keeps room for so many nodes for each token of a batch.
    assert_eq!((found.graph_nodes, shape("kimi-k3", &keys(4, vec![])).graph_nodes), (512 * 40, 512 * 160));
    assert_eq!(shape("llama", &keys(4, vec![])).graph_nodes, 8);
    assert!(found.takes_states_back && !shape("mamba", &keys(4, vec![])).takes_states_back);
    let narrow =
        |length| shape("llama", &keys(4, vec![("attention.value_length_swa", number(length))])).has_narrow_heads;
    assert_eq!([64, 80, 0].map(narrow), [false, true, false]);
    assert_eq!(shape("glm4moe", &keys(3, vec![("nextn_predict_layers", number(9))])).layers.len(), 1);
    let lfm = vec![("shortconv.l_cache", number(3)), ("attention.head_count_kv", Value::Ints(vec![0, 4]))];
    assert_eq!(shape("lfm2", &keys(2, lfm)).layers[0].state, 1536 * 2);
}

#[test]
fn a_header_that_says_too_little_or_too_much_has_no_shape() {
    let of = |keys: &[(&str, Value)]| {
        let mut builder = GgufBuilder::default()
            .value("general.architecture", Value::Text("llama".into()))
            .tensor("token_embd.weight", vec![32, 8]);
        for (key, value) in keys {
            builder = builder.value(&format!("llama.{key}"), value.clone());
        }
        let bytes = builder.build();
        Gguf::read(Cursor::new(&bytes), bytes.len() as u64).ok().and_then(|header| header.shape())
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("block_count", number(u32::MAX)), ("embedding_length", number(8))]), None);
    // No heads: nobody divides by them.
    let layers = of(&[("block_count", number(1)), ("embedding_length", number(8))]).map(|found| found.layers);
    assert!(layers.is_none_or(|layers| layers == [Layer::default()]));
}
