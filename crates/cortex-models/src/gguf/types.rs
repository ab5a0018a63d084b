//! The tensor types of ggml. Source: `ggml.h` and `ggml-common.h`, 2026-10.

/// Numbers in a block, and bytes of a block; `None` for a type that no file should have.
pub(super) fn block_of(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        34 => (256, 54),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        42 => (64, 18),
        _ => return None,
    })
}

/// Names by number.
const NAMES: [&str; 43] = [
    "F32", "F16", "Q4_0", "Q4_1", "?", "?", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
    "F64", "IQ1_M", "BF16", "?", "?", "?", "TQ1_0", "TQ2_0", "?", "?", "?", "MXFP4", "NVFP4", "Q1_0", "Q2_0",
];

/// The name of a type, for a person.
pub(super) fn name_of(kind: u32) -> &'static str {
    usize::try_from(kind).ok().and_then(|at| NAMES.get(at)).copied().unwrap_or("?")
}

/// The type that holds most weights of a model with this quantisation in its name, such as `Q4_K_M` or `UD-Q4_K_XL`; with
/// the numbers in a block, and its bytes.
pub(crate) fn of_quantization(name: &str) -> Option<(u32, (u64, u64))> {
    let name = name.to_uppercase();
    let kinds = NAMES.iter().zip(0..).filter(|(known, _)| **known != "?" && name.contains(**known));
    // `Q4_K` and not `Q4`, `IQ4_XS` and not `Q4_XS`: the longest name says it best.
    let (_, kind) = kinds.max_by_key(|(known, _)| known.len())?;
    Some((kind, block_of(kind)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantization_names_the_type_of_most_weights() {
        for (name, kind) in [
            ("Q4_K_M", Some(12)),
            ("q8_0", Some(8)),
            ("UD-Q5_K_XL", Some(13)),
            ("IQ4_XS", Some(23)),
            ("BF16", Some(30)),
            ("F16", Some(1)),
            ("MXFP4", Some(39)),
            ("default", None),
        ] {
            assert_eq!(of_quantization(name).map(|(kind, _)| kind), kind, "{name}");
        }
    }
}
