//! `cortex pull`: choose, begin, and watch; leaving stops nothing.

use super::{Context, daemon::ensure_running};
use crate::{
    bars::Bars,
    cli::PullArguments,
    client::{Events, path_id},
    error::CliError,
    output::bytes,
};
use cortex_api::{
    native::List,
    pulls::{Pull, PullInfo, PullRequest, PullResponse, TaskRequest, TaskResponse},
};
use futures::StreamExt;

/// Downloads a model, or acts on a download.
pub(crate) async fn pull(context: &Context<'_>, arguments: PullArguments) -> Result<(), CliError> {
    if let Some(id) = &arguments.cancel {
        return act(context, id, "cancel", arguments.discard).await;
    }
    if let Some(id) = &arguments.pause {
        return act(context, id, "pause", false).await;
    }
    if let Some(id) = &arguments.resume {
        act(context, id, "resume", false).await?;
        return if arguments.detach { Ok(()) } else { shown(context, id).await };
    }
    let Some(model) = arguments.model.clone() else { return list(context).await };
    ensure_running(context).await?;
    match begin(context, model, arguments).await {
        // One of the two failures that scripts of cortex.cpp take for none.
        Err(CliError::Refused { body }) if body.error.code.as_deref() == Some("not_gguf") => {
            let text =
                if context.printer.json { serde_json::json!(body).to_string() } else { body.error.message.clone() };
            context.printer.line(&text)
        }
        other => other,
    }
}

/// Begins a download, and watches it.
async fn begin(context: &Context<'_>, model: String, arguments: PullArguments) -> Result<(), CliError> {
    let model = choose(context, model, arguments.yes).await?;
    let request = PullRequest { model: Some(model), id: arguments.id, name: arguments.name, update: arguments.update };
    let begun: PullResponse = match context.client.post("/v1/models/pull", &request).await {
        Err(CliError::Refused { body }) if body.error.code.as_deref() == Some("already_downloaded") => {
            // What was wanted is so.
            if context.printer.json {
                return context.printer.line(&serde_json::json!(body).to_string());
            }
            context.printer.note(&already(&body.error.message));
            return Ok(());
        }
        begun => begun?,
    };
    tell_reason(context, &begun);
    context.printer.note("Start downloading..");
    if arguments.detach {
        if context.printer.json {
            return context.printer.line(&serde_json::json!(begun).to_string());
        }
        context
            .printer
            .note(&format!("`cortex pull` shows how it goes, `cortex pull --cancel {}` stops it", begun.task.id));
        return Ok(());
    }
    shown(context, &begun.task.id).await
}

/// Gets a model that is not here, and returns its id.
pub(crate) async fn fetch(context: &Context<'_>, name: &str) -> Result<String, CliError> {
    let failed = |error: CliError| match error {
        CliError::Refused { mut body } => {
            let why = std::mem::take(&mut body.error.message);
            body.error.message =
                format!("Model {name} not found! None of yours has that name, and to download it: {why}");
            CliError::Refused { body }
        }
        error => error,
    };
    let model = choose(context, name.to_owned(), false).await.map_err(failed)?;
    let request = PullRequest { model: Some(model), ..PullRequest::default() };
    let begun: PullResponse = match context.client.post("/v1/models/pull", &request).await {
        Err(CliError::Refused { body }) if body.error.code.as_deref() == Some("already_downloaded") => {
            // It is here under another name.
            let id = body.more.get("id").and_then(|id| id.as_str()).map(str::to_owned);
            return id.ok_or(CliError::Refused { body });
        }
        begun => begun.map_err(failed)?,
    };
    tell_reason(context, &begun);
    match watch(context, &begun.task.id).await? {
        Watched::Finished(_) => Ok(begun.task.id),
        Watched::Left => Err(CliError::Cancelled),
    }
}

