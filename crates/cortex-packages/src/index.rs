//! The index of releases. Pure.
//!
//! It has the form in which GitHub tells of a repository's releases, so that the address of one can be named in the settings; a
//! file of the same form, with addresses relative to it, serves as well.

use crate::{
    error::PackageError,
    version::{bare, is_called, is_for, numbers, of_archive},
};
use reqwest::Url;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Releases that are looked at.
const MOST: usize = 200;

/// Where an index, or an archive, is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On another machine.
    Url(Url),
    /// On this one.
    File(PathBuf),
}

impl Place {
    /// Reads what the settings, or an index, say; `None` when it is neither an address nor a path from the root.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if Path::new(text).is_absolute() {
            return Some(Self::File(text.into()));
        }
        let url = Url::parse(text).ok()?;
        match url.scheme() {
            "http" | "https" if url.host_str().is_some() => Some(Self::Url(url)),
            "file" => url.to_file_path().ok().map(Self::File),
            _ => None,
        }
    }

    /// Whether nobody on the way can change what comes from here: what an index promises is only as good as that.
    pub(crate) fn is_safe(&self) -> bool {
        let Self::Url(url) = self else { return true };
        let is_loopback = |host: &str| {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        url.scheme() == "https" || url.host_str().is_some_and(is_loopback)
    }

    /// What is called this from here. From another machine nothing leads to a file of this one.
    fn join(&self, text: &str) -> Option<Self> {
        match self {
            Self::Url(base) => {
                let url = base.join(text).ok()?;
                matches!(url.scheme(), "http" | "https").then_some(Self::Url(url))
            }
            Self::File(path) => match Url::parse(text) {
                Ok(_) => Self::parse(text),
                Err(_) => Some(Self::File(path.parent()?.join(text))),
            },
        }
    }

    /// As it is shown: without what may be secret.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Url(url) => {
                let mut url = url.clone();
                url.set_query(None);
                url.set_fragment(None);
                // An address with a host can be without a user.
                let _ = url.set_username("").and_then(|()| url.set_password(None));
                url.to_string()
            }
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// An index of the settings as it can be shown: without what may be secret.
pub fn shown_address(text: &str) -> String {
    Place::parse(text).map_or_else(|| "(neither an address nor a path)".into(), |place| place.shown())
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// What it is called, such as `v0.1.0`.
    pub version: String,
    /// Its page.
    pub url: String,
    /// It is not out yet.
    pub draft: bool,
    /// It is for those who try things out.
    pub prerelease: bool,
    /// When it came out.
    pub published_at: String,
    /// Its archives for this platform.
    pub archives: Vec<Archive>,
}

/// An archive of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its file's name.
    pub name: String,
    /// Its version, without a `v`.
    pub version: String,
    /// Its variant.
    pub variant: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 that it must have.
    pub sha256: Option<String>,
    /// How often it was fetched.
    pub download_count: u64,
    /// When it was made.
    pub created_at: String,
    pub(crate) place: Place,
}

#[derive(Deserialize)]
struct WrittenRelease {
    tag_name: String,
    #[serde(default)]
    html_url: Option<String>,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    prerelease: bool,
    #[serde(default)]
    published_at: Option<String>,
    #[serde(default)]
    assets: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WrittenAsset {
    name: String,
    size: u64,
    browser_download_url: String,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    download_count: u64,
    #[serde(default)]
    created_at: Option<String>,
}

/// Reads an index that lies there, for a platform such as `linux-amd64`; the newest release first. What is no archive of ours is
/// left out.
pub(crate) fn read(text: &[u8], from: &Place, platform: &str) -> Result<Vec<Release>, PackageError> {
    let written: Vec<WrittenRelease> = serde_json::from_slice(text)
        .map_err(|error| PackageError::Index(format!("{} is no list of releases: {error}", from.shown())))?;
    let mut releases: Vec<Release> =
        written.into_iter().take(MOST).map(|release| release_of(release, from, platform)).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(numbers(&release.version)));
    Ok(releases)
}

