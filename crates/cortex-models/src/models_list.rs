//! `models.list`: which models there are, one on a line, for people to read and edit. Pure.
//!
//! `id author_repo branch path alias status`, with shell quoting; `id path` is enough. Several aliases
//! are separated by commas. Comments, order and lines that make no sense are kept as they are.

use crate::ModelId;
use std::fmt::Write as _;

/// The first lines of a new file.
const HEADER: &str = "# cortex models.list v1\n# id author_repo branch path alias status; `id path` is enough. Edit freely: changes count at once.\n";

/// One model of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: ModelId,
    pub(crate) author_repo: String,
    pub(crate) branch: String,
    /// A GGUF or a model.yaml; relative to the data folder, or absolute.
    pub(crate) path: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) status: String,
}

/// A line that is not a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListProblem {
    /// Number of the line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// The line as it stands in the file, its end included.
    raw: String,
    entry: Option<Entry>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ModelsList {
    lines: Vec<Line>,
    /// Lines that make no sense.
    pub(crate) problems: Vec<ListProblem>,
}

/// Reads the text of a list. Never fails: what makes no sense becomes a problem.
pub(crate) fn parse(text: &str) -> ModelsList {
    let mut list = ModelsList::default();
    for (at, raw) in text.split_inclusive('\n').enumerate() {
        let content = raw.trim_start_matches('\u{feff}').trim();
        let mut entry = None;
        if !content.is_empty() && !content.starts_with('#') {
            match parse_entry(content) {
                Ok(parsed) if list.entries().any(|known| known.id == parsed.id) => {
                    list.problem(at, content, format!("the id `{}` is already on an earlier line", parsed.id));
                }
                Ok(parsed) => entry = Some(parsed),
                Err(reason) => list.problem(at, content, reason),
            }
        }
        list.lines.push(Line { raw: raw.to_owned(), entry });
    }
    list
}

impl ModelsList {
    /// The models, in the order of the file.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }

    /// Adds a model, or replaces the line of the one with this id.
    pub(crate) fn upsert(&mut self, entry: Entry) {
        let raw = format!("{}\n", print_entry(&entry));
        if let Some(line) =
            self.lines.iter_mut().find(|line| line.entry.as_ref().is_some_and(|known| known.id == entry.id))
        {
            *line = Line { raw, entry: Some(entry) };
            return;
        }
        if let Some(last) = self.lines.last_mut()
            && !last.raw.ends_with('\n')
        {
            last.raw.push('\n');
        }
        self.lines.push(Line { raw, entry: Some(entry) });
    }

    /// The text of the file.
    pub(crate) fn print(&self) -> String {
        let lines: String = self.lines.iter().map(|line| line.raw.as_str()).collect();
        if self.lines.iter().any(|line| line.entry.is_none()) { lines } else { format!("{HEADER}{lines}") }
    }

    fn problem(&mut self, at: usize, text: &str, reason: String) {
        self.problems.push(ListProblem { line: at + 1, text: text.to_owned(), reason });
    }
}

fn parse_entry(line: &str) -> Result<Entry, String> {
    let words = split_words(line)?;
    let aliases = |text: &str| text.split(',').filter(|alias| !alias.is_empty()).map(str::to_owned).collect();
    let entry = match words.as_slice() {
        [id, path] => Entry {
            id: ModelId::existing(id.as_str()),
            author_repo: "local".into(),
            branch: "imported".into(),
            path: path.clone(),
            aliases: vec![],
            status: "downloaded".into(),
        },
        [id, author_repo, branch, path, rest @ ..] if rest.len() <= 2 => Entry {
            id: ModelId::existing(id.as_str()),
            author_repo: author_repo.clone(),
            branch: branch.clone(),
            path: path.clone(),
            aliases: rest.first().map(|text| aliases(text)).unwrap_or_default(),
            status: rest.get(1).cloned().unwrap_or_else(|| "downloaded".into()),
        },
        _ => {
            return Err(format!(
                "a line has 2 words (id path) or 4 to 6 (id author_repo branch path alias status), this one has {}; put quotes around words with spaces",
                words.len()
            ));
        }
    };
    if entry.id.as_str().is_empty() || entry.path.is_empty() {
        return Err("the id and the path cannot be empty".into());
    }
    Ok(entry)
}

