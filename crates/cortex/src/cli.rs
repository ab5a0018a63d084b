//! The command line: types only.

use crate::settings::Overrides;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Run language models on your own machine.
#[derive(Debug, Parser)]
#[command(
    name = "cortex",
    version,
    disable_version_flag = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  cortex pull bartowski/Llama-3.2-1B-Instruct-GGUF\n  cortex import ./model.gguf\n  cortex run model \"What is the capital of France?\"\n  cortex run model            chat\n  cat notes.txt | cortex run model \"Summarise this\""
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print the version.
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Folder that everything lies in.
    #[arg(long, alias = "data_folder_path", global = true, value_name = "PATH")]
    data_folder: Option<PathBuf>,
    /// Settings file.
    #[arg(long, alias = "config_file_path", global = true, value_name = "PATH")]
    config_file: Option<PathBuf>,
    /// Address of the daemon.
    #[arg(long, global = true)]
    host: Option<String>,
    /// Port of the daemon.
    #[arg(long, global = true)]
    port: Option<u16>,
    /// Print the daemon's JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results only.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Taken and ignored: cortex.cpp printed its log instead of results. `cortex logs` shows it.
    #[arg(long, global = true, hide = true)]
    verbose: bool,
}

impl Global {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            config_file: self.config_file.clone(),
            data_folder: self.data_folder.clone(),
            host: self.host.clone(),
            port: self.port,
            ..Overrides::default()
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Chat with a model, or answer one prompt.
    Run(RunArguments),
    /// Download a model; without one, show the downloads.
    Pull(PullArguments),
    /// Look for models on the hub.
    Search(SearchArguments),
    /// Take in a GGUF file, or all of a folder, by reference: the files stay where they are.
    Import(ImportArguments),
    /// Bring in the models of an older Jan, Ollama, LM Studio, …, by reference: nothing of theirs is changed.
    Migrate(MigrateArguments),
    /// List the models.
    List(ListArguments),
    /// Models: list, get, start, stop, status, import, update, alias, delete, reindex, sources.
    #[command(subcommand, arg_required_else_help = true)]
    Models(ModelsCommand),
    /// Say whether a model fits this machine, and with how much context.
    Fit(FitArguments),
    /// List the loaded models.
    Ps,
    /// The machine: list, activate.
    #[command(subcommand, arg_required_else_help = true)]
    Hardware(HardwareCommand),
    /// Engines: list, get, install, uninstall, update, use, load, unload, add.
    #[command(subcommand, arg_required_else_help = true)]
    Engines(EnginesCommand),
    /// The settings: show, status; or change some: `cortex config --cors on`.
    #[command(arg_required_else_help = true)]
    Config(ConfigArguments),
    /// Start the daemon in the background.
    Start(Box<ServerArguments>),
    /// Stop the daemon.
    Stop,
    /// Run the daemon in the foreground.
    Serve,
    /// Look for what is wrong.
    Doctor,
    /// Print the daemon's log.
    Logs(LogsArguments),
    /// Say how this copy was installed and how to get a newer one.
    Update(UpdateSelfArguments),
    /// Print completions for a shell: bash, zsh, fish, elvish, powershell.
    Completions(CompletionsArguments),
    /// Print the API reference, in the form of `OpenAPI` 3.
    #[command(hide = true)]
    Openapi,
    /// Write the manual pages into a folder.
    #[command(hide = true)]
    Man(ManArguments),
}

/// Arguments of `cortex update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateSelfArguments {
    /// Taken and ignored: nothing is downloaded.
    #[arg(short = 'v', long, hide = true)]
    pub(crate) version: Option<String>,
    /// Taken and ignored: both programs are one installation.
    #[arg(long, hide = true)]
    pub(crate) server: bool,
}

/// Arguments of `cortex completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Arguments of `cortex man`.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The folder.
    pub(crate) folder: PathBuf,
}

/// Arguments of `cortex run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Id of the model, or a part of it that only one has; one that is not here is downloaded first.
    pub(crate) model: Option<String>,
    /// The prompt; without one, a chat.
    pub(crate) prompt: Vec<String>,
    /// A system message.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Randomness; 0 always takes the most likely token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Most tokens of an answer.
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,
    /// Start of the random numbers.
    #[arg(long)]
    pub(crate) seed: Option<u32>,
    /// First choose the graphics processors that models may use, as `cortex hardware activate` does.
    #[arg(long)]
    pub(crate) gpus: Option<String>,
    /// Tokens that one request may use.
    #[arg(long, alias = "ctx_len")]
    pub(crate) ctx_len: Option<i64>,
    /// Only load the model.
    #[arg(short, long)]
    pub(crate) detach: bool,
}

