//! How fast a model will be on this machine's processor, from how fast it was measured to be. Pure.
//!
//! A token passes all weights of the layers once. What the caches do not hold of them comes from memory, for which the processor
//! waits a part of the time, at least as long as memory needs for all bytes. Behind it, each token looks back at all before it.

use crate::Architecture;

/// How fast the processor is. Times are seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rates {
    /// Bytes of memory that can be read in a second.
    pub bytes_per_second: f64,
    /// What a byte of the weights takes longer in a model of the larger one of `sizes`, for a token of an answer.
    pub from_memory: f64,
    /// Bytes of the weights of a model that caches hold, and of one that they do not.
    pub sizes: (f64, f64),
    /// What a token of an answer takes beside the layers.
    pub step: f64,
    /// What one number of the attention takes for a token of an answer.
    pub attention: f64,
    /// The same for a token of a prompt.
    pub batch_attention: f64,
    /// What a weight takes, by how it is stored, in layers of the width [`Rates::narrow`].
    pub types: Vec<TypeRate>,
    /// Numbers between the layers where `types` were measured, and where the layers are wide.
    pub widths: (u64, u64),
    /// The shares of that time that a weight takes in wide layers: for a token of an answer, and of a prompt.
    pub wide: (f64, f64),
}

/// What a weight takes that is stored in one way, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TypeRate {
    /// How it is stored, as ggml numbers it.
    pub kind: u32,
    /// For a token of an answer.
    pub single: f64,
    /// For a token of a prompt.
    pub batch: f64,
}

/// Weights that a token passes, stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weights {
    /// How they are stored, as ggml numbers it.
    pub kind: u32,
    /// How many they are; of experts, those that one token passes.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// They are passed for the last token of a prompt only: those that turn the last numbers into tokens.
    pub is_output: bool,
}

/// What decides about the speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// How fast the processor computes.
    Computation,
    /// How fast it reads its memory.
    Memory,
}

/// How fast a model is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Seconds for each token of a prompt.
    pub prompt: f64,
    /// Seconds for each token of an answer.
    pub answer: f64,
    /// What decides about the answer.
    pub bound: Bound,
}

/// Types that are not measured, each with the most similar one that is, and how much longer it takes.
const SIMILAR: &[(u32, u32, f64)] = &[
    // F32, BF16
    (0, 1, 2.0),
    (30, 1, 1.5),
    // Q5_0, Q5_1
    (6, 3, 1.2),
    (7, 3, 1.2),
    // Q2_K, Q3_K
    (10, 12, 1.0),
    (11, 12, 1.2),
    // IQ4_NL, IQ4_XS, MXFP4: a table each
    (20, 2, 1.2),
    (23, 12, 1.2),
    (39, 2, 1.2),
];
/// How much longer than `Q4_K` those take that are none of these: the tables of the smaller IQ types are large.
const OTHERS: f64 = 2.0;

/// How fast a model is whose prompt has so many tokens, and whose answer begins after as many; `None` when what it passes is not known.
pub fn speed(architecture: &Architecture, rates: &Rates, tokens: u32) -> Option<Speed> {
    if architecture.passed.is_empty() || rates.types.is_empty() {
        return None;
    }
    let (single_share, batch_share) = shares(architecture.embedding, rates);
    let (mut single, mut batch, mut bytes) = (0.0, 0.0, 0.0);
    for weights in &architecture.passed {
        let (rate, longer) = rate_of(weights.kind, rates)?;
        bytes += number(weights.bytes);
        let rate_single = number(weights.count) * rate.single * longer;
        if weights.is_output {
            // A single large matrix, whatever its width.
            single += rate_single * rates.wide.0;
        } else {
            single += rate_single * single_share;
            batch += number(weights.count) * rate.batch * longer * batch_share;
        }
    }
    let looked_back = |layer: &crate::Layer, before: f64| {
        let window = layer.window.map_or(f64::MAX, f64::from);
        number(layer.attention) * before.min(window)
    };
    let attention = |before: f64| architecture.layers.iter().map(|layer| looked_back(layer, before)).sum::<f64>();
    let before = f64::from(tokens);
    let waited = bytes * rates.from_memory * place(bytes, rates.sizes);
    let from_memory = bytes / rates.bytes_per_second.max(1.0);
    let bound = if from_memory.max(waited) > single { Bound::Memory } else { Bound::Computation };
    Some(Speed {
        prompt: batch + attention(before / 2.0) * rates.batch_attention,
        answer: rates.step + (single + waited).max(from_memory) + attention(before) * rates.attention,
        bound,
    })
}

/// The shares of the narrow layers' time for layers of this width; widths in between are, too, on a logarithmic scale.
fn shares(width: u64, rates: &Rates) -> (f64, f64) {
    let place = place(number(width), (number(rates.widths.0), number(rates.widths.1)));
    let share = |wide: f64| 1.0 + (wide - 1.0) * place;
    (share(rates.wide.0), share(rates.wide.1))
}

/// Where a number is between two, on a logarithmic scale: 0 up to the first, 1 from the second on.
fn place(number: f64, (from, to): (f64, f64)) -> f64 {
    let (from, to) = (from.max(1.0), to.max(2.0));
    ((number.max(1.0) / from).ln() / (to / from).ln()).clamp(0.0, 1.0)
}