/// Splits like a shell: quotes and backslashes, nothing else.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(inside) => word.push(inside),
                        None => return Err("a single quote is not closed".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => word.push(letters.next().ok_or("a double quote is not closed")?),
                        Some(inside) => word.push(inside),
                        None => return Err("a double quote is not closed".into()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(letters.next().ok_or("the line ends in a backslash")?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

fn print_entry(entry: &Entry) -> String {
    let aliases = entry.aliases.join(",");
    let mut line = String::new();
    for word in [entry.id.as_str(), &entry.author_repo, &entry.branch, &entry.path, &aliases, &entry.status] {
        if !line.is_empty() {
            line.push(' ');
        }
        let _ = write!(line, "{}", quote(word));
    }
    line
}

fn quote(word: &str) -> String {
    let plain = |letter: char| !letter.is_whitespace() && !"'\"\\#".contains(letter) && letter != '\u{feff}';
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: &str, path: &str) -> Entry {
        Entry {
            id: ModelId::existing(id),
            author_repo: "local".into(),
            branch: "imported".into(),
            path: path.into(),
            aliases: vec![],
            status: "downloaded".into(),
        }
    }

    #[test]
    fn hand_written_lines_are_understood() {
        let list =
            parse("\u{feff}# mine\r\na /m/a.gguf\r\n\r\n\"b c\" '/m/my models/b.gguf'\nd x main /d.gguf one,two READY");
        let seen: Vec<(&str, &str)> = list.entries().map(|entry| (entry.id.as_str(), entry.path.as_str())).collect();
        assert_eq!(seen, [("a", "/m/a.gguf"), ("b c", "/m/my models/b.gguf"), ("d", "/d.gguf")]);
        assert_eq!(list.entries().last().map(|entry| entry.aliases.clone()), Some(vec!["one".into(), "two".into()]));
        assert!(list.problems.is_empty());
    }

    #[test]
    fn lines_that_make_no_sense_are_kept_and_reported() {
        let text = "a /a.gguf\nlonely\na /other.gguf\n'open /x\n";
        let mut list = parse(text);
        let lines: Vec<usize> = list.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4]);
        list.upsert(entry("new", "/new.gguf"));
        assert_eq!(list.print(), format!("{text}new local imported /new.gguf \"\" downloaded\n"));
    }

    #[test]
    fn a_new_list_begins_with_what_it_is() {
        let mut list = parse("");
        list.upsert(entry("a", "/a b.gguf"));
        assert_eq!(list.print(), format!("{HEADER}a local imported \"/a b.gguf\" \"\" downloaded\n"));
    }

    #[test]
    fn a_missing_final_newline_joins_no_lines() {
        let mut list = parse("a /a.gguf");
        list.upsert(entry("b", "/b.gguf"));
        assert_eq!(parse(&list.print()).entries().count(), 2);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(words in prop::collection::vec("[ -~é\u{feff}\u{3000}]{0,8}", 6), more in "[ -~]{0,20}") {
            let written = Entry {
                id: ModelId::existing(format!("i{}", words[0])),
                author_repo: words[1].clone(),
                branch: words[2].clone(),
                path: format!("/{}", words[3]),
                aliases: vec![words[4].replace(',', "")].into_iter().filter(|alias| !alias.is_empty()).collect(),
                status: words[5].clone(),
            };
            let mut list = parse(&format!("# {more}\n{more}\n"));
            let before = list.print();
            list.upsert(written.clone());
            let text = list.print();
            prop_assert!(text.starts_with(&before));
            prop_assert!(parse(&text).entries().any(|read| *read == written));
        }
    }
}
