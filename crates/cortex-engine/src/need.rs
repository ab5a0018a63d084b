//! What memory a model needs, and how much of what was asked for can be given. Pure.

use crate::LoadSettings;
use cortex_hardware::{CacheType, ModelShape};

/// Fewer tokens than this are no use to anybody.
const SHORTEST: u32 = 256;

/// What a load was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    shape: ModelShape,
    /// The context may not be shorter than asked for.
    fixed_context: bool,
    /// The requests at the same time may not be fewer than asked for.
    fixed_parallel: bool,
}

/// The room that a load gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// Tokens that one request may use.
    pub(crate) context: u32,
    /// Requests that run at the same time.
    pub(crate) parallel: u32,
    /// Bytes of memory that it takes, by [`cortex_hardware::fit`].
    pub(crate) bytes: u64,
}

impl Need {
    /// What a model needs when it is loaded like this. No context is longer than the model was trained with.
    pub(crate) fn new(shape: ModelShape, load: LoadSettings) -> Self {
        let trained = shape.architecture.as_ref().map_or(0, |it| it.trained_context);
        let most = if trained == 0 { u32::MAX } else { trained };
        let shape = ModelShape {
            context: load.context_length.clamp(1, most),
            parallel: load.parallel.clamp(1, 64),
            cache_type: CacheType::F16,
            ..shape
        };
        Self { shape, fixed_context: load.fixed_context, fixed_parallel: load.fixed_parallel }
    }

    /// The same model, loaded in another way.
    pub(crate) fn with(&self, load: LoadSettings) -> Self {
        Self::new(self.shape.clone(), load)
    }

    /// All that was asked for.
    pub(crate) fn whole(&self) -> Size {
        self.size(self.shape.context, self.shape.parallel)
    }

    fn size(&self, context: u32, parallel: u32) -> Size {
        Size { context, parallel, bytes: ModelShape { context, parallel, ..self.shape.clone() }.needed() }
    }

    /// The whole context for as many requests as fit into so many bytes, at least one.
    pub(crate) fn whole_context(&self, bytes: u64) -> Option<Size> {
        let least = if self.fixed_parallel { self.shape.parallel } else { 1 };
        self.shape.most_parallel(least, bytes).map(|parallel| self.size(self.shape.context, parallel))
    }

    /// The most that fits into so many bytes: first fewer requests at a time, then a shorter context.
    pub(crate) fn within(&self, bytes: u64) -> Option<Size> {
        if let Some(size) = self.whole_context(bytes) {
            return Some(size);
        }
        if self.fixed_context || self.shape.context <= SHORTEST {
            return None;
        }
        let parallel = if self.fixed_parallel { self.shape.parallel } else { 1 };
        let context = ModelShape { parallel, ..self.shape.clone() }.largest_context(self.shape.context - 1, bytes)?;
        Some(self.size(context, parallel))
    }

    /// The least that would do.
    pub(crate) fn least(&self) -> Size {
        let context = if self.fixed_context { self.shape.context } else { self.shape.context.min(SHORTEST) };
        self.size(context, if self.fixed_parallel { self.shape.parallel } else { 1 })
    }

    /// Bytes that a worker takes beside what the engine reports.
    pub(crate) fn process_bytes(&self) -> u64 {
        self.shape.process_bytes()
    }

    /// The same, with requirements that no test of admission needs to know.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        let shape = ModelShape { weight_bytes: bytes / 11 * 10, context: 1, parallel: 1, ..ModelShape::default() };
        Self { shape, fixed_context: true, fixed_parallel: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_hardware::{Architecture, Layer};

    fn small(load: LoadSettings) -> Need {
        let architecture = Architecture {
            vocabulary: 1000,
            embedding: 64,
            feed_forward: 128,
            trained_context: 8192,
            layers: vec![Layer { keys: 64, values: 64, ..Layer::default() }; 4],
        };
        Need::new(ModelShape { weight_bytes: 1 << 20, architecture: Some(architecture), ..ModelShape::default() }, load)
    }

    const LOAD: LoadSettings = LoadSettings {
        context_length: 8192,
        parallel: 4,
        threads: 0,
        fixed_context: false,
        fixed_parallel: false,
        keep_alive: None,
        pin: false,
    };

    #[test]
    fn fewer_requests_come_before_a_shorter_context() {
        let need = small(LOAD);
        let of = |context, parallel| need.size(context, parallel).bytes;
        for (bytes, expected) in [
            (of(8192, 4), Some((8192, 4))),
            (of(8192, 4) - 1, Some((8192, 3))),
            (of(8192, 1), Some((8192, 1))),
            (of(8192, 1) - 1, Some((7936, 1))),
            (of(256, 1), Some((256, 1))),
            (of(256, 1) - 1, None),
        ] {
            assert_eq!(need.within(bytes).map(|size| (size.context, size.parallel)), expected, "{bytes}");
        }
        assert_eq!(need.least(), need.size(256, 1));
        assert_eq!(need.whole_context(of(8192, 1) - 1), None);
    }

    #[test]
    fn an_order_is_not_cut() {
        let need = small(LoadSettings { fixed_context: true, ..LOAD });
        let one = need.size(8192, 1).bytes;
        assert_eq!((need.within(one), need.within(one - 1)), (Some(need.size(8192, 1)), None));
        let need = small(LoadSettings { fixed_parallel: true, ..LOAD });
        let four = need.size(8192, 4).bytes;
        assert_eq!(need.within(four - 1), Some(need.size(7936, 4)));
        assert_eq!(need.least(), need.size(256, 4));
    }

    #[test]
    fn no_context_is_longer_than_the_trained_one() {
        let need = small(LoadSettings { context_length: 100_000, ..LOAD });
        assert_eq!(need.within(u64::MAX).map(|size| size.context), Some(8192));
    }
}
