//! The arguments of `cortex-server`, as every client of cortex.cpp passes them. Unknown ones are ignored,
//! because old clients pass things that have no meaning any more.

use crate::{daemon::Parent, settings::Overrides};
use std::{ffi::OsString, path::PathBuf};

/// What they say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerArguments {
    pub(crate) overrides: Overrides,
    pub(crate) parent: Parent,
    /// What is asked for instead of a daemon: help, or the version.
    pub(crate) told: Option<&'static str>,
}

const HELP: &str = concat!(
    "cortex-server ",
    env!("CARGO_PKG_VERSION"),
    ": the daemon of cortex, in the foreground\n\n",
    "  --host ADDRESS              where it listens (127.0.0.1)\n",
    "  --port PORT                 and at which port (39281)\n",
    "  --data_folder_path FOLDER   everything lies in it\n",
    "  --config_file_path FILE     settings\n",
    "  --api_keys KEY,…            one of them must be sent\n",
    "  --allowed_origins ORIGIN,…  pages that may use it\n",
    "  --cors on|off               whether answers carry CORS headers\n",
    "  --loglevel LEVEL            error, warn, info, debug or trace\n",
    "  --start-server              end with the program that started it\n",
    "  --parent_pid PID            end with this process\n",
    "  -h, --help    -v, --version\n\n",
    "Other arguments are ignored. `cortex` is the command line.",
);

/// Reads the arguments behind the program's name.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> ServerArguments {
    let mut parsed = ServerArguments::default();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let Some(name) = argument.to_str() else { continue };
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(OsString::from(value))),
            _ => (name.to_owned(), None),
        };
        let name = name.replace('-', "_");
        match name.as_str() {
            "_h" | "__help" => parsed.told = Some(HELP),
            "_v" | "__version" => parsed.told = Some(concat!("cortex-server ", env!("CARGO_PKG_VERSION"))),
            _ => {}
        }
        if name == "__start_server" {
            parsed.parent = Parent::Starter;
            continue;
        }
        let known = [
            "__config_file_path",
            "__config_file",
            "__data_folder_path",
            "__data_folder",
            "__host",
            "__port",
            "__api_keys",
            "__cors",
            "__allowed_origins",
            "__loglevel",
            "__parent_pid",
        ];
        if !known.contains(&name.as_str()) {
            continue;
        }
        let Some(value) = inline.or_else(|| arguments.next()) else { break };
        let text = value.to_string_lossy().into_owned();
        let list = || text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
        let overrides = &mut parsed.overrides;
        match name.as_str() {
            "__config_file_path" | "__config_file" => overrides.config_file = Some(PathBuf::from(&value)),
            "__data_folder_path" | "__data_folder" => overrides.data_folder = Some(PathBuf::from(&value)),
            "__host" => overrides.host = Some(text),
            "__port" => overrides.port = text.parse().ok(),
            "__api_keys" => overrides.api_keys = Some(list()),
            "__allowed_origins" => overrides.allowed_origins = Some(list()),
            "__cors" => overrides.cors = Some(["on", "true", "1"].contains(&text.to_ascii_lowercase().as_str())),
            "__loglevel" => overrides.log = Some(text.to_ascii_lowercase()),
            _ => {
                if let Ok(pid) = text.parse() {
                    parsed.parent = Parent::Pid(pid);
                }
            }
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[&str]) -> ServerArguments {
        parse(line.iter().map(OsString::from))
    }

    #[test]
    fn the_line_of_the_desktop_app_is_understood() {
        let parsed = check(&[
            "--start-server",
            "--port",
            "39291",
            "--config_file_path",
            "/d/.janrc",
            "--data_folder_path",
            "/my data",
            "--cors",
            "ON",
            "--allowed_origins",
            "http://localhost:3000,tauri://localhost",
            "--ignored",
            "config",
            "--api_keys",
            "token",
        ]);
        assert_eq!(parsed.parent, Parent::Starter);
        assert_eq!(
            parsed.overrides,
            Overrides {
                config_file: Some("/d/.janrc".into()),
                data_folder: Some("/my data".into()),
                port: Some(39291),
                cors: Some(true),
                allowed_origins: Some(vec!["http://localhost:3000".into(), "tauri://localhost".into()]),
                api_keys: Some(vec!["token".into()]),
                ..Overrides::default()
            }
        );
    }

    #[test]
    fn values_may_follow_an_equals_sign() {
        let parsed = check(&["--port=1", "--parent-pid", "77"]);
        assert_eq!((parsed.overrides.port, parsed.parent), (Some(1), Parent::Pid(77)));
    }

    #[test]
    fn help_is_told_instead_of_a_start() {
        assert_eq!(check(&["--help"]).told, Some(HELP));
        assert!(check(&["--port", "1", "-v"]).told.is_some_and(|text| text.starts_with("cortex-server ")));
        assert_eq!(check(&["--port", "-h"]).told, None);
    }
}
