#!/usr/bin/env python3
"""Makes one mistake after the other in a line of the runtime, and says which test notices it.

  scripts/mistakes.py [WORDS …]    all, or those whose description has one of the words; prints the table of docs/reliability.md
  scripts/mistakes.py check        fails when a line is not there any more, or a mistake not in that table

Works on the files of this folder: it refuses to begin with changes that are not committed, and puts every line back.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER, ENGINE, SERVER = "crates/cortex-llamacpp/src", "crates/cortex-engine/src", "crates/cortex-server/src"
UNIT = {WORKER: ["--bin", "cortex-llamacpp", "-p", "cortex-llamacpp"], ENGINE: ["--lib", "-p", "cortex-engine"], SERVER: ["--lib", "-p", "cortex-server"]}

# What is wrong, the file, the line as it is, the mistake, where the test is, its name.
MISTAKES = [
    ("a beginning that is of another key is waited for", f"{WORKER}/slot.rs", "slot.is_for(wanted) && is_ahead", "is_ahead", WORKER, "of_another_scope"),
    ("a beginning of another key is used", f"{WORKER}/slot.rs", "self.scope.is_some() && self.scope == wanted.scope", "self.scope.is_some()", WORKER, "of_another_scope"),
    ("a recurrent state is cut", f"{WORKER}/slot.rs", "if !wanted.is_whole || common == self.cells.len() && most == common {", "if true {", WORKER, "cannot_be_cut"),
    ("the youngest conversation gives way", f"{WORKER}/slot.rs", ".min_by_key(|(index, slot)| (slot.last_used, *index))", ".max_by_key(|(index, slot)| (slot.last_used, *index))", WORKER, "slot::tests"),
    ("a beginning that is being computed is computed again", f"{WORKER}/slot.rs", "return Some(later);", "", WORKER, "waited_for"),
    ("a state of another key is read from disk", f"{WORKER}/saved.rs", ".filter(|(_, saved)| saved.scope == scope)", "", WORKER, "saves_most"),
    ("a damaged state is read", f"{WORKER}/saved.rs", "if (bytes, checksum) == (saved.bytes, saved.checksum) {", "if bytes == saved.bytes {", WORKER, "files_are_found"),
    ("the state that was used last is removed first", f"{WORKER}/saved.rs", "    files.sort();\n", "    files.sort();\n    files.reverse();\n", WORKER, "longest_ago"),
    ("every guess is computed, whatever it costs", f"{WORKER}/drafting.rs", "if rate > best.0 {", "if rate > 0.0 {", WORKER, "drafting::tests"),
    ("a guess is never wrong", f"{WORKER}/drafting.rs", "rate.wrong += f64::from(u8::from(right < guess.tokens.len()));", "", WORKER, "drafting::tests"),
    ("the shortest repetition is followed", f"{WORKER}/lookup.rs", "same > longest ||", "same < longest ||", WORKER, "lookup::tests"),
    ("prompts come before answers", f"{WORKER}/schedule.rs", "(want.prompt > 0, want.admitted)", "(want.prompt == 0, want.admitted)", WORKER, "schedule::tests"),
    ("a batch is in the order of the requests", f"{WORKER}/schedule.rs", "batch.sort_by_key(|share| share.slot);", "", WORKER, "schedule::tests"),
    ("the end of a recent conversation gives way to a few tokens", f"{WORKER}/slot.rs", "slot.cells.len() - common };", "0 };", WORKER, "slot::tests"),
    ("half of a stop text is shown", f"{WORKER}/text.rs", "let keep = self.length_of_possible_stop();", "let keep = 0;", WORKER, "stop_text_across"),
    ("a user spells a control token", f"{ENGINE}/chat/guard.rs", "segment(control, false)", "segment(control, true)", ENGINE, "guard::tests"),
    ("text around a gap spells a control token", f"{ENGINE}/chat/mod.rs", "text: text.to_owned(), special: false }", "text: text.to_owned(), special: true }", ENGINE, "a_gap_stands"),
    ("two keys share what they have asked", f"{SERVER}/edge.rs", "(config.api_keys.len() > 1)", "(config.api_keys.len() > 2)", SERVER, "each_of_several_keys"),
    ("all answers to one request are the same", f"{SERVER}/convert/mod.rs", "sampling::a_seed(u64::from(seed) + u64::from(further))", "seed", SERVER, "random_numbers_apart"),
    # The next ones are in the program itself: it is built anew, and the tests talk to it.
    ("wrong guesses stay in the cells", f"{WORKER}/answering/steps.rs", "        if right < drafted && !self.slots[slot].cells.is_empty() {\n", "        if right > drafted {\n", "worker", "what_repeats"),
    ("guesses lie in the wrong places", f"{WORKER}/answering/steps.rs", "entries.push(Entry { token, position: position(offset), sequence, wants_logits: true });", "entries.push(Entry { token, position: position(offset.min(1)), sequence, wants_logits: true });", "worker", "what_repeats"),
    ("the matcher does not hear of a token", f"{WORKER}/sampling.rs", "guide.accept(token).map_err(|LlamaError(why)| NoChoice::Constraint(why))?;", "let _ = guide;", "worker", "an_answer_is_what"),
    ("what fills a gap stays", f"{WORKER}/answering/steps.rs", "self.truncate(slot, self.slots[slot].cells.len());", "let _ = slot;", "worker", "between_two_that_run"),
    ("the cores of others are taken for what comes next", f"{WORKER}/answering/steps.rs", "if idle.is_none_or(|idle| idle >= self.context.threads()) {", "if idle.is_none_or(|_| true) {", "worker", "what_the_next_turn"),
    ("what is computed ahead stands in the wrong place", f"{WORKER}/answering/steps.rs", "            position: u32::try_from(begin + offset).unwrap_or(u32::MAX),\n", "            position: u32::try_from(begin + 1 + offset).unwrap_or(u32::MAX),\n", "worker", "what_the_next_turn"),
    ("what is nobody's is kept", f"{WORKER}/answering/places.rs", "self.slots[index].scope = scope;", "self.slots[index].scope = Some(scope.unwrap_or(0));", "prompt_cache", "for_nobody"),
    ("a checkpoint outlives what it was of", f"{WORKER}/slot.rs", "self.checkpoints.retain(|it| it.tokens <= keep);", "", "layouts", "alone"),
    ("what was there before leaves its checkpoints", f"{WORKER}/answering/places.rs", "                self.truncate(slot, 0);\n", "", "layouts", "what_comes_from_disk"),
    ("an image is taken for another one", f"{WORKER}/images.rs", "let content = Sha256::new().chain_update(size.0.to_le_bytes()).chain_update(&pixels).finalize();", "let content = Sha256::new().chain_update(size.0.to_le_bytes()).finalize();", "beside", "part_of_prompts"),
    ("half of an image is computed again", f"{WORKER}/answering/places.rs", "keep = image.range.start;", "", "beside", "images_are_part"),
    ("text behind an image stands where its tokens are counted", f"{WORKER}/images.rs", "token >= 0 || token & 1 == 0", "token != 1", WORKER, "images::tests"),
    ("what was computed with other adapters is used", f"{WORKER}/answering/places.rs", "scope_with(scope, &generate.adapters)", "scope_with(scope, &[])", "beside", "adapters_count"),
    ("adapters of another request count", f"{WORKER}/answering/steps.rs", "self.context.use_adapters(set)", "self.context.use_adapters(&vec![])", "beside", "adapters_count"),
]


def cargo(*arguments):
    return subprocess.run(["bash", "-c", '. scripts/env.sh; timeout 600 cargo "$@"', "cargo", *arguments], cwd=ROOT, capture_output=True, text=True)


def noticed(where, test):
    """The names of the tests that fail; `None` when the mistake does not even compile."""
    if where in UNIT:
        result = cargo("test", "--release", "--workspace", "--quiet", *UNIT[where], test)
    else:
        staged = cargo("xtask", "stage")
        if staged.returncode:
            return None
        result = cargo("test", "--release", "--workspace", "--quiet", "-p", "cortex-llamacpp", "--test", where, test)
    if "error[" in result.stderr or "could not compile" in result.stderr:
        return None
    return sorted(set(re.findall(r"^---- (\S+) stdout", result.stdout, re.M))) or (["(a timeout)"] if result.returncode == 124 else [])


def check():
    table = (ROOT / "docs/reliability.md").read_text()
    for what, file, line, *_ in MISTAKES:
        count = (ROOT / file).read_text().count(line)
        if count != 1:
            sys.exit(f"scripts/mistakes.py: {what}: the line stands {count} times in {file}")
        if f"| {what} |" not in table:
            sys.exit(f"docs/reliability.md does not tell of this mistake: {what}")


def main():
    words = sys.argv[1:]
    if words == ["check"]:
        return check()
    dirty = subprocess.run(["git", "status", "--porcelain", "crates"], cwd=ROOT, capture_output=True, text=True).stdout
    assert not dirty, "there are changes that are not committed"
    rows, missed, staged = [], [], False
    for what, file, line, mistake, where, test in MISTAKES:
        if words and not any(word in what for word in words):
            continue
        path = ROOT / file
        right = path.read_text()
        assert right.count(line) == 1, f"{what}: the line stands {right.count(line)} times in {file}"
        staged |= where not in UNIT
        try:
            path.write_text(right.replace(line, mistake))
            tests = noticed(where, test)
        finally:
            path.write_text(right)
        print(f"{what}: {tests}", flush=True)
        if tests:
            rows.append(f"| {what} | `{file.removeprefix('crates/')}` | {', '.join(f'`{name}`' for name in tests)} |")
        else:
            missed.append(what)
    if staged:
        cargo("xtask", "stage")
    print("\n| mistake | where | noticed by |\n|---|---|---|\n" + "\n".join(rows))
    assert not missed, f"not noticed, or not even compiled: {missed}"


if __name__ == "__main__":
    main()