fn release_of(written: WrittenRelease, from: &Place, platform: &str) -> Release {
    let archive = |asset: serde_json::Value| {
        let asset: WrittenAsset = serde_json::from_value(asset).ok()?;
        let (version, variant) = of_archive(&asset.name, platform)?;
        Some(Archive {
            version: version.to_owned(),
            variant: variant.to_owned(),
            bytes: asset.size,
            sha256: asset.digest.and_then(|digest| sha256(&digest)),
            download_count: asset.download_count,
            created_at: asset.created_at.unwrap_or_default(),
            place: from.join(&asset.browser_download_url)?,
            name: asset.name,
        })
    };
    Release {
        version: written.tag_name,
        url: written.html_url.unwrap_or_default(),
        draft: written.draft,
        prerelease: written.prerelease,
        published_at: written.published_at.unwrap_or_default(),
        archives: written.assets.into_iter().filter_map(archive).collect(),
    }
}

/// The digits of `sha256:…`.
fn sha256(digest: &str) -> Option<String> {
    let digits = digest.strip_prefix("sha256:")?.to_ascii_lowercase();
    (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

/// The release with this version; without one, or as `latest`, the newest that belongs to this cortex and is out.
pub(crate) fn choose<'releases>(
    releases: &'releases [Release],
    version: Option<&str>,
    ours: &str,
) -> Result<&'releases Release, PackageError> {
    let known = || {
        let names: Vec<&str> = releases.iter().take(8).map(|release| release.version.as_str()).collect();
        if names.is_empty() { "there are none".into() } else { format!("there are {}", names.join(", ")) }
    };
    match version.map(bare).filter(|version| !matches!(*version, "" | "latest")) {
        Some(version) => {
            let release = releases.iter().find(|release| bare(&release.version) == version);
            let release = release.ok_or_else(|| PackageError::NoRelease { version: version.into(), known: known() })?;
            if is_for(&release.version, ours) {
                return Ok(release);
            }
            Err(PackageError::OtherCortex { version: release.version.clone(), ours: ours.into() })
        }
        None => releases
            .iter()
            .find(|release| is_for(&release.version, ours) && !release.draft && !release.prerelease)
            .ok_or_else(|| PackageError::NoRelease {
                version: "latest".into(),
                known: format!("for this cortex, {ours}, none is out; {}", known()),
            }),
    }
}

