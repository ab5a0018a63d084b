//! What files hold, and the digests by which the hub names them.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    io::{self, Read, SeekFrom},
    path::PathBuf,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// The most bytes that a body gives at once.
pub(super) const PIECE: usize = 64 * 1024;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// The bytes of a file on disk. It is read anew for each answer, so it has to stay as it is.
    File(PathBuf),
    /// Bytes that look random and cost no memory: those of [`pattern`].
    Pattern {
        /// Another seed, other bytes.
        seed: u64,
        /// How many bytes.
        length: u64,
    },
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<PathBuf> for Content {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// The bytes of [`Content::Pattern`] from an offset on, whatever its length is.
pub fn pattern(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let skip = usize::from(offset.to_le_bytes()[0] & 7);
    let mut bytes = Vec::with_capacity(skip + length + 8);
    let mut word = offset / 8;
    while bytes.len() < skip + length {
        bytes.extend(mixed(seed, word).to_le_bytes());
        word += 1;
    }
    bytes.truncate(skip + length);
    bytes.drain(..skip);
    bytes
}

/// A number of the splitmix64 generator, without those before it.
fn mixed(seed: u64, index: u64) -> u64 {
    let sum = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let once = (sum ^ (sum >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let twice = (once ^ (once >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    twice ^ (twice >> 31)
}

/// A file of a repository.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) path: String,
    pub(super) content: Content,
    pub(super) size: u64,
    /// Of the content.
    pub(super) sha256: String,
    /// The id that git gives the blob: that of the pointer, when the content is in LFS.
    pub(super) oid: String,
    /// The length of the LFS pointer; `None` when git itself holds the content.
    pub(super) pointer_size: Option<usize>,
}

impl StoredFile {
    /// Reads all of the content once, for its digests.
    pub(super) fn new(path: &str, content: Content) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut size = 0;
        // Only what git would hold is kept for the digest of git.
        let mut small = Vec::new();
        let mut take = |piece: &[u8]| {
            hasher.update(piece);
            size += piece.len() as u64;
            if size <= LARGEST_IN_GIT {
                small.extend_from_slice(piece);
            }
        };
        match &content {
            Content::Bytes(bytes) => take(bytes),
            Content::File(path) => {
                let mut file = fs_err::File::open(path)?;
                let mut buffer = vec![0; PIECE];
                loop {
                    match file.read(&mut buffer)? {
                        0 => break,
                        length => take(&buffer[..length]),
                    }
                }
            }
            Content::Pattern { seed, length } => {
                let mut offset = 0;
                while offset < *length {
                    let piece = pattern(*seed, offset, at_most(PIECE, length - offset));
                    take(&piece);
                    offset += piece.len() as u64;
                }
            }
        }
        let sha256 = hex(&hasher.finalize());
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        let large = size > LARGEST_IN_GIT || ["gguf", "safetensors", "bin"].contains(&extension);
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        Ok(Self {
            path: path.into(),
            content,
            size,
            oid: git_blob(if large { pointer.as_bytes() } else { &small }),
            pointer_size: large.then_some(pointer.len()),
            sha256,
        })
    }

    /// Whether the content is on the content host.
    pub(super) fn is_large(&self) -> bool {
        self.pointer_size.is_some()
    }

    /// By what the hub names the content, without quotes.
    pub(super) fn digest(&self) -> &str {
        if self.is_large() { &self.sha256 } else { &self.oid }
    }
}

/// Files of more bytes are in LFS whatever they are called.
const LARGEST_IN_GIT: u64 = 1024 * 1024;

/// The smaller of a length and what is left.
pub(super) fn at_most(length: usize, left: u64) -> usize {
    usize::try_from(left).map_or(length, |left| length.min(left))
}

/// Lower case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The id that git gives a blob.
pub(super) fn git_blob(content: &[u8]) -> String {
    let mut object = format!("blob {}\0", content.len()).into_bytes();
    object.extend_from_slice(content);
    sha1(&object)
}

/// SHA-1, for the ids of git; nothing here relies on its strength.
pub(super) fn sha1(message: &[u8]) -> String {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    for block in padded.as_chunks::<64>().0 {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for index in 16..80 {
            words[index] = (words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16]).rotate_left(1);
        }
        let [mut first, mut second, mut third, mut fourth, mut fifth] = state;
        for (index, word) in words.into_iter().enumerate() {
            let (mix, constant) = match index / 20 {
                0 => ((second & third) | (!second & fourth), 0x5a82_7999),
                1 => (second ^ third ^ fourth, 0x6ed9_eba1),
                2 => ((second & third) | (second & fourth) | (third & fourth), 0x8f1b_bcdc),
                _ => (second ^ third ^ fourth, 0xca62_c1d6),
            };
            let next =
                first.rotate_left(5).wrapping_add(mix).wrapping_add(fifth).wrapping_add(constant).wrapping_add(word);
            (fifth, fourth, third, second, first) = (fourth, third, second.rotate_left(30), first, next);
        }
        for (sum, part) in state.iter_mut().zip([first, second, third, fourth, fifth]) {
            *sum = sum.wrapping_add(part);
        }
    }
    hex(&state.map(u32::to_be_bytes).concat())
}

/// A content that is being read in order.
#[derive(Debug)]
pub(super) enum Source {
    Bytes(Bytes),
    File(tokio::fs::File),
    Pattern(u64),
}

impl Source {
    /// Opens a content to be read from an offset on.
    pub(super) async fn open(content: &Content, offset: u64) -> io::Result<Self> {
        Ok(match content {
            Content::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Content::File(path) => {
                let mut file = tokio::fs::File::from_std(fs_err::File::open(path)?.into_file());
                file.seek(SeekFrom::Start(offset)).await?;
                Self::File(file)
            }
            Content::Pattern { seed, .. } => Self::Pattern(*seed),
        })
    }

    /// The next piece: a file knows its offset, the others are told.
    pub(super) async fn piece(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                Ok(bytes.slice(start..start + length))
            }
            Self::File(file) => {
                let mut piece = vec![0; length];
                file.read_exact(&mut piece).await?;
                Ok(piece.into())
            }
            Self::Pattern(seed) => Ok(pattern(*seed, offset, length).into()),
        }
    }
}
