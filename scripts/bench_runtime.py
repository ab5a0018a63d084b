#!/usr/bin/env python3
"""Measures how prompts that begin alike, many chats and constrained answers are computed, against llama-server: A B A B.

  scripts/bench_runtime.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/runtime.json and the table
  scripts/bench_runtime.py check                                      fails when the table is not that of the results
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import time

from bench import (CONTEXT, MODEL_ID, ROOT, Cortex, Peer, chat, check_shown, decode, described, line, publish, read_together, table)

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
    """Tokens per second of all streams together, each after a prompt of its own, from the moment when all are answered."""
    prompts = [" ".join(f"word{(index * 7919 + salt * 31 + number * 977) % 9973}" for index in range(words)) for number in range(streams)]
    stamps = read_together(server, [chat(server, prompt, tokens) for prompt in prompts])
    all_run = max(own[0] for own in stamps)
    first_ends = min(own[-1] for own in stamps)
    counted = sum(1 for own in stamps for moment in own if all_run < moment <= first_ends)
    return counted / (first_ends - all_run)


def prefill(server, salt):
    """Seconds to the first text of a prompt of about 1,900 tokens that begins like no other."""
    words = " ".join(f"word{(index * 7919 + salt * 101) % 9973}" for index in range(400))
    began = time.perf_counter()
    return read_together(server, [chat(server, f"{salt} {words}", 1)])[0][0] - began


def turns(server, salt):
    """The mean time to the first text of the second turns of 16 users who come one after the other."""
    histories = {}
    for number in range(16):
        words = " ".join(f"word{(index * 7919 + salt * 17 + number * 977) % 9973}" for index in range(60))
        histories[number] = [{"role": "user", "content": f"{salt}-{number} {words}"}]
        answer = json.loads(server.call("POST", "/v1/chat/completions", {
            "model": MODEL_ID, "temperature": 0, "max_tokens": 8, "ignore_eos": True, "messages": histories[number]}))
        histories[number] += [answer["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    times = []
    for number in range(16):
        began = time.perf_counter()
        times.append(read_together(server, [request(server, histories[number], 1)])[0][0] - began)
    return statistics.mean(times)


def constrained(server, salt):
    """Tokens per second of an answer that must be JSON, and of one that is free, both of the same length or nearly."""
    rates = []
    for more in ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, {"ignore_eos": True}):
        messages = [{"role": "user", "content": f"Write a long title about ship {salt}."}]
        stamps = read_together(server, [request(server, messages, 64, **more)])[0]
        rates.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    return rates[0], rates[1]


def purchases(salt):
    """A list of 14 lines that is like no other."""
    numbers = random.Random(salt)
    names, things = "Anna Boris Carla Elena Farid Greta Hugo Ines".split(), "apples bricks candles drums engines flutes".split()
    return "".join(f"{numbers.choice(names)} bought {numbers.randrange(2, 90)} {numbers.choice(things)} for {numbers.randrange(3, 900)} euros "
                   f"on day {numbers.randrange(1, 31)}.\n" for _ in range(14))


def completion(server, prompt, tokens, **more):
    """The answer to a text, and the seconds from its first token to the last."""
    answer = json.loads(server.call("POST", "/v1/completions", {
        "model": MODEL_ID, "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "prompt": prompt, **more}))
    return answer, answer["timings"]["predicted_ms"] / 1000


def guessed(server, prompt, tokens):
    """Tokens per second of an answer with guesses and without, the guesses, and those that were right."""
    answer, seconds = completion(server, prompt, tokens)
    _, plain = completion(server, prompt, tokens, **{"speculative.n_max": 0})
    timings = answer["timings"]
    return tokens / seconds, tokens / plain, timings.get("draft_n", 0), timings.get("draft_n_accepted", 0), answer["choices"][0]["text"]


def copied(text, of):
    """The share of the lines of an answer that are lines of a list."""
    lines = [text for text in text.split("\n")[:-1] if text]
    return sum(text in of.split("\n") for text in lines) / max(len(lines), 1)


def run(arguments):
    threads, model = arguments.threads, pathlib.Path(os.environ["CORTEX_TEST_MODEL"])
    lines = []

    def is_left_out(entry):
        return any(words in entry["name"] for words in arguments.without)

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
        (line("16 users in turn, first text of their second turns", "s", "≤ 0.8 ×", "lower", 0.8), turns),
        (line("16 chats of their own, 512 tokens each, decode", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
         lambda server, index: chats(server, 16, index, 108)),
    ])
    both(32, [(line("decode, 32 streams together", "tokens/s", "≥ 1.0 ×", "higher", 1.0),
               lambda server, index: decode(server, 32, index, tokens=48))])
    ours = Cortex(model, 1, threads).ready()
    entry = line("decode of a JSON schema, against our own free decode", "tokens/s", "≥ 0.95 ×", "higher", 0.95)
    lines.append(entry)
    constrained(ours, 99)
    for index in range(arguments.pairs):
        # The other column is not of llama-server here, but of the same daemon without a schema.
        bound, free = constrained(ours, index)
        entry["ours"].append(round(bound, 5))
        entry["peer"].append(round(free, 5))
        print(entry["name"], index, bound, free, flush=True)
    ours.stop()
    notes = []

    def ours_alone(entry, measure):
        if is_left_out(entry):
            return
        lines.append(entry)
        for index in range(arguments.pairs):
            first, second = measure(index)
            entry["ours"].append(round(first, 5))
            entry["peer"].append(round(second, 5))
            print(entry["name"], index, first, second, flush=True)

    # The other column is the same daemon, without guesses or with nothing on disk.
    guesses, right, shares = [], [], []

    def rewritten(index):
        of = purchases(index)
        prompt = (f"The list, as it was found:\n{of}\nThe list with the same lines again:\n{of}\n"
                  "The list with the same lines once more:\n")
        fast, plain, drafted, accepted, text = guessed(ours, prompt, 200)
        guesses.append(drafted)
        right.append(accepted)
        shares.append(copied(text, of))
        return fast, plain

    ours = Cortex(model, 1, threads).ready()
    ours_alone(line("a list copied from the prompt, against our own decode without guesses", "tokens/s", "≥ 1.3 ×", "higher", 1.3), rewritten)
    if guesses:
        notes.append(f"guesses a list of 200 tokens {statistics.median(guesses):.0f}, right {statistics.median(right):.0f}; "
                     f"lines of the answer that are lines of the prompt {statistics.median(shares):.0%} (least {min(shares):.0%})")
    ours_alone(line("a free text, against our own decode without guesses", "tokens/s", "≥ 0.97 ×", "higher", 0.97),
               lambda index: guessed(ours, f"Story {index}: Once upon a time there was", 200)[:2])
    ours.stop()
    ours = Cortex(model, 1, threads, context=8192).ready()

    def restarted(index):
        prompt = " ".join(f"word{(at * 7919 + index * 131) % 9973}" for at in range(850))
        cold = ours.stream(f"{prompt} And?", 1)[0]
        ours.restart()
        return ours.stream(f"{prompt} Or?", 1)[0], cold

    ours_alone(line("a prompt of 4,000 tokens after a restart, against our own cold one, first text", "s", "≤ 0.2 ×", "lower", 0.2), restarted)
    ours.stop()
    result = described(f"scripts/bench_runtime.py run --peer PATH/llama-server --pairs {arguments.pairs} --threads {threads}"
                       + "".join(f" --without '{words}'" if index == 0 else f" '{words}'" for index, words in enumerate(arguments.without)), model,
                       arguments.peer, {"cortex": f"threads={threads}, parallel=streams, contextLength={CONTEXT}",
                                        "llama-server": f"-t {threads} -np STREAMS -c {CONTEXT}*STREAMS"}, lines)
    result["notes"] = notes
    publish(result, RESULTS, (BEGIN, END), shown)


def shown(result):
    return table(result, "runtime.json") + "".join(f"\n{note}.\n" for note in result.get("notes", []))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("run")
    measured.add_argument("--peer", required=True)
    measured.add_argument("--pairs", type=int, default=7)
    measured.add_argument("--threads", type=int, default=os.cpu_count())
    measured.add_argument("--without", nargs="*", default=[], help="lines whose names contain one of these are left out")
    commands.add_parser("check")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    else:
        check_shown(RESULTS, (BEGIN, END), shown)


if __name__ == "__main__":
    main()
