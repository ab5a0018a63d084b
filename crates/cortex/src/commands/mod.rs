//! One file for each family of commands.

mod about;
mod chat;
mod config;
mod daemon;
mod engines;
mod hardware;
mod import;
mod logs;
mod migrate;
mod models;
mod pull;
mod run;
mod sources;

use crate::{
    cli::{Command, ConfigArguments, ConfigCommand, HardwareCommand, ModelsCommand},
    client::Client,
    error::CliError,
    output::Printer,
    settings::Settings,
};

use models::Style;

/// What every command needs.
pub(crate) struct Context<'run> {
    pub(crate) client: Client,
    pub(crate) settings: &'run Settings,
    pub(crate) printer: Printer,
}

/// Runs a command.
pub(crate) async fn execute(command: Command, settings: &Settings, printer: Printer) -> Result<(), CliError> {
    let context = Context { client: Client::new(settings)?, settings, printer };
    match command {
        Command::Run(arguments) => run::run(&context, arguments).await,
        Command::Import(arguments) | Command::Models(ModelsCommand::Import(arguments)) => {
            import::import(&context, arguments).await
        }
        Command::Pull(arguments) => pull::pull(&context, arguments).await,
        Command::List(arguments) => models::list(&context, arguments, Style::Short).await,
        Command::Models(ModelsCommand::List(arguments)) => models::list(&context, arguments, Style::Cortex).await,
        Command::Models(ModelsCommand::Update(arguments)) => models::update(&context, &arguments.fields).await,
        Command::Models(ModelsCommand::Alias(arguments)) => models::alias(&context, arguments).await,
        Command::Models(ModelsCommand::Delete(arguments)) => models::delete(&context, arguments).await,
        Command::Models(ModelsCommand::Reindex(arguments)) => models::reindex(&context, arguments).await,
        Command::Models(ModelsCommand::Get(arguments)) => models::get(&context, &arguments.id).await,
        Command::Models(ModelsCommand::Start(arguments)) => models::start(&context, arguments).await,
        Command::Models(ModelsCommand::Stop(arguments)) => models::stop(&context, &arguments.id).await,
        Command::Models(ModelsCommand::Status(arguments)) => models::status(&context, &arguments.id).await,
        Command::Migrate(arguments) => migrate::migrate(&context, arguments).await,
        Command::Search(arguments) => sources::search(&context, arguments).await,
        Command::Models(ModelsCommand::Sources(command)) => sources::sources(&context, command).await,
        Command::Hardware(HardwareCommand::List(arguments)) => hardware::list(&context, &arguments).await,
        Command::Hardware(HardwareCommand::Activate(arguments)) => hardware::activate(&context, &arguments.gpus).await,
        Command::Fit(arguments) => hardware::fit(&context, arguments).await,
        Command::Engines(command) => engines::engines(&context, command).await,
        Command::Config(ConfigArguments { command: Some(ConfigCommand::Show), .. }) => config::show(&context),
        Command::Config(ConfigArguments { command: Some(ConfigCommand::Status), .. }) => config::status(&context).await,
        Command::Config(ConfigArguments { command: None, changes }) => config::change(&context, &changes).await,
        Command::Ps => models::ps(&context).await,
        Command::Start(arguments) => daemon::start(&context, &arguments).await,
        Command::Stop => daemon::stop(&context).await,
        Command::Doctor => daemon::doctor(&context).await,
        Command::Logs(arguments) => logs::logs(&context, &arguments).await,
        Command::Update(_) => about::update(context.printer),
        Command::Completions(arguments) => about::completions(context.printer, arguments.shell),
        Command::Openapi => about::openapi(context.printer),
        Command::Man(arguments) => about::man(&arguments.folder),
        // `lib.rs` runs the daemon itself.
        Command::Serve => Ok(()),
    }
}