/// Arguments of `cortex pull`.
#[derive(Debug, Args)]
#[command(
    after_help = "Models:\n  author/repo                 the best file for this machine\n  author/repo:Q4_K_M          a file of this kind\n  author:repo:file.gguf       this file\n  https://huggingface.co/…    the same as a URL\n  tinyllama, tinyllama:1b     short names\n  https://…/x.gguf            any other host that the settings allow\n  file:///…/x.gguf            a copy of a file of this machine"
)]
pub(crate) struct PullArguments {
    /// What to download.
    #[arg(conflicts_with = "act")]
    pub(crate) model: Option<String>,
    /// The id that it gets; made from the file's name when absent.
    #[arg(long, requires = "model")]
    pub(crate) id: Option<String>,
    /// The name to show.
    #[arg(long, requires = "model")]
    pub(crate) name: Option<String>,
    /// Take the recommended file without asking.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Get a newer revision of a model that is there.
    #[arg(long, requires = "model")]
    pub(crate) update: bool,
    /// Begin, and do not wait for the end.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Stop this download; what came is kept for a week.
    #[arg(long, group = "act", value_name = "ID")]
    pub(crate) cancel: Option<String>,
    /// Let this download wait.
    #[arg(long, group = "act", value_name = "ID")]
    pub(crate) pause: Option<String>,
    /// Go on with this download.
    #[arg(long, group = "act", value_name = "ID")]
    pub(crate) resume: Option<String>,
    /// With --cancel: also throw away what came.
    #[arg(long, requires = "cancel")]
    pub(crate) discard: bool,
}

/// Arguments of `cortex search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// A part of the name.
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
    /// Repositories of this author alone.
    #[arg(long)]
    pub(crate) author: Option<String>,
    /// As many at most.
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) limit: u8,
}

/// `cortex models sources …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SourcesCommand {
    /// Show the models of a repository with `cortex list --available`.
    Add(SourceArguments),
    /// Do not show them any more; what was downloaded stays.
    #[command(alias = "rm", alias = "delete")]
    Remove(SourceArguments),
    /// List the sources.
    List,
}

/// A model source.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// `https://huggingface.co/AUTHOR/REPO`, or `AUTHOR/REPO`.
    pub(crate) source: String,
}

/// Arguments of `cortex import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The GGUF file, or a folder that is searched for them.
    #[arg(value_name = "PATH", required_unless_present = "model_path")]
    pub(crate) path: Option<PathBuf>,
    /// The id that it gets; from the file's name when absent.
    #[arg(long, alias = "model_id")]
    pub(crate) id: Option<String>,
    /// The name to show.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The same as PATH.
    #[arg(long, alias = "model_path", hide = true)]
    pub(crate) model_path: Option<PathBuf>,
    /// Copy the file into the data folder.
    #[arg(long, group = "how")]
    pub(crate) copy: bool,
    /// Move the file into the data folder; without this nothing of yours is moved.
    #[arg(long = "move", group = "how")]
    pub(crate) move_file: bool,
    /// Give the file a second name in the data folder, on the same file system.
    #[arg(long, group = "how")]
    pub(crate) hardlink: bool,
    /// Of a folder: import without asking.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Of a folder: only show what would be imported.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `cortex migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArguments {
    /// Its data folder, in which `models` lies, or that of another program: ollama, lmstudio, huggingface, gpt4all, or
    /// its folder. Cortex's own data folder when absent.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) from: Option<PathBuf>,
    /// Only show what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also bring back models that were deleted here.
    #[arg(long)]
    pub(crate) include_deleted: bool,
    /// Take a migration back: the last one, or the one with this name.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "last", conflicts_with_all = ["from", "dry_run", "include_deleted"])]
    pub(crate) undo: Option<String>,
    /// The way back: say what an older Jan would show of the models.
    #[arg(long, value_name = "PROGRAM", value_parser = ["jan-legacy"], conflicts_with_all = ["from", "dry_run", "include_deleted", "undo"])]
    pub(crate) to: Option<String>,
    /// With --to: the data folder of the older Jan. Cortex's own data folder when absent.
    #[arg(long, requires = "to")]
    pub(crate) folder: Option<PathBuf>,
    /// With --to: write a model.json for each model that it would not show.
    #[arg(long, requires = "to")]
    pub(crate) write: bool,
    /// Show what was migrated, and older data folders on this machine.
    #[arg(long, conflicts_with_all = ["from", "dry_run", "include_deleted", "undo", "to", "folder", "write"])]
    pub(crate) list: bool,
}

