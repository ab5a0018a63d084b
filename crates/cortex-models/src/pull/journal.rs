//! What a pull has done so far, so that it goes on after a crash where it was. Pure.
//!
//! Lines of JSON, appended only. The first one is the plan. A line that tells of bytes is written after the
//! bytes: `written` when the system has them, which counts until the machine starts anew, and `durable` after
//! they are on the disk. A line that was torn says nothing.

use super::{intervals::Intervals, plan::PullPlan};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The version of the format.
pub(crate) const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// What is pulled; the first line.
    Plan {
        /// Of the format.
        version: u32,
        /// Unix seconds.
        at: i64,
        /// What.
        plan: Box<PullPlan>,
    },
    /// The lines that follow are of this run of the machine.
    Boot(String),
    /// The system has these bytes of a file.
    Written {
        /// Which of the plan's.
        file: usize,
        /// Where they begin.
        start: u64,
        /// And end.
        end: u64,
    },
    /// The disk has them.
    Durable {
        /// Which of the plan's.
        file: usize,
        /// Where they begin.
        start: u64,
        /// And end.
        end: u64,
    },
    /// The state of the digest after the first `at` bytes of a file.
    Digest {
        /// Which of the plan's.
        file: usize,
        /// How many bytes it has seen.
        at: u64,
        /// The state, in hexadecimal digits.
        state: String,
    },
    /// The version of a file that its bytes are of.
    Tag {
        /// Which of the plan's.
        file: usize,
        /// The server's `ETag`.
        tag: String,
    },
    /// What the pull is to do.
    Wish(Wish),
}

/// What a pull is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// Go on, also after a start of the daemon.
    #[default]
    Run,
    /// Wait for a person.
    Pause,
    /// It was cancelled: its bytes wait for a while to be asked for again.
    Cancel,
    /// It failed: the same.
    Fail,
    /// The model is on the list, or about to be, and its bytes may not be on the disk yet.
    Settle,
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) plan: PullPlan,
    /// Unix seconds.
    pub(crate) at: i64,
    pub(crate) files: Vec<FileState>,
    pub(crate) wish: Wish,
    /// The run of the machine in which it was last written.
    pub(crate) boot: String,
}

impl Replayed {
    /// Of a pull that begins.
    pub(crate) fn new(plan: &PullPlan) -> Self {
        let at = jiff::Timestamp::now().as_second();
        let files = vec![FileState::default(); plan.files.len()];
        Self { plan: plan.clone(), at, files, wish: Wish::Run, boot: String::new() }
    }
}

/// What there is of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FileState {
    /// The bytes that can be relied on.
    pub(crate) done: Intervals,
    /// A state of the digest, and after how many bytes.
    pub(crate) digest: Option<(u64, String)>,
    /// The version that they are of.
    pub(crate) tag: Option<String>,
}

/// The text of a line.
pub(crate) fn line(record: &Record) -> String {
    let mut text = serde_json::to_string(record).expect("records have string keys only");
    text.push('\n');
    text
}

/// Reads a journal; `boot` is this run of the machine. `None` when its plan is not whole: then nothing was
/// downloaded yet.
pub(crate) fn replay(text: &str, boot: &str) -> Option<Replayed> {
    let mut records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
    let Some(Record::Plan { version: VERSION, at, plan }) = records.next() else { return None };
    let mut files = vec![FileState::default(); plan.files.len()];
    let (mut wish, mut same_boot, mut last_boot) = (Wish::default(), false, String::new());
    for record in records {
        match record {
            Record::Boot(of) => {
                same_boot = !boot.is_empty() && of == boot;
                last_boot = of;
            }
            Record::Written { file, start, end } if same_boot => add(&mut files, &plan, file, start..end),
            // A second plan is none; what an earlier run of the machine only had in memory is gone.
            Record::Plan { .. } | Record::Written { .. } => {}
            Record::Durable { file, start, end } => add(&mut files, &plan, file, start..end),
            Record::Digest { file, at, state } => {
                if let Some(file) = files.get_mut(file) {
                    file.digest = Some((at, state));
                }
            }
            Record::Tag { file, tag } => {
                if let Some(file) = files.get_mut(file) {
                    file.tag = Some(tag);
                }
            }
            Record::Wish(new) => wish = new,
        }
    }
    for file in &mut files {
        // A digest of bytes that a power cut took says nothing.
        if file.digest.as_ref().is_some_and(|&(at, _)| file.done.end_from(0) < at) {
            file.digest = None;
        }
    }
    Some(Replayed { plan: *plan, at, files, wish, boot: last_boot })
}

fn add(files: &mut [FileState], plan: &PullPlan, file: usize, range: Range<u64>) {
    if let (Some(state), Some(planned)) = (files.get_mut(file), plan.files.get(file))
        && range.end <= planned.size
    {
        state.done.insert(range);
    }
}

