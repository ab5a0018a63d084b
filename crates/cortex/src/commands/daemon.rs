//! `cortex start`, `stop`, `doctor`.

use super::{Context, config};
use crate::{
    cli::ServerArguments,
    client::Client,
    error::CliError,
    settings::{Overrides, Settings},
};
use cortex_api::native::{Finding, Health, List, Message};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long the daemon may take to listen.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(10);

/// Starts the daemon in the background. What it is told is written into the settings first, also into those of one that runs.
pub(crate) async fn start(context: &Context<'_>, arguments: &ServerArguments) -> Result<(), CliError> {
    config::keep(context, arguments).await?;
    // What was written may say where and how the daemon is asked.
    let overrides = Overrides {
        config_file: Some(context.settings.config_file.clone()),
        data_folder: Some(context.settings.data_folder.clone()),
        host: Some(context.settings.address.ip().to_string()),
        port: Some(context.settings.address.port()),
        ..Overrides::default()
    };
    let settings = Settings::load(&overrides)?;
    let context = &Context { client: Client::new(&settings)?, settings: &settings, printer: context.printer };
    if context.client.is_up().await {
        return context.printer.line("The server has already started");
    }
    spawn(context, arguments.loglevel.as_deref()).await?;
    context.printer.line("Server started")?;
    context.printer.line(&format!("API Documentation available at: {}", context.client.base_url()))
}

/// Starts the daemon if none answers.
pub(crate) async fn ensure_running(context: &Context<'_>) -> Result<(), CliError> {
    if context.client.is_up().await {
        return Ok(());
    }
    context.printer.note("Starting server ...");
    spawn(context, None).await?;
    context.printer.note("Server started");
    Ok(())
}

async fn spawn(context: &Context<'_>, log: Option<&str>) -> Result<(), CliError> {
    let system = |action: &'static str| move |source| CliError::System { action, source };
    let settings = context.settings;
    let program = std::env::current_exe()
        .map_err(system("cannot find this program"))?
        .with_file_name(format!("cortex-server{}", std::env::consts::EXE_SUFFIX));
    fs_err::create_dir_all(&settings.logs_folder).map_err(system("cannot make the log folder"))?;
    let said = settings.logs_folder.join("cortex-start.log");
    let stderr = fs_err::File::create(&said).map_err(system("cannot write the log"))?.into_file();
    let mut command = Command::new(&program);
    command
        .arg("--config_file_path")
        .arg(&settings.config_file)
        .arg("--data_folder_path")
        .arg(&settings.data_folder)
        .args(["--host", &settings.address.ip().to_string(), "--port", &settings.address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    if let Some(level) = log {
        command.args(["--loglevel", level]);
    }
    // The terminal's ctrl-C is not for the daemon.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .spawn()
        .map_err(|error| CliError::NotStarted { reason: format!("{}: {error}", program.display()), code: 1 })?;
    let began = Instant::now();
    while !context.client.is_up().await {
        if let Ok(Some(status)) = child.try_wait() {
            let reason = fs_err::read_to_string(&said).unwrap_or_default();
            let reason = reason.trim().trim_start_matches("error: ").to_owned();
            let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0).unwrap_or(1);
            return Err(CliError::NotStarted { reason, code });
        }
        if began.elapsed() > START_LIMIT {
            return Err(CliError::NotStarted {
                reason: format!("it does not answer after {} s; see {}", START_LIMIT.as_secs(), said.display()),
                code: 1,
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Stops the daemon and waits until it is gone.
pub(crate) async fn stop(context: &Context<'_>) -> Result<(), CliError> {
    let pid = match context.client.get::<Health>("/health").await {
        Ok(health) => Some(health.pid),
        Err(CliError::NotRunning { .. }) => return context.printer.line("The server is not running"),
        Err(_) => None,
    };
    context.client.delete::<Message>("/processManager/destroy").await?;
    let began = Instant::now();
    let program = pid.map(|pid| std::path::PathBuf::from(format!("/proc/{pid}/exe")));
    // A process that ended but was not waited for by its parent has no program any more.
    let is_there = || program.as_ref().is_some_and(|program| fs_err::read_link(program).is_ok());
    while is_there() || context.client.is_up().await {
        if began.elapsed() > STOP_LIMIT {
            return Err(CliError::Connection(format!("it is still there after {} s", STOP_LIMIT.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
    context.printer.line("Server stopped!")
}

/// Prints what is well and what is not.
pub(crate) async fn doctor(context: &Context<'_>) -> Result<(), CliError> {
    let findings: Vec<Finding> = match context.client.get::<List<Finding>>("/v1/system/doctor").await {
        Ok(list) => {
            let mut data = list.data;
            data.insert(
                0,
                Finding {
                    subject: "daemon".into(),
                    ok: true,
                    text: format!("answers at {}", context.client.base_url()),
                },
            );
            data
        }
        Err(error @ CliError::NotRunning { .. }) => {
            vec![Finding { subject: "daemon".into(), ok: false, text: format!("{error}; run `cortex start`") }]
        }
        Err(error) => return Err(error),
    };
    if context.printer.json {
        context.printer.line(&serde_json::json!({"object": "list", "data": findings}).to_string())?;
    } else {
        for finding in &findings {
            let mark = if finding.ok { "ok" } else { "!!" };
            context.printer.line(&format!("{mark}  {}: {}", finding.subject, finding.text))?;
        }
    }
    if findings.iter().all(|finding| finding.ok) { Ok(()) } else { Err(CliError::Unhealthy) }
}
