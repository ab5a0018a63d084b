//! Archives: how one is read into a folder, and nothing of it believed before it was compared with its manifest.

use crate::{
    error::{PackageError, disk},
    manifest::Manifest,
};
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};
use std::{
    cell::Cell,
    io::{self, BufReader, Read, Write},
    path::Path,
};

/// The first file of each archive.
pub const MANIFEST: &str = "package.json";
/// Bytes of a manifest at most.
const LONGEST_MANIFEST: u64 = 64 << 10;
/// Bytes that the files of a package may have together: the libraries of a graphics processor's maker are large.
pub(crate) const LARGEST: u64 = 4 << 30;
const MOST_FILES: usize = 64;
/// Bytes that an archive has beside the content of its files: heads, the manifest, and what fills it up.
const ROOM: u64 = 1 << 20;
const COPIED: usize = 256 << 10;

/// Hexadecimal digits.
pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is unpacked at most: a few bytes that are packed well must not become all of the memory.
struct Bounded<'room, R> {
    inner: R,
    room: &'room Cell<u64>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.room.get().checked_sub(read as u64);
        self.room.set(left.ok_or_else(|| io::Error::other("it unpacks to more than it says"))?);
        Ok(read)
    }
}

fn refused(name: &str, reason: impl Into<String>) -> PackageError {
    PackageError::Archive { name: name.into(), reason: reason.into() }
}

/// The manifest in an archive; nothing else of it is read. Blocks.
///
/// # Errors
/// When it cannot be read, or has none.
pub fn describe(path: &Path) -> Result<Manifest, PackageError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = fs_err::File::open(path).map_err(disk("read the archive"))?;
    let room = Cell::new(ROOM);
    let mut archive = tar::Archive::new(Bounded { inner: GzDecoder::new(BufReader::new(file)), room: &room });
    let mut entries = archive.entries().map_err(|error| refused(&name, error.to_string()))?;
    first(&name, entries.next())
}

/// The name of an entry; many programs put `./` before it.
fn plain(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.strip_prefix("./").unwrap_or(&name).to_owned()
}

fn first<R: Read>(name: &str, entry: Option<io::Result<tar::Entry<'_, R>>>) -> Result<Manifest, PackageError> {
    let none = || refused(name, format!("its first file is not {MANIFEST}; is it an archive for cortex?"));
    let mut entry =
        entry.ok_or_else(none)?.map_err(|error| refused(name, format!("it cannot be unpacked: {error}")))?;
    if plain(&entry.path_bytes()) != MANIFEST || !entry.header().entry_type().is_file() {
        return Err(none());
    }
    let mut text = String::new();
    let read = entry.by_ref().take(LONGEST_MANIFEST).read_to_string(&mut text);
    read.map_err(|error| refused(name, format!("{MANIFEST} cannot be read: {error}")))?;
    serde_json::from_str(&text).map_err(|error| refused(name, format!("{MANIFEST} is not understood: {error}")))
}

/// Unpacks an archive into an empty folder: only the files that its manifest names, each as long as it says and with the digest
/// that it says. Blocks.
pub(crate) fn unpack(path: &Path, folder: &Path, platform: &str) -> Result<Manifest, PackageError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let broken = |error: io::Error| refused(&name, format!("it cannot be unpacked: {error}"));
    let file = fs_err::File::open(path).map_err(disk("read the archive"))?;
    let room = Cell::new(ROOM);
    let mut archive = tar::Archive::new(Bounded { inner: GzDecoder::new(BufReader::new(file)), room: &room });
    let mut entries = archive.entries().map_err(broken)?;
    let manifest = first(&name, entries.next())?;
    if let Some(fault) = manifest.fault(platform) {
        return Err(refused(&name, fault));
    }
    let total = manifest.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    if total > LARGEST || manifest.files.len() > MOST_FILES {
        return Err(refused(&name, format!("it holds more than {MOST_FILES} files, or {} GiB", LARGEST >> 30)));
    }
    room.set(room.get() + total);
    let mut missing: Vec<_> = manifest.files.iter().collect();
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let entry_name = plain(&entry.path_bytes());
        let at = missing.iter().position(|file| file.name == entry_name);
        let Some(file) = at.map(|at| missing.swap_remove(at)) else {
            return Err(refused(&name, format!("it holds `{entry_name}`, which {MANIFEST} does not name, or twice")));
        };
        if !entry.header().entry_type().is_file() {
            return Err(refused(&name, format!("`{entry_name}` is no plain file")));
        }
        let digest = copy(&mut entry, &folder.join(&file.name), file.bytes, &name)?;
        if digest != file.sha256.to_ascii_lowercase() {
            return Err(refused(&name, format!("`{entry_name}` is not what {MANIFEST} says: its SHA-256 is {digest}")));
        }
    }
    if let Some(file) = missing.first() {
        return Err(refused(&name, format!("`{}` is missing", file.name)));
    }
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys only");
    fs_err::write(folder.join(MANIFEST), text).map_err(disk("write the manifest"))?;
    Ok(manifest)
}

