//! What memory a model needs, and how much of what was asked for can be given. Pure.

use crate::LoadSettings;
use cortex_hardware::{Architecture, Budget, Graphics, ModelShape};

/// Fewer tokens than this are no use to anybody.
const SHORTEST: u32 = 256;

/// Why keys and values of some models have 16 bits.
pub const NARROW_HEADS: &str =
    "the heads of the model are no multiple of 32 numbers wide, so `cache_type` has to be f16";

/// What a load was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    shape: ModelShape,
    /// The context may not be shorter than asked for.
    fixed_context: bool,
    /// The requests at the same time may not be fewer than asked for.
    fixed_parallel: bool,
    /// What this machine has for models.
    all: Budget,
}

/// The room that a load gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    /// Tokens that one request may use.
    pub(crate) context: u32,
    /// Requests that run at the same time.
    pub(crate) parallel: u32,
    /// Layers on graphics processors, the output among them.
    pub(crate) layers: u32,
    /// Bytes of memory that it takes, by [`cortex_hardware::fit`].
    pub(crate) bytes: u64,
    /// Bytes that it takes of the memory that graphics processors have of their own.
    pub(crate) graphics: u64,
    /// Layers that the engine is told to have on graphics processors for those.
    pub(crate) told_layers: u32,
    /// Bytes of those of memory that are for earlier states of recurrent layers.
    pub(crate) checkpoints: u64,
}

impl LoadSettings {
    /// The context that one request should have, of a machine that has this for models. A model's own settings that say
    /// nothing but what it was trained with leave the choice.
    pub fn context_of(&self, shape: &ModelShape, all: Budget) -> u32 {
        let trained = shape.architecture.as_ref().map_or(0, |it| it.trained_context);
        let most = if trained == 0 { u32::MAX } else { trained };
        let comfortable = || ModelShape { cache_type: self.cache_type, ..shape.clone() }.comfortable_context(all);
        let wanted = match (self.context_length, self.stored_context) {
            (ordered, _) if self.fixed_context => ordered,
            (_, Some(stored)) if stored != trained => stored,
            (0, _) => comfortable(),
            (of_all, _) => of_all,
        };
        wanted.clamp(1, most)
    }
}

impl Need {
    /// What a model needs when it is loaded like this. No context is longer than the model was trained with.
    pub(crate) fn new(shape: ModelShape, load: LoadSettings, all: Budget) -> Self {
        let shape = ModelShape {
            context: load.context_of(&shape, all),
            parallel: load.parallel.clamp(1, 64),
            cache_type: load.cache_type,
            most_layers: load.device_layers,
            ..shape
        };
        Self { shape, fixed_context: load.fixed_context, fixed_parallel: load.fixed_parallel, all }
    }

    /// The same model, loaded in another way.
    pub(crate) fn with(&self, load: LoadSettings) -> Self {
        Self::new(self.shape.clone(), load, self.all)
    }

    /// Why it cannot be loaded like this, whatever there is of memory.
    pub(crate) fn unusable(&self) -> Option<String> {
        (!self.shape.stores_cache()).then(|| NARROW_HEADS.into())
    }

    /// All that was asked for: the context, and the requests at the same time.
    pub(crate) fn whole(&self) -> (u32, u32) {
        (self.shape.context, self.shape.parallel)
    }

    fn size(&self, context: u32, parallel: u32, graphics: Graphics) -> Size {
        let shape = ModelShape { context, parallel, ..self.shape.clone() };
        let placed = shape.placed(graphics);
        Size {
            context,
            parallel,
            layers: placed.layers,
            told_layers: shape.told_layers(placed.layers),
            bytes: placed.memory_bytes(),
            graphics: placed.graphics_bytes(),
            checkpoints: shape.checkpoint_bytes(),
        }
    }

    /// The whole context for as many requests as fit, at least one.
    pub(crate) fn whole_context(&self, budget: Budget) -> Option<Size> {
        let least = if self.fixed_parallel { self.shape.parallel } else { 1 };
        let parallel = self.shape.most_parallel(least, budget)?;
        Some(self.size(self.shape.context, parallel, budget.graphics))
    }

    /// The most that fits: first fewer requests at a time, then a shorter context.
    pub(crate) fn within(&self, budget: Budget) -> Option<Size> {
        if let Some(size) = self.whole_context(budget) {
            return Some(size);
        }
        if self.fixed_context || self.shape.context <= SHORTEST {
            return None;
        }
        let parallel = if self.fixed_parallel { self.shape.parallel } else { 1 };
        let context = ModelShape { parallel, ..self.shape.clone() }.largest_context(self.shape.context - 1, budget)?;
        Some(self.size(context, parallel, budget.graphics))
    }

