//! What a crash leaves behind: at every step of the disk, by a disk that fails, and at any moment, by
//! killing a process. `CORTEX_KILLS` asks for more kills than the few of an ordinary run.

use crate::fixture::{Fixture, config, tree};
use cortex_models::{BatchEntry, Config, Files, Import, Mode, ModelId, ModelState, ModelStore};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const CHILD: &str = "CORTEX_CRASH_CHILD";
const IDS: u64 = 12;
/// Kills of an ordinary run.
const KILLS: u64 = 25;

/// The same numbers for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// One thing that somebody does.
#[derive(Debug, Clone, PartialEq)]
enum Act {
    Import(u64, Mode),
    Batch(u64, u64),
    Update(u64, u64),
    Alias(u64, u64),
    Delete(u64),
    /// A comment is written into the list by hand.
    Edit(u64),
}

impl Act {
    fn random(random: &mut Random) -> Self {
        let id = random.below(IDS);
        match random.below(8) {
            0 | 1 => Self::Import(id, Mode::Reference),
            2 => Self::Import(id, Mode::Copy),
            3 => Self::Batch(id, random.below(IDS)),
            // Never the default.
            4 => Self::Update(id, 100 + random.below(1000)),
            5 => Self::Alias(id, random.below(1000)),
            6 => Self::Edit(random.below(1000)),
            _ => Self::Delete(id),
        }
    }

    /// Does it; false when it was refused or the disk failed.
    fn run(&self, store: &ModelStore, user: &Path) -> bool {
        let file = |id: u64| user.join(format!("{id}.gguf"));
        match *self {
            Self::Import(id, mode) => {
                let request = Import { id: model_id(id), path: file(id), name: None, mode };
                store.import(&request).is_ok()
            }
            Self::Batch(one, two) => {
                let batch = [one, two].map(|id| BatchEntry { id: Some(model_id(id).to_string()), path: file(id) });
                // One that is refused is there already, with another path.
                store.import_batch(&batch, false).is_ok()
            }
            Self::Update(id, value) => {
                store.update(model_id(id).as_str(), json!({"top_k": value}).as_object().unwrap()).is_ok()
            }
            Self::Alias(id, value) => {
                store.set_aliases(model_id(id).as_str(), &[format!("alias {id} {value}")]).is_ok()
            }
            Self::Delete(id) => store.remove(model_id(id).as_str(), true).is_ok(),
            Self::Edit(value) => {
                let list = store.data_folder().join("models/models.list");
                let Ok(text) = std::fs::read_to_string(&list) else { return false };
                let temporary = list.with_extension("edited");
                std::fs::write(&temporary, format!("{text}# note {value}\n")).unwrap();
                std::fs::rename(temporary, list).is_ok()
            }
        }
    }

    /// Which models are there afterwards, and what their settings are, if it was done.
    fn apply(&self, expected: &mut BTreeMap<u64, Option<u64>>) {
        match *self {
            Self::Import(id, _) => {
                expected.entry(id).or_default();
            }
            Self::Batch(one, two) => {
                expected.entry(one).or_default();
                expected.entry(two).or_default();
            }
            Self::Update(id, value) => {
                expected.insert(id, Some(value));
            }
            Self::Delete(id) => {
                expected.remove(&id);
            }
            Self::Alias(..) | Self::Edit(_) => {}
        }
    }
}

fn model_id(id: u64) -> ModelId {
    ModelId::new(&format!("Model {id}/é")).unwrap()
}

/// What the registry says.
fn seen(store: &ModelStore) -> BTreeMap<u64, Option<u64>> {
    assert_eq!(store.problems().unwrap(), []);
    let (models, _) = store.list().unwrap();
    models
        .iter()
        .map(|model| {
            let now = store.current(model.id.as_str()).unwrap();
            assert_eq!(now.state(), ModelState::Ready, "{}", model.id);
            let top_k = now.yaml().unwrap().values()["top_k"].as_u64().filter(|&top_k| top_k != 40);
            let id = model.id.as_str().trim_start_matches("Model ").trim_end_matches("/é").parse().unwrap();
            (id, top_k)
        })
        .collect()
}