fn tell_reason(context: &Context<'_>, begun: &PullResponse) {
    if let Some(reason) = &begun.reason {
        context.printer.note(&format!("{}: {reason}", begun.task.items.first().map_or("", |item| item.id.as_str())));
    }
}

/// The contract's sentence asks for a deletion; a person wants to know that all is well.
fn already(message: &str) -> String {
    let hint = message.split_once("; ").map(|(_, hint)| format!("; {hint}")).unwrap_or_default();
    format!("the model is there already{hint}")
}

/// What exactly to download: a person at a terminal may choose.
async fn choose(context: &Context<'_>, model: String, yes: bool) -> Result<String, CliError> {
    if yes || !context.printer.is_interactive() {
        return Ok(model);
    }
    let asked = PullRequest { model: Some(model.clone()), ..PullRequest::default() };
    let info: PullInfo = context.client.post("/models/pull/info", &asked).await?;
    if info.choices.len() < 2 {
        return Ok(model);
    }
    if !info.downloaded_models.is_empty() {
        context.printer.note("Downloaded models:");
        for name in &info.downloaded_models {
            context.printer.note(&format!("    {name}"));
        }
    }
    // Short names have variants, repositories have files.
    let is_handle = !info.model_source.is_empty();
    context.printer.note(if is_handle { "Available to download:" } else { "Select an option" });
    for (at, choice) in info.choices.iter().enumerate() {
        let size = if choice.bytes > 0 { format!("  {}", bytes(choice.bytes)) } else { String::new() };
        let fits = if choice.fits { "" } else { "  too large for this machine" };
        let default = if info.recommended == Some(at) { " (default)" } else { "" };
        context.printer.note(&format!("    {}. {}{default}{size}{fits}", at + 1, choice.name));
    }
    let question = if is_handle { "Select a model" } else { "Select an option" };
    let chosen = context.printer.choose(question, info.choices.len(), info.recommended)?;
    let Some(choice) = chosen.and_then(|at| info.choices.get(at)) else {
        return Err(CliError::Usage {
            message: "Invalid selection".into(),
            hint: Some(format!("give a number from 1 to {}", info.choices.len())),
        });
    };
    context.printer.note(&format!("Selected: {}", choice.name));
    // The recommended one is asked for by the name of its repository, which becomes another name of it.
    let recommended = info.recommended.and_then(|at| info.choices.get(at)) == Some(choice);
    Ok(if recommended { model } else { choice.model.clone() })
}

/// How watching a download ended.
enum Watched {
    /// The model is there.
    Finished(Box<Pull>),
    /// The download goes on without us.
    Left,
}

/// Shows a download until it is over, and says so.
async fn shown(context: &Context<'_>, id: &str) -> Result<(), CliError> {
    match watch(context, id).await? {
        Watched::Finished(pull) if context.printer.json => context.printer.line(&serde_json::json!(pull).to_string()),
        Watched::Finished(_) => {
            context.printer.line(&format!("Model {id} downloaded successfully!"))?;
            context.printer.note(&format!("`cortex run {id}` starts a chat"));
            Ok(())
        }
        Watched::Left => Ok(()),
    }
}

