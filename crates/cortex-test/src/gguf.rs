//! Writes small GGUF files, good ones and bad ones.

/// A value of the header, with the type that it is written as.
#[derive(Debug, Clone)]
pub enum Value {
    /// Type 4.
    U32(u32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9 of type 8.
    Texts(Vec<String>),
    /// Type 9 of type 6.
    Floats(Vec<f32>),
    /// Type 9 of type 5.
    Ints(Vec<i32>),
    /// Type 9 of type 7.
    Bools(Vec<bool>),
    /// Any type, its bytes as they are.
    Raw(u32, Vec<u8>),
}

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type, as ggml numbers them.
    pub kind: u32,
    /// Its dimensions.
    pub dimensions: Vec<u64>,
    /// Its data.
    pub data: Vec<u8>,
    /// Another offset than the right one.
    pub offset: Option<u64>,
}

/// How large a model is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Tokens that it knows.
    pub vocabulary: u64,
    /// Width between the layers.
    pub embedding: u64,
    /// Width inside of a layer.
    pub feed_forward: u64,
    /// Layers.
    pub layers: u64,
    /// Heads of attention.
    pub heads: u64,
    /// Heads that have keys and values of their own.
    pub kept_heads: u64,
    /// Context that it was trained with.
    pub context: u64,
}

/// Builds a file. All fields may be changed before [`GgufBuilder::build`].
#[derive(Debug, Clone)]
pub struct GgufBuilder {
    /// The version to write.
    pub version: u32,
    /// Keys and values, in order.
    pub values: Vec<(String, Value)>,
    /// Tensors, in order.
    pub tensors: Vec<Tensor>,
    /// Another count of keys than the right one.
    pub key_count: Option<u64>,
    /// Another count of tensors than the right one.
    pub tensor_count: Option<u64>,
    /// Alignment of the data.
    pub alignment: usize,
}

impl Default for GgufBuilder {
    fn default() -> Self {
        Self { version: 3, values: vec![], tensors: vec![], key_count: None, tensor_count: None, alignment: 32 }
    }
}

impl GgufBuilder {
    /// A header like that of a small Llama: one layer, eight tokens, weights of zeros.
    pub fn llama() -> Self {
        let text = |text: &str| Value::Text(text.into());
        let mut builder = Self::default()
            .value("general.architecture", text("llama"))
            .value("general.name", text("Tiny Test Llama"))
            .value("llama.block_count", Value::U32(1))
            .value("llama.context_length", Value::U32(128))
            .value("llama.embedding_length", Value::U32(32))
            .value("llama.feed_forward_length", Value::U32(64))
            .value("llama.attention.head_count", Value::U32(4))
            .value("llama.attention.head_count_kv", Value::U32(2))
            .value("tokenizer.ggml.model", text("llama"))
            .value(
                "tokenizer.ggml.tokens",
                Value::Texts(["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"].map(str::to_owned).to_vec()),
            )
            .value("tokenizer.ggml.scores", Value::Floats(vec![0.0; 8]))
            .value("tokenizer.ggml.token_type", Value::Ints(vec![1; 8]))
            .value("tokenizer.ggml.bos_token_id", Value::U32(1))
            .value("tokenizer.ggml.eos_token_id", Value::U32(2));
        for (name, dimensions) in [
            ("token_embd.weight", vec![32, 8]),
            ("blk.0.attn_q.weight", vec![32, 32]),
            ("blk.0.ffn_up.weight", vec![32, 64]),
            ("output_norm.weight", vec![32]),
        ] {
            builder = builder.tensor(name, dimensions);
        }
        builder
    }

