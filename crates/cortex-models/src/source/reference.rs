//! What a person calls a model that is somewhere else. Pure.

use std::{fmt, path::PathBuf};

/// The organisation whose models have short names.
pub(crate) const HANDLES: &str = "cortexso";
/// What a good URL looks like.
const EXAMPLE: &str = "https://huggingface.co/cortexso/tinyllama/blob/1b/model.gguf";
/// Names of the hub, besides a mirror's.
const HUB_HOSTS: &[&str] = &["huggingface.co", "www.huggingface.co", "hf.co"];
/// The longest name that file systems have.
const LONGEST_PART: usize = 255;

/// A model somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A repository: one of its models is chosen.
    Repository {
        repository: Repository,
        revision: Option<String>,
        /// `Q4_K_M`, or a part of a file's name.
        wanted: Option<String>,
    },
    /// A file of a repository.
    File {
        repository: Repository,
        revision: Option<String>,
        /// Its path, or its name alone.
        path: String,
    },
    /// A short name: a branch of a repository of [`HANDLES`].
    Handle { name: String, branch: Option<String> },
    /// A GGUF anywhere else.
    Url(reqwest::Url),
    /// A file of this machine.
    LocalFile(PathBuf),
}

/// `author/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    pub(crate) author: String,
    pub(crate) name: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.author, self.name)
    }
}

/// Why a text means no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has none of the forms.
    #[error("Invalid model handle or not supported!")]
    Form,
    /// A URL of the hub that leads to no file.
    #[error("Invalid url: {url}, a valid URL example is: {EXAMPLE}")]
    Url {
        /// As it was given.
        url: String,
    },
    /// A URL with a name and a password, which would be shown and kept.
    #[error("a URL must not hold a user's name or password")]
    Secret,
    /// A URL of the hub that leads to another kind of file.
    #[error("Not a GGUF model. Currently, only GGUF single file is supported.")]
    NotGguf,
}

/// Why a text means no repository. The words are those of cortex.cpp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// It is no URL, or one of another host.
    #[error("Invalid model source url: {0}")]
    Invalid(String),
    /// It leads to a part of a repository.
    #[error("Only support repository model source, url: {0}")]
    NotRepository(String),
    /// Author or name cannot be such.
    #[error("Malformed URL: {0}")]
    Malformed(String),
}

impl ReferenceError {
    /// What a person can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Form => Some(
                "give `author/repo`, `author/repo:Q4_K_M`, `author:repo:file.gguf`, the URL of a GGUF file, or a short name such as `tinyllama:1b`".into(),
            ),
            Self::Url { .. } => None,
            Self::Secret => Some("leave them away; tokens of the hub belong into `huggingFaceToken` of the settings".into()),
            Self::NotGguf => Some("give the URL of a .gguf file, or the repository alone".into()),
        }
    }
}

/// Reads what a person wrote; `mirror` is the host that stands for the hub.
pub(crate) fn parse(text: &str, mirror: &reqwest::Url) -> Result<Reference, ReferenceError> {
    let text = text.trim();
    if let Some(rest) = HUB_HOSTS.iter().find_map(|host| text.strip_prefix(host)?.strip_prefix('/')) {
        return of_hub_path(&rest.split('/').map(str::to_owned).collect::<Vec<_>>(), text);
    }
    if text.contains("://") {
        return of_url(text, mirror);
    }
    if text.contains(char::is_control) || text.contains('\\') {
        return Err(ReferenceError::Form);
    }
    let colons: Vec<&str> = text.splitn(3, ':').collect();
    match (text.split_once('/'), colons.as_slice()) {
        // The file may have a folder, and colons.
        (_, [author, repo, file]) if !author.contains('/') => of_file(author, repo, None, file),
        (None, [name, branch]) => handle(name, Some(branch)),
        (None, [name]) => handle(name, None),
        (Some((author, _)), [repository]) => of_repository(author, &repository[author.len() + 1..], None, None),
        (Some((author, _)), [repository, wanted]) if !wanted.is_empty() => {
            of_repository(author, repository.get(author.len() + 1..).unwrap_or_default(), None, Some(wanted))
        }
        _ => Err(ReferenceError::Form),
    }
}