/// Arguments of `cortex fit`.
#[derive(Debug, Args)]
pub(crate) struct FitArguments {
    /// Id of the model; or author/repo of the hub, whose files are not downloaded for it.
    pub(crate) model: String,
    /// Tokens that one request may use.
    #[arg(long = "ctx", value_name = "TOKENS")]
    pub(crate) context: Option<i64>,
    /// Requests at the same time.
    #[arg(long)]
    pub(crate) parallel: Option<i64>,
    /// How keys and values are stored: `f16`, `q8_0` or `q4_0`.
    #[arg(long, alias = "cache_type")]
    pub(crate) cache_type: Option<String>,
    /// Layers on graphics processors at most; 0 is none.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) ngl: Option<i64>,
}

/// Arguments of `cortex config`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigArguments {
    #[command(subcommand)]
    pub(crate) command: Option<ConfigCommand>,
    #[command(flatten)]
    pub(crate) changes: ConfigChanges,
}

/// `cortex config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each setting as it is in effect, and who said so: default, settings file, environment, command line.
    Show,
    /// Show the settings that can be changed while the daemon runs.
    Status,
}

/// Settings that can be changed while the daemon runs. Lists are separated by commas.
#[derive(Debug, Default, Args)]
pub(crate) struct ConfigChanges {
    /// Whether answers carry CORS headers: on or off.
    #[arg(long)]
    pub(crate) cors: Option<String>,
    /// Pages that may use the daemon.
    #[arg(long, alias = "allowed_origins")]
    pub(crate) allowed_origins: Option<String>,
    /// The proxy to other machines.
    #[arg(long, alias = "proxy_url")]
    pub(crate) proxy_url: Option<String>,
    /// Its user.
    #[arg(long, alias = "proxy_username")]
    pub(crate) proxy_username: Option<String>,
    /// The user's password.
    #[arg(long, alias = "proxy_password")]
    pub(crate) proxy_password: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, alias = "verify_proxy_ssl", hide = true)]
    pub(crate) verify_proxy_ssl: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, alias = "verify_proxy_host_ssl", hide = true)]
    pub(crate) verify_proxy_host_ssl: Option<String>,
    /// Hosts that are asked without the proxy.
    #[arg(long, alias = "no_proxy")]
    pub(crate) no_proxy: Option<String>,
    /// Whether certificates are checked where something of yours stands between: on or off.
    #[arg(long, alias = "verify_peer_ssl")]
    pub(crate) verify_peer_ssl: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, alias = "verify_host_ssl", hide = true)]
    pub(crate) verify_host_ssl: Option<String>,
    /// The token for the Hugging Face hub.
    #[arg(long, alias = "huggingface_token")]
    pub(crate) huggingface_token: Option<String>,
    /// The token for GitHub.
    #[arg(long, alias = "github_token")]
    pub(crate) github_token: Option<String>,
    /// Keys, one of which a request must carry; \"\" for none.
    #[arg(long, alias = "api_keys")]
    pub(crate) api_keys: Option<String>,
}

/// Arguments of `cortex start`: settings that are written into the settings file, as cortex.cpp does it.
#[derive(Debug, Default, Args)]
pub(crate) struct ServerArguments {
    /// What is logged: error, warn, info, debug or trace. This start only.
    #[arg(long)]
    pub(crate) loglevel: Option<String>,
    /// Folder of the log.
    #[arg(long)]
    pub(crate) logspath: Option<String>,
    /// The token for the Hugging Face hub.
    #[arg(long)]
    pub(crate) hf_token: Option<String>,
    /// The token for GitHub.
    #[arg(long)]
    pub(crate) gh_token: Option<String>,
    /// Whether answers carry CORS headers.
    #[arg(long)]
    pub(crate) cors: Option<String>,
    /// Pages that may use the daemon, separated by commas.
    #[arg(long)]
    pub(crate) origins: Option<String>,
    /// The proxy to other machines.
    #[arg(long)]
    pub(crate) proxy_url: Option<String>,
    /// Its user.
    #[arg(long)]
    pub(crate) proxy_username: Option<String>,
    /// The user's password.
    #[arg(long)]
    pub(crate) proxy_password: Option<String>,
    /// Hosts that are asked without the proxy.
    #[arg(long)]
    pub(crate) no_proxy: Option<String>,
    /// Whether certificates are checked where something of yours stands between.
    #[arg(long)]
    pub(crate) verify_ssl_peer: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, hide = true)]
    pub(crate) verify_ssl_host: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, hide = true)]
    pub(crate) verify_proxy: Option<String>,
    /// Kept for cortex.cpp.
    #[arg(long, hide = true)]
    pub(crate) verify_proxy_host: Option<String>,
    /// The file of a certificate: the daemon is served over TLS.
    #[arg(long)]
    pub(crate) ssl_cert_path: Option<String>,
    /// The file of its key.
    #[arg(long)]
    pub(crate) ssl_key_path: Option<String>,
    /// Taken and ignored, as cortex.cpp did.
    #[arg(long, hide = true)]
    pub(crate) datapath: Option<String>,
    /// Taken and ignored: there are no logs of that kind.
    #[arg(long, hide = true)]
    pub(crate) logsllama: Option<String>,
    /// Taken and ignored: there are no logs of that kind.
    #[arg(long, hide = true)]
    pub(crate) logsonnx: Option<String>,
    /// Taken and ignored: the log is cut by its size.
    #[arg(long, hide = true)]
    pub(crate) loglines: Option<String>,
    /// Taken and ignored: nothing is asked of GitHub.
    #[arg(long, hide = true)]
    pub(crate) gh_agent: Option<String>,
}

