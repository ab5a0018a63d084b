//! The only file that prints. Data goes to standard output, everything else to standard error.

use crate::error::CliError;
use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) json: bool,
    quiet: bool,
    terminal: bool,
}

#[expect(clippy::unused_self, reason = "what may be printed is asked of a printer, also where it has no choice")]
impl Printer {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, terminal: io::stdout().is_terminal() }
    }

    /// A line of data.
    pub(crate) fn line(self, text: &str) -> Result<(), CliError> {
        write(&format!("{text}\n"))
    }

    /// Text that a model wrote: it must not control the terminal.
    pub(crate) fn answer(self, text: &str) -> Result<(), CliError> {
        if self.terminal { write(&harmless(text)) } else { write(text) }
    }

    /// A remark for a person.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Asks something that is to be answered with yes. Nobody at a terminal is a no.
    pub(crate) fn confirm(self, question: &str) -> Result<bool, CliError> {
        if !io::stdin().is_terminal() {
            return Ok(false);
        }
        let failed = |source| CliError::System { action: "cannot ask", source };
        write!(io::stderr(), "{question} [y/N] ").map_err(failed)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Whether only results are wanted.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Whether a person sits there: reads what is told, and can answer.
    pub(crate) fn is_interactive(self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal() && !self.json
    }

    /// Lets a person choose a number; an empty line is the default. `None` is a choice that is none.
    pub(crate) fn choose(
        self,
        question: &str,
        count: usize,
        default: Option<usize>,
    ) -> Result<Option<usize>, CliError> {
        let failed = |source| CliError::System { action: "cannot ask", source };
        write!(io::stderr(), "{question} (1-{count}): ").map_err(failed)?;
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer).map_err(failed)? == 0 {
            // Ctrl-D is no choice.
            return Err(CliError::Cancelled);
        }
        Ok(match answer.trim() {
            "" => default,
            text => text.parse().ok().filter(|number| (1..=count).contains(number)).map(|number| number - 1),
        })
    }

    /// A table with lines around its cells, as cortex.cpp printed them.
    pub(crate) fn grid(self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        write(&grid(head, &plain(rows)))
    }

    /// A table with a head.
    pub(crate) fn table(self, head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        write(&table(head, &plain(rows)))
    }
}

fn write(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::ClosedOutput),
        Err(source) => Err(CliError::System { action: "cannot print", source }),
    }
}

/// A failure with its hint.
pub(crate) fn failure(error: &CliError) {
    if error.is_silent() {
        return;
    }
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "error: {}", harmless(&error.to_string()));
    if let Some(hint) = error.hint() {
        let _ = writeln!(err, "hint: {hint}");
    }
}

/// Help, the version, or what is wrong with the arguments.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Help that nobody reads is no failure.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Help of the daemon's program, or its version.
pub(crate) fn told(text: &str) -> ExitCode {
    // Help that nobody reads is no failure.
    let _ = writeln!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

/// The line that tells where the daemon listens.
pub(crate) fn server_is_up(address: SocketAddr) {
    let _ = writeln!(io::stdout(), "Host: {} Port: {}", address.ip(), address.port());
}

/// Cells without control characters: what others named must not control the terminal, or tear a line.
fn plain(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect()
}

/// Text on one line, without control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Text without control characters, except for new lines and tabs.
fn harmless(text: &str) -> String {
    text.chars().filter(|&letter| !letter.is_control() || letter == '\n' || letter == '\t').collect()
}

fn grid(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut line = String::new();
    for width in &widths {
        line.push('+');
        line.push_str(&"-".repeat(width + 2));
    }
    line.push_str("+\n");
    let mut text = line.clone();
    for row in all {
        for (cell, &width) in row.iter().zip(&widths) {
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("| {cell:width$} "));
        }
        text.push_str("|\n");
        text.push_str(&line);
    }
    text
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(head.get(column).map(|cell| cell.len()))
            .max()
            .unwrap_or(0)
    };
    let print = |cells: Vec<&str>| {
        let last = cells.len().saturating_sub(1);
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            line.push_str(cell);
            if column < last {
                line.extend(std::iter::repeat_n(' ', width(column).saturating_sub(cell.chars().count()) + 2));
            }
        }
        line.push('\n');
        line
    };
    let mut text = print(head.to_vec());
    for row in rows {
        text.push_str(&print(row.iter().map(String::as_str).collect()));
    }
    text
}

/// `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..4).find(|&unit| count < 1024u64.pow(unit + 1)).unwrap_or(4);
    let scale = 1024u64.pow(unit);
    let tenths = u128::from(count) * 10 / u128::from(scale);
    let name = UNITS[usize::try_from(unit).unwrap_or(0)];
    if unit == 0 { format!("{count} {name}") } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cannot_control_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\n\tc\u{9b}d\r"), "a[2Jb\n\tcd");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [vec!["a".to_owned(), "x".to_owned()], vec!["äöü".to_owned(), "y".to_owned()]];
        assert_eq!(table(&["ID", "S"], &rows), "ID   S\na    x\näöü  y\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(98_362_432)], ["0 B", "1023 B", "1.5 KiB", "93.8 MiB"]);
    }
}
