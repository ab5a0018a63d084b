//! `cortex search` and `cortex models sources …`: what the hub has.

use super::{Context, daemon::ensure_running};
use crate::{
    cli::{SearchArguments, SourcesCommand},
    error::CliError,
};
use cortex_api::{
    native::Message,
    sources::{HubSearch, ModelSources, SourceRequest},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Looks for models on the hub.
pub(crate) async fn search(context: &Context<'_>, arguments: SearchArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let author = arguments.author.map(|author| format!("&author={}", encoded(&author))).unwrap_or_default();
    let path =
        format!("/v1/models/hub/search?query={}&limit={}{author}", encoded(&arguments.text.join(" ")), arguments.limit);
    let found: HubSearch = context.client.get(&path).await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(found).to_string());
    }
    if let Some(why) = &found.stale {
        context.printer.note(&format!("this is what the hub said earlier: {why}"));
    }
    let rows: Vec<Vec<String>> = found
        .data
        .iter()
        .map(|model| {
            let day = model.modified.as_deref().and_then(|time| time.get(..10)).unwrap_or("-").to_owned();
            let gated = if model.gated { "gated" } else { "" };
            vec![model.id.clone(), short(model.downloads), short(model.likes), day, gated.into()]
        })
        .collect();
    if rows.is_empty() {
        context.printer.note("nothing was found; fewer letters find more");
        return Ok(());
    }
    context.printer.table(&["REPOSITORY", "DOWNLOADS", "LIKES", "CHANGED", ""], &rows)?;
    context.printer.note("`cortex pull REPOSITORY` downloads the best file for this machine");
    Ok(())
}

/// `1.2M` for numbers that need not be exact.
fn short(count: u64) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..1_000_000 => format!("{}.{}k", count / 1000, count % 1000 / 100),
        _ => format!("{}.{}M", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

/// Adds, removes or lists model sources.
pub(crate) async fn sources(context: &Context<'_>, command: SourcesCommand) -> Result<(), CliError> {
    ensure_running(context).await?;
    let path = "/v1/models/sources";
    let request = |source: &str| SourceRequest { source: Some(source.to_owned()) };
    let (answer, done): (Message, String) = match command {
        SourcesCommand::List => return list(context).await,
        SourcesCommand::Add(source) => (
            context.client.post(path, &request(&source.source)).await?,
            format!("Added model source: {}", source.source),
        ),
        SourcesCommand::Remove(source) => (
            context.client.delete_with(path, &request(&source.source)).await?,
            format!("Removed model source: {}", source.source),
        ),
    };
    if context.printer.json {
        return context.printer.line(&serde_json::json!(answer).to_string());
    }
    context.printer.line(&done)
}

async fn list(context: &Context<'_>) -> Result<(), CliError> {
    let sources: ModelSources = context.client.get("/v1/models/sources").await?;
    if context.printer.json {
        return context.printer.line(&serde_json::json!(sources).to_string());
    }
    let row = |(at, source): (usize, &cortex_api::sources::ModelSource)| {
        let models = match source.fetched {
            Some(_) => source.models.len().to_string(),
            None => "not known yet".into(),
        };
        vec![(at + 1).to_string(), source.id.clone(), models]
    };
    let rows: Vec<Vec<String>> = sources.data.iter().enumerate().map(row).collect();
    context.printer.grid(&["#", "Model Source", "Models"], &rows)?;
    if rows.is_empty() {
        context
            .printer
            .note("no model sources; `cortex models sources add https://huggingface.co/AUTHOR/REPO` adds one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_short() {
        assert_eq!([short(7), short(1999), short(12_345_678)], ["7", "1.9k", "12.3M"]);
    }
}