/// Reads the URL of a repository, or `author/name`.
pub(crate) fn parse_repository(text: &str, mirror: &reqwest::Url) -> Result<Repository, RepositoryError> {
    let given = text.trim();
    let invalid = || RepositoryError::Invalid(given.to_owned());
    let parts: Vec<String> = if given.contains("://") {
        let url = reqwest::Url::parse(given).map_err(|_| invalid())?;
        let path = hub_path(&url, mirror).filter(|_| matches!(url.scheme(), "http" | "https")).ok_or_else(invalid)?;
        let parts = path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Option<_>>();
        parts.ok_or_else(|| RepositoryError::Malformed(given.to_owned()))?
    } else {
        let path = HUB_HOSTS.iter().find_map(|host| given.strip_prefix(host)?.strip_prefix('/')).unwrap_or(given);
        path.split('/').map(str::to_owned).collect()
    };
    match parts.as_slice() {
        [author, name] => repository(author, name).map_err(|_| RepositoryError::Malformed(given.to_owned())),
        [] | [_] => Err(invalid()),
        _ => Err(RepositoryError::NotRepository(given.to_owned())),
    }
}

/// The path of a URL below the hub's; `None` when it is another host's.
fn hub_path<'url>(url: &'url reqwest::Url, mirror: &reqwest::Url) -> Option<&'url str> {
    let host = url.host_str().unwrap_or_default();
    let is_mirror =
        url.host_str() == mirror.host_str() && url.port_or_known_default() == mirror.port_or_known_default();
    if !is_mirror && !HUB_HOSTS.iter().any(|hub| hub.eq_ignore_ascii_case(host)) {
        return None;
    }
    let path = url.path().strip_prefix(mirror.path().trim_end_matches('/')).filter(|_| is_mirror);
    Some(path.unwrap_or(url.path()))
}

fn of_url(text: &str, mirror: &reqwest::Url) -> Result<Reference, ReferenceError> {
    let invalid = || ReferenceError::Url { url: text.to_owned() };
    let url = reqwest::Url::parse(text).map_err(|_| invalid())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ReferenceError::Secret);
    }
    match url.scheme() {
        "http" | "https" => {}
        "file" => return url.to_file_path().map(Reference::LocalFile).map_err(|()| invalid()),
        _ => return Err(ReferenceError::Form),
    }
    let Some(path) = hub_path(&url, mirror) else { return Ok(Reference::Url(url)) };
    let parts: Option<Vec<String>> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    of_hub_path(&parts.ok_or_else(invalid)?, text)
}

/// The path of a URL of the hub.
fn of_hub_path(parts: &[String], text: &str) -> Result<Reference, ReferenceError> {
    let invalid = || ReferenceError::Url { url: text.to_owned() };
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [author, repo] => {
            let (name, wanted) = repo.split_once(':').map_or((*repo, None), |(name, wanted)| (name, Some(wanted)));
            of_repository(author, name, None, wanted.filter(|wanted| !wanted.is_empty()))
        }
        [author, repo, "tree", revision] => of_repository(author, repo, Some(revision), None),
        [author, repo, "blob" | "resolve" | "raw", revision, path @ ..] if !path.is_empty() => {
            of_file(author, repo, Some(revision), &path.join("/"))
        }
        _ => Err(invalid()),
    }
    .map_err(|error| if error == ReferenceError::Form { invalid() } else { error })
}