/// `cortex engines …`.
#[derive(Debug, Subcommand)]
pub(crate) enum EnginesCommand {
    /// List the engines and their variants.
    List,
    /// Show the variants of an engine.
    Get(EngineArguments),
    /// Install a variant of an engine: from the index of the settings, or from a folder with an archive.
    Install(InstallArguments),
    /// Remove variants that were installed, or an engine on another machine.
    Uninstall(UninstallArguments),
    /// Bring an engine up to date.
    Update(EngineArguments),
    /// Choose the variant that models are loaded with.
    Use(UseArguments),
    /// Make an engine ready.
    Load(EngineArguments),
    /// Unload all models of an engine.
    Unload(EngineArguments),
    /// Add an engine on another machine: OpenAI-compatible, or Anthropic's.
    Add(AddEngineArguments),
}

/// An engine.
#[derive(Debug, Args)]
pub(crate) struct EngineArguments {
    /// Its name, such as `llama-cpp`.
    pub(crate) name: String,
}

/// Arguments of `cortex engines install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArguments {
    /// Its name, such as `llama-cpp`.
    pub(crate) name: String,
    /// The variant, such as `linux-amd64-vulkan` or `vulkan`; without one, what suits this machine.
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// The version; without one, the newest.
    #[arg(short = 'v', long)]
    pub(crate) version: Option<String>,
    /// A folder with an archive of it.
    #[arg(short, long)]
    pub(crate) source: Option<PathBuf>,
    /// Choose from a menu.
    #[arg(short, long)]
    pub(crate) menu: bool,
}

/// Arguments of `cortex engines uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArguments {
    /// Its name, such as `llama-cpp`.
    pub(crate) name: String,
    /// The variant; without one, all that were installed.
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// The version; without one, all of the variant.
    #[arg(short = 'v', long, requires = "variant")]
    pub(crate) version: Option<String>,
}

/// Arguments of `cortex engines use`.
#[derive(Debug, Args)]
pub(crate) struct UseArguments {
    /// Its name, such as `llama-cpp`.
    pub(crate) name: String,
    /// The variant; without one, a menu.
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// The version; without one, the one in use.
    #[arg(short = 'v', long, requires = "variant")]
    pub(crate) version: Option<String>,
}

/// Arguments of `cortex engines add`.
#[derive(Debug, Args)]
pub(crate) struct AddEngineArguments {
    /// Its name.
    pub(crate) name: String,
    /// Its address, such as `https://api.openai.com`, or `http://box:8080/v1`.
    #[arg(long)]
    pub(crate) url: String,
    /// Its key; asked for in an environment variable, so that it does not stand in the list of processes.
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) key_from: Option<String>,
}

/// `cortex hardware …`.
#[derive(Debug, Subcommand)]
pub(crate) enum HardwareCommand {
    /// Show what this machine has; without a flag, all of it.
    List(HardwareArguments),
    /// Choose the graphics processors that models may use from now on: `--gpus "[0, 1]"`, or `--gpus "[]"` for none.
    Activate(ActivateArguments),
}

/// Arguments of `cortex hardware activate`.
#[derive(Debug, Args)]
pub(crate) struct ActivateArguments {
    /// Their numbers, as `cortex hardware list --gpu` shows them: `0`, `0,1`, `[0, 1]`, `[]` for none.
    #[arg(long, required = true)]
    pub(crate) gpus: String,
}

