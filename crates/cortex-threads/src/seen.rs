//! What the files of threads last said, kept for the next start, which then need not read them. It may be deleted at any time: a
//! thread counts as here only as long as its file looks as it did.

use crate::{ThreadsError, disk, threads::Known};
use serde_json::value::RawValue;
use std::{collections::HashMap, fmt::Write as _, path::Path};

/// The first line; another one means another form.
const HEAD: &str = "cortex threads 1";

/// What was kept; nothing when it is not there, or of another form. Lines that make no sense are passed over.
pub(crate) fn read(path: &Path) -> HashMap<String, Known> {
    let Ok(text) = fs_err::read_to_string(path) else { return HashMap::new() };
    match text.split_once('\n') {
        Some((HEAD, lines)) => lines.lines().filter_map(known).collect(),
        _ => HashMap::new(),
    }
}

/// A name, a stamp, when it was made, and the object as clients see it.
fn known(line: &str) -> Option<(String, Known)> {
    let mut parts = line.splitn(4, '\t');
    let (name, stamp, created_at, shown) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let shown = RawValue::from_string(shown.to_owned()).ok()?;
    let known = Known::new(disk::Stamp::parse(stamp)?, name, created_at.parse().ok()?, shown);
    Some((name.to_owned(), known))
}

/// Keeps it, for its owner only.
pub(crate) fn write(path: &Path, all: &[(String, Known)]) -> Result<(), ThreadsError> {
    let mut text = format!("{HEAD}\n");
    for (name, known) in all {
        let (stamp, created_at, shown) = known.facts();
        // A name with a tab is read from its file each time.
        if !name.contains(['\t', '\n', '\r']) {
            let _ = writeln!(text, "{name}\t{stamp}\t{created_at}\t{shown}");
        }
    }
    disk::replace(path, text.as_bytes())
}