fn of_repository(
    author: &str,
    name: &str,
    revision: Option<&str>,
    wanted: Option<&str>,
) -> Result<Reference, ReferenceError> {
    let repository = repository(author, name)?;
    if author == HANDLES {
        return handle(name, revision.or(wanted));
    }
    let revision = revision.map(checked_revision).transpose()?;
    Ok(Reference::Repository { repository, revision, wanted: wanted.map(str::to_owned) })
}

fn of_file(author: &str, name: &str, revision: Option<&str>, path: &str) -> Result<Reference, ReferenceError> {
    let repository = repository(author, name)?;
    if !path.to_lowercase().ends_with(".gguf") {
        return Err(ReferenceError::NotGguf);
    }
    if path.split('/').any(|part| !is_plain(part)) {
        return Err(ReferenceError::Form);
    }
    if let Some(branch) = revision.filter(|_| author == HANDLES) {
        return handle(name, Some(branch));
    }
    let revision = revision.map(checked_revision).transpose()?;
    Ok(Reference::File { repository, revision, path: path.to_owned() })
}

fn handle(name: &str, branch: Option<&str>) -> Result<Reference, ReferenceError> {
    let repository = repository(HANDLES, name)?;
    let branch = branch.map(checked_revision).transpose()?;
    Ok(Reference::Handle { name: repository.name, branch })
}

fn repository(author: &str, name: &str) -> Result<Repository, ReferenceError> {
    let is_name = |text: &str| {
        is_plain(text) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    if !is_name(author) || !is_name(name) {
        return Err(ReferenceError::Form);
    }
    Ok(Repository { author: author.to_owned(), name: name.to_owned() })
}

/// A branch, a tag or a commit; some have slashes, such as `refs/pr/1`.
fn checked_revision(revision: &str) -> Result<String, ReferenceError> {
    if revision.is_empty() || revision.len() > LONGEST_PART || revision.split('/').any(|part| !is_plain(part)) {
        return Err(ReferenceError::Form);
    }
    Ok(revision.to_owned())
}

/// Whether a text may be one part of a path, here and there.
pub(crate) fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= LONGEST_PART
        && part != "."
        && part != ".."
        && !part.contains(|letter: char| letter.is_control() || matches!(letter, '/' | '\\'))
}