    /// The least that would do.
    pub(crate) fn least(&self, graphics: Graphics) -> Size {
        let context = if self.fixed_context { self.shape.context } else { self.shape.context.min(SHORTEST) };
        self.size(context, if self.fixed_parallel { self.shape.parallel } else { 1 }, graphics)
    }

    /// How the model is built, when its file says it.
    pub(crate) fn architecture(&self) -> Option<&Architecture> {
        self.shape.architecture.as_ref()
    }

    /// Layers that can be on graphics processors, the output among them.
    pub(crate) fn layers(&self) -> u32 {
        self.shape.layers()
    }

    /// Bytes that a worker takes beside what the engine reports.
    pub(crate) fn process_bytes(&self, is_on_graphics: bool) -> u64 {
        self.shape.process_bytes(is_on_graphics)
    }

    /// The same, with requirements that no test of admission needs to know.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        let shape = ModelShape { weight_bytes: bytes / 11 * 10, context: 1, parallel: 1, ..ModelShape::default() };
        Self { shape, fixed_context: true, fixed_parallel: true, all: Budget::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_hardware::{CacheType, Layer};

    fn small(load: LoadSettings) -> Need {
        let architecture = Architecture {
            vocabulary: 1000,
            embedding: 64,
            feed_forward: 128,
            trained_context: 8192,
            layers: vec![Layer { keys: 64, values: 64, ..Layer::default() }; 4],
            ..Architecture::default()
        };
        let shape = ModelShape { weight_bytes: 1 << 20, architecture: Some(architecture), ..ModelShape::default() };
        Need::new(shape, load, memory(1 << 40))
    }

    const LOAD: LoadSettings = LoadSettings {
        context_length: 8192,
        stored_context: None,
        parallel: 4,
        threads: 0,
        cache_type: CacheType::F16,
        device_layers: None,
        fixed_context: false,
        fixed_parallel: false,
        keep_alive: None,
        pin: false,
    };

    fn memory(bytes: u64) -> Budget {
        Budget { memory: bytes, graphics: Graphics::None }
    }

    #[test]
    fn fewer_requests_come_before_a_shorter_context() {
        let need = small(LOAD);
        let of = |context, parallel| need.size(context, parallel, Graphics::None).bytes;
        for (bytes, expected) in [
            (of(8192, 4), Some((8192, 4))),
            (of(8192, 4) - 1, Some((8192, 3))),
            (of(8192, 1), Some((8192, 1))),
            (of(8192, 1) - 1, Some((7936, 1))),
            (of(256, 1), Some((256, 1))),
            (of(256, 1) - 1, None),
        ] {
            assert_eq!(need.within(memory(bytes)).map(|size| (size.context, size.parallel)), expected, "{bytes}");
        }
        assert_eq!(need.least(Graphics::None), need.size(256, 1, Graphics::None));
        assert_eq!(need.whole_context(memory(of(8192, 1) - 1)), None);
    }

    #[test]
    fn an_order_is_not_cut() {
        let need = small(LoadSettings { fixed_context: true, ..LOAD });
        let size = |context, parallel| need.size(context, parallel, Graphics::None);
        let one = size(8192, 1).bytes;
        assert_eq!((need.within(memory(one)), need.within(memory(one - 1))), (Some(size(8192, 1)), None));
        let need = small(LoadSettings { fixed_parallel: true, ..LOAD });
        let size = |context, parallel| need.size(context, parallel, Graphics::None);
        assert_eq!(need.within(memory(size(8192, 4).bytes - 1)), Some(size(7936, 4)));
        assert_eq!(need.least(Graphics::None), size(256, 4));
    }

    #[test]
    fn the_context_is_what_somebody_said_or_what_fits_comfortably() {
        for (of_all, stored, fixed, expected) in [
            (0, None, false, 8192),
            // What it was trained with is no opinion, and what a person stored is one.
            (0, Some(8192), false, 8192),
            (0, Some(5000), false, 5000),
            (0, Some(100_000), false, 8192),
            (4096, None, false, 4096),
            (4096, Some(2048), false, 2048),
            (2048, Some(4096), false, 4096),
            (4096, Some(8192), false, 4096),
            (6000, Some(2048), true, 6000),
        ] {
            let load = LoadSettings { context_length: of_all, stored_context: stored, fixed_context: fixed, ..LOAD };
            assert_eq!(small(load).whole().0, expected, "{of_all} {stored:?} {fixed}");
        }
    }

    #[test]
    fn no_context_is_longer_than_the_trained_one() {
        let need = small(LoadSettings { context_length: 100_000, ..LOAD });
        assert_eq!(need.within(memory(u64::MAX)).map(|size| size.context), Some(8192));
    }
}