/// Shows a download until it is over.
async fn watch(context: &Context<'_>, id: &str) -> Result<Watched, CliError> {
    let path = format!("/v1/models/pulls/{}/events", path_id(id));
    let mut stream = context.client.follow(&path).await?.bytes_stream();
    let (mut events, mut bars, mut last) = (Events::default(), None, None::<Pull>);
    loop {
        let bytes = tokio::select! {
            bytes = stream.next() => bytes,
            _ = tokio::signal::ctrl_c() => {
                if let Some(outcome) = interrupted(context, id, bars.as_ref()).await? {
                    return outcome.map(|()| Watched::Left);
                }
                continue;
            }
        };
        let Some(bytes) = bytes else { break };
        let Ok(bytes) = bytes else { break };
        for event in events.push(&bytes) {
            let pull: Pull = serde_json::from_str(&event).map_err(|error| CliError::Connection(error.to_string()))?;
            bars.get_or_insert_with(|| Bars::new(context.printer, &pull)).show(&pull);
            last = Some(pull);
        }
    }
    if let Some(bars) = &mut bars {
        bars.end();
    }
    let ended = || CliError::Ended { hint: "`cortex pull` shows what became of the download".into() };
    let pull = last.ok_or_else(ended)?;
    match pull.state.as_str() {
        "succeeded" => Ok(Watched::Finished(Box::new(pull))),
        "failed" => Err(CliError::Pull { message: pull.message.unwrap_or_else(|| "the download failed".into()) }),
        "cancelled" => {
            // Not by us: that is told where it happens.
            context.printer.note("the download was cancelled");
            Err(CliError::Cancelled)
        }
        _ => Err(CliError::Ended { hint: "the download goes on when it is started again, with `cortex start`".into() }),
    }
}

/// The first ctrl-C asks, where somebody can answer; a second leaves the download running. `None` goes on.
async fn interrupted(
    context: &Context<'_>,
    id: &str,
    bars: Option<&Bars>,
) -> Result<Option<Result<(), CliError>>, CliError> {
    let leave =
        || context.printer.note(&format!("it goes on; `cortex pull` shows how, `cortex pull --cancel {id}` stops it"));
    let cancel = if context.printer.is_interactive() {
        let question = || {
            context.printer.note("\nCancel the download? [y] cancel it, [n] leave it running, [Enter] go on watching");
        };
        match bars {
            Some(bars) => bars.pause(question),
            None => question(),
        }
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map(|_| line)
        });
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {
                leave();
                return Ok(Some(Err(CliError::Cancelled)));
            }
            answer = answer => match answer.map_or_else(|_| String::new(), Result::unwrap_or_default).trim() {
                "y" | "Y" | "yes" => true,
                "" => return Ok(None),
                _ => {
                    leave();
                    return Ok(Some(Ok(())));
                }
            },
        }
    } else {
        true
    };
    if cancel {
        let request = TaskRequest { task_id: Some(id.to_owned()), discard: false };
        let _: TaskResponse = context.client.delete_with("/v1/models/pull", &request).await?;
        context
            .printer
            .note("the download was cancelled; what came is kept for a week, the next `cortex pull` goes on with it");
    }
    Ok(Some(Err(CliError::Cancelled)))
}

async fn act(context: &Context<'_>, id: &str, what: &str, discard: bool) -> Result<(), CliError> {
    let request = TaskRequest { task_id: Some(id.to_owned()), discard };
    let done: TaskResponse = match what {
        "cancel" => context.client.delete_with("/v1/models/pull", &request).await?,
        what => context.client.post(&format!("/v1/models/pulls/{what}"), &request).await?,
    };
    if context.printer.json {
        return context.printer.line(&serde_json::json!(done).to_string());
    }
    context.printer.line(&done.message)
}

/// The downloads that there are.
async fn list(context: &Context<'_>) -> Result<(), CliError> {
    let pulls: List<Pull> = context.client.get("/v1/models/pulls").await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(pulls).to_string());
    }
    if pulls.data.is_empty() {
        context.printer.note("there are no downloads; `cortex pull author/repo` begins one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = pulls
        .data
        .iter()
        .map(|pull| {
            let done = pull.downloaded_bytes.saturating_mul(100).checked_div(pull.bytes).unwrap_or(0);
            let rate =
                if pull.bytes_per_second > 0 { format!("{}/s", bytes(pull.bytes_per_second)) } else { "-".into() };
            let why = pull.message.clone().unwrap_or_default();
            vec![pull.id.clone(), pull.state.clone(), format!("{done}%"), bytes(pull.bytes), rate, why]
        })
        .collect();
    context.printer.table(&["ID", "STATE", "DONE", "SIZE", "RATE", ""], &rows)
}
