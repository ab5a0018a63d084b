//! `cortex run`: one answer, or a chat.

use super::{
    Context,
    chat::{Asking, Conversation, Ended, ask},
    daemon::ensure_running,
    models, pull,
};
use crate::{
    cli::{RunArguments, StartArguments},
    error::CliError,
    output::failure,
};
use cortex_api::native::{ModelRequest, StartResponse};
use rustyline::{DefaultEditor, config::Configurer, error::ReadlineError};
use serde_json::{Map, json};
use std::io::{self, IsTerminal, Read};

const HELP: &str = "/clear        forget the chat\n/set system T set the system message to T\n/bye, exit()  leave\n\"\"\"           begin and end a message of several lines\nctrl-C        stop the answer";
const PROMPT: &str = "> ";
const CONTINUED: &str = "... ";
const HISTORY: usize = 1000;

/// One answer with a prompt or piped input, else a chat.
pub(crate) async fn run(context: &Context<'_>, arguments: RunArguments) -> Result<(), CliError> {
    if arguments.detach {
        return detached(context, arguments).await;
    }
    let piped = if io::stdin().is_terminal() { None } else { Some(read_stdin()?) };
    let prompt = one_prompt(&arguments.prompt.join(" "), piped.as_deref())?;
    ensure_running(context).await?;
    if let Some(gpus) = &arguments.gpus {
        super::hardware::activate(context, gpus).await?;
    }
    let model = choose(context, arguments.model.as_deref()).await?;
    if arguments.ctx_len.is_some() {
        let request =
            ModelRequest { model: Some(model.clone()), ctx_len: arguments.ctx_len, ..ModelRequest::default() };
        let _: StartResponse = context.client.post("/v1/models/start", &request).await?;
    }
    let mut options = Map::new();
    if let Some(temperature) = arguments.temperature {
        options.insert("temperature".into(), json!(temperature));
    }
    if let Some(tokens) = arguments.max_tokens {
        options.insert("max_tokens".into(), json!(tokens));
    }
    if let Some(seed) = arguments.seed {
        options.insert("seed".into(), json!(seed));
    }
    let asking = Asking { model, options };
    let mut conversation = Conversation::new(arguments.system);
    match prompt {
        Some(prompt) => once(context, &asking, &mut conversation, &prompt).await,
        None => interactive(context, &asking, &mut conversation).await,
    }
}

/// Loads the model, gets it first where it is not here, and leaves.
async fn detached(context: &Context<'_>, arguments: RunArguments) -> Result<(), CliError> {
    ensure_running(context).await?;
    let id = choose(context, arguments.model.as_deref()).await?;
    let start = StartArguments {
        id,
        ctx_len: arguments.ctx_len,
        parallel: None,
        cache_type: None,
        ngl: None,
        gpus: arguments.gpus,
        keep_alive: None,
        pin: false,
    };
    models::start(context, start).await
}

