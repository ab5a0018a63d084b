//! Archives for tests, the wrong ones too.

use flate2::{Compression, write::GzEncoder};

/// What is in an archive.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'content> {
    /// A file.
    File(&'content str, &'content [u8]),
    /// A link that leads to this.
    Link(&'content str, &'content str),
}

/// A `tar.gz` with these entries, whatever their names are.
///
/// # Panics
/// When memory cannot be written.
pub fn tarball(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let (name, content) = match entry {
            Entry::File(name, content) => (name, *content),
            Entry::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name_literal(target).expect("a short name");
                (name, b"".as_slice())
            }
        };
        // A builder would refuse names that lead out of the folder.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content).expect("written");
    }
    archive.into_inner().and_then(GzEncoder::finish).expect("written")
}