/// The archive of a variant, by its whole name or what follows the platform.
pub(crate) fn pick<'release>(
    release: &'release Release,
    variant: &str,
    platform: &str,
) -> Result<&'release Archive, PackageError> {
    let is_it = |archive: &&Archive| is_called(&archive.variant, platform, variant);
    release.archives.iter().find(is_it).ok_or_else(|| {
        let names: Vec<&str> = release.archives.iter().map(|archive| archive.variant.as_str()).collect();
        let known =
            format!("{} has {}", release.version, if names.is_empty() { "none".into() } else { names.join(", ") });
        PackageError::NoVariant { known }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    fn releases() -> Vec<Release> {
        let digest = format!("sha256:{}", "AB".repeat(32));
        let asset = |name: &str| json!({"name": name, "size": 5, "browser_download_url": name, "digest": digest});
        let index = json!([
            {"tag_name": "v0.1.0", "assets": [asset("cortex-llama-cpp-0.1.0-linux-amd64-vulkan.tar.gz"), asset("notes.txt"), {"name": 5}]},
            {"tag_name": "v0.2.0", "assets": [asset("cortex-llama-cpp-0.2.0-linux-amd64-vulkan.tar.gz")]},
            {"tag_name": "v0.1.0-3", "prerelease": true, "assets": []},
            {"tag_name": "v0.1.0-2", "html_url": "https://x/2", "assets": [
                asset("cortex-llama-cpp-0.1.0-2-linux-amd64-vulkan.tar.gz"),
                asset("cortex-llama-cpp-0.1.0-2-mac-arm64-metal.tar.gz"),
                {"name": "cortex-llama-cpp-0.1.0-2-linux-amd64-cuda-12.tar.gz", "size": 9, "digest": "md5:0",
                 "browser_download_url": "https://elsewhere/cuda.tar.gz"},
            ]},
        ]);
        read(index.to_string().as_bytes(), &place("https://example.org/all/index.json?token=x"), "linux-amd64").unwrap()
    }

    #[test]
    fn the_newest_release_of_this_cortex_is_chosen() {
        let all = releases();
        let versions: Vec<&str> = all.iter().map(|release| release.version.as_str()).collect();
        assert_eq!(versions, ["v0.2.0", "v0.1.0-3", "v0.1.0-2", "v0.1.0"]);
        let chosen = |version: Option<&str>| choose(&all, version, "0.1.0").map(|it| it.version.clone());
        for latest in [None, Some(""), Some("latest")] {
            assert_eq!(chosen(latest).unwrap(), "v0.1.0-2");
        }
        assert_eq!(chosen(Some("0.1.0")).unwrap(), "v0.1.0");
        assert_eq!(chosen(Some("v0.1.0-3")).unwrap(), "v0.1.0-3");
        assert!(matches!(chosen(Some("v0.2.0")), Err(PackageError::OtherCortex { .. })));
        assert!(chosen(Some("v7")).unwrap_err().to_string().starts_with("No release found for 7; there are v0.2.0"));
        assert!(choose(&all, None, "0.3.0").unwrap_err().to_string().contains("for this cortex, 0.3.0, none is out"));
        assert!(choose(&[], None, "0.3.0").unwrap_err().to_string().ends_with("there are none"));
    }

    #[test]
    fn archives_are_found_by_long_and_short_names() {
        let all = releases();
        let release = &all[2];
        let pick = |name: &str| pick(release, name, "linux-amd64");
        let archive = pick("vulkan").unwrap();
        assert_eq!(pick("linux-amd64-vulkan").unwrap(), archive);
        assert_eq!((archive.bytes, archive.sha256.as_deref()), (5, Some("ab".repeat(32).as_str())));
        let url = "https://example.org/all/cortex-llama-cpp-0.1.0-2-linux-amd64-vulkan.tar.gz";
        assert_eq!(archive.place, place(url));
        let cuda = pick("cuda-12").unwrap();
        assert_eq!((cuda.sha256.as_deref(), cuda.place.shown().as_str()), (None, "https://elsewhere/cuda.tar.gz"));
        let said = pick("metal").unwrap_err().to_string();
        assert!(said.ends_with("v0.1.0-2 has linux-amd64-vulkan, linux-amd64-cuda-12"), "{said}");
    }

    #[test]
    fn places_lead_only_where_they_may() {
        assert_eq!(place("file:///a/index.json"), Place::File("/a/index.json".into()));
        assert_eq!(place("/a/index.json").join("b.tar.gz"), Some(Place::File("/a/b.tar.gz".into())));
        assert_eq!(place("/a/index.json").join("https://x/y"), Some(place("https://x/y")));
        assert_eq!(place("https://x/a/index.json").join("/b"), Some(place("https://x/b")));
        assert_eq!(place("https://x/a/index.json").join("file:///etc/passwd"), None);
        for bad in ["index.json", "ftp://x/y", "", "http://"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
        for secret in ["https://x/y?token=secret", "https://secret@x/y", "https://u:secret@x/y#secret"] {
            assert_eq!(
                (place(secret).shown().as_str(), shown_address(secret).as_str()),
                ("https://x/y", "https://x/y")
            );
        }
        for (text, is_safe) in [
            ("https://x/y", true),
            ("/a/b", true),
            ("http://127.0.0.1:1/y", true),
            ("http://[::1]/y", true),
            ("http://localhost/y", true),
            ("http://x/y", false),
            ("http://127.0.0.1.evil/y", false),
        ] {
            assert_eq!(place(text).is_safe(), is_safe, "{text}");
        }
        let said = read(b"<html>", &place("https://x/y?token=secret"), "linux-amd64").unwrap_err().to_string();
        assert!(said.starts_with("Failed to fetch engine releases: https://x/y is no list of releases"), "{said}");
    }
}