/// Percent-encoding undone; `None` when what it stands for is no text.
fn decode(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> reqwest::Url {
        reqwest::Url::parse("http://127.0.0.1:8080/hub").unwrap()
    }

    fn show(text: &str) -> String {
        match parse(text, &mirror()) {
            Ok(Reference::Repository { repository, revision, wanted }) => {
                format!("repo {repository} {} {}", revision.unwrap_or("-".into()), wanted.unwrap_or("-".into()))
            }
            Ok(Reference::File { repository, revision, path }) => {
                format!("file {repository} {} {path}", revision.unwrap_or("-".into()))
            }
            Ok(Reference::Handle { name, branch }) => format!("handle {name} {}", branch.unwrap_or("-".into())),
            Ok(Reference::Url(url)) => format!("url {url}"),
            Ok(Reference::LocalFile(path)) => format!("local {}", path.display()),
            Err(ReferenceError::Form) => "form".into(),
            Err(ReferenceError::Url { .. }) => "bad url".into(),
            Err(ReferenceError::NotGguf) => "not gguf".into(),
            Err(ReferenceError::Secret) => "secret".into(),
        }
    }

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("TheBloke/Mistral-7B-GGUF", "repo TheBloke/Mistral-7B-GGUF - -"),
            (" a/b:Q4_K_M ", "repo a/b - Q4_K_M"),
            ("hf.co/a/b:Q4_K_M", "repo a/b - Q4_K_M"),
            ("huggingface.co/a/b", "repo a/b - -"),
            ("https://huggingface.co/a/b", "repo a/b - -"),
            ("https://huggingface.co/a/b/", "repo a/b - -"),
            ("https://huggingface.co/a/b/tree/dev", "repo a/b dev -"),
            ("a:b:c.gguf", "file a/b - c.gguf"),
            ("https://huggingface.co/a/b/blob/main/c.gguf", "file a/b main c.gguf"),
            (
                "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/s/c%20d.GGUF?download=true",
                "file a/b refs/pr/1 s/c d.GGUF",
            ),
            ("http://127.0.0.1:8080/hub/a/b/resolve/main/c.gguf", "file a/b main c.gguf"),
            (
                "http://127.0.0.1:8081/hub/a/b/resolve/main/c.gguf",
                "url http://127.0.0.1:8081/hub/a/b/resolve/main/c.gguf",
            ),
            ("https://huggingface.co/cortexso/tinyllama/blob/1b/model.gguf", "handle tinyllama 1b"),
            ("cortexso/tinyllama", "handle tinyllama -"),
            ("cortexso/tinyllama:1b", "handle tinyllama 1b"),
            ("tinyllama", "handle tinyllama -"),
            ("tinyllama:1b", "handle tinyllama 1b"),
            ("https://example.org/x.gguf", "url https://example.org/x.gguf"),
            ("file:///m/x%20y.gguf", "local /m/x y.gguf"),
            ("https://huggingface.co/a/b/blob/main", "bad url"),
            ("https://huggingface.co/a", "bad url"),
            ("https://huggingface.co/a/b/blob/main/c.bin", "not gguf"),
            ("https://huggingface.co/a/b/blob/main/%2e%2e/c.gguf", "bad url"),
            ("https://huggingface.co/a/b/blob/main/..%2f..%2fc.gguf", "bad url"),
            ("https://huggingface.co/%2e%2e/b/blob/main/c.gguf", "bad url"),
            ("ftp://example.org/x.gguf", "form"),
            ("a:b:c.bin", "not gguf"),
            ("a:b:../c.gguf", "form"),
            ("../b", "form"),
            ("a/b/c", "form"),
            ("a/b:", "form"),
            ("a b", "form"),
            ("", "form"),
            (":", "form"),
            ("a:b:c:d.gguf", "file a/b - c:d.gguf"),
            ("a:b:Q8_0/d.gguf", "file a/b - Q8_0/d.gguf"),
            ("a:b:Q8_0/../d.gguf", "form"),
            ("a/b:c:d.gguf", "form"),
            ("https://me:secret@example.org/x.gguf", "secret"),
            ("http://me@127.0.0.1:8080/hub/a/b", "secret"),
            ("a\\b:c", "form"),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }

    #[test]
    fn repositories_are_told_from_what_is_none() {
        for (text, expected) in [
            ("https://huggingface.co/a/b", Ok("a/b")),
            (" https://hf.co/a/b/ ", Ok("a/b")),
            ("huggingface.co/a/b", Ok("a/b")),
            ("a/b.c", Ok("a/b.c")),
            ("http://127.0.0.1:8080/hub/a/b", Ok("a/b")),
            ("http://127.0.0.1:8081/hub/a/b", Err("Invalid model source url: http://127.0.0.1:8081/hub/a/b")),
            ("https://example.org/a/b", Err("Invalid model source url: https://example.org/a/b")),
            ("file:///a/b", Err("Invalid model source url: file:///a/b")),
            ("https://huggingface.co/a", Err("Invalid model source url: https://huggingface.co/a")),
            ("nonsense", Err("Invalid model source url: nonsense")),
            ("", Err("Invalid model source url: ")),
            (
                "https://huggingface.co/a/b/tree/main",
                Err("Only support repository model source, url: https://huggingface.co/a/b/tree/main"),
            ),
            ("https://huggingface.co/a/%2e%2e%2fb", Err("Malformed URL: https://huggingface.co/a/%2e%2e%2fb")),
            ("../b", Err("Malformed URL: ../b")),
            ("a b/c", Err("Malformed URL: a b/c")),
        ] {
            let read = parse_repository(text, &mirror()).map(|it| it.to_string()).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}