    /// One that llama.cpp loads: [`GgufBuilder::llama`] with all the tensors of its layer.
    pub fn loadable_llama() -> Self {
        let mut builder = Self::llama()
            .value("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5))
            .value("llama.rope.dimension_count", Value::U32(8));
        for (name, dimensions) in [
            ("blk.0.attn_norm.weight", vec![32]),
            ("blk.0.attn_k.weight", vec![32, 16]),
            ("blk.0.attn_v.weight", vec![32, 16]),
            ("blk.0.attn_output.weight", vec![32, 32]),
            ("blk.0.ffn_norm.weight", vec![32]),
            ("blk.0.ffn_gate.weight", vec![32, 64]),
            ("blk.0.ffn_down.weight", vec![64, 32]),
        ] {
            builder = builder.tensor(name, dimensions);
        }
        builder
    }

    /// One that llama.cpp loads, of this size. Its weights are zeros.
    pub fn llama_of(size: Size) -> Self {
        let number = |number: u64| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
        let tokens = || 0..size.vocabulary;
        let mut builder = Self::loadable_llama()
            .with("llama.block_count", number(size.layers))
            .with("llama.context_length", number(size.context))
            .with("llama.embedding_length", number(size.embedding))
            .with("llama.feed_forward_length", number(size.feed_forward))
            .with("llama.attention.head_count", number(size.heads))
            .with("llama.attention.head_count_kv", number(size.kept_heads))
            .with("llama.rope.dimension_count", number(size.embedding / size.heads))
            .with("tokenizer.ggml.tokens", Value::Texts(tokens().map(|token| format!("t{token}")).collect()))
            .with("tokenizer.ggml.scores", Value::Floats(tokens().map(|_| 0.0).collect()))
            .with("tokenizer.ggml.token_type", Value::Ints(tokens().map(|_| 1).collect()));
        builder.tensors.clear();
        let (width, inside) = (size.embedding, size.feed_forward);
        let kept = width / size.heads * size.kept_heads;
        builder = builder
            .tensor("token_embd.weight", vec![width, size.vocabulary])
            .tensor("output_norm.weight", vec![width])
            .tensor("output.weight", vec![width, size.vocabulary]);
        for layer in 0..size.layers {
            for (name, dimensions) in [
                ("attn_norm", vec![width]),
                ("attn_q", vec![width, width]),
                ("attn_k", vec![width, kept]),
                ("attn_v", vec![width, kept]),
                ("attn_output", vec![width, width]),
                ("ffn_norm", vec![width]),
                ("ffn_gate", vec![width, inside]),
                ("ffn_up", vec![width, inside]),
                ("ffn_down", vec![inside, width]),
            ] {
                builder = builder.tensor(&format!("blk.{layer}.{name}.weight"), dimensions);
            }
        }
        builder
    }

    /// Adds a key.
    #[must_use]
    pub fn value(mut self, key: &str, value: Value) -> Self {
        self.values.push((key.into(), value));
        self
    }

    /// Replaces the value of a key.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.values.retain(|(known, _)| known != key);
        self.value(key, value)
    }

    /// Moves the keys that begin like this behind all others.
    #[must_use]
    pub fn keys_last(mut self, beginning: &str) -> Self {
        self.values.sort_by_key(|(key, _)| key.starts_with(beginning));
        self
    }

    /// Adds a tensor of 32-bit zeros.
    #[must_use]
    pub fn tensor(mut self, name: &str, dimensions: Vec<u64>) -> Self {
        let bytes = usize::try_from(dimensions.iter().product::<u64>() * 4).unwrap_or(0);
        self.tensors.push(Tensor { name: name.into(), kind: 0, dimensions, data: vec![0; bytes], offset: None });
        self
    }

    /// Bytes before the data.
    pub fn header_length(&self) -> usize {
        self.header().len()
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        let start = file.len();
        for tensor in &self.tensors {
            file.resize(start + (file.len() - start).next_multiple_of(self.alignment), 0);
            file.extend(&tensor.data);
        }
        file
    }

    fn header(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.key_count.unwrap_or(self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            put_text(key, &mut file);
            put_value(value, &mut file);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_text(&tensor.name, &mut file);
            file.extend(u32::try_from(tensor.dimensions.len()).unwrap_or(u32::MAX).to_le_bytes());
            for dimension in &tensor.dimensions {
                file.extend(dimension.to_le_bytes());
            }
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset = (offset + tensor.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        file
    }
}

fn put_text(text: &str, file: &mut Vec<u8>) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn put_value(value: &Value, file: &mut Vec<u8>) {
    let array = |kind: u32, length: usize, file: &mut Vec<u8>| {
        file.extend(9u32.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend((length as u64).to_le_bytes());
    };
    match value {
        Value::U32(number) => {
            file.extend(4u32.to_le_bytes());
            file.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            file.extend(6u32.to_le_bytes());
            file.extend(number.to_le_bytes());
        }
        Value::Bool(truth) => {
            file.extend(7u32.to_le_bytes());
            file.push(u8::from(*truth));
        }
        Value::Text(text) => {
            file.extend(8u32.to_le_bytes());
            put_text(text, file);
        }
        Value::Texts(texts) => {
            array(8, texts.len(), file);
            for text in texts {
                put_text(text, file);
            }
        }
        Value::Floats(numbers) => {
            array(6, numbers.len(), file);
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Value::Ints(numbers) => {
            array(5, numbers.len(), file);
            file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Value::Bools(truths) => {
            array(7, truths.len(), file);
            file.extend(truths.iter().map(|&truth| u8::from(truth)));
        }
        Value::Raw(kind, bytes) => {
            file.extend(kind.to_le_bytes());
            file.extend(bytes);
        }
    }
}
