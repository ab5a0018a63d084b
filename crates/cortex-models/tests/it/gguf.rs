use cortex_models::{Gguf, GgufError};
use cortex_test::gguf::{GgufBuilder, Tensor, Value};
use std::{
    cell::Cell,
    io::{self, Cursor, Read, Seek, SeekFrom},
};

fn read(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::read(Cursor::new(bytes), bytes.len() as u64)
}

/// Repeatable numbers below `limit` (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[track_caller]
fn refused(builder: &GgufBuilder, word: &str) {
    let error = read(&builder.build()).expect_err(word).to_string();
    assert!(error.contains(word), "{error}");
}

#[test]
fn a_good_file_is_read() {
    let gguf = read(&GgufBuilder::llama().build()).unwrap();
    assert_eq!((gguf.architecture(), gguf.tensors.len(), gguf.main_type()), ("llama", 4, "F32"));
    assert_eq!(gguf.of_architecture("block_count"), Some(1));
}

/// Notes how far a reader goes.
struct Watched<'test> {
    inner: Cursor<&'test [u8]>,
    furthest: &'test Cell<u64>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.furthest.set(self.furthest.get().max(self.inner.position()));
        Ok(count)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn a_large_vocabulary_is_read_and_the_weights_are_not() {
    let tokens = 150_000u32;
    let texts = (0..tokens).map(|number| format!("token{number}")).collect();
    let mut builder = GgufBuilder::llama()
        .with("tokenizer.ggml.tokens", Value::Texts(texts))
        .with("tokenizer.ggml.scores", Value::Floats(vec![0.0; tokens as usize]))
        .with("tokenizer.ggml.token_type", Value::Ints(vec![1; tokens as usize]))
        .with("tokenizer.ggml.eos_token_id", Value::U32(tokens - 1));
    builder.tensors.remove(0);
    let builder = builder.tensor("token_embd.weight", vec![32, u64::from(tokens)]);
    let bytes = builder.build();
    let furthest = Cell::new(0);
    let gguf = Gguf::read(Watched { inner: Cursor::new(&bytes), furthest: &furthest }, bytes.len() as u64).unwrap();
    assert_eq!(gguf.tensors.len(), 4);
    // The end of the header is known only when it is reached: one buffer may go beyond it.
    let header = builder.header_length() as u64;
    assert!((header..=header + 64 * 1024).contains(&furthest.get()), "{header} {}", furthest.get());
    assert!(bytes.len() as u64 > header + 16 * 1024 * 1024);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = GgufBuilder::llama().build();
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut at {length} of {}", whole.len());
    }
}

#[test]
fn hostile_headers_are_refused() {
    let good = GgufBuilder::llama;
    refused(&GgufBuilder { key_count: Some(0xffff_ffff), ..good() }, "more than any model has");
    refused(&GgufBuilder { key_count: Some(60_000), ..good() }, "incomplete");
    refused(&GgufBuilder { tensor_count: Some(u64::MAX), ..good() }, "more than any model has");
    refused(&GgufBuilder { version: 1, ..good() }, "version 1");
    refused(&GgufBuilder { version: 3u32.swap_bytes(), ..good() }, "big-endian");
    refused(&good().value("general.alignment", Value::U32(0)), "alignment");
    refused(&good().value("general.alignment", Value::U32(33)), "alignment");
    refused(&good().value("general.architecture", Value::Text("llama".into())), "twice");
    refused(&good().with("general.architecture", Value::U32(1)), "general.architecture");
    let raw = |kind: u32, length: u64| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        Value::Raw(9, bytes)
    };
    refused(&good().value("x", raw(9, 1)), "cannot hold");
    refused(&good().value("x", raw(8, u64::MAX)), "limit");
    refused(&good().value("x", raw(4, 1 << 40)), "incomplete");
    refused(&good().value("x", Value::Raw(8, u64::MAX.to_le_bytes().to_vec())), "limit");
    refused(&good().value("x", Value::Raw(99, vec![])), "no value type");
    refused(&good().value("x", Value::Raw(7, vec![2])), "truth value");
}

#[test]
fn hostile_tensors_are_refused() {
    let with = |change: &dyn Fn(&mut Tensor)| {
        let mut builder = GgufBuilder::llama();
        change(&mut builder.tensors[1]);
        builder
    };
    refused(&with(&|tensor| tensor.dimensions = vec![]), "dimensions");
    refused(&with(&|tensor| tensor.dimensions = vec![1; 5]), "dimensions");
    refused(&with(&|tensor| tensor.dimensions = vec![32, 0]), "dimension of 0");
    refused(&with(&|tensor| tensor.dimensions = vec![1 << 40, 1 << 40]), "dimension of");
    refused(&with(&|tensor| tensor.kind = 4), "does not exist");
    refused(&with(&|tensor| tensor.kind = 12), "whole blocks");
    refused(&with(&|tensor| tensor.offset = Some(1 << 50)), "hole");
    refused(&with(&|tensor| tensor.offset = Some(7)), "aligned");
    refused(&with(&|tensor| tensor.offset = Some(0)), "overlap");
    refused(&with(&|tensor| tensor.name = "token_embd.weight".into()), "twice");
    refused(&with(&|tensor| tensor.name = "blk.7.attn_q.weight".into()), "no layer");
    refused(&with(&|tensor| tensor.name = "x".repeat(64)), "longer than");
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let with = |key: &str, value: Value| GgufBuilder::llama().with(key, value);
    refused(&with("llama.block_count", Value::U32(0)), "block_count");
    refused(&with("llama.block_count", Value::U32(5)), "layers");
    refused(&with("llama.embedding_length", Value::U32(64)), "embedding");
    refused(&with("llama.attention.head_count_kv", Value::U32(3)), "heads");
    refused(&with("llama.context_length", Value::F32(1.0)), "context_length");
    refused(&with("tokenizer.ggml.eos_token_id", Value::U32(8)), "eos_token_id");
    refused(&with("tokenizer.ggml.scores", Value::Floats(vec![0.0; 7])), "scores");
    refused(&with("tokenizer.ggml.token_type", Value::Floats(vec![0.0; 8])), "token_type");
    refused(&with("tokenizer.ggml.tokens", Value::Ints(vec![0; 8])), "tokens");
}

#[test]
fn a_thousand_flipped_bytes_never_panic() {
    let builder = GgufBuilder::llama();
    let whole = builder.build();
    let header = builder.header_length();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..1000 {
        let mut bytes = whole.clone();
        let at = numbers.below(header);
        bytes[at] ^= u8::try_from(1 + numbers.below(255)).unwrap();
        match read(&bytes) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    println!("of 1000 flipped headers {refused} were refused, {accepted} still describe a model");
    assert_eq!(accepted + refused, 1000);
    assert!(refused > 300, "{refused}");
}
