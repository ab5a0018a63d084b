//! The only reader of the environment: one documented constant for each variable.

use std::{ffi::OsString, path::PathBuf};

/// The user's home folder.
pub(crate) const HOME: &str = "HOME";
/// Where configuration lies instead of `~/.config`.
pub(crate) const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where data lies instead of `~/.local/share`.
pub(crate) const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// The settings file.
pub(crate) const CORTEX_CONFIG_FILE: &str = "CORTEX_CONFIG_FILE";
/// The data folder.
pub(crate) const CORTEX_DATA_FOLDER: &str = "CORTEX_DATA_FOLDER";
/// The address to listen on, or to talk to.
pub(crate) const CORTEX_HOST: &str = "CORTEX_HOST";
/// The port to listen on, or to talk to.
pub(crate) const CORTEX_PORT: &str = "CORTEX_PORT";
/// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `cortex_engine=debug`.
pub(crate) const CORTEX_LOG: &str = "CORTEX_LOG";
/// The worker program, when it is not in `worker/` beside the daemon.
pub(crate) const CORTEX_WORKER: &str = "CORTEX_WORKER";
/// The token for the Hugging Face hub.
pub(crate) const HF_TOKEN: &str = "HF_TOKEN";
/// A file with that token, instead of the hub's own.
pub(crate) const HF_TOKEN_PATH: &str = "HF_TOKEN_PATH";
/// Where the hub's own programs keep their files, instead of `~/.cache/huggingface`.
pub(crate) const HF_HOME: &str = "HF_HOME";
/// Where the hub's own programs keep models, instead of `hub` in their folder.
pub(crate) const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
/// Where Ollama keeps its models, instead of `~/.ollama/models`.
pub(crate) const OLLAMA_MODELS: &str = "OLLAMA_MODELS";
/// The address of the hub, when it is a mirror.
pub(crate) const HF_ENDPOINT: &str = "HF_ENDPOINT";
/// Proxies for requests to other machines, as other programs know them; the first that is set counts.
pub(crate) const PROXIES: &[&str] =
    &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];
/// Hosts that are asked without a proxy.
pub(crate) const NO_PROXY: &[&str] = &["NO_PROXY", "no_proxy"];
/// What drivers of graphics processors and the compute modules for them read; workers get these and no others.
pub(crate) const DRIVERS: &[&str] = &[
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "GGML_VK_VISIBLE_DEVICES",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "LD_LIBRARY_PATH",
];
/// For tests only: `off` takes the first compute module untried.
pub(crate) const CORTEX_TEST_VARIANT_TRIAL: &str = "CORTEX_TEST_VARIANT_TRIAL";
/// For tests of guesses: what an entry of a step costs, in percent of a step with one.
pub(crate) const CORTEX_TEST_ENTRY_COST: &str = "CORTEX_TEST_ENTRY_COST";

/// A variable; an empty one counts as not set.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub(crate) fn get(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A variable that is text.
pub(crate) fn text(name: &str) -> Option<String> {
    get(name).and_then(|value| value.into_string().ok())
}

/// A variable that is a path.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    get(name).map(PathBuf::from)
}
