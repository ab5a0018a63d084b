#!/usr/bin/env python3
"""Measures what is not computed again, and what is guessed ahead: against llama-server, and against ourselves without it.

  scripts/bench_prompts.py run --peer PATH/llama-server [--pairs 7]   measures, writes bench/results/prompts.json and the table
  scripts/bench_prompts.py check                                      fails when the table is not that of the results
"""

import json
import os
import pathlib
import random
import statistics
import time

from bench import CONTEXT, MODEL_ID, ROOT, Cortex, Peer, check_shown, command_line, described, line, publish, read_together, table
from bench_runtime import request

RESULTS = ROOT / "bench/results/prompts.json"
BEGIN, END = "<!-- prompts:begin -->", "<!-- prompts:end -->"


def turns(server, salt, pause=0.0):
    """The mean time to the first text of the second turns of 16 users who come one after the other, so many seconds after an answer."""
    histories = {}
    for number in range(16):
        words = " ".join(f"word{(index * 7919 + salt * 17 + number * 977) % 9973}" for index in range(60))
        histories[number] = [{"role": "user", "content": f"{salt}-{number} {words}"}]
        answer = json.loads(server.call("POST", "/v1/chat/completions", {
            "model": MODEL_ID, "temperature": 0, "max_tokens": 8, "ignore_eos": True, "messages": histories[number]}))
        histories[number] += [answer["choices"][0]["message"], {"role": "user", "content": "And then?"}]
        time.sleep(pause)
    times = []
    for number in range(16):
        began = time.perf_counter()
        times.append(read_together(server, [request(server, histories[number], 1)])[0][0] - began)
        time.sleep(pause)
    return statistics.mean(times)


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
    threads, model, pairs = arguments.threads, pathlib.Path(os.environ["CORTEX_TEST_MODEL"]), arguments.pairs
    lines, drafted, right, shares = [], [], [], []

    def measure(entry, both):
        lines.append(entry)
        for index in range(pairs):
            for side, value in zip(("ours", "peer"), both(index)):
                entry[side].append(round(value, 5))
            print(entry["name"], index, entry["ours"][-1], entry["peer"][-1], flush=True)

    servers = [Cortex(model, 16, threads).ready(), Peer(arguments.peer, model, 16, threads).ready()]
    measure(line("16 users in turn, first text of their second turns", "s", "≤ 0.8 ×", "lower", 0.8),
            lambda index: [turns(server, index) for server in servers])
    measure(line("16 users in turn who read for 0.1 s, first text of their second turns", "s", "≤ 0.8 ×", "lower", 0.8),
            lambda index: [turns(server, 100 + index, 0.1) for server in servers])
    for server in servers:
        server.stop()
    # From here on, the other column is the same daemon: without guesses, or with nothing on disk.
    ours = Cortex(model, 1, threads).ready()

    def rewritten(index):
        of = purchases(index)
        prompt = (f"The list, as it was found:\n{of}\nThe list with the same lines again:\n{of}\n"
                  "The list with the same lines once more:\n")
        fast, plain, guesses, accepted, text = guessed(ours, prompt, 200)
        drafted.append(guesses)
        right.append(accepted)
        shares.append(copied(text, of))
        return fast, plain

    measure(line("a list copied from the prompt, against our own decode without guesses", "tokens/s", "≥ 1.3 ×", "higher", 1.3), rewritten)
    measure(line("a free text, against our own decode without guesses", "tokens/s", "≥ 0.97 ×", "higher", 0.97),
            lambda index: guessed(ours, f"Story {index}: Once upon a time there was", 200)[:2])
    ours.stop()
    ours = Cortex(model, 1, threads, context=8192).ready()

    def restarted(index):
        prompt = " ".join(f"word{(at * 7919 + index * 131) % 9973}" for at in range(850))
        cold = ours.stream(f"{prompt} And?", 1)[0]
        ours.restart()
        return ours.stream(f"{prompt} Or?", 1)[0], cold

    measure(line("a prompt of 4,000 tokens after a restart, against our own cold one, first text", "s", "≤ 0.2 ×", "lower", 0.2), restarted)
    ours.stop()
    result = described(f"scripts/bench_prompts.py run --peer PATH/llama-server --pairs {pairs} --threads {threads}", model, arguments.peer,
                       {"cortex": f"threads={threads}, parallel=16 or 1, contextLength={CONTEXT} or 8192",
                        "llama-server": f"-t {threads} -np 16 -c {CONTEXT}*16"}, lines)
    result["notes"] = [
        f"Of an answer of 200 tokens that copies a list, {statistics.median(drafted):.0f} were guessed and {statistics.median(right):.0f} of these right; "
        f"{statistics.median(shares):.0%} of its lines are lines of the prompt (the least {min(shares):.0%})"]
    publish(result, RESULTS, (BEGIN, END), shown)


def shown(result):
    return table(result, "prompts.json") + "".join(f"\n{note}.\n" for note in result["notes"])


if __name__ == "__main__":
    command_line(__doc__, run, lambda: check_shown(RESULTS, (BEGIN, END), shown))
