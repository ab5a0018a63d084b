//! The worker without an engine: what it can be asked to do, and where it is.

use crate::{
    dist,
    gguf::{GgufBuilder, Size},
};
use cortex_api::worker::{Device, Measured, MeasuredType, encode};
use std::path::{Path, PathBuf};

/// What the fake worker does wrong when its word is in a prompt (for that request) or in the name of
/// the model's file (for the load).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// `[hang]`: says nothing any more.
    Hang,
    /// `[garbage]`: says something that is not of the protocol, and goes on.
    Garbage,
    /// `[exit]`: last words, and exit code 3.
    Exit,
    /// `[endless]`: a line that never ends.
    Endless,
    /// `[hold]`: is accepted and answered with nothing until it is cancelled. No misbehaviour, but a slow one.
    Hold,
    /// `[slow]`: a load takes a second, and then each answer 100 ms, one after the other. For benches.
    Slow,
    /// `[old]`: greets with another version of the protocol.
    OldProtocol,
}

impl Misbehaviour {
    /// What a text asks for.
    pub fn asked_by(text: &str) -> Option<Self> {
        [
            ("[hang]", Self::Hang),
            ("[garbage]", Self::Garbage),
            ("[exit]", Self::Exit),
            ("[endless]", Self::Endless),
            ("[hold]", Self::Hold),
            ("[slow]", Self::Slow),
            ("[old]", Self::OldProtocol),
        ]
        .into_iter()
        .find_map(|(word, how)| text.contains(word).then_some(how))
    }
}

/// A device with this in its name fails its trial.
pub const BROKEN: &str = "broken";
/// Layers of [`model`], the output among them.
pub const LAYERS: u32 = 9;

/// Gives a fake worker a compute module for graphics processors that finds these; one that crashes when there are none.
///
/// # Panics
/// When it cannot be written.
pub fn lay_out_graphics(folder: &Path, devices: &[Device]) {
    let text = if devices.is_empty() { String::new() } else { encode(&devices) };
    fs_err::write(folder.join("fake/backends/libggml-fake.so"), text).expect("a file");
}

/// What it says of the speed of this machine: each weight takes 0.1 µs in an answer, and a tenth of that in a prompt.
pub fn measured() -> Measured {
    let types = [0, 1].map(|kind| MeasuredType { kind, single: 1e-7, batch: 1e-8 });
    Measured { bytes_per_second: 1e12, types: types.to_vec(), wide: 1.0, batch_wide: 1.0, ..Measured::default() }
}

/// A graphics processor with memory of its own. 128 MiB of what is free are not given to models.
pub fn device(name: &str, bus: &str, free: u64) -> Device {
    Device {
        name: name.into(),
        description: format!("Test {name}"),
        bus: bus.into(),
        is_integrated: false,
        total: 2 << 30,
        free: free + (128 << 20),
    }
}

/// Lays the fake worker out in a folder as a real one would be; its program.
///
/// # Panics
/// When it cannot be written.
pub fn lay_out(folder: &Path) -> PathBuf {
    let program = folder.join("fake/cortex-llamacpp");
    fs_err::create_dir_all(folder.join("fake/backends")).expect("a folder");
    fs_err::copy(dist::program("test/fake-worker"), &program).expect("a copy");
    fs_err::write(folder.join("fake/backends/libggml-cpu-fake.so"), "").expect("a file");
    program
}

/// Writes a model that the fake worker loads; its path. By its header it needs 2 KiB for each token of context, of which it
/// was trained with 8192.
///
/// # Panics
/// When it cannot be written.
pub fn model(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    let size = Size {
        vocabulary: 64,
        embedding: 64,
        feed_forward: 64,
        layers: u64::from(LAYERS - 1),
        heads: 2,
        kept_heads: 2,
        context: 8192,
    };
    fs_err::write(&path, GgufBuilder::llama_of(size).build()).expect("written");
    path
}
