//! What an engine would trust: numbers of the header that must fit each other and the tensors.

use super::read::{Gguf, GgufError, Value};
use std::collections::HashSet;

/// No model has more layers, heads or a wider embedding than this; a damaged number soon does.
const MOST_LAYERS: u64 = 4096;
const MOST_HEADS: u64 = 65_536;
const WIDEST: u64 = 1 << 20;
const LONGEST_CONTEXT: u64 = 1 << 28;
const LARGEST_VOCABULARY: u64 = 1 << 24;

/// Of these, a model may have none.
const MAY_BE_NONE: &[&str] = &["head_count", "head_count_kv", "feed_forward_length", "rope.dimension_count"];

fn inconsistent<T>(what: impl Into<String>) -> Result<T, GgufError> {
    Err(GgufError::Inconsistent { what: what.into() })
}

/// Checks what can be checked without knowing every architecture.
pub(super) fn consistency(gguf: &Gguf) -> Result<(), GgufError> {
    if gguf.architecture().is_empty() {
        return inconsistent("`general.architecture` is missing, so nobody can know what this model is");
    }
    if gguf.tensors.is_empty() && gguf.unsigned("split.count").unwrap_or(1) <= 1 {
        return inconsistent("it has no tensors");
    }
    for (key, most) in [
        ("block_count", MOST_LAYERS),
        ("embedding_length", WIDEST),
        ("attention.head_count", MOST_HEADS),
        ("attention.head_count_kv", MOST_HEADS),
        ("attention.key_length", WIDEST),
        ("attention.value_length", WIDEST),
        ("feed_forward_length", 64 * WIDEST),
        ("context_length", LONGEST_CONTEXT),
        ("rope.dimension_count", WIDEST),
        ("vocab_size", LARGEST_VOCABULARY),
    ] {
        let key = format!("{}.{key}", gguf.architecture());
        match gguf.values.get(&key) {
            None | Some(Value::Numbers(_) | Value::Array { .. }) => {}
            Some(Value::Unsigned(number)) if (1..=most).contains(number) => {}
            // Layers without attention have no heads, those of Mamba nothing inside.
            Some(Value::Unsigned(0)) if MAY_BE_NONE.iter().any(|ending| key.ends_with(ending)) => {}
            Some(value) => return inconsistent(format!("`{key}` is {value:?}; it must be between 1 and {most}")),
        }
    }
    heads(gguf)?;
    vocabulary(gguf)?;
    layers(gguf)
}

fn heads(gguf: &Gguf) -> Result<(), GgufError> {
    let (Some(heads), Some(kv_heads)) =
        (gguf.of_architecture("attention.head_count"), gguf.of_architecture("attention.head_count_kv"))
    else {
        return Ok(());
    };
    if kv_heads > heads || (kv_heads > 0 && heads % kv_heads != 0) {
        return inconsistent(format!("{heads} attention heads cannot share {kv_heads} key-value heads"));
    }
    Ok(())
}

fn vocabulary(gguf: &Gguf) -> Result<(), GgufError> {
    let length = |key: &str| match gguf.values.get(key) {
        Some(Value::Array { kind, length, .. }) => Some((Some(*kind), *length)),
        Some(Value::Numbers(numbers)) => Some((None, numbers.len() as u64)),
        Some(_) => Some((Some(u32::MAX), 0)),
        None => None,
    };
    let Some((kind, tokens)) = length("tokenizer.ggml.tokens") else { return Ok(()) };
    if kind != Some(8) || tokens == 0 || tokens > LARGEST_VOCABULARY {
        return inconsistent("`tokenizer.ggml.tokens` is not a list of texts");
    }
    for (key, element) in [("tokenizer.ggml.scores", 6), ("tokenizer.ggml.token_type", 5)] {
        if let Some((kind, entries)) = length(key)
            && (entries != tokens || kind.is_some_and(|kind| kind != element))
        {
            return inconsistent(format!("`{key}` has {entries} entries of type {kind:?} for {tokens} tokens"));
        }
    }
    if let Some((kind, _)) = length("tokenizer.ggml.merges")
        && kind != Some(8)
    {
        return inconsistent("`tokenizer.ggml.merges` is not a list of texts");
    }
    for key in ["bos", "eos", "unknown", "padding", "seperator", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        match gguf.values.get(&key) {
            // Some converters write -1 (as all bits set) for "none".
            None | Some(Value::Negative(-1)) => {}
            Some(Value::Unsigned(id)) if *id < tokens || *id == u64::from(u32::MAX) => {}
            Some(value) => return inconsistent(format!("`{key}` is {value:?}, the vocabulary has {tokens} tokens")),
        }
    }
    if let Some(embedding) = gguf.tensors.iter().find(|tensor| tensor.name == "token_embd.weight") {
        let rows = embedding.dimensions.get(1).copied().unwrap_or(1);
        if rows != tokens {
            return inconsistent(format!("the embedding has {rows} rows for {tokens} tokens"));
        }
        if let Some(width) = gguf.of_architecture("embedding_length")
            && embedding.dimensions[0] != width
        {
            return inconsistent(format!(
                "the embedding is {} wide, `embedding_length` says {width}",
                embedding.dimensions[0]
            ));
        }
    }
    Ok(())
}

/// Every tensor of a layer belongs to one that exists, and a whole file has tensors for all of them.
fn layers(gguf: &Gguf) -> Result<(), GgufError> {
    let Some(count) = gguf.of_architecture("block_count") else { return Ok(()) };
    let mut seen = HashSet::new();
    for tensor in &gguf.tensors {
        let Some(rest) = tensor.name.strip_prefix("blk.") else { continue };
        let number = rest.split('.').next().and_then(|digits| digits.parse::<u64>().ok());
        match number {
            Some(number) if number < count => {
                seen.insert(number);
            }
            _ => return inconsistent(format!("the tensor `{}` is of no layer: there are {count}", tensor.name)),
        }
    }
    let whole = gguf.unsigned("split.count").unwrap_or(1) <= 1;
    if whole && !seen.is_empty() && seen.len() as u64 != count {
        return inconsistent(format!("{count} layers are announced, {} are there", seen.len()));
    }
    Ok(())
}
