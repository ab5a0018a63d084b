#!/usr/bin/env python3
"""Measures a larger model against llama-server, in turn: random weights in the shape of Qwen2.5-1.5B in Q4_K_M, made here.

  scripts/bench_larger.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/larger.json and the table
  scripts/bench_larger.py check                                      fails when the table is not that of the results
  scripts/bench_larger.py make FILE                                  makes the model only

The vocabulary is that of the small model of the tests (CORTEX_TEST_MODEL), filled up to the size of Qwen's. Needs the Python packages
of tests/embeddings/requirements.txt.
"""

import os
import pathlib
import sys
import time

from bench import (CONTEXT, ROOT, Cortex, Peer, batched_bench, chat, check_shown, command_line, decode, described, line, own_bench, publish,
                   read_together, table, together)

RESULTS = ROOT / "bench/results/larger.json"
BEGIN, END = "<!-- larger:begin -->", "<!-- larger:end -->"
WIDTH, INSIDE, LAYERS, HEADS, KEPT_HEADS, VOCABULARY = 1536, 8960, 28, 12, 2, 151936
# Random weights repeat themselves, which guesses would gain from and real texts do not.
PLAIN = {"speculative.n_max": 0}


def make(path):
    """Writes the model; the same bytes every time."""
    import gguf
    import numpy

    random = numpy.random.default_rng(5)
    small = gguf.GGUFReader(os.environ["CORTEX_TEST_MODEL"])
    field = lambda name: small.fields[name].contents()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("Random weights in the shape of Qwen2.5-1.5B")
    writer.add_block_count(LAYERS)
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INSIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEPT_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    tokens, kinds = field("tokenizer.ggml.tokens"), list(field("tokenizer.ggml.token_type"))
    more = VOCABULARY - len(tokens)
    writer.add_tokenizer_model(field("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(field("tokenizer.ggml.pre"))
    writer.add_token_list(tokens + [f"word{number} " for number in range(more)])
    writer.add_token_types(kinds + [1] * more)
    writer.add_token_merges(field("tokenizer.ggml.merges"))
    writer.add_bos_token_id(int(field("tokenizer.ggml.bos_token_id")))
    writer.add_eos_token_id(int(field("tokenizer.ggml.eos_token_id")))
    writer.add_chat_template(field("tokenizer.chat_template"))

    def half(number, count):
        return numpy.full((count, 1), number, numpy.float16).view(numpy.uint8).reshape(count, 2)

    def q4_k(rows, columns):
        """Blocks of 256: a scale and a minimum for all, 8 of each with 6 bits, 4 bits for each number. The mean is zero."""
        count = rows * columns // 256
        data = numpy.concatenate([half(2e-4, count), half(15e-4, count), random.integers(0, 256, (count, 140), numpy.uint8)], axis=1)
        return data.reshape(rows, -1), gguf.GGMLQuantizationType.Q4_K

    def q6_k(rows, columns):
        """Blocks of 256: 6 bits for each number, 16 scales, a scale for all."""
        count = rows * columns // 256
        data = numpy.concatenate([random.integers(0, 256, (count, 208), numpy.uint8), half(2e-5, count)], axis=1)
        return data.reshape(rows, -1), gguf.GGMLQuantizationType.Q6_K

    def put(name, made):
        data, kind = made
        writer.add_tensor(name, data, raw_dtype=kind)

    def plain(name, length, middle):
        writer.add_tensor(name, (middle + random.uniform(-0.1, 0.1, length)).astype(numpy.float32))

    put("token_embd.weight", q6_k(VOCABULARY, WIDTH))
    plain("output_norm.weight", WIDTH, 1)
    kept = WIDTH // HEADS * KEPT_HEADS
    for layer in range(LAYERS):
        plain(f"blk.{layer}.attn_norm.weight", WIDTH, 1)
        plain(f"blk.{layer}.ffn_norm.weight", WIDTH, 1)
        # As llama.cpp's mixture has it: half of these are stored with more bits.
        finer = q6_k if layer % 2 else q4_k
        for name, rows, columns, stored in [
            ("attn_q", WIDTH, WIDTH, q4_k), ("attn_k", kept, WIDTH, q4_k), ("attn_v", kept, WIDTH, finer),
            ("attn_output", WIDTH, WIDTH, q4_k), ("ffn_gate", INSIDE, WIDTH, q4_k), ("ffn_up", INSIDE, WIDTH, q4_k),
            ("ffn_down", WIDTH, INSIDE, finer),
        ]:
            put(f"blk.{layer}.{name}.weight", stored(rows, columns))
        for name, length in [("attn_q", WIDTH), ("attn_k", kept), ("attn_v", kept)]:
            plain(f"blk.{layer}.{name}.bias", length, 0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prefill(server, salt):
    """Seconds to the first text of a prompt of about 500 tokens that begins like no other."""
    words = " ".join(f"word{(index * 7919 + salt * 101) % 9973}" for index in range(105))
    began = time.perf_counter()
    return read_together(server, [chat(server, f"{salt} {words}", 1, **PLAIN)])[0][0] - began


def stories(salt):
    """Eight prompts that begin like no others."""
    return [f"Story {salt}-{number}: tell me about a ship." for number in range(8)]


def run(arguments):
    threads, model = arguments.threads, arguments.model
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        make(model.with_suffix(".new"))
        model.with_suffix(".new").rename(model)
    lines = []
    batched = pathlib.Path(arguments.peer).with_name("llama-batched-bench")
    of = {
        1: [(line("decode, one stream", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
             lambda server, index: decode(server, 1, index, 32, **PLAIN), None),
            (line("one stream, against llama-bench", "tokens/s", "≥ 0.97 ×", "higher", 0.97),
             lambda server, index: decode(server, 1, 50 + index, 32, **PLAIN), lambda: own_bench(arguments.peer, model, threads, 32)),
            (line("prompt of 500 tokens, first text", "s", "≤ 1.0 ×", "lower", 1.0), prefill, None)],
        8: [(line("decode, 8 streams together", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
             lambda server, index: together(server, stories(index), 32, **PLAIN), None),
            (line("8 streams, against llama-batched-bench", "tokens/s", "≥ 0.95 ×", "higher", 0.95),
             lambda server, index: together(server, stories(50 + index), 32, **PLAIN), lambda: batched_bench(batched, model, threads, 32))],
    }
    is_wanted = lambda entry: not arguments.only or any(words in entry["name"] for words in arguments.only)
    for streams, measures in of.items():
        measures = [it for it in measures if is_wanted(it[0])]
        if not measures:
            continue
        lines += [entry for entry, _, _ in measures]
        for index in range(arguments.pairs):
            # Each pair has loads of its own: which pages of memory the weights get decides up to 10 % of the speed, for as long as
            # they stay loaded.
            ours, peer = Cortex(model, streams, threads).ready(), Peer(arguments.peer, model, streams, threads).ready()
            for server in (ours, peer):
                decode(server, streams, 999, 8)
            for entry, measure, alone in measures:
                entry["ours"].append(round(measure(ours, index), 5))
                entry["peer"].append(round(alone() if alone else measure(peer, index), 5))
                print(entry["name"], index, entry["ours"][-1], entry["peer"][-1], flush=True)
            ours.stop()
            peer.stop()
    result = described(f"scripts/bench_larger.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}", model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=streams, contextLength={CONTEXT}, speculative.n_max=0",
                                        "llama-server": f"-t {threads} -np STREAMS -c {CONTEXT}*STREAMS"}, lines)
    publish(result, RESULTS, (BEGIN, END), shown)


def shown(result):
    return table(result, "larger.json")


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
        make(sys.argv[2])
    else:
        cache = pathlib.Path(os.environ.get("CORTEX_CACHE", pathlib.Path.home() / ".cache/cortex"))
        command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), shown),
                     lambda measured: (measured.add_argument("--model", type=pathlib.Path,
                                                             default=cache / "bench/random-qwen2.5-1.5b.Q4_K_M.gguf"),
                                       measured.add_argument("--only", nargs="*", default=[],
                                                             help="only lines whose names contain one of these are measured")))