fn rate_of(kind: u32, rates: &Rates) -> Option<(TypeRate, f64)> {
    let of = |kind: u32| rates.types.iter().find(|it| it.kind == kind).copied();
    if let Some(rate) = of(kind) {
        return Some((rate, 1.0));
    }
    match SIMILAR.iter().find(|(other, ..)| *other == kind) {
        Some((_, similar, longer)) => Some((of(*similar)?, *longer)),
        None => Some((of(12)?, OTHERS)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a speed is not that exact")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layer;

    fn rates() -> Rates {
        let of = |kind, single| TypeRate { kind, single, batch: single / 4.0 };
        Rates {
            bytes_per_second: 20e9,
            from_memory: 1e-10,
            sizes: (1e9, 4e9),
            step: 1e-4,
            attention: 1e-10,
            batch_attention: 1e-11,
            types: vec![of(1, 1e-10), of(2, 4e-11), of(3, 5e-11), of(12, 4e-11)],
            widths: (512, 2048),
            wide: (0.5, 0.25),
        }
    }

    fn model(embedding: u64, passed: Vec<Weights>) -> Architecture {
        let layer = Layer { attention: 1000, ..Layer::default() };
        Architecture { embedding, passed, layers: vec![layer; 10], ..Architecture::default() }
    }

    fn of(kind: u32, count: u64, bytes: u64) -> Weights {
        Weights { kind, count, bytes, is_output: false }
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
    }

    #[test]
    fn a_token_passes_all_weights_and_looks_back() {
        let narrow = model(512, vec![of(3, 100_000_000, 60_000_000)]);
        let found = speed(&narrow, &rates(), 500).unwrap();
        assert_eq!(found.bound, Bound::Computation);
        near(found.answer, 1e-4 + 0.1e9 * 5e-11 + 10.0 * 1000.0 * 500.0 * 1e-10);
        near(found.prompt, 0.1e9 * 1.25e-11 + 10.0 * 1000.0 * 250.0 * 1e-11);
        // In wide layers a weight takes a share of it, in those between something between.
        let wide = model(2048, narrow.passed.clone());
        // Here it waits for memory.
        near(speed(&wide, &rates(), 0).unwrap().answer, 1e-4 + 0.06 / 20.0);
        near(speed(&wide, &rates(), 0).unwrap().prompt, 0.1e9 * 1.25e-11 * 0.25);
        let between = model(1024, narrow.passed.clone());
        near(speed(&between, &rates(), 0).unwrap().prompt, 0.1e9 * 1.25e-11 * 0.625);
        assert_eq!(speed(&model(8192, narrow.passed), &rates(), 0), speed(&wide, &rates(), 0));
    }

    #[test]
    fn who_waits_for_memory_is_as_fast_as_memory() {
        let large = model(2048, vec![of(1, 1_000_000_000, 2_000_000_000)]);
        let slow = Rates { bytes_per_second: 1e9, ..rates() };
        let found = speed(&large, &slow, 0).unwrap();
        assert_eq!(found.bound, Bound::Memory);
        near(found.answer, 1e-4 + 2.0);
    }

    #[test]
    fn what_no_cache_holds_is_waited_for_while_it_computes() {
        let of_bytes = |bytes| {
            speed(&model(512, vec![of(3, 1_000_000_000, bytes)]), &Rates { bytes_per_second: 1e12, ..rates() }, 0)
        };
        let found = |bytes| of_bytes(bytes).unwrap().answer - 1e-4;
        near(found(500_000_000), 0.05);
        near(found(2_000_000_000), 0.05 + 0.1);
        near(found(8_000_000_000), 0.05 + 0.8);
        assert_eq!(of_bytes(500_000_000).unwrap().bound, Bound::Computation);
        assert_eq!(of_bytes(8_000_000_000).unwrap().bound, Bound::Memory);
    }

    #[test]
    fn what_is_passed_for_the_last_token_only_is_not_in_the_prompt() {
        let output = Weights { is_output: true, ..of(3, 100_000_000, 60_000_000) };
        let with = speed(&model(512, vec![of(3, 1_000_000, 600_000), output]), &rates(), 0).unwrap();
        let without = speed(&model(512, vec![of(3, 1_000_000, 600_000)]), &rates(), 0).unwrap();
        near(with.prompt, without.prompt);
        assert!(with.answer > 10.0 * without.answer);
    }

    #[test]
    fn types_that_were_not_measured_are_taken_for_similar_ones() {
        let of_kind = |kind| speed(&model(512, vec![of(kind, 1_000_000, 1)]), &rates(), 0).unwrap().prompt;
        near(of_kind(30), of_kind(1) * 1.5);
        near(of_kind(10), of_kind(12));
        near(of_kind(999), of_kind(12) * OTHERS);
        assert_eq!(speed(&model(512, vec![]), &rates(), 0), None);
        assert_eq!(speed(&model(512, vec![of(1, 1, 1)]), &Rates::default(), 0), None);
    }

    #[test]
    fn a_window_bounds_how_far_a_layer_looks_back() {
        let mut windowed = model(512, vec![of(3, 1_000_000, 600_000)]);
        windowed.layers[0].window = Some(100);
        let far = speed(&windowed, &rates(), 10_100).unwrap().answer;
        let all = speed(&model(512, windowed.passed), &rates(), 10_100).unwrap().answer;
        near(all - far, 1000.0 * 10_000.0 * 1e-10);
    }
}