/// Copies exactly so many bytes, and makes them durable; the digest.
fn copy(from: &mut impl Read, to: &Path, bytes: u64, archive: &str) -> Result<String, PackageError> {
    let failed = disk("write a file of the package");
    let mut file = fs_err::File::create_new(to).map_err(&failed)?;
    let (mut hash, mut left) = (Sha256::new(), bytes);
    let mut buffer = vec![0; COPIED];
    loop {
        let read =
            from.read(&mut buffer).map_err(|error| refused(archive, format!("it cannot be unpacked: {error}")))?;
        if read == 0 {
            break;
        }
        left = left.checked_sub(read as u64).ok_or_else(|| {
            refused(
                archive,
                format!("`{}` is longer than {MANIFEST} says", to.file_name().unwrap_or_default().display()),
            )
        })?;
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(&failed)?;
    }
    if left > 0 {
        return Err(refused(archive, format!("`{}` is cut off", to.file_name().unwrap_or_default().display())));
    }
    file.sync_all().map_err(&failed)?;
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::BUILD;
    use cortex_test::archive::{Entry, tarball};
    use serde_json::json;

    fn sha256(content: &[u8]) -> String {
        hex(&Sha256::digest(content))
    }

    fn manifest(content: &[u8]) -> serde_json::Value {
        json!({
            "engine": "llama-cpp", "version": "0.1.0", "variant": "linux-amd64-vulkan", "build": BUILD,
            "module": "libggml-vulkan.so",
            "files": [{"name": "libggml-vulkan.so", "bytes": content.len(), "sha256": sha256(content)}],
        })
    }

    fn unpacked(entries: &[Entry<'_>]) -> Result<(Manifest, Vec<u8>), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        fs_err::write(&path, tarball(entries)).unwrap();
        let to = folder.path().join("to");
        fs_err::create_dir(&to).unwrap();
        let manifest = unpack(&path, &to, "linux-amd64").map_err(|error| error.to_string())?;
        assert_eq!(describe(&path).unwrap(), manifest);
        Ok((manifest, fs_err::read(to.join("libggml-vulkan.so")).unwrap()))
    }

    #[test]
    fn only_what_the_manifest_promises_is_taken() {
        let content = vec![7u8; 700_000];
        let said = manifest(&content).to_string();
        let module = Entry::File("libggml-vulkan.so", &content);
        let (manifest_read, read) = unpacked(&[Entry::File(MANIFEST, said.as_bytes()), module]).unwrap();
        assert_eq!((manifest_read.version.as_str(), read), ("0.1.0", content.clone()));
        let module_here = Entry::File("./libggml-vulkan.so", &content);
        assert!(unpacked(&[Entry::File("./package.json", said.as_bytes()), module_here]).is_ok());

        let short = &content[..10];
        let other = vec![8u8; content.len()];
        let long = [content.as_slice(), b"x"].concat();
        for (entries, words) in [
            (vec![], "its first file is not package.json"),
            (vec![module], "its first file is not package.json"),
            (vec![Entry::Link(MANIFEST, "/etc/passwd"), module], "its first file is not package.json"),
            (vec![Entry::File(MANIFEST, b"{}")], "package.json is not understood"),
            (vec![Entry::File(MANIFEST, said.as_bytes())], "`libggml-vulkan.so` is missing"),
            (
                vec![Entry::File(MANIFEST, said.as_bytes()), Entry::File("../x", b"x")],
                "`../x`, which package.json does not name",
            ),
            (vec![Entry::File(MANIFEST, said.as_bytes()), module, module], "or twice"),
            (vec![Entry::File(MANIFEST, said.as_bytes()), Entry::Link("libggml-vulkan.so", "/x")], "is no plain file"),
            (vec![Entry::File(MANIFEST, said.as_bytes()), Entry::File("libggml-vulkan.so", short)], "is cut off"),
            (vec![Entry::File(MANIFEST, said.as_bytes()), Entry::File("libggml-vulkan.so", &long)], "is longer than"),
            (vec![Entry::File(MANIFEST, said.as_bytes()), Entry::File("libggml-vulkan.so", &other)], "its SHA-256 is"),
        ] {
            let said = unpacked(&entries).unwrap_err();
            assert!(said.contains(words), "{said} / {words}");
        }
    }

    #[test]
    fn what_is_no_archive_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        let good = tarball(&[Entry::File(MANIFEST, manifest(b"x").to_string().as_bytes())]);
        for bytes in [b"not packed".as_slice(), b"", &good[..good.len() / 2]] {
            fs_err::write(&path, bytes).unwrap();
            let said = unpack(&path, folder.path(), "linux-amd64").unwrap_err().to_string();
            assert!(said.starts_with("the archive a.tar.gz cannot be used: "), "{said}");
        }
        // A long name that unpacks to much more than a manifest may be.
        let mut bomb = tar::Header::new_gnu();
        bomb.set_entry_type(tar::EntryType::GNULongName);
        bomb.set_size(u64::from(u32::MAX));
        bomb.set_cksum();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bomb.as_bytes()).unwrap();
        packed.write_all(&vec![b'a'; 64 << 20]).unwrap();
        fs_err::write(&path, packed.finish().unwrap()).unwrap();
        assert!(describe(&path).unwrap_err().to_string().contains("it unpacks to more than it says"));
        let large = json!({
            "engine": "llama-cpp", "version": "0.1.0", "variant": "linux-amd64-vulkan", "build": BUILD,
            "module": "libggml-vulkan.so",
            "files": [{"name": "libggml-vulkan.so", "bytes": u64::MAX, "sha256": ""}],
        });
        fs_err::write(&path, tarball(&[Entry::File(MANIFEST, large.to_string().as_bytes())])).unwrap();
        assert!(unpack(&path, folder.path(), "linux-amd64").unwrap_err().to_string().contains("GiB"));
    }
}