/// The shortest journal that says the same, for a file that grew long; `boot` is this run of the machine. All of
/// the bytes must be on the disk by now.
pub(crate) fn compact(journal: &Replayed, boot: &str) -> String {
    let mut text = line(&Record::Plan { version: VERSION, at: journal.at, plan: Box::new(journal.plan.clone()) });
    text.push_str(&line(&Record::Boot(boot.to_owned())));
    for (at, file) in journal.files.iter().enumerate() {
        if let Some(tag) = &file.tag {
            text.push_str(&line(&Record::Tag { file: at, tag: tag.clone() }));
        }
        for Range { start, end } in file.done.iter() {
            text.push_str(&line(&Record::Durable { file: at, start, end }));
        }
        if let Some((seen, state)) = &file.digest {
            text.push_str(&line(&Record::Digest { file: at, at: *seen, state: state.clone() }));
        }
    }
    text.push_str(&line(&Record::Wish(journal.wish)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ModelId,
        pull::plan::{PlannedFile, Role},
    };
    use proptest::prelude::*;

    fn plan() -> PullPlan {
        let file = |name: &str| PlannedFile {
            name: name.into(),
            url: format!("https://example.org/{name}"),
            size: 100,
            sha256: None,
            role: Role::Weights,
        };
        PullPlan {
            id: ModelId::existing("a:b:c.gguf"),
            asked: "a/b".into(),
            name: None,
            aliases: vec!["a/b".into()],
            author_repo: "a/b".into(),
            revision: "main".into(),
            commit: None,
            folder: "models/x".into(),
            files: vec![file("1"), file("2")],
            why: None,
        }
    }

    fn text(records: &[Record]) -> String {
        let first = Record::Plan { version: VERSION, at: 7, plan: Box::new(plan()) };
        std::iter::once(&first).chain(records).map(line).collect()
    }

    fn done(text: &str, boot: &str) -> Vec<Vec<(u64, u64)>> {
        let ranges = |file: &FileState| file.done.iter().map(|range| (range.start, range.end)).collect();
        replay(text, boot).unwrap().files.iter().map(ranges).collect()
    }

    #[test]
    fn what_only_the_system_had_counts_until_the_machine_starts_anew() {
        let text = text(&[
            Record::Boot("one".into()),
            Record::Written { file: 0, start: 0, end: 50 },
            Record::Digest { file: 0, at: 40, state: "aa".into() },
            Record::Durable { file: 0, start: 0, end: 30 },
            Record::Written { file: 1, start: 10, end: 20 },
            Record::Written { file: 1, start: 90, end: 101 },
            Record::Written { file: 9, start: 0, end: 1 },
            Record::Wish(Wish::Pause),
        ]);
        assert_eq!(done(&text, "one"), [vec![(0, 50)], vec![(10, 20)]]);
        assert_eq!(done(&text, "two"), [vec![(0, 30)], vec![]]);
        assert_eq!(done(&text, ""), [vec![(0, 30)], vec![]]);
        let (same, other) = (replay(&text, "one").unwrap(), replay(&text, "two").unwrap());
        assert_eq!((same.files[0].digest.clone(), same.wish), (Some((40, "aa".into())), Wish::Pause));
        assert_eq!(other.files[0].digest, None);
        assert_eq!(replay(&compact(&same, "one"), "one"), Some(same));
    }

    fn record() -> impl Strategy<Value = Record> {
        let range =
            || (0usize..3, 0u64..100, 0u64..100).prop_map(|(file, one, two)| (file, one.min(two), one.max(two)));
        prop_oneof![
            range().prop_map(|(file, start, end)| Record::Written { file, start, end }),
            range().prop_map(|(file, start, end)| Record::Durable { file, start, end }),
            "[ab]".prop_map(Record::Boot),
            (0usize..3, 0u64..100).prop_map(|(file, at)| Record::Digest { file, at, state: "00".into() }),
            Just(Record::Wish(Wish::Cancel)),
        ]
    }

    proptest! {
        #[test]
        fn a_torn_journal_never_says_more(records in prop::collection::vec(record(), 0..20), cut in 0.0f64..1.0) {
            let whole = text(&records);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short text")]
            let at = (whole.len() as f64 * cut) as usize;
            let (Some(torn), Some(all)) = (replay(&whole[..at], "a"), replay(&whole, "a")) else {
                // Torn within its plan.
                prop_assert!(replay(&whole, "a").is_some());
                return Ok(());
            };
            for (torn, all) in torn.files.iter().zip(&all.files) {
                let mut both = all.done.clone();
                both.insert_all(&torn.done);
                prop_assert_eq!(&both, &all.done);
            }
        }

        #[test]
        fn compacting_changes_nothing(records in prop::collection::vec(record(), 0..20)) {
            let mut state = replay(&text(&records), "a").unwrap();
            state.boot = "a".into();
            prop_assert_eq!(replay(&compact(&state, "a"), "a"), Some(state.clone()));
            prop_assert_eq!(replay(&compact(&state, "a"), "b"), Some(state));
        }
    }
}
