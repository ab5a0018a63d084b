//! Models in several files: `name-00001-of-00003.gguf`. Pure, but for looking which files are there.

use std::path::{Path, PathBuf};

/// No model has more parts; a wrong number in a name soon asks for more.
const MOST_PARTS: u32 = 999;

/// One file of a set, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    folder: PathBuf,
    /// What comes before `-00001-of-00003.gguf`.
    stem: String,
    /// The ending, with its dot and capitals.
    ending: String,
    /// From 1.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl Shard {
    /// `None` when the name is not that of a part.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, ending) = name.split_at_checked(name.len().checked_sub(5)?)?;
        if !ending.eq_ignore_ascii_case(".gguf") {
            return None;
        }
        let (stem, number, count) = split_stem(stem)?;
        (number >= 1 && number <= count && (1..=MOST_PARTS).contains(&count)).then(|| Self {
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            stem: stem.to_owned(),
            ending: ending.to_owned(),
            number,
            count,
        })
    }

    /// The path of the part with this number.
    pub(crate) fn part(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{}-{number:05}-of-{:05}{}", self.stem, self.count, self.ending))
    }

    /// The paths of all parts.
    pub(crate) fn all(&self) -> impl Iterator<Item = PathBuf> {
        (1..=self.count).map(|number| self.part(number))
    }
}

/// All files of the weights that a path stands for: the file itself, or every part of its set.
pub(crate) fn files_of(path: &Path) -> Vec<PathBuf> {
    Shard::of(path).map_or_else(|| vec![path.to_owned()], |shard| shard.all().collect())
}

/// `name-00001-of-00003` into its three parts.
pub(crate) fn split_stem(stem: &str) -> Option<(&str, u32, u32)> {
    let (name, shard) = stem.split_at_checked(stem.len().checked_sub("-00001-of-00003".len())?)?;
    let number = |text: &str| {
        let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (first, count) = (number(shard.get(1..6)?)?, number(shard.get(10..)?)?);
    (!name.is_empty() && shard.starts_with('-') && shard.get(6..10) == Some("-of-")).then_some((name, first, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_parts_are_parts() {
        let shard = Shard::of(Path::new("/m/big-00002-of-00003.GGUF")).unwrap();
        assert_eq!((shard.number, shard.count), (2, 3));
        assert_eq!(shard.part(1), Path::new("/m/big-00001-of-00003.GGUF"));
        assert_eq!(files_of(Path::new("/m/big-00002-of-00003.GGUF")).len(), 3);
        for plain in [
            "/m/a.gguf",
            "/m/-00001-of-00003.gguf",
            "/m/a-00004-of-00003.gguf",
            "/m/a-00000-of-00003.gguf",
            "/m/a-00001-of-99999.gguf",
            "/m/a-0000é-of-00003.gguf",
            "/m/a-00001-of-00003.bin",
        ] {
            assert_eq!(files_of(Path::new(plain)), [Path::new(plain)]);
        }
    }
}