/// What was done is there; what was under way is done or not.
#[track_caller]
fn check(store: &ModelStore, expected: &BTreeMap<u64, Option<u64>>, under_way: Option<&Act>, context: &str) {
    let now = seen(store);
    let mut done = expected.clone();
    if let Some(act) = under_way {
        act.apply(&mut done);
    }
    assert!(now == *expected || now == done, "{context}, {under_way:?}:\n{now:?}\n{expected:?}");
}

#[test]
fn a_disk_that_fails_at_any_step_loses_nothing_that_was_done() {
    let mut faults = 0;
    for seed in 0..60 {
        let fixture = Fixture::new();
        for id in 0..IDS {
            fixture.weights(&format!("{id}.gguf"));
        }
        let before = fixture.user_files();
        let user = fixture.folder.path().join("user");
        let mut random = Random::new(seed);
        let mut expected = BTreeMap::new();
        for round in 0..6 {
            // The whole of what a crash leaves is seen by a fresh start, which must need no help.
            let steps = random.below(60);
            let failing = Config { files: Files::failing_after(steps), ..config(&fixture.data()) };
            let mut under_way = None;
            let store = ModelStore::open(failing);
            for _ in 0..12 {
                let act = Act::random(&mut random);
                if act.run(&store, &user) {
                    act.apply(&mut expected);
                } else {
                    // Refused or failed: a refusal changes nothing, so it may be either.
                    under_way = Some(act);
                    faults += 1;
                    break;
                }
            }
            drop(store);
            let store = ModelStore::open(config(&fixture.data()));
            check(&store, &expected, under_way.as_ref(), &format!("seed {seed}, round {round}, {steps} steps"));
            expected = seen(&store);
            assert_eq!(fixture.user_files(), before);
        }
    }
    assert!(faults > 100, "only {faults} faults");
}

/// What the process does that is to be killed: one thing after the other, each announced and confirmed.
fn live_until_killed(folder: &Path) {
    let seed = std::env::var("CORTEX_CRASH_SEED").unwrap().parse().unwrap();
    let store = ModelStore::open(config(&folder.join("data")));
    let mut random = Random::new(seed);
    let mut out = std::io::stderr();
    for number in 0.. {
        let act = Act::random(&mut random);
        writeln!(out, "begin {number}").unwrap();
        let done = act.run(&store, &folder.join("user"));
        writeln!(out, "{} {number}", if done { "done" } else { "refused" }).unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_done() {
    // The process that is killed is this test again.
    if let Some(folder) = std::env::var_os(CHILD) {
        return live_until_killed(Path::new(&folder));
    }
    let kills = std::env::var("CORTEX_KILLS").ok().map_or(KILLS, |kills| kills.parse().unwrap());
    let fixture = Fixture::new();
    for id in 0..IDS {
        fixture.weights(&format!("{id}.gguf"));
    }
    let before = fixture.user_files();
    let mut random = Random::new(kills);
    let mut expected = BTreeMap::new();
    let (mut acts, mut amid) = (0, 0);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::a_killed_process_loses_nothing_that_was_done", "--nocapture"])
            .env(CHILD, fixture.folder.path())
            .env("CORTEX_CRASH_SEED", kill.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said: Vec<String> = Vec::new();
        for _ in 0..=random.below(12) {
            said.extend(lines.next());
        }
        // Any moment of what it is doing now.
        let moment = Instant::now() + Duration::from_micros(random.below(4000));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines);
        let mut its_acts = Random::new(kill);
        let mut under_way = None;
        for line in &said {
            match line.split_once(' ') {
                Some(("begin", _)) => under_way = Some(Act::random(&mut its_acts)),
                Some(("done", _)) => {
                    under_way.take().unwrap().apply(&mut expected);
                    acts += 1;
                }
                Some(("refused", _)) => under_way = None,
                _ => {}
            }
        }
        amid += u64::from(under_way.is_some());
        let store = ModelStore::open(config(&fixture.data()));
        check(&store, &expected, under_way.as_ref(), &format!("kill {kill}"));
        expected = seen(&store);
        assert_eq!(fixture.user_files(), before);
    }
    let left: Vec<PathBuf> =
        tree(&fixture.data()).into_keys().filter(|path| path.starts_with(fixture.data().join("partial"))).collect();
    println!(
        "{kills} kills, {amid} of them amid an act, {acts} acts done; nothing lost; {} files left over",
        left.len()
    );
    assert!(left.len() <= 1, "{left:?}");
}