/// Arguments of `cortex hardware list`.
#[derive(Debug, Args)]
pub(crate) struct HardwareArguments {
    /// Processors.
    #[arg(long)]
    pub(crate) cpu: bool,
    /// Operating system.
    #[arg(long)]
    pub(crate) os: bool,
    /// Memory.
    #[arg(long)]
    pub(crate) ram: bool,
    /// Graphics processors.
    #[arg(long)]
    pub(crate) gpu: bool,
    /// The disk of the data folder.
    #[arg(long)]
    pub(crate) storage: bool,
    /// Power.
    #[arg(long)]
    pub(crate) power: bool,
    /// Does nothing: scripts of cortex.cpp may give it.
    #[arg(long, hide = true)]
    pub(crate) monitors: bool,
}

/// Arguments of `cortex list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only ids with this in them.
    pub(crate) filter: Option<String>,
    /// Also show the engine.
    #[arg(short, long)]
    pub(crate) engine: bool,
    /// Also show the version.
    #[arg(short = 'v', long)]
    pub(crate) version: bool,
    /// Also show the memory that it takes on the processor, where that is known.
    #[arg(long, alias = "cpu_mode")]
    pub(crate) cpu_mode: bool,
    /// Also show what it takes with graphics processors, where that is known.
    #[arg(long, alias = "gpu_mode")]
    pub(crate) gpu_mode: bool,
    /// Show the models of the sources instead: they can be downloaded.
    #[arg(long)]
    pub(crate) available: bool,
}

/// Arguments of `cortex logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Go on as the log grows.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// So many lines from the end.
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) lines: usize,
}

/// `cortex models …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models.
    List(ListArguments),
    /// Print what is known of a model.
    Get(ModelArguments),
    /// Load a model and keep it until it is stopped.
    Start(StartArguments),
    /// Unload a model.
    Stop(ModelArguments),
    /// Say whether a model is loaded.
    Status(ModelArguments),
    /// Take in a GGUF file, or all of a folder, by reference.
    Import(ImportArguments),
    /// Change settings of a model: `--model_id ID --ctx_len 4096 --temperature 0.2 …`.
    Update(UpdateArguments),
    /// Give a model other names, or show them.
    Alias(AliasArguments),
    /// Delete a model: its entry, and the files that cortex downloaded or copied.
    #[command(alias = "remove", alias = "rm")]
    Delete(DeleteArguments),
    /// Repositories of the hub whose models are shown as available: add, remove, list.
    #[command(subcommand, arg_required_else_help = true)]
    Sources(SourcesCommand),
    /// Put models back on the list that lie in the data folder.
    Reindex(ReindexArguments),
}

/// Arguments of `cortex models update`. The fields are checked by the daemon.
#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    /// `--model_id ID`, then a field and its value: `--ctx_len 4096`. Lists are separated by commas.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "--FIELD VALUE")]
    pub(crate) fields: Vec<String>,
}

/// Arguments of `cortex models alias`.
#[derive(Debug, Args)]
pub(crate) struct AliasArguments {
    /// Its id.
    pub(crate) id: String,
    /// The names to add; none shows those it has.
    pub(crate) aliases: Vec<String>,
    /// Take these names away instead.
    #[arg(long, requires = "aliases")]
    pub(crate) remove: bool,
}

/// Arguments of `cortex models delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    /// Its id.
    pub(crate) id: String,
    /// Also remove weights that something else put into the data folder.
    #[arg(long)]
    pub(crate) files: bool,
}

/// Arguments of `cortex models reindex`.
#[derive(Debug, Args)]
pub(crate) struct ReindexArguments {
    /// Also models that were deleted.
    #[arg(long)]
    pub(crate) include_deleted: bool,
}

/// One model.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Its id.
    pub(crate) id: String,
}

/// Arguments of `cortex models start`.
#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// Its id.
    pub(crate) id: String,
    /// Tokens that one request may use.
    #[arg(long, alias = "ctx_len")]
    pub(crate) ctx_len: Option<i64>,
    /// Requests that it answers at the same time.
    #[arg(long, alias = "n_parallel")]
    pub(crate) parallel: Option<i64>,
    /// How keys and values are stored: `f16`, `q8_0` or `q4_0`.
    #[arg(long, alias = "cache_type")]
    pub(crate) cache_type: Option<String>,
    /// Layers on graphics processors at most; 0 is none, -1 as many as fit.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) ngl: Option<i64>,
    /// First choose the graphics processors that models may use, as `cortex hardware activate` does.
    #[arg(long)]
    pub(crate) gpus: Option<String>,
    /// How long it stays when nobody uses it: seconds, a duration such as 5m, or -1 for ever, the default.
    #[arg(long, alias = "keep_alive", allow_hyphen_values = true)]
    pub(crate) keep_alive: Option<String>,
    /// Never let it leave to make room for another.
    #[arg(long)]
    pub(crate) pin: bool,
}
