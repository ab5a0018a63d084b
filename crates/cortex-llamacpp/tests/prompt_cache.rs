//! Beginnings of prompts that outlive the process that computed them.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use cortex_api::worker::{CacheType, FromWorker, Generate, Load, PromptCache, Timings, ToWorker, TokenProbabilities};
use cortex_test::{
    dist,
    worker::{TestWorker, agree, generate, load_of, told},
};
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A system prompt of more than the fewest tokens that are kept, and a question.
fn prompt(edition: u32, question: &str) -> String {
    let rules: Vec<String> = (1..=20)
        .map(|number| {
            format!("Rule {number} of edition {edition}: ships of {number} masts pay {} coins.", number * edition)
        })
        .collect();
    format!(
        "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        rules.join(" ")
    )
}

fn load(folder: &Path, bytes: u64, parallel: u32) -> Load {
    let prompt_cache = Some(PromptCache { folder: folder.join("model").display().to_string(), bytes });
    Load { prompt_cache, ..load_of(&dist::model(), 1024, parallel) }
}

fn worker(folder: &Path) -> TestWorker {
    TestWorker::loaded_as(load(folder, 1 << 30, 1)).0
}

fn ask(worker: &mut TestWorker, request: Generate) -> (Vec<TokenProbabilities>, Timings) {
    let id = request.id;
    worker.send(&ToWorker::Generate(Box::new(Generate { probabilities: Some(5), ..request })));
    let messages = worker.until_finished(id);
    let FromWorker::Finished { timings, .. } = messages.last().unwrap() else { panic!("{messages:?}") };
    (told(&messages, id), *timings)
}

/// The files that are kept.
fn files(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        fs_err::read_dir(folder).map(|all| all.map(|it| it.unwrap().path()).collect()).unwrap_or_default()
    };
    inside(&folder.join("model")).iter().flat_map(|key| inside(key)).collect()
}

#[test]
fn a_beginning_is_read_by_the_next_process_and_the_answer_is_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let mut first = worker(scratch.path());
    let (_, timings) = ask(&mut first, generate(1, &prompt(1, "Who pays?"), 4));
    assert_eq!((timings.cached_tokens, timings.restored_tokens), (0, 0));
    let question = prompt(1, "What do ships of seven masts pay?");
    let (reference, _) = ask(&mut first, Generate { deterministic: true, ..generate(2, &question, 12) });
    assert_eq!(files(scratch.path()).len(), 1, "what the first request left gave way to the second one");
    first.shut_down();
    for file in files(scratch.path()) {
        let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
        assert_eq!(file.extension().unwrap(), "prompt");
    }
    let mut second = worker(scratch.path());
    let (found, timings) = ask(&mut second, generate(1, &prompt(1, "What do ships of seven masts pay?"), 12));
    assert!(agree(&reference, &found), "{reference:?} {found:?}");
    assert!(timings.restored_tokens > 256 && timings.restored_tokens == timings.cached_tokens, "{timings:?}");
    // Another one has nothing of it.
    let (_, timings) = ask(&mut second, generate(2, &prompt(2, "Who pays?"), 4));
    assert_eq!(timings.restored_tokens, 0);
}

#[test]
fn what_was_damaged_or_is_of_others_is_not_read() {
    let scratch = tempfile::tempdir().unwrap();
    let question = prompt(3, "Who pays?");
    let mut first = worker(scratch.path());
    ask(&mut first, generate(1, &question, 4));
    first.shut_down();
    let kept = files(scratch.path());
    assert_eq!(kept.len(), 1);
    let mut second = worker(scratch.path());
    let of = |id, cache_scope| Generate { cache_scope, ..generate(id, &question, 8) };
    // Of another key, and of nobody.
    assert_eq!(ask(&mut second, of(1, Some(7))).1.cached_tokens, 0);
    assert_eq!(ask(&mut second, of(2, None)).1.cached_tokens, 0);
    let (reference, _) = ask(&mut second, Generate { deterministic: true, ..of(3, None) });
    // A bit has changed on disk.
    let mut bytes = fs_err::read(&kept[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&kept[0], bytes).unwrap();
    let (found, timings) = ask(&mut second, of(4, Some(0)));
    assert_eq!(timings.cached_tokens, 0);
    assert!(agree(&reference, &found), "{reference:?} {found:?}");
    assert!(!kept[0].exists(), "the damaged file is removed");
    second.shut_down();
    // Cut, with a name that says so, and rubbish: neither is taken for a beginning.
    let folder = kept[0].parent().unwrap();
    for (name, content) in
        [("0000000000000000-00000000-16.prompt", vec![7u8; 16]), ("x.prompt", vec![]), ("1-1.tmp", vec![])]
    {
        fs_err::write(folder.join(name), content).unwrap();
    }
    let mut third = worker(scratch.path());
    let (found, timings) = ask(&mut third, of(1, Some(0)));
    assert!(timings.restored_tokens > 256, "the last process has written it anew: {timings:?}");
    assert!(agree(&reference, &found), "{reference:?} {found:?}");
}

#[test]
fn states_of_another_load_are_not_used() {
    let scratch = tempfile::tempdir().unwrap();
    let mut first = worker(scratch.path());
    ask(&mut first, generate(1, &prompt(4, "Who pays?"), 4));
    first.shut_down();
    let other = Load { cache_type: CacheType::Q8_0, ..load(scratch.path(), 1 << 30, 1) };
    let (mut second, _) = TestWorker::loaded_as(other);
    let (_, timings) = ask(&mut second, generate(1, &prompt(4, "Who pays?"), 4));
    assert_eq!(timings.cached_tokens, 0);
}

#[test]
fn nothing_is_written_for_nobody_nor_beyond_the_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut alone = worker(scratch.path());
    ask(&mut alone, Generate { cache_scope: None, ..generate(1, &prompt(5, "Who pays?"), 4) });
    alone.shut_down();
    assert_eq!(files(scratch.path()), Vec::<PathBuf>::new());
    // A beginning takes about 10 MB: two fit.
    let (mut worker, _) = TestWorker::loaded_as(load(scratch.path(), 30 << 20, 1));
    for edition in 6..11 {
        ask(&mut worker, generate(edition.into(), &prompt(edition, "Who pays?"), 4));
    }
    worker.shut_down();
    let bytes: u64 = files(scratch.path()).iter().map(|file| fs_err::metadata(file).unwrap().size()).sum();
    assert!(bytes > 0 && bytes <= 30 << 20, "{bytes}");
    // The last one is the one that is kept.
    let (mut worker, _) = TestWorker::loaded_as(load(scratch.path(), 30 << 20, 1));
    assert!(ask(&mut worker, generate(1, &prompt(10, "Who pays?"), 4)).1.restored_tokens > 256);
}
