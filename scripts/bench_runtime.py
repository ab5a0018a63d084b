#!/usr/bin/env python3
"""Measures how prompts that begin alike, many chats and constrained answers are computed, against llama-server: A B A B.

  scripts/bench_runtime.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/runtime.json and the table
  scripts/bench_runtime.py check                                      fails when the table is not that of the results
"""

import json
import os
import pathlib
import statistics
import time

from bench import (CONTEXT, MODEL_ID, ROOT, Cortex, Peer, chat, check_shown, command_line, described, line, publish, read_together, stories, table,
                   together)

RESULTS = ROOT / "bench/results/runtime.json"
BEGIN, END = "<!-- runtime:begin -->", "<!-- runtime:end -->"
# 717 tokens of SmolLM2.
SYSTEM = "You are a careful assistant of a shipping company. " + " ".join(
    f"Rule {number}: answer questions about harbour {number} in full sentences." for number in range(1, 46))
SCHEMA = {"type": "object", "properties": {"title": {"type": "string", "minLength": 400, "maxLength": 600}}, "required": ["title"],
          "additionalProperties": False}


def request(server, messages, tokens, **more):
    """The bytes of a streamed chat request."""
    body = json.dumps({"model": MODEL_ID, "stream": True, "temperature": 0, "max_tokens": tokens, "messages": messages, **more})
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def sharers(server, salt):
    """Seconds until all of 16 requests have their first text that share a long system prompt and come at once."""
    system = f"Edition {salt}. {SYSTEM}"
    requests = [request(server, [{"role": "system", "content": system},
                                 {"role": "user", "content": f"Question {number}: which harbour is nearest to harbour {number * 37 % 45}?"}], 2)
                for number in range(16)]
    began = time.perf_counter()
    stamps = read_together(server, requests)
    return max(own[0] for own in stamps) - began


def chats(server, streams, salt, words, tokens=48):
    """Tokens per second of all streams together, each after a prompt of its own."""
    prompts = [" ".join(f"word{(index * 7919 + salt * 31 + number * 977) % 9973}" for index in range(words)) for number in range(streams)]
    # Answers to such prompts repeat themselves, which guesses would gain from and real texts do not.
    return together(server, prompts, tokens, **{"speculative.n_max": 0})


def prefill(server, salt):
    """Seconds to the first text of a prompt of about 1,900 tokens that begins like no other."""
    words = " ".join(f"word{(index * 7919 + salt * 101) % 9973}" for index in range(400))
    began = time.perf_counter()
    return read_together(server, [chat(server, f"{salt} {words}", 1)])[0][0] - began


def constrained(server, salt):
    """Tokens per second of an answer that must be JSON, and of one that is free, both of the same length or nearly; without guesses, whose
    gain depends on the text. Medians of five in turn: one takes less than a second."""
    schema = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    rates = ([], [])
    for number in range(5):
        messages = [{"role": "user", "content": f"Write a long title about ship {salt}-{number}."}]
        for more, found in zip((schema, {"ignore_eos": True}), rates):
            stamps = read_together(server, [request(server, messages, 64, **{"speculative.n_max": 0}, **more)])[0]
            found.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    return statistics.median(rates[0]), statistics.median(rates[1])


def run(arguments):
    threads, model = arguments.threads, pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
    lines = []

    def is_left_out(entry):
        return any(words in entry["name"] for words in arguments.without) or (
            bool(arguments.only) and not any(words in entry["name"] for words in arguments.only))

    def both(streams, measures):
        if all(is_left_out(entry) for entry, _ in measures):
            return
        servers = {"ours": Cortex(model, streams, threads).ready(), "peer": Peer(arguments.peer, model, streams, threads).ready()}
        for entry, measure in measures:
            if is_left_out(entry):
                continue
            lines.append(entry)
            for index in range(arguments.pairs):
                for side, server in servers.items():
                    entry[side].append(round(measure(server, index), 5))
                print(entry["name"], index, entry["ours"][-1], entry["peer"][-1], flush=True)
        for server in servers.values():
            server.stop()

    both(1, [(line("prompt of 1,900 tokens, first text", "s", "≤ 1.0 ×", "lower", 1.0), prefill)])
    both(16, [
        (line("16 requests that share a system prompt, until all have their first text", "s", "≤ 0.12 ×", "lower", 0.12), sharers),
        (line("16 chats of their own, 512 tokens each, decode", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
         lambda server, index: chats(server, 16, index, 108)),
    ])
    both(32, [(line("decode, 32 streams together", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
               lambda server, index: together(server, stories(32, index), 48))])
    entry = line("decode of a JSON schema, against our own free decode", "tokens/s", "≥ 0.95 ×", "higher", 0.95)
    if not is_left_out(entry):
        ours = Cortex(model, 1, threads).ready()
        lines.append(entry)
        constrained(ours, 99)
        for index in range(arguments.pairs):
            # The other column is not of llama-server here, but of the same daemon without a schema.
            bound, free = constrained(ours, index)
            entry["ours"].append(round(bound, 5))
            entry["peer"].append(round(free, 5))
            print(entry["name"], index, bound, free, flush=True)
        ours.stop()
    options = "".join(f" --{name} " + " ".join(f"'{words}'" for words in given)
                      for name, given in (("without", arguments.without), ("only", arguments.only)) if given)
    result = described(f"scripts/bench_runtime.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}{options}", model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=streams, contextLength={CONTEXT}",
                                        "llama-server": f"-t {threads} -np STREAMS -c {CONTEXT}*STREAMS"}, lines)
    publish(result, RESULTS, (BEGIN, END), shown)


def shown(result):
    return table(result, "runtime.json")


if __name__ == "__main__":
    command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), shown),
                 lambda measured: (measured.add_argument("--without", nargs="*", default=[],
                                                         help="lines whose names contain one of these are left out"),
                                   measured.add_argument("--only", nargs="*", default=[],
                                                         help="only lines whose names contain one of these are measured")))
