//! What one pull will bring, and where it will lie. Pure.

use crate::{ModelId, shards::Shard};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One pull, as its journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullPlan {
    /// The id that the model gets; also the id of the task.
    pub id: ModelId,
    /// What was asked for, in the words of the request.
    pub asked: String,
    /// The name to show; the file's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More names that the model gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `author/repo`, or the host of a URL.
    pub author_repo: String,
    /// The branch that was asked for.
    pub revision: String,
    /// What that branch was at the time: 40 hexadecimal digits. `None` when the source has no commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The folder that the files will lie in, relative to the data folder.
    pub folder: String,
    /// The files; the first one of the weights comes first.
    pub files: Vec<PlannedFile>,
    /// Why this file was chosen, when the request left it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One file of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its name in the folder.
    pub name: String,
    /// Where it comes from.
    pub url: String,
    /// Its bytes.
    pub size: u64,
    /// The SHA-256 that the source promises, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What it is.
    pub role: Role,
}

/// What a file is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its weights, or a part of them.
    Weights,
    /// What lets it see or hear (mmproj).
    Projector,
}

impl PullPlan {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Whether it writes where downloads belong: a journal that somebody changed may say something else.
    pub(crate) fn is_inside(&self) -> bool {
        let mut folders = self.folder.split('/');
        let starts = [folders.next(), folders.next()] == [Some("models"), Some("huggingface.co")];
        let plain = crate::source::is_plain_name;
        starts && folders.clone().count() == 3 && folders.all(plain) && self.files.iter().all(|file| plain(&file.name))
    }

    /// Whether both bring the same bytes under the same id.
    pub fn is_same(&self, other: &Self) -> bool {
        let what = |plan: &Self| -> Vec<(String, u64, Option<String>, Option<String>)> {
            let of = |file: &PlannedFile| {
                // Without a digest, the place says what it is.
                let url = file.sha256.is_none().then(|| file.url.clone());
                (file.name.clone(), file.size, file.sha256.clone(), url)
            };
            plan.files.iter().map(of).collect()
        };
        self.id == other.id && what(self) == what(other)
    }
}

/// The kinds of quantisation in the order of preference, where the request leaves it open: nearly the quality
/// of 16 bits at a third of the size, then more quality, then what older files have.
pub(crate) const PREFERENCE: &[&str] = &["Q4_K_M", "Q5_K_M", "Q4_K_S", "Q4_0", "Q8_0"];

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its path there.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// SHA-256 in hexadecimal digits; only large files have one.
    pub(crate) sha256: Option<String>,
}

impl Listed {
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn is_gguf(&self) -> bool {
        let name = self.name();
        name.len() > 5 && name.get(name.len() - 5..).is_some_and(|ending| ending.eq_ignore_ascii_case(".gguf"))
    }

    fn is_projector(&self) -> bool {
        self.is_gguf() && self.name().to_lowercase().contains("mmproj")
    }
}

/// One model that a repository offers: a file, or all parts of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The parts in their order.
    pub(crate) files: Vec<Listed>,
    /// Its quantisation, as its name has it, or its folder's: `Q4_K_M`.
    pub(crate) quantization: Option<String>,
    /// The name of its first file; its path, where several have that name.
    name: String,
}

impl Offer {
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// What tells it from the others: the name of its first file, or its path.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The models of a repository, in the order of their paths. Sets that lack a part are left out.
pub(crate) fn offers(listing: &[Listed]) -> Vec<Offer> {
    let mut files: Vec<&Listed> = listing.iter().filter(|file| file.is_gguf() && !file.is_projector()).collect();
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let mut offers = Vec::new();
    for file in &files {
        let parts = match Shard::of(Path::new(&file.path)) {
            None => vec![(*file).clone()],
            Some(shard) if shard.number > 1 => continue,
            Some(shard) => {
                let find = |path: std::path::PathBuf| files.iter().find(|other| Path::new(&other.path) == path);
                let parts: Vec<Listed> = shard.all().filter_map(find).map(|&part| part.clone()).collect();
                if parts.len() != usize::try_from(shard.count).unwrap_or(usize::MAX) {
                    continue;
                }
                parts
            }
        };
        let folders = || file.path.rsplit('/').skip(1).find_map(folder_quantization);
        let quantization = quantization(file.name()).or_else(folders);
        offers.push(Offer { quantization, files: parts, name: file.name().to_owned() });
    }
    let names: Vec<String> = offers.iter().map(|offer| offer.name.clone()).collect();
    for offer in &mut offers {
        if names.iter().filter(|name| **name == offer.name).count() > 1
            && let Some(first) = offer.files.first()
        {
            offer.name.clone_from(&first.path);
        }
    }
    offers
}

/// A folder's name has no ending that would have to be cut off.
fn folder_quantization(folder: &str) -> Option<String> {
    quantization(&format!("{folder}.gguf"))
}

/// The projector for a model of this repository: of those in its folder, or else of all, the one with 16
/// bits before the others.
pub(crate) fn projector<'list>(listing: &'list [Listed], offer: &Offer) -> Option<&'list Listed> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned()).unwrap_or_default();
    let own = offer.files.first().map(|file| folder(&file.path)).unwrap_or_default();
    listing.iter().filter(|file| file.is_projector() && Shard::of(Path::new(&file.path)).is_none()).min_by_key(|file| {
        let name = file.name().to_lowercase();
        let bits = (!name.contains("f16") || name.contains("bf16"), !name.contains("bf16"));
        (folder(&file.path) != own, bits, file.path.clone())
    })
}