fn read_stdin() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|source| CliError::System { action: "cannot read the input", source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The prompt of a single answer; `None` for a chat.
fn one_prompt(given: &str, piped: Option<&str>) -> Result<Option<String>, CliError> {
    let given = given.trim();
    let piped = piped.map(str::trim_end).filter(|text| !text.trim().is_empty());
    match (given.is_empty(), piped) {
        (false, Some(piped)) => Ok(Some(format!("{given}\n\n{piped}"))),
        (false, None) => Ok(Some(given.to_owned())),
        (true, Some(piped)) => Ok(Some(piped.to_owned())),
        (true, None) if io::stdin().is_terminal() => Ok(None),
        (true, None) => Err(CliError::Usage {
            message: "there is no prompt, and the input is empty".into(),
            hint: Some("cortex run MODEL \"your question\"".into()),
        }),
    }
}

/// The model that a name means: an id, an alias, or a part that only one id has. One that is not here is
/// downloaded.
async fn choose(context: &Context<'_>, name: Option<&str>) -> Result<String, CliError> {
    let models = models::names(context).await?;
    let list = |ids: &[&str]| ids.join(", ");
    let all: Vec<&str> = models.iter().map(|(id, _)| id.as_str()).collect();
    let Some(name) = name else {
        return match all.as_slice() {
            [] => Err(CliError::Usage {
                message: "No local models available!".into(),
                hint: Some(
                    "`cortex pull AUTHOR/REPO` downloads one, `cortex import FILE.gguf` takes in one that you have"
                        .into(),
                ),
            }),
            [only] => Ok((*only).to_owned()),
            _ if io::stdin().is_terminal() => menu(context, "Please select an option", &all, None),
            _ => Err(CliError::Usage { message: "which model?".into(), hint: Some(list(&all)) }),
        };
    };
    let exact = models.iter().any(|(id, aliases)| id == name || aliases.iter().any(|alias| alias == name));
    let lower = name.to_lowercase();
    let similar: Vec<&str> = all.iter().copied().filter(|id| id.to_lowercase().contains(&lower)).collect();
    match similar.as_slice() {
        _ if exact => Ok(name.to_owned()),
        [] => pull::fetch(context, name).await,
        [only] => Ok((*only).to_owned()),
        several if context.printer.is_interactive() => {
            menu(context, "Local Models: (press enter to select)", several, Some(0))
        }
        several => Err(CliError::Usage {
            message: format!("`{name}` could mean {} models", several.len()),
            hint: Some(list(several)),
        }),
    }
}

/// Lets a person choose one of several models.
fn menu(context: &Context<'_>, title: &str, ids: &[&str], default: Option<usize>) -> Result<String, CliError> {
    context.printer.note(title);
    for (at, id) in ids.iter().enumerate() {
        let is_default = if default == Some(at) { " (default)" } else { "" };
        context.printer.note(&format!("    {}. {id}{is_default}", at + 1));
    }
    let chosen = context.printer.choose("Select a model", ids.len(), default)?;
    chosen.and_then(|at| ids.get(at)).map(|id| (*id).to_owned()).ok_or_else(|| CliError::Usage {
        message: "Invalid selection".into(),
        hint: Some(format!("give a number from 1 to {}", ids.len())),
    })
}

async fn once(
    context: &Context<'_>,
    asking: &Asking,
    conversation: &mut Conversation,
    prompt: &str,
) -> Result<(), CliError> {
    conversation.push("user", prompt);
    let (text, ended) = ask(context, asking, conversation).await?;
    if !text.ends_with('\n') {
        context.printer.line("")?;
    }
    match ended {
        Ended::Whole => Ok(()),
        Ended::Cancelled => Err(CliError::Cancelled),
    }
}

/// What a line of a chat means.
#[derive(Debug, PartialEq, Eq)]
enum Input<'line> {
    Nothing,
    Leave,
    Clear,
    Help,
    System(&'line str),
    Unknown(&'line str),
    /// `"""` opens a message; what stands behind it is its beginning.
    Open(&'line str),
    Say(&'line str),
}

fn meaning(line: &str) -> Input<'_> {
    let line = line.trim();
    match line {
        "" => Input::Nothing,
        "/bye" | "/exit" | "/quit" | "exit()" => Input::Leave,
        "/clear" => Input::Clear,
        "/?" | "/help" => Input::Help,
        _ => {
            if let Some(rest) = line.strip_prefix("\"\"\"") {
                return match rest.strip_suffix("\"\"\"") {
                    Some(whole) => Input::Say(whole.trim()),
                    None => Input::Open(rest),
                };
            }
            if let Some(system) = line.strip_prefix("/set system ") {
                return Input::System(system.trim());
            }
            // A path, such as /etc/hosts, is something to say.
            if line.starts_with('/') && !line[1..].contains('/') {
                return Input::Unknown(line);
            }
            Input::Say(line)
        }
    }
}

async fn interactive(context: &Context<'_>, asking: &Asking, conversation: &mut Conversation) -> Result<(), CliError> {
    let terminal = |error: ReadlineError| CliError::System {
        action: "cannot use the terminal",
        source: io::Error::other(error.to_string()),
    };
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    editor.set_max_history_size(HISTORY).map_err(terminal)?;
    let history = context.settings.data_folder.join("state/history");
    // The first chat has none. The folder is there: the daemon that answers made it.
    let _ = editor.load_history(&history);
    context.printer.note("In order to exit, type `exit()`; /? shows more");
    loop {
        let line = match tokio::task::block_in_place(|| read_message(&mut editor)) {
            Ok(Some(line)) => line,
            Ok(None) => {
                context.printer.note("(/bye leaves)");
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(error)),
        };
        // A history that cannot be kept loses nothing that matters.
        let _ = editor.add_history_entry(&line);
        match meaning(&line) {
            Input::Nothing => {}
            Input::Leave => break,
            Input::Clear => {
                conversation.clear();
                context.printer.note("(the chat is forgotten)");
            }
            Input::Help => context.printer.note(HELP),
            Input::System(system) => conversation.set_system((!system.is_empty()).then(|| system.to_owned())),
            Input::Unknown(word) => context.printer.note(&format!("{word} is no command; /? shows them")),
            Input::Open(text) | Input::Say(text) => {
                conversation.push("user", text);
                match ask(context, asking, conversation).await {
                    Ok((answer, ended)) => {
                        context.printer.line("")?;
                        if ended == Ended::Cancelled {
                            context.printer.note("(stopped)");
                        }
                        if answer.is_empty() { conversation.pop() } else { conversation.push("assistant", &answer) }
                    }
                    Err(error @ (CliError::Refused { .. } | CliError::Connection(_) | CliError::NotRunning { .. })) => {
                        // What could not be answered is not part of the chat.
                        conversation.pop();
                        failure(&error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    let _ = editor.save_history(&history);
    Ok(())
}

/// A line, or several between `"""`; `None` when ctrl-C cleared it.
fn read_message(editor: &mut DefaultEditor) -> Result<Option<String>, ReadlineError> {
    let first = match editor.readline(PROMPT) {
        Ok(line) => line,
        Err(ReadlineError::Interrupted) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Input::Open(begin) = meaning(&first) else { return Ok(Some(first)) };
    let mut message = begin.to_owned();
    loop {
        match editor.readline(CONTINUED) {
            Ok(line) => {
                message.push('\n');
                if let Some((end, _)) = line.split_once("\"\"\"") {
                    message.push_str(end);
                    return Ok(Some(format!("\"\"\"{}\"\"\"", message.trim())));
                }
                message.push_str(&line);
            }
            Err(ReadlineError::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_a_user_expects() {
        for (line, expected) in [
            ("  ", Input::Nothing),
            ("/bye", Input::Leave),
            (" exit() ", Input::Leave),
            ("/clear", Input::Clear),
            ("/set system be brief", Input::System("be brief")),
            ("/nonsense", Input::Unknown("/nonsense")),
            ("/etc/hosts is a file", Input::Say("/etc/hosts is a file")),
            ("\"\"\"one\ntwo\"\"\"", Input::Say("one\ntwo")),
            ("\"\"\"begin", Input::Open("begin")),
            ("hello", Input::Say("hello")),
        ] {
            assert_eq!(meaning(line), expected);
        }
    }

    #[test]
    fn a_prompt_and_piped_text_are_joined() {
        let prompt = |given: &str, piped: Option<&str>| one_prompt(given, piped).ok().flatten();
        assert_eq!(prompt("sum up", Some("text\n")).as_deref(), Some("sum up\n\ntext"));
        assert_eq!(prompt("", Some("text\n")).as_deref(), Some("text"));
        assert_eq!(prompt("ask", None).as_deref(), Some("ask"));
        assert_eq!(prompt("ask", Some("")).as_deref(), Some("ask"));
    }
}
