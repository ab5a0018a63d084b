//! Turns a model into something that answers, and back.
//!
//! Never parses HTTP, never links C++, never awaits IO inside the supervisor's loop.
#![forbid(unsafe_code)]

mod accelerators;
mod admission;
mod answer;
mod chat;
mod config;
mod engines;
mod error;
mod failures;
mod fits;
mod lease;
mod ledger;
mod modules;
mod need;
mod prompt_cache;
mod slot_state;
mod speeds;
mod supervisor;
mod variants;
mod worker;

pub use accelerators::{Accelerator, AcceleratorReport};
pub use answer::{Answer, AnswerEvent};
pub use chat::{
    Chat, ChatTurn, Infill, Prompt, PromptTemplateUse, ToolChoice, ToolUse, legacy_prompt_template, prompt_template_use,
};
pub use config::{Config, LoadOrder, LoadSettings};
pub use cortex_models::{KeepAlive, Shutdown, Tasks, tasks};
pub use engines::{Engines, Job, Started, Usable};
pub use error::{EngineError, Killer};
pub use modules::Module;
pub use need::NARROW_HEADS;
pub use prompt_cache::cache_scope;
pub use speeds::Expected;
pub use supervisor::{ContextOrigin, Count, Counts, LoadedModel, Phase};
pub use variants::{Dropped, VariantReport};