/// The quantisation that a file's name tells: the last word of it that is one.
pub(crate) fn quantization(name: &str) -> Option<String> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let words: Vec<&str> = stem
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|it| !it.is_empty())
        .collect();
    let at = words.iter().rposition(|word| is_quantization(word))?;
    let word = words[at].to_uppercase();
    // Unsloth's dynamic ones are others than those of the same name.
    let dynamic = at > 0 && words[at - 1].eq_ignore_ascii_case("ud");
    Some(if dynamic { format!("UD-{word}") } else { word })
}

fn is_quantization(word: &str) -> bool {
    let word = word.to_uppercase();
    if matches!(word.as_str(), "F16" | "BF16" | "F32" | "FP16" | "FP32" | "MXFP4" | "MXFP4_MOE" | "NVFP4") {
        return true;
    }
    let digits = word.strip_prefix("IQ").or_else(|| word.strip_prefix("TQ")).or_else(|| word.strip_prefix('Q'));
    let Some(rest) = digits else { return false };
    let mut letters = rest.chars();
    letters.next().is_some_and(|digit| ('1'..='8').contains(&digit))
        && rest.len() <= 10
        && (rest.len() == 1 || rest[1..].starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &str, size: u64) -> Listed {
        Listed { path: path.into(), size, sha256: None }
    }

    #[test]
    fn the_quantisation_is_in_the_name() {
        for (name, expected) in [
            ("Mistral-7B-Instruct-v0.3.Q4_K_M.gguf", Some("Q4_K_M")),
            ("model-q4_0.gguf", Some("Q4_0")),
            ("qwen2.5-7b-iq4_xs-00001-of-00002.gguf", Some("IQ4_XS")),
            ("Qwen3-8B-UD-Q4_K_XL.gguf", Some("UD-Q4_K_XL")),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("gemma-BF16.gguf", Some("BF16")),
            ("Qwen3-Q8_0.gguf", Some("Q8_0")),
            ("Q3-large.gguf", Some("Q3")),
            ("Qwen-7B.gguf", None),
            ("model.gguf", None),
            ("llama-2.gguf", None),
        ] {
            assert_eq!(quantization(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn files_of_one_name_are_told_by_their_folders() {
        let listing = [listed("Q4_K_M/m.gguf", 1), listed("Q8_0/m.gguf", 2), listed("x/n.gguf", 3)];
        let offers = offers(&listing);
        let what: Vec<_> = offers.iter().map(|offer| (offer.name(), offer.quantization.as_deref())).collect();
        assert_eq!(what, [("Q4_K_M/m.gguf", Some("Q4_K_M")), ("Q8_0/m.gguf", Some("Q8_0")), ("n.gguf", None)]);
    }

    #[test]
    fn sets_are_one_offer_and_projectors_are_none() {
        let listing = [
            listed("README.md", 1),
            listed("b-Q8_0-00002-of-00002.gguf", 2),
            listed("b-Q8_0-00001-of-00002.gguf", 3),
            listed("torn-00001-of-00003.gguf", 1),
            listed("a-Q4_0.GGUF", 5),
            listed("mmproj-b-f32.gguf", 1),
            listed("mmproj-b-BF16.gguf", 1),
            listed("sub/mmproj-f16.gguf", 1),
            listed("sub/c-Q4_K_M.gguf", 7),
        ];
        let offers = offers(&listing);
        let what: Vec<_> = offers.iter().map(|offer| (offer.name(), offer.bytes())).collect();
        assert_eq!(what, [("a-Q4_0.GGUF", 5), ("b-Q8_0-00001-of-00002.gguf", 5), ("c-Q4_K_M.gguf", 7)]);
        assert_eq!(projector(&listing, &offers[0]).map(|file| file.path.as_str()), Some("mmproj-b-BF16.gguf"));
        assert_eq!(projector(&listing, &offers[2]).map(|file| file.path.as_str()), Some("sub/mmproj-f16.gguf"));
        assert_eq!(projector(&listing[..5], &offers[0]), None);
    }
}
