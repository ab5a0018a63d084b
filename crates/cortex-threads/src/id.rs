//! Ids: names of folders.

use crate::ThreadsError;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Longest name of a folder on the file systems in use, in bytes.
const LONGEST: usize = 255;
/// Crockford's digits.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A new id that sorts behind all older ones. It is a ULID: 26 digits in base 32 of 48 bits of milliseconds and 80 others
/// (<https://github.com/ulid/spec>), here those of a UUID of version 7, which counts within a millisecond.
pub(crate) fn ulid() -> String {
    let number = Uuid::now_v7().as_u128();
    (0..26).rev().map(|place| char::from(DIGITS[usize::try_from(number >> (5 * place) & 31).unwrap_or(0)])).collect()
}

/// The folder of an id inside another one. An id that is no plain name leads nowhere.
pub(crate) fn folder_of(root: &Path, id: &str) -> Result<PathBuf, ThreadsError> {
    let is_plain = !id.is_empty()
        && id.len() <= LONGEST
        && id != "."
        && id != ".."
        && !id.chars().any(|letter| matches!(letter, '/' | '\\') || letter.is_control());
    if is_plain { Ok(root.join(id)) } else { Err(ThreadsError::BadId { id: id.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_sort_in_the_order_they_were_made_in() {
        let ids: Vec<String> = (0..1000).map(|_| ulid()).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(ids.iter().all(|id| id.len() == 26 && id.bytes().all(|digit| DIGITS.contains(&digit))));
        // What the first ten digits say is now, in milliseconds.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).unwrap() as u128;
        let said = ids[0].bytes().take(10).fold(0u128, |number, byte| number << 5 | digit(byte));
        assert!(now.abs_diff(said) < 60_000, "{now} {said}");
    }

    #[test]
    fn an_id_is_a_folder_of_its_root_or_nothing() {
        let root = Path::new("/data/threads");
        for id in ["jan_1712345678", "01J", "ü b.c", "a..b", "..."] {
            assert_eq!(folder_of(root, id).unwrap(), root.join(id));
        }
        for id in ["", ".", "..", "a/b", "../x", "a\\b", "/etc", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(folder_of(root, id).is_err(), "{id:?}");
        }
    }
}
