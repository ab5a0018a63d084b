//! The files of one model's weights: one GGUF or a whole set, and the vision part beside them.

use crate::{Gguf, GgufError, shards};
use cortex_hardware::Architecture;
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// What the headers of all files say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    /// The header of the first file, which describes the model.
    pub(crate) header: Gguf,
    /// The files, the first one first.
    pub(crate) files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// Bytes of all tensors.
    pub(crate) tensor_bytes: u64,
    /// Weights in all tensors.
    pub(crate) parameters: u64,
}

/// Why files are not the weights of a model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file is not there, or is none that can be read.
    #[error("{} is not a readable file", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A file of a set is not there.
    #[error("part {number} of {count} is missing: {}", path.display())]
    PartMissing {
        /// Which part, from 1.
        number: u32,
        /// How many there are.
        count: u32,
        /// Where it should be.
        path: PathBuf,
    },
    /// The header of a file cannot be used.
    #[error("{source}")]
    Header {
        /// What is wrong.
        source: GgufError,
    },
    /// The header of a part cannot be used, or is of another set.
    #[error("{}: {reason}", path.display())]
    Part {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is the vision part of a model, not a model.
    #[error("it is the projector (mmproj) of a model, not a model")]
    Projector,
}

/// How a model is built and how many bytes its weights have, from the headers of its files. Reads them.
pub fn shape(weights: &Path) -> Result<(Option<Architecture>, u64), WeightsError> {
    let read = read(weights)?;
    Ok((read.header.shape(), read.tensor_bytes))
}

/// Reads the headers of a file, or of all files of its set.
pub(crate) fn read(path: &Path) -> Result<Weights, WeightsError> {
    let Some(shard) = shards::Shard::of(path) else {
        let header = open(path).map_err(|source| of_file(path, source))?;
        if header.architecture() == "clip" {
            return Err(WeightsError::Projector);
        }
        let count = header.unsigned("split.count").unwrap_or(1);
        if count > 1 {
            let reason = format!("it is one of {count} parts, but is not named like one (…-00001-of-{count:05}.gguf)");
            return Err(WeightsError::Part { path: path.to_owned(), reason });
        }
        return Ok(Weights {
            files: vec![path.to_owned()],
            bytes: header.file_bytes,
            tensor_bytes: header.tensor_bytes(),
            parameters: header.parameter_count(),
            header,
        });
    };
    let (mut bytes, mut tensor_bytes, mut parameters) = (0u64, 0u64, 0u64);
    // The tensors of all parts, and the keys of the first.
    let mut first: Option<Gguf> = None;
    for (at, file) in shard.all().enumerate() {
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        if !file.is_file() {
            return Err(WeightsError::PartMissing { number, count: shard.count, path: file });
        }
        let header = open(&file).map_err(|source| match source {
            GgufError::Io { .. } => WeightsError::NotAFile { path: file.clone() },
            source => WeightsError::Part { path: file.clone(), reason: source.to_string() },
        })?;
        let said = (header.unsigned("split.no"), header.unsigned("split.count"));
        if said != (Some(u64::from(number) - 1), Some(u64::from(shard.count))) {
            let part = said.0.map_or_else(|| "no part".into(), |no| format!("part {}", no + 1));
            let reason = format!("its header says {part} of {}, its name says otherwise", said.1.unwrap_or(1));
            return Err(WeightsError::Part { path: file, reason });
        }
        bytes = bytes.saturating_add(header.file_bytes);
        tensor_bytes = tensor_bytes.saturating_add(header.tensor_bytes());
        parameters = parameters.saturating_add(header.parameter_count());
        match &mut first {
            None => first = Some(header),
            Some(known) => known.tensors.extend(header.tensors),
        }
    }
    let Some(header) = first else { return Err(WeightsError::NotAFile { path: path.to_owned() }) };
    Ok(Weights { header, files: shard.all().collect(), bytes, tensor_bytes, parameters })
}

fn of_file(path: &Path, source: GgufError) -> WeightsError {
    match source {
        GgufError::Io { .. } => WeightsError::NotAFile { path: path.to_owned() },
        source => WeightsError::Header { source },
    }
}

/// Opening a pipe would wait for ever, a device could do anything: only regular files are opened.
fn open(path: &Path) -> Result<Gguf, GgufError> {
    let failed = |source| GgufError::Io { path: path.to_owned(), source };
    if !fs_err::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    Gguf::open(path)
}

/// Whether a file is named like the one that a model begins with: a GGUF that is no projector, of a set the
/// first part.
pub fn is_first_of_model(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
        && !is_projector_name(path)
        && shards::Shard::of(path).is_none_or(|shard| shard.number == 1)
}

/// Whether a file is named like the vision part of a model.
pub(crate) fn is_projector_name(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.contains("mmproj") && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// Finds the vision parts that lie beside weights. A folder is read once for all models in it.
#[derive(Debug, Default)]
pub(crate) struct Projectors(Mutex<HashMap<PathBuf, Folder>>);

/// The projectors of a folder, when it was changed at this time.
type Folder = (Option<SystemTime>, Vec<PathBuf>);

/// Folders that are remembered.
const FOLDERS: usize = 256;

impl Projectors {
    /// The projector that belongs to these weights, if there is one: of those in the folder whose
    /// width is that of the model, the one with 16 bits before the others.
    pub(crate) fn beside(&self, weights: &Weights) -> Option<PathBuf> {
        let folder = weights.files.first()?.parent()?;
        let mut candidates = self.in_folder(folder);
        candidates.retain(|path| belongs(path, &weights.header));
        candidates.sort_by_key(|path| {
            let name = path.to_string_lossy().to_lowercase();
            (!name.contains("f16") || name.contains("bf16"), !name.contains("bf16"), path.clone())
        });
        candidates.into_iter().next()
    }

    fn in_folder(&self, folder: &Path) -> Vec<PathBuf> {
        let modified = fs_err::metadata(folder).and_then(|metadata| metadata.modified()).ok();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, paths)) = known.get(folder)
            && *seen == modified
        {
            return paths.clone();
        }
        let paths: Vec<PathBuf> = fs_err::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| is_projector_name(path)).collect())
            .unwrap_or_default();
        if known.len() >= FOLDERS {
            known.clear();
        }
        known.insert(folder.to_owned(), (modified, paths.clone()));
        paths
    }
}

fn belongs(projector: &Path, model: &Gguf) -> bool {
    let Ok(header) = open(projector) else { return false };
    if header.architecture() != "clip" {
        return false;
    }
    let width = ["clip.vision.projection_dim", "clip.audio.projection_dim"].iter().find_map(|key| header.unsigned(key));
    match (width, model.of_architecture("embedding_length")) {
        (Some(width), Some(model)) => width == model,
        _ => true,
    }
}
