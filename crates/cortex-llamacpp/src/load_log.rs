//! What llama.cpp has allocated and where it has put the layers, read from what it says while it loads: its functions do not tell. Pure.
//! A test with a real model pins the words of the version that is built in.

use cortex_api::worker::{Buffer, BufferKind};

/// The words before `buffer size =`, and what they mean. `model` is the last one, because the others are said of its parts.
const KINDS: &[(&str, BufferKind)] = &[
    ("KV", BufferKind::Cache),
    ("RS", BufferKind::Cache),
    ("compute", BufferKind::Compute),
    ("output", BufferKind::Output),
    ("model", BufferKind::Weights),
];

/// The buffer that a line of the log tells of: `load_tensors:   CPU_Mapped model buffer size =    92.10 MiB`.
pub(crate) fn buffer(line: &str) -> Option<Buffer> {
    let (_, rest) = line.split_once(':')?;
    let (words, size) = rest.split_once(" buffer size = ")?;
    let mebibytes: f64 = size.trim().strip_suffix("MiB")?.trim().parse().ok().filter(|it: &f64| it.is_finite())?;
    let (device, kind) = KINDS.iter().find_map(|(word, kind)| Some((words.strip_suffix(word)?.trim(), *kind)))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size; negative ones become 0")]
    let bytes = (mebibytes * 1024.0 * 1024.0) as u64;
    // A memory map is of the processor's memory.
    let device = device.strip_suffix("_Mapped").unwrap_or(device).to_owned();
    (!device.is_empty()).then_some(Buffer { device, kind, bytes })
}

/// The device of a layer that a line of the log tells of: `load_tensors: layer   3 assigned to device Vulkan0, is_swa = 0`.
/// The output comes as a layer behind the last.
pub(crate) fn layer(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(": layer ")?;
    let (number, rest) = rest.split_once(" assigned to device ")?;
    number.trim().parse::<u32>().ok()?;
    let (device, _) = rest.split_once(',')?;
    (!device.is_empty()).then_some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_buffers_are_read_and_others_are_not() {
        let some = |device: &str, kind, bytes| Some(Buffer { device: device.into(), kind, bytes });
        for (line, expected) in [
            (
                "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB",
                some("CPU", BufferKind::Weights, 96_573_849),
            ),
            (
                "load_tensors:   CPU_REPACK model buffer size =    1.00 MiB\n",
                some("CPU_REPACK", BufferKind::Weights, 1 << 20),
            ),
            ("llama_kv_cache:        CPU KV buffer size =    11.25 MiB", some("CPU", BufferKind::Cache, 11_796_480)),
            ("llama_memory_recurrent:      CPU RS buffer size =     2.00 MiB", some("CPU", BufferKind::Cache, 2 << 20)),
            (
                "sched_reserve:    Vulkan0 compute buffer size =   102.00 MiB",
                some("Vulkan0", BufferKind::Compute, 102 << 20),
            ),
            ("llama_context:        CPU  output buffer size =     0.50 MiB", some("CPU", BufferKind::Output, 1 << 19)),
            (
                "~llama_context:        CPU compute buffer size is  88.5293 MiB, matches expectation of  88.5293 MiB",
                None,
            ),
            ("print_info: file size   = 92.10 MiB (5.74 BPW)", None),
            ("load: token to piece cache size = 0.3170 MB", None),
            ("x: CPU KV buffer size = NaN MiB", None),
            ("", None),
        ] {
            assert_eq!(buffer(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_about_layers_name_the_device() {
        for (line, expected) in [
            ("load_tensors: layer   0 assigned to device CPU, is_swa = 0\n", Some("CPU")),
            ("load_tensors: layer  30 assigned to device Vulkan0, is_swa = 1", Some("Vulkan0")),
            ("load_tensors: layer one assigned to device CPU, is_swa = 0", None),
            ("llama_kv_cache: layer   0: dev = CPU", None),
            ("load_tensors: layer   0 assigned to device CPU", None),
        ] {
            assert_eq!(layer(line), expected, "{line}");
        }
    }
}
