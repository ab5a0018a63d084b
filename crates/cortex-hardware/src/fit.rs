//! Whether a model fits this machine. Pure.

use crate::Hardware;

/// Share of the available memory that a model may take, in percent: the rest is for what else runs.
const SHARE: u64 = 70;

/// What is known of a model that decides how much memory it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelShape {
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Its attention; `None` before its header was read.
    pub attention: Option<Attention>,
    /// Tokens of context that must fit.
    pub context: u32,
}

/// The attention of a model, as far as its cache needs memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Layers.
    pub layers: u32,
    /// Heads that have keys and values of their own.
    pub key_value_heads: u32,
    /// Numbers in the key of a head.
    pub key_length: u32,
    /// Numbers in the value of a head.
    pub value_length: u32,
}

/// How a model fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Bytes that it needs.
    pub needed: u64,
    /// Bytes that it may have.
    pub budget: u64,
}

impl Fit {
    /// Whether it does.
    pub fn fits(self) -> bool {
        self.needed <= self.budget
    }
}

/// How a model fits a machine. Needed are the weights and a tenth for the buffers of the computation, and the
/// cache of keys and values: two bytes for each number of each token (type F16). Before the header is known the
/// cache is taken for 1/8 of the weights at 4096 tokens: 1/9 is right for Llama-3.1-8B in `Q4_K_M`, less for
/// most newer models.
pub fn fit(shape: &ModelShape, hardware: &Hardware) -> Fit {
    let cache = match shape.attention {
        Some(attention) => u64::from(attention.layers)
            .saturating_mul(u64::from(attention.key_value_heads))
            .saturating_mul(u64::from(attention.key_length).saturating_add(attention.value_length.into()))
            .saturating_mul(2)
            .saturating_mul(shape.context.into()),
        None => (shape.weight_bytes / 8 / 4096).saturating_mul(shape.context.into()),
    };
    let needed = shape.weight_bytes.saturating_add(shape.weight_bytes / 10).saturating_add(cache);
    Fit { needed, budget: hardware.memory.available / 100 * SHARE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, Memory};

    fn machine(available: u64) -> Hardware {
        let cpu = Cpu { model: String::new(), flags: vec![], cores: 1, kernel: String::new() };
        Hardware { cpu, memory: Memory { total: available, available } }
    }

    #[test]
    fn weights_and_cache_must_fit_into_the_share() {
        let gib = 1 << 30;
        let attention = Some(Attention { layers: 32, key_value_heads: 8, key_length: 128, value_length: 128 });
        for (weights, attention, context, needed) in [
            (10 * gib, attention, 4096, 11 * gib + gib / 2),
            (8 * gib, None, 4096, 8 * gib + 8 * gib / 10 + gib),
            (0, attention, 0, 0),
        ] {
            let shape = ModelShape { weight_bytes: weights, attention, context };
            assert_eq!(fit(&shape, &machine(0)).needed, needed);
            // Within the rounding of a hundredth.
            assert!(fit(&shape, &machine(needed / 70 * 100 + 1000)).fits());
            assert!(needed == 0 || !fit(&shape, &machine(needed / 70 * 99)).fits());
        }
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let attention = Some(Attention {
            layers: u32::MAX,
            key_value_heads: u32::MAX,
            key_length: u32::MAX,
            value_length: u32::MAX,
        });
        let shape = ModelShape { weight_bytes: u64::MAX, attention, context: u32::MAX };
        assert!(!fit(&shape, &machine(u64::MAX)).fits());
    }
}
