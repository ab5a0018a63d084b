//! Model ids: opaque to us, and never a path.

use crate::shards;
use serde::{Deserialize, Serialize};
use std::{fmt, fmt::Write as _};

/// The id of a model, byte for byte as the user or an older program chose it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(String);

/// Why a new id is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// It has no characters.
    #[error("a model id cannot be empty")]
    Empty,
    /// It is longer than 512 bytes.
    #[error("a model id cannot be longer than 512 bytes, this one has {0}")]
    TooLong(usize),
    /// It holds a control character.
    #[error("a model id cannot hold control characters")]
    Control,
    /// It holds a `.` or `..` between slashes.
    #[error("a model id cannot have `.` or `..` as a part")]
    DotSegment,
}

/// File names longer than this are cut and get a hash.
const LONGEST_FILE_NAME: usize = 150;
const LONGEST_ID: usize = 512;
/// Names that Windows gives to devices, whatever their ending.
const DEVICES: &[&str] = &["con", "prn", "aux", "nul"];

impl ModelId {
    /// A new id. Capitals, dots, spaces, parentheses, `:`, `/` and every script are fine.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId::Empty);
        }
        if id.len() > LONGEST_ID {
            return Err(InvalidId::TooLong(id.len()));
        }
        if id.chars().any(char::is_control) {
            return Err(InvalidId::Control);
        }
        if id.split(['/', '\\']).any(|part| part == "." || part == "..") {
            return Err(InvalidId::DotSegment);
        }
        Ok(Self(id.to_owned()))
    }

    /// An id that is already in use somewhere; it is kept as it is.
    pub fn existing(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A file name for this id that is safe on every system. Different ids have different names, also
    /// where file names ignore case.
    pub fn file_name(&self) -> String {
        let mut name = String::with_capacity(self.0.len());
        for (at, byte) in self.0.bytes().enumerate() {
            let edge = at == 0 || at + 1 == self.0.len();
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
                b'.' if !edge => name.push('.'),
                _ => {
                    let _ = write!(name, "%{byte:02x}");
                }
            }
        }
        let stem = name.split('.').next().unwrap_or_default();
        let is_device =
            DEVICES.contains(&stem) || ((stem.starts_with("com") || stem.starts_with("lpt")) && stem.len() == 4);
        if is_device || name.len() > LONGEST_FILE_NAME {
            name.truncate(LONGEST_FILE_NAME - 34);
            // `~` occurs in no other name, so a hashed name is never that of another id.
            return format!("~{name}{:032x}", fnv1a(self.0.as_bytes()));
        }
        name
    }

    /// The id that a weights file suggests: its name without ending and shard number.
    pub fn from_file(path: &std::path::Path) -> Result<Self, InvalidId> {
        let stem = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = match stem.len().checked_sub(5).and_then(|at| stem.split_at_checked(at)) {
            Some((stem, ending)) if ending.eq_ignore_ascii_case(".gguf") => stem.to_owned(),
            _ => stem,
        };
        Self::new(shards::split_stem(&stem).map_or(stem.as_str(), |(name, ..)| name))
    }
}

/// The 128-bit FNV-1a hash; source: the FNV reference by Fowler, Noll and Vo.
fn fnv1a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

impl fmt::Display for ModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for ModelId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn ids_are_opaque_but_never_a_way_out() {
        for good in ["a", "TheBloke:Mistral-7B:file.Q4_K_M.gguf", "my model (1)", "模型/ü", "v1.5..2", "..."] {
            assert_eq!(ModelId::new(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", "a/../b", "a\\..\\b", "a\nb", "\u{0}", &"x".repeat(513)] {
            assert!(ModelId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn file_names_are_safe() {
        for (id, name) in [
            ("plain-1.5_b", "plain-1.5_b"),
            ("a/b:c", "a%2fb%3ac"),
            ("Big", "%42ig"),
            (".hidden.", "%2ehidden%2e"),
            ("../../etc", "%2e.%2f..%2fetc"),
        ] {
            assert_eq!(ModelId::existing(id).file_name(), name);
        }
        assert!(ModelId::existing("con").file_name().starts_with('~'));
        assert!(ModelId::existing("x".repeat(500)).file_name().len() <= LONGEST_FILE_NAME);
    }

    #[test]
    fn the_id_of_a_file_is_its_name_without_ending_and_shard() {
        for (path, id) in [
            ("/m/Mistral-7B.Q4.gguf", "Mistral-7B.Q4"),
            ("/m/big-00001-of-00003.GGUF", "big"),
            ("/m/x-00001-of-003.gguf", "x-00001-of-003"),
            ("/m/plain", "plain"),
        ] {
            assert_eq!(ModelId::from_file(Path::new(path)), Ok(ModelId::existing(id)));
        }
        assert!(ModelId::from_file(Path::new("/m/.gguf")).is_err());
    }

    proptest! {
        #[test]
        fn different_ids_have_different_file_names(left in "[aAbB%.~/:é]{1,8}", right in "[aAbB%.~/:é]{1,8}") {
            prop_assume!(left != right);
            let (left, right) = (ModelId::existing(left).file_name(), ModelId::existing(right).file_name());
            prop_assert_ne!(left.to_lowercase(), right.to_lowercase());
        }
    }
}
