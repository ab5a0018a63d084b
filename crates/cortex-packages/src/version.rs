//! Versions, and the names of archives. Pure.

/// What each archive's name begins with.
const PREFIX: &str = "cortex-llama-cpp-";
const SUFFIX: &str = ".tar.gz";
/// Letters of a version or variant at most.
const LONGEST: usize = 64;

/// A version as it is compared and written down: `v0.1.0` is `0.1.0`.
pub fn bare(version: &str) -> &str {
    let version = version.trim();
    version.strip_prefix('v').filter(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit())).unwrap_or(version)
}

/// The numbers of a version, by which it is older or newer.
pub(crate) fn numbers(version: &str) -> Vec<u64> {
    let parts = bare(version).split(|letter: char| !letter.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// Whether one version is newer than another.
pub fn is_newer(version: &str, than: &str) -> bool {
    numbers(version) > numbers(than)
}

/// Whether a package of this version belongs to a cortex of that one: `0.1.0` and `0.1.0-2` belong to `0.1.0`.
pub(crate) fn is_for(version: &str, cortex: &str) -> bool {
    numbers(version).starts_with(&numbers(cortex))
}

/// Whether a text can be a version or a variant: it becomes the name of a folder.
pub(crate) fn is_name(text: &str) -> bool {
    let is_good = |letter: char| letter.is_ascii_alphanumeric() || "._+-".contains(letter);
    !text.is_empty() && text.len() <= LONGEST && text.chars().all(is_good) && !text.starts_with(['.', '-', '+'])
}

/// Whether a variant is called this: in full, or by what follows the platform.
pub fn is_called(variant: &str, platform: &str, name: &str) -> bool {
    let short = variant.strip_prefix(platform).and_then(|rest| rest.strip_prefix('-'));
    variant == name || short == Some(name)
}

/// The name of an archive: `cortex-llama-cpp-0.1.0-linux-amd64-vulkan.tar.gz`.
pub fn archive_name(version: &str, variant: &str) -> String {
    format!("{PREFIX}{}-{variant}{SUFFIX}", bare(version))
}

/// The version and the variant in the name of an archive for a platform such as `linux-amd64`; `None` when it is no such name.
pub(crate) fn of_archive<'name>(name: &'name str, platform: &str) -> Option<(&'name str, &'name str)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let at = rest.find(&format!("-{platform}-"))?;
    let (version, variant) = (&rest[..at], &rest[at + 1..]);
    (is_name(version) && is_name(variant)).then_some((version, variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!((bare("v0.1.0"), bare(" 0.1.0 "), bare("vulkan")), ("0.1.0", "0.1.0", "vulkan"));
        assert!(numbers("0.1.0") < numbers("v0.1.0-2") && numbers("0.1.0-2") < numbers("0.1.0-10"));
        assert!(numbers("0.9.9") < numbers("0.10.0"));
        assert!(is_for("v0.1.0", "0.1.0") && is_for("0.1.0+3", "0.1.0"));
        assert!(!is_for("0.1.1", "0.1.0") && !is_for("0.1", "0.1.0") && !is_for("b4932", "0.1.0"));
    }

    #[test]
    fn names_that_become_folders_lead_nowhere_else() {
        for good in ["0.1.0", "0.1.0+2", "linux-amd64-cuda-12.4"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "-x", "ä", long.as_str()] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn variants_have_short_names() {
        let cuda = "linux-amd64-cuda-12";
        assert!(is_called(cuda, "linux-amd64", cuda) && is_called(cuda, "linux-amd64", "cuda-12"));
        assert!(!is_called(cuda, "linux-amd64", "12") && !is_called(cuda, "linux-amd64", "cuda"));
    }

    #[test]
    fn the_name_of_an_archive_says_what_is_in_it() {
        let name = archive_name("v0.1.0-2", "linux-amd64-vulkan");
        assert_eq!(name, "cortex-llama-cpp-0.1.0-2-linux-amd64-vulkan.tar.gz");
        assert_eq!(of_archive(&name, "linux-amd64"), Some(("0.1.0-2", "linux-amd64-vulkan")));
        for other in [
            "cortex-llama-cpp-0.1.0-mac-arm64-x.tar.gz",
            "llama-b4932-bin-linux-avx-x64.tar.gz",
            "cortex-llama-cpp--linux-amd64-x.tar.gz",
        ] {
            assert_eq!(of_archive(other, "linux-amd64"), None, "{other}");
        }
    }
}
